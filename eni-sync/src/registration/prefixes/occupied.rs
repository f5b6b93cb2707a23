//! Addresses of a new prefix that somebody has already: a pod of a network without eni-sync, or the
//! node. Each has an entry of its own before the prefix gives addresses, so no pod gets it.

use std::net::IpAddr;

use common::address::Cidr;
use common::error::Result;

use crate::ledger::{DEFAULT_COOLDOWN, Entries, Entry, Event, Ledger, now};
use crate::registration::in_use;

/// The addresses of these prefixes that are seen on an interface.
///
/// # Errors
/// Those of reading the ledger and the namespaces.
pub(super) fn occupied(node: &Ledger, prefixes: &[Cidr]) -> Result<Vec<IpAddr>> {
    let is_inside = |address| prefixes.iter().any(|prefix| prefix.contains(address));
    let living = in_use::look_if_permitted(node, is_inside)?;
    Ok(living
        .used()
        .filter(|address| is_inside(*address))
        .collect())
}

/// Keeps the addresses from pods until nobody has them.
///
/// # Errors
/// Code 5 naming a file of the ledger.
pub(super) fn set_apart(entries: &Entries, occupied: &[IpAddr]) -> Result<()> {
    let assigned = Event::Assigned { for_pool: false };
    let after = now().saturating_add(DEFAULT_COOLDOWN.as_secs());
    for address in occupied {
        if entries.get(*address)?.is_none()
            && let Some(entry) = Entry::spare(*address, None, after)
        {
            entries.change(None, &entry, &assigned)?;
        }
    }
    Ok(())
}

/// The addresses that are kept from pods so.
///
/// # Errors
/// Code 5 or 6 naming a file of the ledger.
pub(super) fn set_apart_in(entries: &Entries) -> Result<Vec<IpAddr>> {
    let mut apart = entries.all()?;
    apart.retain(|entry| entry.owner.is_none() && entry.chosen && entry.is_leaving());
    Ok(apart.iter().map(|entry| entry.address).collect())
}
