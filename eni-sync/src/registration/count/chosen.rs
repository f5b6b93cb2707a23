//! What EC2 has chosen: whether a pod has it, and for whom it is.

use std::net::IpAddr;

use common::error::Result;
use common::say;

use super::CLAIMED;
use crate::ledger::{EniLedger, Entries, Entry, Event, Ledger, Timestamp, Wish};
use crate::registration::claim::may_be_used;
use crate::registration::in_use;
use crate::registration::release;

/// What EC2 has chosen for nobody.
#[derive(Default)]
pub(super) struct Parked {
    /// How many addresses: those that are excluded, and those that a pod has or may have.
    pub(super) count: usize,
    /// Why pods have them or may have them.
    pub(super) why: Vec<String>,
}

/// Those of the addresses that a pod has, or may have, and why: a pod of a network without eni-sync,
/// or one for which the ledger kept them while another program removed them from the ENI, which has
/// this MAC address. If it cannot be found out who has them, nobody gets them, and the others of the
/// answer are given nevertheless.
///
/// # Errors
/// Code 5 or 6 naming a file of the ledger, and those of reading the namespaces for an address that
/// the ledger does not know: what EC2 has chosen is then found as in an answer that was lost.
pub(super) fn kept(
    (node, mac): (&Ledger, &str),
    ledger: &EniLedger,
    chosen: &[IpAddr],
) -> Result<(Vec<IpAddr>, Vec<String>)> {
    let mut known = Vec::new();
    {
        let entries = ledger.open()?;
        for address in chosen {
            known.extend(entries.get(*address)?);
        }
    }
    let all: Vec<IpAddr> = known.iter().map(|entry| entry.address).collect();
    known.retain(|entry| may_be_used(entry) && !entry.is_in_use());
    let mut kept: Vec<IpAddr> = known.iter().map(|entry| entry.address).collect();
    let mut why = Vec::new();
    let free = release::without_living(ledger, known, &mut why);
    let free = free.and_then(|free| release::without_whole(ledger, mac, free, &mut why));
    let free = free.unwrap_or_else(|error| {
        why.push(error.to_string());
        Vec::new()
    });
    kept.retain(|address| free.iter().all(|entry| entry.address != *address));
    let unknown = chosen.iter().filter(|address| !all.contains(address));
    kept.extend(used(node, unknown.copied().collect(), &mut why)?);
    for why in &why {
        say!("{why}");
    }
    Ok((kept, why))
}

/// Those of the addresses, which no entry knows, that somebody has.
fn used(node: &Ledger, mut unknown: Vec<IpAddr>, why: &mut Vec<String>) -> Result<Vec<IpAddr>> {
    if unknown.is_empty() {
        return Ok(unknown);
    }
    let living = in_use::look_if_permitted(node, |address| unknown.contains(&address))?;
    unknown.retain(|address| {
        let whose = living.whose(*address);
        why.extend(whose.iter().map(|why| format!("{address} stays: {why}")));
        whose.is_some()
    });
    Ok(unknown)
}

/// Writes down for whom an address is that EC2 has chosen: for who has claimed it by name
/// meanwhile, else for the next that waits, else for nobody, and on its way out after `until`.
pub(super) fn give(
    entries: &Entries,
    address: IpAddr,
    waiting: &mut impl Iterator<Item = Wish>,
    until: Timestamp,
) -> Result<()> {
    let known = entries.get(address)?;
    if let Some(claimed) = known.clone().filter(Entry::is_in_use) {
        let for_pool = claimed.is_for_pool();
        return entries.note(claimed, &Event::Assigned { for_pool });
    }
    let assigned = Event::Assigned { for_pool: false };
    let Some(wish) = waiting.next() else {
        let spare = Entry::spare(address, known.clone(), until);
        return spare.map_or(Ok(()), |spare| {
            entries.change(known.as_ref(), &spare, &assigned)
        });
    };
    let entry = Entry::claimed(address, known.clone(), &CLAIMED, wish.owner.clone());
    let held = entry.and_then(|entry| entry.after(&assigned));
    if let Some(held) = held {
        entries.change(known.as_ref(), &held.chosen(), &assigned)?;
    }
    entries.forget_wish(&wish)
}
