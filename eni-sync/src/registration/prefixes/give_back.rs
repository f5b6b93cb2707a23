//! Gives prefixes back to the VPC. A prefix is closed first: pods get no more addresses of it.
//! When none of its addresses is in use and its cool-down is over, EC2 is asked to unassign it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use common::address::Cidr;
use common::attach::inventory::Eni;
use common::error::{Error, Errors, Result};

use super::listed::unlist;
use super::stock::Level;
use super::supply::{surplus, taken};
use crate::ledger::{EniLedger, Entries, Entry, Event, Prefix, State, now};
use crate::registration::attached;
use crate::registration::in_use::{self, Living};
use crate::registration::node::Node;
use crate::vpc::ec2::{Family, OwnEni};
use crate::vpc::eni;
use crate::vpc::failure::{Failure, Kind};
use crate::vpc::inventory;

/// How long, in seconds, a prefix stays when one of its addresses is in use.
const POSTPONED: u64 = 60;
/// How long, in seconds, a prefix stays when EC2 refuses to unassign it.
const REFUSED: u64 = 300;

/// Closes the prefixes for `ranges_file` of a family that `level` does not need; they leave the
/// ENI after `cooldown` seconds. `reserved` returns the addresses that host-local has reserved; it is
/// only called if there are too many prefixes.
///
/// # Errors
/// Code 5 naming a file of the ledger, and those of `reserved`.
pub(crate) fn close(
    ledger: &EniLedger,
    (ranges_file, family, level): (Option<&Path>, Family, Level),
    cooldown: u64,
    reserved: impl Fn() -> Result<Vec<IpAddr>>,
) -> Result<()> {
    let too_many = |prefixes: &[Prefix], all: &[Entry], reserved: &[IpAddr]| {
        let own: Vec<&Prefix> = prefixes
            .iter()
            .filter(|prefix| Family::of(prefix.prefix.address()) == family)
            .filter(|prefix| prefix.ranges_file.as_deref() == ranges_file)
            .collect();
        let inside = |prefix: &Prefix| reserved.iter().filter(|a| prefix.contains(**a)).count();
        let taken = |prefix: &Prefix| taken(prefix, all).max(inside(prefix));
        let surplus = surplus(level, &own, taken, family).into_iter();
        surplus.cloned().collect::<Vec<Prefix>>()
    };
    if too_many(&ledger.read_prefixes()?, &ledger.read()?, &[]).is_empty() {
        return Ok(());
    }
    let reserved = reserved()?;
    let entries = ledger.open()?;
    let after = now().saturating_add(cooldown);
    for prefix in too_many(&entries.prefixes()?, &entries.all()?, &reserved) {
        entries.note_prefix(&prefix, &Event::Ended { after })?;
    }
    Ok(())
}

/// Whether an address is in any of the prefixes.
pub(crate) fn is_in(prefixes: &[Prefix]) -> impl Fn(IpAddr) -> bool {
    move |address| prefixes.iter().any(|prefix| prefix.contains(address))
}

/// The reason why a prefix must stay on its ENI, if there is one, as far as this process can
/// see: an address without an owner may be in any namespace.
fn reason_to_keep(
    prefix: &Prefix,
    entries: &Entries,
    living: &Living,
    reserved: &[IpAddr],
) -> Result<Option<String>> {
    let inside = entries.addresses()?.into_iter();
    if let Some(address) = inside.filter(|a| prefix.contains(*a)).min() {
        return Ok(Some(format!("the ledger has {address} of it")));
    }
    Ok(in_use_by(prefix, living, reserved))
}

/// The reason why a prefix must stay on its ENI, apart from the entries of the ledger: an
/// address of it is reserved, or is or may be in use.
pub(crate) fn in_use_by(prefix: &Prefix, living: &Living, reserved: &[IpAddr]) -> Option<String> {
    match reserved.iter().find(|address| prefix.contains(**address)) {
        Some(address) => Some(format!("host-local has {address} of it reserved")),
        None => living.reason_to_keep_all(|address| prefix.contains(address)),
    }
}

