//! Which addresses are on an interface of a pod or of the node at this moment. The ledger knows
//! which attachment an address was for; this module shows who uses it, and which namespaces
//! could not be read. Module `look` reads them.

mod look;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::PathBuf;

use common::error::{Error, Result};
use common::kernel::netns::{NetNsId, Nsid};

use self::look::Look;
use crate::ledger::{Entry, Ledger, Owner};

/// Why an address stays whose pod has lived without a path.
const LINGERS: &str = "it may be in use: its namespace lived without its path, and this process \
                       cannot see whether it has ended";

/// The addresses in use, of those that were asked about, as far as this process can see.
#[derive(Debug, Default)]
pub(crate) struct Living {
    /// The namespaces of each address that pods have.
    pods: HashMap<IpAddr, Vec<Place>>,
    /// The interface of each address that the node itself has.
    node: HashMap<IpAddr, String>,
    /// The namespaces that are not visible to this process: any address may be in them.
    hidden: Vec<Unseen>,
    /// Whether this process was to see the processes of the node, and does not.
    is_blind: bool,
    /// The namespaces that have too many addresses, or change them too often to be read.
    unreadable: Vec<Unseen>,
    /// Why some namespaces were left out, where this process may not enter them.
    denied: Option<Error>,
    /// The namespaces of owners that were read by their numbers, because no path leads there: all
    /// that was in them is there, or in another one that was read.
    settled: Vec<Nsid>,
}

/// A namespace in which an address is.
#[derive(Debug)]
struct Place {
    /// It in the words of a message.
    name: String,
    /// `None` where it was read by its number.
    inode: Option<u64>,
    nsid: Option<Nsid>,
}

/// A namespace whose addresses are not known.
#[derive(Debug)]
struct Unseen {
    /// `None` for one that is known by its number only.
    path: Option<PathBuf>,
    /// Whether the path is the name of a namespace, made by a runtime.
    is_name: bool,
    id: Option<NetNsId>,
    nsid: Option<Nsid>,
    why: Error,
}

/// Where to look for addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// In the namespaces that the ledger and the runtimes name: enough to see which of these
    /// cannot be read.
    Named,
    /// Also in those that have a number on the node, in those of all visible processes, and in
    /// those of owners that something keeps alive without its path. Needed before an address leaves
    /// the ENI or is given to another pod: a pod may have moved its interface on, and its runtime
    /// may have removed the path, or never have had one.
    Visible,
}

/// Looks for the addresses that are `asked` about in the node's namespace, in every namespace that a
/// runtime names, in those of `owners`, and in those that `reach` adds. Only these addresses are
/// kept: pods can have any number of others.
///
/// # Errors
/// Those of a namespace that exists and cannot be opened: an address that may be in it must not
/// count as free.
pub(crate) fn look<'a>(
    owners: impl Iterator<Item = &'a Owner>,
    reach: Reach,
    asked: impl Fn(IpAddr) -> bool,
) -> Result<Living> {
    Look::begin(&asked, None)?.into_living(owners, reach)
}

/// The same with the owners of all entries in the ledger, as far as possible, but without the
/// namespace of `own`: who else has its addresses?
///
/// # Errors
/// As for [`of_node`].
pub(crate) fn look_beside(
    own: &Owner,
    ledger: &Ledger,
    asked: impl Fn(IpAddr) -> bool,
) -> Result<Living> {
    let owners = owners_of(&entries_of(ledger)?);
    Look::begin(&asked, Some(own))?.into_living(owners.iter(), Reach::Visible)
}

/// The same with the owners of all entries in the ledger, for the addresses of these.
///
/// # Errors
/// As for [`look()`], and code 5 naming a file of the ledger.
pub(crate) fn of_node(ledger: &Ledger) -> Result<Living> {
    let entries = entries_of(ledger)?;
    let known: HashSet<IpAddr> = entries.iter().map(|entry| entry.address).collect();
    let owners = owners_of(&entries);
    look(owners.iter(), Reach::Named, |address| {
        known.contains(&address)
    })
}

/// The same as far as possible, for the addresses that are `asked` about.
///
/// # Errors
/// As for [`of_node`].
pub(crate) fn look_from(ledger: &Ledger, asked: impl Fn(IpAddr) -> bool) -> Result<Living> {
    let owners = owners_of(&entries_of(ledger)?);
    look(owners.iter(), Reach::Visible, asked)
}

