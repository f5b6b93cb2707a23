//! Which addresses are on an interface of a pod or of the node at this moment. The ledger knows
//! which attachment an address was for; this module shows who uses it, and which namespaces
//! could not be read.

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use common::error::{Error, ErrorCode, Result};
use common::kernel::namespaces::{self, Named};
use common::kernel::netlink::Netlink;
use common::kernel::netns::{Holders, NetNs, NetNsId, PROCESSES, Presence};
use nix::libc::{EACCES, EPERM};

use crate::ledger::{Entry, Ledger, Owner};
use crate::limits;

/// Why an address stays whose pod has lived without a path.
const LINGERS: &str = "it may be in use: its namespace lived without its path, and this process \
                       cannot see whether it has ended";

/// The addresses in use, as far as this process can see.
#[derive(Debug, Default)]
pub(crate) struct Living {
    /// The namespace of each address that a pod has.
    pods: HashMap<IpAddr, PathBuf>,
    /// The interface of each address that the node itself has.
    node: HashMap<IpAddr, String>,
    /// The namespaces that are not visible to this process: any address may be in them.
    hidden: Vec<Unseen>,
    /// Whether this process was to see the processes of the node, and does not.
    is_blind: bool,
    /// The namespaces that have too many addresses, or change them too often to be read.
    unreadable: Vec<Unseen>,
    /// Whose namespace is left out: an attachment that gets an address may have it already.
    beside: Option<Owner>,
}

/// A namespace whose addresses are not known.
#[derive(Debug)]
struct Unseen {
    path: PathBuf,
    /// Whether the path is the name of a namespace, made by a runtime.
    is_name: bool,
    id: Option<NetNsId>,
    why: Error,
}

/// Where to look for addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// In the namespaces that the ledger and the runtimes name: enough to see which of these
    /// cannot be read.
    Named,
    /// Also in the namespaces of all visible processes, and in those of owners that something
    /// keeps alive without its path. Needed before an address leaves the ENI or is given to
    /// another pod: a pod may have moved its interface on, and its runtime may have removed the
    /// path, or never have had one.
    Visible,
}

/// Reads the addresses of the node's namespace, of every namespace that a runtime names, of
/// those of `owners`, and of those that `reach` adds.
///
/// # Errors
/// Those of a namespace that exists and cannot be opened: an address that may be in it must not
/// count as free.
pub(crate) fn look<'a>(owners: impl Iterator<Item = &'a Owner>, reach: Reach) -> Result<Living> {
    look_into(Living::default(), owners, reach)
}

/// The same with the owners of all entries in the ledger, as far as possible, but without the
/// namespace of `own`: who else has its addresses?
///
/// # Errors
/// As for [`of_node`].
pub(crate) fn look_beside(own: &Owner, ledger: &Ledger) -> Result<Living> {
    let living = Living {
        beside: Some(own.clone()),
        ..Living::default()
    };
    look_into(living, owners_of(ledger)?.iter(), Reach::Visible)
}

fn look_into<'a>(
    mut living: Living,
    owners: impl Iterator<Item = &'a Owner>,
    reach: Reach,
) -> Result<Living> {
    living.add_node()?;
    let Named { visible, hidden } = namespaces::named()?;
    let mut paths: HashSet<PathBuf> = visible.into_iter().collect();
    for (path, why) in hidden {
        living.hide(path, why, true);
    }
    let mut lost = Vec::new();
    for owner in owners {
        let Some(path) = owner.netns() else { continue };
        match owner.is_alive() {
            Ok(is_there) => {
                paths.insert(path.into());
                lost.extend((!is_there).then_some(owner));
            }
            Err(why) => living.hide(path.into(), why, false),
        }
    }
    let mut seen = HashSet::new();
    for path in paths {
        seen.extend(living.add(path)?);
    }
    if reach == Reach::Visible {
        living.add_unnamed(seen, &lost)?;
    }
    Ok(living)
}

/// The same with the owners of all entries in the ledger.
///
/// # Errors
/// As for [`look`], and code 5 naming a file of the ledger.
pub(crate) fn of_node(ledger: &Ledger) -> Result<Living> {
    look_from(ledger, Reach::Named)
}

/// The same, as far as `reach`.
///
/// # Errors
/// As for [`of_node`].
pub(crate) fn look_from(ledger: &Ledger, reach: Reach) -> Result<Living> {
    look(owners_of(ledger)?.iter(), reach)
}

fn owners_of(ledger: &Ledger) -> Result<Vec<Owner>> {
    let mut owners = Vec::new();
    for eni in ledger.enis()? {
        owners.extend(eni.read()?.into_iter().filter_map(|entry| entry.owner));
    }
    Ok(owners)
}