/// Has EC2 unassign the prefixes that are closed, due, `meant` and not in use. Adds to `kept` the
/// prefixes that stay, and why. The caller must have the turn. `reserved` returns the addresses
/// that host-local has reserved, including those of every ADD that may have read a ranges file with
/// such a prefix.
///
/// # Errors
/// The failures of calls; the prefixes stay due.
pub(crate) fn give_back(
    node: &Node<'_>,
    eni: &Eni,
    ledger: &EniLedger,
    (meant, reserved): (impl Fn(&Prefix) -> bool, impl Fn() -> Result<Vec<IpAddr>>),
    kept: &mut Vec<(Cidr, String)>,
) -> Result<()> {
    let mut due = ledger.read_prefixes()?;
    due.retain(|prefix| prefix.entry.due(now()).is_some_and(|due| due <= now()) && meant(prefix));
    if due.is_empty() {
        return Ok(());
    }
    eni::require_managed(eni)?;
    // A pod with the whole ENI may use any address of a prefix, which cannot be seen from here.
    if let Some(why) = attached::reason_to_keep(&eni.mac)? {
        return postpone_all(ledger, due, &why, kept);
    }
    // Who reads a file from now on finds none of their addresses; what was reserved before that,
    // or is being reserved, is read after this.
    due.iter().try_for_each(unlist)?;
    let living = in_use::look_from(node.ledger, is_in(&due))?;
    let asked = mark_asked(ledger, due, (&living, &reserved()?), kept)?;
    let mut errors = Errors::default();
    for family in Family::ALL {
        let mut asked = asked.clone();
        asked.retain(|prefix| Family::of(prefix.prefix.address()) == family);
        if !asked.is_empty() {
            let ec2 = node.aws.ec2(&node.inventory.region)?;
            let own = OwnEni::new(ec2, &eni.id, &node.inventory.instance_id);
            errors.keep(unassign(&own, eni, ledger, &asked));
        }
    }
    errors.into_result()
}

/// Writes down which of the due prefixes EC2 may be asked to unassign. The others are
/// postponed.
fn mark_asked(
    ledger: &EniLedger,
    due: Vec<Prefix>,
    (living, reserved): (&Living, &[IpAddr]),
    kept: &mut Vec<(Cidr, String)>,
) -> Result<Vec<Prefix>> {
    let (mut asked, entries) = (Vec::new(), ledger.open()?);
    for prefix in due {
        match reason_to_keep(&prefix, &entries, living, reserved)? {
            Some(why) => {
                kept.push((prefix.prefix, why));
                postpone(&entries, &prefix, POSTPONED)?;
            }
            // From here on no address of it can be claimed.
            None => asked.extend(entries.note_prefix(&prefix, &Event::Unassigning)?),
        }
    }
    Ok(asked)
}

/// Postpones all of the prefixes, for the same reason.
fn postpone_all(
    ledger: &EniLedger,
    due: Vec<Prefix>,
    why: &str,
    kept: &mut Vec<(Cidr, String)>,
) -> Result<()> {
    let entries = ledger.open()?;
    for prefix in due {
        kept.push((prefix.prefix, why.to_owned()));
        postpone(&entries, &prefix, POSTPONED)?;
    }
    Ok(())
}

fn postpone(entries: &Entries, prefix: &Prefix, seconds: u64) -> Result<()> {
    let after = now().saturating_add(seconds);
    let postponed = entries.note_prefix(prefix, &Event::Postponed { after });
    postponed.map(drop)
}

/// Has EC2 unassign prefixes of one family by one call. They are removed from the inventory
/// first, so that no process takes them for usable.
fn unassign(own: &OwnEni<'_>, eni: &Eni, ledger: &EniLedger, prefixes: &[Prefix]) -> Result<()> {
    // An ENI that has gone to another node keeps its prefixes, for the pods of that node.
    if let Err(failure) = own.look() {
        if failure.kind == Kind::NotOurs {
            let entries = ledger.open()?;
            let mut prefixes = prefixes.iter();
            prefixes.try_for_each(|prefix| postpone(&entries, prefix, REFUSED))?;
        }
        return Err(failed(eni, prefixes, &failure));
    }
    inventory::forget_prefixes(&eni.id, &names(prefixes))?;
    if ask(own, eni, prefixes)?.is_none() {
        return note_unassigned(ledger, prefixes);
    }
    // Some may have been unassigned already: the answer to an earlier attempt was lost.
    let actual = own.look();
    let actual = actual.map_err(|failure| failed(eni, prefixes, &failure))?;
    let is_there = |prefix: &Prefix| actual.prefixes.contains(&prefix.prefix);
    let (left, gone): (Vec<_>, Vec<_>) = prefixes.iter().cloned().partition(is_there);
    note_unassigned(ledger, &gone)?;
    // A prefix that EC2 refuses to unassign must not block the others.
    let mut errors = Errors::default();
    for prefix in left {
        let one = [prefix];
        match ask(own, eni, &one)? {
            None => note_unassigned(ledger, &one)?,
            Some(failure) => {
                postpone(&ledger.open()?, &one[0], REFUSED)?;
                errors.keep::<()>(Err(failed(eni, &one, &failure)));
            }
        }
    }
    errors.into_result()
}

