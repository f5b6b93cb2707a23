//! Gives prefixes back to the VPC: first nobody gets an address of one any more, and when
//! nobody has any, and its cool-down is over, EC2 is asked to take it.

use std::net::IpAddr;
use std::time::Instant;

use common::address::Cidr;
use common::attach::inventory::Eni;
use common::error::{Error, Result};

use super::stock::Level;
use super::supply::{surplus, taken};
use crate::ledger::{EniLedger, Entries, Event, Prefix, State, now};
use crate::registration::in_use::{self, Living, Reach};
use crate::registration::node::Node;
use crate::vpc::ec2::Family;
use crate::vpc::eni;
use crate::vpc::failure::{Failure, Kind};
use crate::vpc::inventory;

/// How long a prefix stays that somebody has an address of, in seconds.
const POSTPONED: u64 = 60;
/// The same for one that EC2 does not take.
const REFUSED: u64 = 300;

/// Closes the prefixes of `pool` that are more than `level` says, for as long as `cooldown`
/// seconds before they leave. `reserved` counts what the ledger does not know of one.
///
/// # Errors
/// Code 5 naming a file of the ledger.
pub(crate) fn close(
    entries: &Entries,
    pool: Option<&str>,
    (family, level): (Family, Level),
    cooldown: u64,
    reserved: impl Fn(&Prefix) -> usize,
) -> Result<()> {
    let (prefixes, all) = (entries.prefixes()?, entries.all()?);
    let own = prefixes.iter().filter(|prefix| {
        let is_of = Family::of(prefix.prefix.address()) == family;
        is_of && prefix.pool.as_deref() == pool
    });
    let own: Vec<&Prefix> = own.collect();
    let after = now().saturating_add(cooldown);
    let taken = |prefix: &Prefix| taken(prefix, &all).max(reserved(prefix));
    for prefix in surplus(level, &own, taken, family) {
        entries.note_prefix(prefix, &Event::Ended { after })?;
    }
    Ok(())
}

/// What keeps a prefix on its ENI, for all that can be seen: that of nobody's addresses may be
/// anywhere.
pub(crate) fn reason_to_keep(
    prefix: &Prefix,
    entries: &Entries,
    living: &Living,
    reserved: &[IpAddr],
) -> Result<Option<String>> {
    let inside = entries.addresses()?.into_iter();
    if let Some(address) = inside.filter(|a| prefix.contains(*a)).min() {
        return Ok(Some(format!("the ledger has {address} of it")));
    }
    if let Some(address) = reserved.iter().find(|address| prefix.contains(**address)) {
        return Ok(Some(format!("host-local has {address} of it reserved")));
    }
    Ok(living.reason_to_keep_all(|address| prefix.contains(address)))
}

/// Has EC2 take the prefixes that are closed, due and nobody's. Adds to `kept` what stays, and
/// why. Only for the one in turn.
///
/// # Errors
/// What keeps them from being given back; they stay due.
pub(crate) fn give_back(
    node: &Node<'_>,
    eni: &Eni,
    ledger: &EniLedger,
    reserved: &[IpAddr],
    kept: &mut Vec<(Cidr, String)>,
) -> Result<()> {
    let mut due = ledger.read_prefixes()?;
    due.retain(|prefix| prefix.entry.due(now()).is_some_and(|due| due <= now()));
    if due.is_empty() {
        return Ok(());
    }
    eni::require_managed(eni)?;
    let living = in_use::look_from(node.ledger, Reach::Processes)?;
    for prefix in due {
        let asked = {
            let entries = ledger.open()?;
            match reason_to_keep(&prefix, &entries, &living, reserved)? {
                Some(why) => {
                    kept.push((prefix.prefix, why));
                    postpone(&entries, &prefix, POSTPONED)?;
                    None
                }
                // From here on nobody can claim an address of it.
                None => entries.note_prefix(&prefix, &Event::Unassigning)?,
            }
        };
        if let Some(asked) = asked {
            unassign(node, eni, ledger, &asked)?;
        }
    }
    Ok(())
}

fn postpone(entries: &Entries, prefix: &Prefix, seconds: u64) -> Result<()> {
    let after = now().saturating_add(seconds);
    let postponed = entries.note_prefix(prefix, &Event::Postponed { after });
    postponed.map(drop)
}

/// Has EC2 take a prefix. The inventory forgets it before: nobody is to believe that it is on
/// the ENI.
pub(crate) fn unassign(
    node: &Node<'_>,
    eni: &Eni,
    ledger: &EniLedger,
    prefix: &Prefix,
) -> Result<()> {
    inventory::forget_prefix(&eni.id, prefix.prefix)?;
    let ec2 = node.aws.ec2(&node.inventory.region)?;
    let failed = |failure: Failure| -> Error {
        failure.error(&format!("give {} of {} back", prefix.prefix, eni.id))
    };
    let refusal = match ec2.unassign_prefix(&eni.id, prefix.prefix) {
        Ok(()) => None,
        // It may have been taken already: the answer to an earlier attempt was lost.
        Err(failure) if failure.kind == Kind::Invalid && !failure.is_passing() => {
            let actual = ec2.eni(&eni.id).map_err(failed)?;
            let is_there = actual.is_some_and(|found| found.prefixes.contains(&prefix.prefix));
            is_there.then_some(failure)
        }
        Err(failure) => return Err(failed(failure)),
    };
    let entries = ledger.open()?;
    match refusal {
        None => entries.note_prefix(prefix, &Event::Unassigned).map(drop),
        Some(failure) => {
            postpone(&entries, prefix, REFUSED)?;
            Err(failed(failure))
        }
    }
}

/// Opens the adopted prefixes of an ENI for networks without addresses: a second look has
/// shown each, and nobody has an address of it that the ledger does not know. One that somebody
/// has an address of is looked at again after a minute.
///
/// # Errors
/// Code 5 naming a file of the ledger, and those of looking into the namespaces.
pub(crate) fn open_adopted(
    node: &Node<'_>,
    ledger: &EniLedger,
    wanted: impl Fn(&Prefix) -> bool,
    reserved: &[IpAddr],
    kept: &mut Vec<String>,
) -> Result<()> {
    let mut adopted = ledger.read_prefixes()?;
    adopted.retain(|p| p.entry.state == State::Adopted && p.entry.was_seen_twice() && wanted(p));
    let stock = &node.shared.stock;
    adopted.retain(|p| stock.may_open(ledger.id(), p.prefix, Instant::now()));
    if adopted.is_empty() {
        return Ok(());
    }
    // Pods may not wait for a look into all namespaces.
    let living = in_use::look_from(node.ledger, Reach::Processes)?;
    let entries = ledger.open()?;
    for prefix in adopted {
        match reason_to_keep(&prefix, &entries, &living, reserved)? {
            Some(why) => {
                kept.push(format!("{} is not used for pods: {why}", prefix.prefix));
                stock.note_used(ledger.id(), prefix.prefix, Instant::now());
            }
            None => {
                entries.note_prefix(&prefix, &Event::Pooled)?;
            }
        }
    }
    Ok(())
}