impl Living {
    /// Reads the node's own namespace: a program of the node may use a pod's address there, or
    /// an interface that returned from a pod may have brought it.
    fn add_node(&mut self) -> Result<()> {
        let mut netlink = Netlink::open()?;
        let links = netlink.links()?;
        for found in netlink.all_addresses()? {
            let link = links.iter().find(|link| link.index == found.link);
            let name = link.map_or("", |link| link.name.as_str()).to_owned();
            self.node.insert(found.cidr.address(), name);
        }
        Ok(())
    }

    /// Reads the namespaces of processes, each once, and those that only a mount or a descriptor
    /// keeps of the owners in `lost`, whose paths do not lead there any more.
    fn add_unnamed(&mut self, mut seen: HashSet<u64>, lost: &[&Owner]) -> Result<()> {
        seen.insert(NetNs::own()?.outer_id()?.inode);
        let holders = Holders::default();
        match holders.inhabited() {
            Ok(Some(found)) => {
                for (inode, paths) in found {
                    if !seen.contains(&inode) {
                        seen.extend(self.add_held(paths, inode)?);
                    }
                }
            }
            Ok(None) => {
                self.is_blind = true;
                self.add_processes(&mut seen)?;
            }
            // An address without an owner may be anywhere.
            Err(why) => self.hide(PROCESSES.into(), why, false),
        }
        // Who forks holds the descriptors of its parent for a moment: what was kept at the first
        // look may have ended at the second.
        let kept = self.add_lost(lost, &holders, &mut seen)?;
        let owners: Vec<&Owner> = kept.into_iter().map(|(owner, _)| owner).collect();
        for (owner, why) in self.add_lost(&owners, &Holders::default(), &mut seen)? {
            if let Some(path) = owner.netns() {
                self.hide(path.into(), why, false);
            }
        }
        Ok(())
    }

    /// Reads the namespaces of owners that something may keep alive without their paths. Returns
    /// those that cannot be read, and why they may exist.
    fn add_lost<'a>(
        &mut self,
        lost: &[&'a Owner],
        holders: &Holders,
        seen: &mut HashSet<u64>,
    ) -> Result<Vec<(&'a Owner, Error)>> {
        let mut unread = Vec::new();
        for owner in lost {
            let (Some(id), Presence::Unknown(why)) = (owner.netns_id(), owner.presence(holders))
            else {
                continue;
            };
            if seen.contains(&id.inode) {
                continue;
            }
            let paths = holders.paths_to(id).ok().flatten().unwrap_or_default();
            match self.add_held(paths, id.inode)? {
                Some(inode) => {
                    seen.insert(inode);
                }
                None => unread.push((*owner, why)),
            }
        }
        Ok(unread)
    }

    /// Reads the namespaces of processes, each once. A process that this one may not examine is
    /// left out; to examine all takes their capabilities, or `SYS_PTRACE`.
    fn add_processes(&mut self, seen: &mut HashSet<u64>) -> Result<()> {
        for (found, path) in namespaces::of_processes()? {
            let found = match found {
                Ok(found) => found,
                // The namespace is read through another of its processes.
                Err(cause) if namespaces::has_ended(&cause) => continue,
                Err(cause) if cause.kind() == ErrorKind::PermissionDenied => continue,
                Err(cause) => {
                    let msg = format!("failed to examine netns {path:?}");
                    return Err(Error::new(ErrorCode::NETNS, msg).because(&cause));
                }
            };
            if !seen.contains(&found.ino()) {
                seen.extend(self.add_held(vec![path], found.ino())?);
            }
        }
        Ok(())
    }

    /// Reads the namespace at `path`, and returns its inode number.
    fn add(&mut self, path: PathBuf) -> Result<Option<u64>> {
        match NetNs::open_for_del(&path.to_string_lossy())? {
            Some(netns) => self.read(path, &netns).map(Some),
            None => Ok(None),
        }
    }

