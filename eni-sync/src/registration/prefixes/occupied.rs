//! Addresses of a new prefix that somebody has already: a pod of a network without eni-sync, or the
//! node. Each has an entry of its own before the prefix gives addresses, so no pod gets it.

use std::net::IpAddr;
use std::path::Path;

use common::address::Cidr;
use common::error::Result;
use common::say;

use crate::ledger::{DEFAULT_COOLDOWN, Entries, Entry, Event, Ledger, Prefix, now};
use crate::registration::in_use;

/// The addresses of these prefixes that are seen on an interface. `None` when that cannot be found
/// out, which is logged.
pub(super) fn occupied(node: &Ledger, prefixes: &[Cidr]) -> Option<Vec<IpAddr>> {
    let is_inside = |address| prefixes.iter().any(|prefix| prefix.contains(address));
    match in_use::look_if_permitted(node, is_inside) {
        Ok(living) => Some(living.used().filter(|a| is_inside(*a)).collect()),
        Err(error) => {
            say!("{error}; no pod gets an address of a new prefix before that is known");
            None
        }
    }
}

/// Writes down prefixes that EC2 has assigned to the ENI, and for whom. If it is not known which of
/// their addresses are `occupied`, they are adopted: a later look decides when pods get them.
///
/// # Errors
/// Code 5 or 6 naming a file of the ledger.
pub(super) fn note(
    entries: &Entries,
    prefixes: &[Cidr],
    ranges_file: Option<&Path>,
    occupied: Option<&[IpAddr]>,
) -> Result<()> {
    let known = entries.prefixes()?;
    for prefix in prefixes {
        let of_prefix = |address: &&IpAddr| prefix.contains(**address);
        let found = match occupied {
            Some(occupied) => {
                set_apart(entries, occupied.iter().filter(of_prefix))?;
                let assigned = Prefix::assigned(*prefix);
                assigned.map(|new| {
                    (
                        new.listed_in(ranges_file),
                        Event::Assigned { for_pool: true },
                    )
                })
            }
            None => Prefix::found(*prefix).map(|new| (new, Event::Seen)),
        };
        let before = known.iter().find(|known| known.prefix == *prefix);
        if let Some((after, event)) = found {
            entries.change_prefix(before, &after, &event)?;
        }
    }
    Ok(())
}

/// Keeps the addresses from pods until nobody has them.
fn set_apart<'a>(entries: &Entries, occupied: impl Iterator<Item = &'a IpAddr>) -> Result<()> {
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
