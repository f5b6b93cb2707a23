//! Pods whose ENI has been detached from the instance while they run: the interfaces on it are
//! gone. Only a new pod gets an interface again, so the agent and the doctor name these pods.

use std::collections::BTreeMap;
use std::net::IpAddr;

use common::attach::inventory::Inventory;
use common::error::Result;
use common::kernel::netns::Holders;

use crate::ledger::{Entry, Ledger};

/// A message for each attachment that has lost its ENI.
///
/// # Errors
/// Code 5 naming a file of the ledger or the inventory.
pub(crate) fn of_node(ledger: &Ledger) -> Result<Vec<String>> {
    let (mut found, holders) = (Vec::new(), Holders::default());
    if let Some(inventory) = Inventory::read()? {
        for eni in ledger.enis()? {
            found.extend(of_eni(eni.id(), &eni.read()?, &inventory, &holders));
        }
    }
    Ok(found)
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
