//! Reads the addresses in the namespaces of the node: in those that have a number there by that,
//! for which no path is needed, and in the others by a path that leads there.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use common::error::{Error, ErrorCode, Result};
use common::kernel::namespaces::{self, Named};
use common::kernel::netlink::{ByNumber, KernelAddress, Netlink};
use common::kernel::netns::{Holders, NetNs, Nsid, PROCESSES, Presence};
use nix::libc::{EACCES, EPERM};

use super::{Living, Place, Reach, Unseen};
use crate::ledger::Owner;
use crate::limits;

/// A look that goes on.
pub(super) struct Look<'a> {
    living: Living,
    /// Which addresses are asked about.
    asked: &'a dyn Fn(IpAddr) -> bool,
    /// Whose namespace is left out: an attachment that gets an address may have it already.
    beside: Option<&'a Owner>,
    /// Whether namespaces are left out that this process may not enter.
    passes_over: bool,
    /// The namespaces that were read, by their inodes.
    seen: HashSet<u64>,
    /// `None` on an older kernel.
    by_number: Option<ByNumber>,
    /// The inode of the node's namespace, which gives the numbers.
    node: u64,
    /// The namespaces that were read by their numbers, or left out.
    read: HashSet<i32>,
    /// Those of them that could not be read.
    failed: HashSet<i32>,
}

impl<'a> Look<'a> {
    pub(super) fn begin(
        asked: &'a dyn Fn(IpAddr) -> bool,
        beside: Option<&'a Owner>,
    ) -> Result<Self> {
        Ok(Self {
            living: Living::default(),
            asked,
            beside,
            passes_over: false,
            seen: HashSet::new(),
            by_number: ByNumber::open()?,
            node: NetNs::own()?.outer_id()?.inode,
            read: HashSet::new(),
            failed: HashSet::new(),
        })
    }

    /// The same, without the namespaces that this process may not enter.
    pub(super) fn if_permitted(self) -> Self {
        Self {
            passes_over: true,
            ..self
        }
    }

