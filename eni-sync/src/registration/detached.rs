//! Pods whose ENI has been detached from the instance while they run, or whose ipvlan master
//! was removed or made anew: the interfaces on it are gone. Only a new pod gets an interface
//! again, so the agent and the doctor name these pods.

use std::collections::BTreeMap;
use std::net::IpAddr;

use common::attach::Sandbox;
use common::attach::inventory::Inventory;
use common::error::Result;
use common::kernel::netlink::Netlink;
use common::kernel::netns::Holders;
use common::records::Attachment;
use ipvlan::device::Device;

use crate::ledger::{Entry, Ledger};

/// A message for each attachment that has lost its ENI or its master.
///
/// # Errors
/// Code 5 naming a file of the ledger, a record or the inventory, 999 when the kernel does not
/// answer.
pub(crate) fn of_node(ledger: &Ledger) -> Result<Vec<String>> {
    let (mut found, holders) = (Vec::new(), Holders::default());
    if let Some(inventory) = Inventory::read()? {
        for eni in ledger.enis()? {
            found.extend(of_eni(eni.id(), &eni.read()?, &inventory, &holders));
        }
    }
    let of_masters = without_master()?.into_iter();
    let is_new = |(attachment, _): &(String, String)| {
        let mut said = found.iter();
        !said.any(|text| text.contains(attachment))
    };
    let new: Vec<String> = of_masters.filter(is_new).map(|(_, text)| text).collect();
    found.extend(new);
    Ok(found)
}

/// The ipvlan attachments whose master has gone from the node and whose interface has gone from
/// the pod: how each is called, and the message. A link that is made anew has another index.
///
/// # Errors
/// Code 5 naming what cannot be read, 999 when the kernel does not answer.
pub(crate) fn without_master() -> Result<Vec<(String, String)>> {
    let mut lost = ipvlan::records().all::<Device>()?;
    lost.retain(is_on_node);
    if lost.is_empty() {
        return Ok(Vec::new());
    }
    let links = Netlink::open()?.links()?;
    let has_lost = |record: &Attachment<Device>| {
        let index = record.device.lower.index;
        let is_there = links.iter().any(|link| link.index == index);
        // A namespace that cannot be examined does not prove a loss.
        !is_there && has_no_interface(record).unwrap_or(false)
    };
    let said = |record: Attachment<Device>| {
        let attachment = format!(
            "container {}, interface {}, network {}",
            record.container_id, record.ifname, record.network
        );
        let mac = &record.device.master_mac;
        let text = format!(
            "{attachment} has lost its interface: the master with MAC {mac} was removed, or made anew"
        );
        (attachment, text)
    };
    Ok(lost.into_iter().filter(has_lost).map(said).collect())
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

/// The same for one ENI of the ledger.
pub(crate) fn of_eni(
    id: &str,
    entries: &[Entry],
    inventory: &Inventory,
    holders: &Holders,
) -> Vec<String> {
    if inventory.enis.iter().any(|eni| eni.id == id) {
        return Vec::new();
    }
    let mut lost: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    let held = entries.iter().filter(|entry| entry.is_in_use());
    for entry in held.filter(|entry| entry.may_have_living_owner(holders)) {
        if let Some(owner) = &entry.owner {
            lost.entry(owner.to_string())
                .or_default()
                .push(entry.address);
        }
    }
    let text = |(owner, addresses): (String, Vec<IpAddr>)| {
        let addresses: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
        let addresses = addresses.join(", ");
        format!(
            "{owner} has lost its interface with {addresses}: {id} is not attached to this instance any more"
        )
    };
    lost.into_iter().map(text).collect()
}