/// The same for addresses that are new to the ENI: a pod may have one that EC2 does not know. A look
/// that fails is repeated once, and a namespace that this process may not enter is no error.
///
/// # Errors
/// As for [`of_node`].
pub(crate) fn look_if_permitted(ledger: &Ledger, asked: impl Fn(IpAddr) -> bool) -> Result<Living> {
    let owners = owners_of(&entries_of(ledger)?);
    let look = || {
        let look = Look::begin(&asked, None)?.if_permitted();
        look.into_living(owners.iter(), Reach::Visible)
    };
    look().or_else(|_| look())
}

fn entries_of(ledger: &Ledger) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for eni in ledger.enis()? {
        entries.extend(eni.read()?);
    }
    Ok(entries)
}

fn owners_of(entries: &[Entry]) -> Vec<Owner> {
    let owners = entries.iter().filter_map(|entry| entry.owner.clone());
    owners.collect()
}

impl Living {
    /// Whether the namespace of an owner was read although no path leads there.
    fn is_settled(&self, owner: &Owner) -> bool {
        let nsid = owner.netns_id().and_then(|id| id.nsid);
        nsid.is_some_and(|nsid| self.settled.contains(&nsid))
    }

    /// The reason why an address must stay, if there is one: it is in use, or it may be in a
    /// namespace that could not be read. An address without an owner may be in any namespace.
    pub(crate) fn reason_to_keep(&self, address: IpAddr, owner: Option<&Owner>) -> Option<String> {
        if let Some(whose) = self.whose(address) {
            return Some(whose);
        }
        let is_there = |unseen: &&Unseen| owner.is_none_or(|owner| unseen.may_be_of(owner));
        let is_settled = owner.is_some_and(|owner| self.is_settled(owner));
        let hidden = self.hidden.iter().filter(|_| !is_settled);
        let mut unseen = hidden.chain(&self.unreadable);
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
            Some(owner) if !self.is_settled(owner) && !owner.is_gone()? => {
                Ok(Some(LINGERS.to_owned()))
            }
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

    /// Why some namespaces were left out, where this process may not enter them.
    pub(crate) fn denied(&self) -> Option<&Error> {
        self.denied.as_ref()
    }

    /// The addresses that pods have, of those that were asked about, and all of the node.
    pub(crate) fn used(&self) -> impl Iterator<Item = IpAddr> {
        self.pods.keys().chain(self.node.keys()).copied()
    }

    /// Who has an address, if that can be seen.
    pub(crate) fn whose(&self, address: IpAddr) -> Option<String> {
        self.whose_where(address, |_| true)
    }

    /// The same beside an attachment that gets the address and may have it already.
    pub(crate) fn whose_beside(&self, address: IpAddr, own: &Owner) -> Option<String> {
        self.whose_where(address, |place| !place.may_be_of(own))
    }

    fn whose_where(&self, address: IpAddr, is_meant: impl Fn(&Place) -> bool) -> Option<String> {
        let mut places = self.pods.get(&address).into_iter().flatten();
        if let Some(Place { name, .. }) = places.find(|place| is_meant(place)) {
            return Some(format!("it is on an interface of a pod, in {name}"));
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
        hidden.filter_map(|unseen| unseen.path.as_ref())
    }

    /// The namespaces whose addresses cannot be read, and why.
    pub(crate) fn unreadable(&self) -> impl ExactSizeIterator<Item = &Error> {
        self.unreadable.iter().map(|unseen| &unseen.why)
    }
}

impl Place {
    /// Whether it is the namespace of an owner, or can be: one that is known by its number only
    /// cannot be told from that of an owner that was recorded without.
    fn may_be_of(&self, owner: &Owner) -> bool {
        owner
            .netns_id()
            .is_some_and(|id| match (self.inode, self.nsid, id.nsid) {
                (_, Some(nsid), Some(own)) => nsid == own,
                (Some(inode), _, _) => inode == id.inode,
                (None, _, _) => true,
            })
    }
}

impl Unseen {
    /// Whether it is the namespace of an owner, by the same path, another one, or its number.
    fn may_be_of(&self, owner: &Owner) -> bool {
        let id = owner.netns_id();
        let is_path = |path: &PathBuf| owner.netns().is_some_and(|own| *path == *own);
        let is_same = |other: NetNsId| id.is_some_and(|own| own.is_same(&other));
        let is_nsid = |nsid: Nsid| id.is_some_and(|own| own.nsid == Some(nsid));
        self.path.as_ref().is_some_and(is_path)
            || self.id.is_some_and(is_same)
            || self.nsid.is_some_and(is_nsid)
    }
}