    /// Looks into the namespaces that `reach` says, with those of `owners`.
    pub(super) fn into_living<'b>(
        mut self,
        owners: impl Iterator<Item = &'b Owner>,
        reach: Reach,
    ) -> Result<Living> {
        self.add_node()?;
        let Named { visible, hidden } = namespaces::named()?;
        let mut paths: HashSet<PathBuf> = visible.into_iter().collect();
        for (path, why) in hidden {
            self.hide(path, why, true);
        }
        let (mut lost, mut unseen) = (Vec::new(), Vec::new());
        for owner in owners {
            let Some(path) = owner.netns() else { continue };
            match owner.is_alive() {
                Ok(is_there) => {
                    paths.insert(path.into());
                    lost.extend((!is_there).then_some(owner));
                }
                Err(why) => {
                    self.hide(path.into(), why, false);
                    unseen.push(owner);
                }
            }
        }
        for path in paths {
            self.add(path)?;
        }
        if reach == Reach::Visible {
            self.add_unnamed(&lost)?;
            for owner in unseen {
                self.settle(owner)?;
            }
        }
        Ok(self.living)
    }

    /// Reads the node's own namespace: a program of the node may use a pod's address there, or
    /// an interface that returned from a pod may have brought it.
    fn add_node(&mut self) -> Result<()> {
        let mut netlink = Netlink::open()?;
        let links = netlink.links()?;
        for found in netlink.all_addresses()? {
            let link = links.iter().find(|link| link.index == found.link);
            let name = link.map_or("", |link| link.name.as_str()).to_owned();
            self.living.node.insert(found.cidr.address(), name);
        }
        self.seen.insert(self.node);
        Ok(())
    }

    /// Reads the namespaces that have a number, those of processes, and those that only a mount or
    /// a descriptor keeps of the owners in `lost`, whose paths do not lead there any more.
    fn add_unnamed(&mut self, lost: &[&Owner]) -> Result<()> {
        let holders = Holders::default();
        match holders.inhabited() {
            Ok(Some(found)) => {
                for (inode, paths) in found {
                    if !self.seen.contains(&inode) {
                        self.add_held(paths, inode)?;
                    }
                }
            }
            Ok(None) => {
                self.living.is_blind = true;
                self.add_processes()?;
            }
            // An address without an owner may be anywhere.
            Err(why) => self.hide(PROCESSES.into(), why, false),
        }
        self.add_numbered()?;
        // Who forks holds the descriptors of its parent for a moment: what was kept at the first
        // look may have ended at the second.
        let kept = self.add_lost(lost, &holders)?;
        let owners: Vec<&Owner> = kept.into_iter().map(|(owner, _)| owner).collect();
        for (owner, why) in self.add_lost(&owners, &Holders::default())? {
            if let Some(path) = owner.netns() {
                self.hide(path.into(), why, false);
            }
        }
        Ok(())
    }

    /// Reads the namespaces of owners that something may keep alive without their paths. Returns
    /// those that cannot be read, and why they may exist.
    fn add_lost<'b>(
        &mut self,
        lost: &[&'b Owner],
        holders: &Holders,
    ) -> Result<Vec<(&'b Owner, Error)>> {
        let mut unread = Vec::new();
        for owner in lost {
            let (Some(id), Presence::Unknown(why)) = (owner.netns_id(), owner.presence(holders))
            else {
                continue;
            };
            if self.seen.contains(&id.inode) || self.settle(owner)? {
                continue;
            }
            let paths = holders.paths_to(id).ok().flatten().unwrap_or_default();
            if !self.add_held(paths, id.inode)? {
                unread.push((*owner, why));
            }
        }
        Ok(unread)
    }

    /// Reads the namespaces of processes, each once. A process that this one may not examine is
    /// left out; to examine all takes their capabilities, or `SYS_PTRACE`.
    fn add_processes(&mut self) -> Result<()> {
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
            if !self.seen.contains(&found.ino()) {
                self.add_held(vec![path], found.ino())?;
            }
        }
        Ok(())
    }

    /// Reads the namespaces that have a number on the node and that no path has led to.
    fn add_numbered(&mut self) -> Result<()> {
        if !self.knows_beside() {
            return Ok(());
        }
        let numbers = self.by_number.as_mut().map(ByNumber::numbers);
        for number in numbers.transpose()?.unwrap_or_default() {
            self.add_number(number)?;
        }
        Ok(())
    }

    /// Whether it can be told which namespace is left out, also if no path has led there.
    fn knows_beside(&self) -> bool {
        let beside = self.beside.and_then(Owner::netns_id);
        beside.is_none_or(|id| id.nsid.is_some() || self.seen.contains(&id.inode))
    }

    /// Reads the namespace with this number, unless it was read already. Returns whether nothing
    /// of it is unknown.
    fn add_number(&mut self, number: i32) -> Result<bool> {
        if self.is_beside(number) || !self.read.insert(number) {
            return Ok(!self.failed.contains(&number));
        }
        let Some(by_number) = &mut self.by_number else {
            return Ok(false);
        };
        match by_number.addresses(number, limits::ADDRESSES) {
            Ok(found) => {
                let name = format!("network namespace {number} of `ip netns list-id`");
                self.keep(&found.unwrap_or_default(), (&name, None, Some(number)));
                Ok(true)
            }
            // It does not say anything about this namespace.
            Err(error) if error.errno().is_some() => Err(error),
            Err(why) => {
                self.failed.insert(number);
                self.living.unreadable.push(Unseen {
                    path: None,
                    is_name: false,
                    id: None,
                    nsid: Some(self.nsid(number)),
                    why,
                });
                Ok(false)
            }
        }
    }

    /// Reads the namespace of an owner by its number, and those into which its interfaces may have
    /// gone. Notes, and returns, whether that was possible.
    fn settle(&mut self, owner: &Owner) -> Result<bool> {
        let nsid = owner.netns_id().and_then(|id| id.nsid);
        let Some(nsid) = nsid.filter(|nsid| nsid.given_by == self.node) else {
            return Ok(false);
        };
        let (mut found, mut next) = (HashSet::new(), vec![nsid.number]);
        while let Some(number) = next.pop() {
            if !found.insert(number) {
                continue;
            }
            let is_read = self.add_number(number)?;
            let Some(by_number) = self.by_number.as_mut().filter(|_| is_read) else {
                return Ok(false);
            };
            let Some(others) = by_number.referred_to_by(number)? else {
                return Ok(false);
            };
            next.extend(others);
        }
        self.living.settled.push(nsid);
        Ok(true)
    }

    fn nsid(&self, number: i32) -> Nsid {
        let given_by = self.node;
        Nsid { given_by, number }
    }

    fn is_beside(&self, number: i32) -> bool {
        let beside = self.beside.and_then(Owner::netns_id);
        beside.is_some_and(|id| id.nsid == Some(self.nsid(number)))
    }

    /// Reads the namespace at `path`.
    fn add(&mut self, path: PathBuf) -> Result<()> {
        match NetNs::open_for_del(&path.to_string_lossy())? {
            Some(netns) => self.read(path, &netns),
            None => Ok(()),
        }
    }

    /// Reads the namespace with this inode number at the first of `paths` that leads there. Returns
    /// whether one does.
    fn add_held(&mut self, paths: Vec<PathBuf>, inode: u64) -> Result<bool> {
        for path in paths {
            match NetNs::open_held(&path, inode) {
                Ok(Some(netns)) => return self.read(path, &netns).map(|()| true),
                Ok(None) => {}
                // It is the path of a process that must not be examined.
                Err(error) if matches!(error.errno(), Some(EACCES | EPERM)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Reads a namespace, unless it was read already.
    fn read(&mut self, path: PathBuf, netns: &NetNs) -> Result<()> {
        let inode = netns.outer_id()?.inode;
        let beside = self.beside.and_then(Owner::netns_id);
        let is_beside = beside.is_some_and(|beside| beside.inode == inode);
        let number = match self.by_number.as_mut().map(|b| b.number_of(netns)) {
            // The namespace that was there has gone.
            Some(Err(_)) if !netns.is_of_network() => return Ok(()),
            number => number.transpose()?.flatten(),
        };
        self.seen.insert(inode);
        let is_new = number.is_none_or(|number| self.read.insert(number));
        if !is_new || is_beside {
            return Ok(());
        }
        let found = match self.addresses_in(netns, number) {
            Err(denied) if self.passes_over && denied.errno() == Some(EPERM) => {
                self.living.denied.get_or_insert(denied);
                return Ok(());
            }
            found => found?,
        };
        match found {
            Ok(found) => self.keep(&found, (&format!("{path:?}"), Some(inode), number)),
            Err(cause) if cause.errno().is_some() => return Err(cause),
            Err(cause) => {
                self.failed.extend(number);
                let msg = format!("the addresses in {path:?} cannot be read");
                let why = Error::internal(msg).with_details(cause.to_string());
                self.living.unreadable.push(Unseen {
                    path: Some(path),
                    is_name: true,
                    id: Some(netns.id()?),
                    nsid: number.map(|number| self.nsid(number)),
                    why,
                });
            }
        }
        Ok(())
    }

    /// The addresses in a namespace, which may have this number. The inner error says why they
    /// cannot be read.
    fn addresses_in(
        &mut self,
        netns: &NetNs,
        number: Option<i32>,
    ) -> Result<Result<Vec<KernelAddress>>> {
        if let (Some(by_number), Some(number)) = (&mut self.by_number, number)
            && let Ok(Some(found)) = by_number.addresses(number, limits::ADDRESSES)
        {
            return Ok(Ok(found));
        }
        Ok(Netlink::open_in(netns)?.into_addresses(limits::ADDRESSES))
    }

    /// Keeps those of the addresses that are asked about, with the namespace where they are: its
    /// name, its inode if that is known, and its number if it has one.
    fn keep(
        &mut self,
        found: &[KernelAddress],
        (name, inode, number): (&str, Option<u64>, Option<i32>),
    ) {
        for address in found.iter().map(|found| found.cidr.address()) {
            if (self.asked)(address) {
                let place = Place {
                    name: name.to_owned(),
                    inode,
                    nsid: number.map(|number| self.nsid(number)),
                };
                self.living.pods.entry(address).or_default().push(place);
            }
        }
    }

    fn hide(&mut self, path: PathBuf, why: Error, is_name: bool) {
        let beside = self.beside.and_then(Owner::netns);
        if beside.is_some_and(|beside| path == *beside) {
            return;
        }
        let hidden = &mut self.living.hidden;
        if hidden
            .iter()
            .all(|unseen| unseen.path.as_ref() != Some(&path))
        {
            hidden.push(Unseen {
                path: Some(path),
                is_name,
                id: None,
                nsid: None,
                why,
            });
        }
    }
}