    /// Reads the namespace with this inode number at the first of `paths` that leads there, and
    /// returns the number; `None` when none does.
    fn add_held(&mut self, paths: Vec<PathBuf>, inode: u64) -> Result<Option<u64>> {
        for path in paths {
            match NetNs::open_held(&path, inode) {
                Ok(Some(netns)) => return self.read(path, &netns).map(Some),
                Ok(None) => {}
                // It is the path of a process that must not be examined.
                Err(error) if matches!(error.errno(), Some(EACCES | EPERM)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Reads a namespace, and returns its inode number.
    fn read(&mut self, path: PathBuf, netns: &NetNs) -> Result<u64> {
        let inode = netns.outer_id()?.inode;
        let own = self.beside.as_ref().and_then(Owner::netns_id);
        if own.is_some_and(|own| own.inode == inode) {
            return Ok(inode);
        }
        match Netlink::open_in(netns)?.into_addresses(limits::ADDRESSES) {
            Ok(found) => {
                let addresses = found.into_iter().map(|found| found.cidr.address());
                self.pods
                    .extend(addresses.map(|address| (address, path.clone())));
            }
            Err(cause) => {
                let msg = format!("the addresses in {path:?} cannot be read");
                let why = Error::internal(msg).with_details(cause.to_string());
                self.unreadable.push(Unseen {
                    path,
                    is_name: true,
                    id: Some(netns.id()?),
                    why,
                });
            }
        }
        Ok(inode)
    }

    fn hide(&mut self, path: PathBuf, why: Error, is_name: bool) {
        let own = self.beside.as_ref().and_then(Owner::netns);
        if own.is_some_and(|own| path == *own) {
            return;
        }
        if self.hidden.iter().all(|unseen| unseen.path != path) {
            self.hidden.push(Unseen {
                path,
                is_name,
                id: None,
                why,
            });
        }
    }

    /// The reason why an address must stay, if there is one: it is in use, or it may be in a
    /// namespace that could not be read. An address without an owner may be in any namespace.
    pub(crate) fn reason_to_keep(&self, address: IpAddr, owner: Option<&Owner>) -> Option<String> {
        if let Some(whose) = self.whose(address) {
            return Some(whose);
        }
        let is_there = |unseen: &&Unseen| owner.is_none_or(|owner| unseen.may_be_of(owner));
        let mut unseen = self.hidden.iter().chain(&self.unreadable);
        unseen
            .find(is_there)
            .map(|unseen| format!("it may be in use: {}", unseen.why))
    }

    /// The reason why the address of an entry must stay, if there is one: as for
    /// [`Self::reason_to_keep`], and if its pod lived without a path when its attachment was
    /// ended, and only others can see whether it still does.
    ///
    /// # Errors
    /// Code 5 when the boot id cannot be read.
    pub(crate) fn reason_to_keep_entry(&self, entry: &Entry) -> Result<Option<String>> {
        let owner = entry.owner.as_ref();
        if let Some(why) = self.reason_to_keep(entry.address, owner) {
            return Ok(Some(why));
        }
        match owner.filter(|_| self.is_blind && entry.lingers) {
            Some(owner) if !owner.is_gone()? => Ok(Some(LINGERS.to_owned())),
            _ => Ok(None),
        }
    }

    /// The reason why a set of addresses must stay, if there is one.
    pub(crate) fn reason_to_keep_all(&self, has: impl Fn(IpAddr) -> bool) -> Option<String> {
        let pods = self.pods.keys();
        let used = pods.chain(self.node.keys()).find(|address| has(**address));
        if let Some(address) = used {
            let why = self.reason_to_keep(*address, None);
            return why.map(|why| format!("{address}: {why}"));
        }
        let mut unseen = self.hidden.iter().chain(&self.unreadable);
        unseen
            .next()
            .map(|unseen| format!("addresses of it may be in use: {}", unseen.why))
    }

    /// Who has an address, if that can be seen.
    pub(crate) fn whose(&self, address: IpAddr) -> Option<String> {
        if let Some(path) = self.pods.get(&address) {
            return Some(format!("it is on an interface of a pod, in {path:?}"));
        }
        let name = self.on_node(address)?;
        Some(format!("it is on interface {name:?} of the node itself"))
    }

    /// Whether a pod or the node has an address.
    pub(crate) fn has(&self, address: IpAddr) -> bool {
        self.pods.contains_key(&address) || self.node.contains_key(&address)
    }

    /// The interface of the node itself that has an address.
    pub(crate) fn on_node(&self, address: IpAddr) -> Option<&str> {
        self.node.get(&address).map(String::as_str)
    }

    /// The reasons why namespaces are not visible.
    pub(crate) fn hidden(&self) -> impl ExactSizeIterator<Item = &Error> {
        self.hidden.iter().map(|unseen| &unseen.why)
    }

    /// The paths of invisible namespaces that have a name.
    pub(crate) fn hidden_names(&self) -> impl Iterator<Item = &PathBuf> {
        let hidden = self.hidden.iter().filter(|unseen| unseen.is_name);
        hidden.map(|unseen| &unseen.path)
    }

    /// The namespaces whose addresses cannot be read, and why.
    pub(crate) fn unreadable(&self) -> impl ExactSizeIterator<Item = &Error> {
        self.unreadable.iter().map(|unseen| &unseen.why)
    }
}

impl Unseen {
    /// Whether it is the namespace of an owner, by the same path or another one.
    fn may_be_of(&self, owner: &Owner) -> bool {
        let is_same = |id: NetNsId| owner.netns_id().is_some_and(|own| own.is_same(&id));
        owner.netns().is_some_and(|path| self.path == *path) || self.id.is_some_and(is_same)
    }
}