/// Has EC2 unassign all of the prefixes or none. Returns a refusal that is about these
/// prefixes, and fails with any other.
fn ask(own: &OwnEni<'_>, eni: &Eni, prefixes: &[Prefix]) -> Result<Option<Failure>> {
    match own.unassign_prefixes(&names(prefixes)) {
        Ok(()) => Ok(None),
        Err(failure) if failure.kind == Kind::Invalid && !failure.is_temporary() => {
            Ok(Some(failure))
        }
        Err(failure) => Err(failed(eni, prefixes, &failure)),
    }
}

fn failed(eni: &Eni, prefixes: &[Prefix], failure: &Failure) -> Error {
    let names: Vec<String> = names(prefixes).iter().map(Cidr::to_string).collect();
    failure.error(&format!("give {} of {} back", names.join(", "), eni.id))
}

fn names(prefixes: &[Prefix]) -> Vec<Cidr> {
    prefixes.iter().map(|prefix| prefix.prefix).collect()
}

fn note_unassigned(ledger: &EniLedger, prefixes: &[Prefix]) -> Result<()> {
    let entries = ledger.open()?;
    for prefix in prefixes {
        entries.note_prefix(prefix, &Event::Unassigned)?;
    }
    Ok(())
}

/// Opens the adopted prefixes of an ENI for the ranges file, or the networks without addresses,
/// that `wanted` names: those that a second look has shown and of which no address is used
/// without the ledger's knowledge, neither singly nor by a pod with the whole ENI. A prefix in
/// use is examined again after a minute. `reserved` is as for [`give_back`].
///
/// # Errors
/// Code 5 naming a file of the ledger, and those of [`in_use::look_from`].
pub(crate) fn open_adopted(
    node: &Node<'_>,
    (eni, ledger): (&Eni, &EniLedger),
    wanted: impl Fn(&Prefix) -> Option<Option<PathBuf>>,
    reserved: impl Fn() -> Result<Vec<IpAddr>>,
    kept: &mut Vec<String>,
) -> Result<()> {
    let mut adopted = ledger.read_prefixes()?;
    adopted.retain(|p| p.entry.state == State::Adopted && p.entry.was_seen_twice());
    adopted.retain(|p| wanted(p).is_some());
    let stock = &node.shared.stock;
    adopted.retain(|p| stock.may_open(ledger.id(), p.prefix, Instant::now()));
    if adopted.is_empty() {
        return Ok(());
    }
    let mut keep = |prefix: Cidr, why: &str| {
        kept.push(format!("{prefix} is not used for pods: {why}"));
        stock.note_used(ledger.id(), prefix, Instant::now());
    };
    if let Some(why) = attached::reason_to_keep(&eni.mac)? {
        adopted
            .iter()
            .for_each(|adopted| keep(adopted.prefix, &why));
        return Ok(());
    }
    // The ledger is not locked here: pods must not wait while all namespaces are read.
    let living = in_use::look_from(node.ledger, is_in(&adopted))?;
    let reserved = reserved()?;
    let entries = ledger.open()?;
    for prefix in adopted {
        match reason_to_keep(&prefix, &entries, &living, &reserved)? {
            Some(why) => keep(prefix.prefix, &why),
            None => entries.open_prefix(&prefix, wanted(&prefix).flatten().as_deref())?,
        }
    }
    Ok(())
}
