//! Pods whose ENI has been detached from the instance while they run, or whose ipvlan master
//! was removed or made anew: the interfaces on it are gone. Only a new pod gets an interface
//! again, so the agent and the doctor name these pods.

use std::collections::BTreeMap;
use std::net::IpAddr;

use common::attach::Sandbox;
use common::attach::inventory::Inventory;
use common::error::{Error, Result};
use common::kernel::netlink::Netlink;
use common::kernel::netns::Holders;
use common::records::Attachment;
use ipvlan::device::Device;

use super::attached;
use crate::ledger::{Entry, Ledger, Owner};

/// An attachment that has lost its interface.
#[derive(Debug)]
pub(crate) struct Loss {
    /// The ENI, if the ledger knows that it was on this one.
    pub(crate) eni: Option<String>,
    /// The message that names the attachment.
    pub(crate) says: String,
}

/// The attachments that have lost their ENI or their master, each of them once.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    pub(crate) found: Vec<Loss>,
    /// Why there may be more: code 5 naming the directory of the records, 999 when the kernel
    /// does not answer.
    pub(crate) unknown: Option<Error>,
}

/// The losses of this node.
///
/// # Errors
/// Code 5 naming a file of the ledger or the inventory.
pub(crate) fn of_node(ledger: &Ledger) -> Result<Losses> {
    let mut enis = Vec::new();
    for eni in ledger.enis()? {
        enis.push((eni.id().to_owned(), eni.read()?));
    }
    let enis = enis.iter().map(|(id, entries)| (id, entries));
    Ok(Losses::among(enis, Inventory::read()?.as_ref()))
}

impl Losses {
    /// The losses among the entries of the ledger, by ENI, and the records of ipvlan. Without an
    /// inventory it is not known which ENIs are attached.
    pub(crate) fn among<'a>(
        enis: impl Iterator<Item = (&'a String, &'a Vec<Entry>)>,
        inventory: Option<&Inventory>,
    ) -> Self {
        let (mut losses, holders) = (Self::default(), Holders::default());
        let is_attached = |id: &str| {
            inventory.is_none_or(|inventory| inventory.enis.iter().any(|eni| eni.id == *id))
        };
        let mut known = Vec::new();
        for (id, entries) in enis.filter(|(id, _)| !is_attached(id)) {
            for (owner, addresses) in by_owner(entries, &holders) {
                losses.found.push(of_eni(id, owner, &addresses));
                known.push(owner);
            }
        }
        match without_master() {
            Ok(lost) => {
                let of_eni = |record: &Attachment<Device>| known.iter().any(|o| is_of(o, record));
                let lost = lost.iter().filter(|record| !of_eni(record));
                losses.found.extend(lost.map(of_master));
            }
            Err(error) => losses.unknown = Some(error),
        }
        losses
    }
}

fn is_of(owner: &Owner, record: &Attachment<Device>) -> bool {
    let (container, ifname) = (record.container_id.as_str(), record.ifname.as_str());
    owner.is_attachment(&record.network, container, ifname)
}

/// The owners that may be alive, with their addresses.
fn by_owner<'a>(entries: &'a [Entry], holders: &Holders) -> Vec<(&'a Owner, Vec<IpAddr>)> {
    let mut found: BTreeMap<String, (&Owner, Vec<IpAddr>)> = BTreeMap::new();
    let held = entries.iter().filter(|entry| entry.is_in_use());
    for entry in held.filter(|entry| entry.may_have_living_owner(holders)) {
        if let Some(owner) = &entry.owner {
            let (_, addresses) = found
                .entry(owner.to_string())
                .or_insert_with(|| (owner, Vec::new()));
            addresses.push(entry.address);
        }
    }
    found.into_values().collect()
}

fn of_eni(id: &str, owner: &Owner, addresses: &[IpAddr]) -> Loss {
    let addresses: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    let addresses = addresses.join(", ");
    Loss {
        eni: Some(id.to_owned()),
        says: format!(
            "{owner} has lost its interface with {addresses}: {id} is not attached to this instance any more"
        ),
    }
}

fn of_master(record: &Attachment<Device>) -> Loss {
    let (attachment, mac) = (attached::name(record), record.device.eni_mac());
    Loss {
        eni: None,
        says: format!(
            "{attachment} has lost its interface: the master with MAC {mac} was removed, or made anew"
        ),
    }
}

/// The ipvlan attachments whose master has gone from the node and whose interface has gone from
/// the pod. A link that is made anew has another index.
fn without_master() -> Result<Vec<Attachment<Device>>> {
    let mut lost = ipvlan::records().all::<Device>()?;
    lost.retain(is_on_node);
    if lost.is_empty() {
        return Ok(lost);
    }
    let links = Netlink::open()?.links()?;
    lost.retain(|record| {
        let index = record.device.lower.index;
        let is_there = links.iter().any(|link| link.index == index);
        // A namespace that cannot be examined does not prove a loss.
        !is_there && has_no_interface(record).unwrap_or(false)
    });
    Ok(lost)
}

/// Whether the container exists and has no interface with the name of the attachment.
fn has_no_interface(record: &Attachment<Device>) -> Result<bool> {
    if !record.is_alive()? {
        return Ok(false);
    }
    let mut sandbox = Sandbox::open(&record.netns)?;
    let found = sandbox.netlink.link_by_name(record.ifname.as_str())?;
    Ok(found.is_none())
}

/// Whether the interface was made on a device of the node.
fn is_on_node(record: &Attachment<Device>) -> bool {
    let lower = &record.device.lower;
    !lower.in_container && lower.third_netns.is_none()
}
