//! Gives prefixes back to the VPC: those that an operator names, or, for `uninstall`, all that
//! eni-sync has assigned. A prefix that eni-sync has not assigned stays, unless the operator
//! uses `--force`.

use std::collections::HashMap;
use std::net::IpAddr;

use common::address::Cidr;
use common::attach::inventory::Eni;
use common::error::{Error, Result};

use super::candidate::Candidate;
use super::line::Fate;
use super::{Manner, Selection, addresses};
use crate::ledger::{EniLedger, Entry, Event, Prefix, State, now};
use crate::registration::attached;
use crate::registration::in_use::{self, Living};
use crate::registration::node::Node;
use crate::registration::prefixes::give_back;

/// The facts by which prefixes of an ENI must stay.
struct Seen {
    entries: Vec<Entry>,
    /// The addresses whose files cannot be read.
    unreadable: HashMap<IpAddr, Error>,
    living: Living,
    reserved: Vec<IpAddr>,
    /// Why a pod may have the whole ENI, if one may.
    whole: Option<String>,
}

/// Has EC2 unassign the named prefixes of an ENI, apart from those that must stay. The caller
/// must have the turn, unless this is a dry run.
///
/// # Errors
/// The errors of AWS, code 5 or 6 naming a file, and those of [`in_use::look_from`].
pub(super) fn release(
    node: &Node<'_>,
    ledger: &EniLedger,
    selection: &Selection,
    manner: &Manner,
) -> Result<Vec<(Cidr, Fate)>> {
    if selection.prefix.is_empty() {
        return Ok(Vec::new());
    }
    let named = named(node, ledger, selection)?;
    if named.is_empty() {
        return Ok(Vec::new());
    }
    let Some(eni) = node.inventory.enis.iter().find(|e| e.id == ledger.id()) else {
        return elsewhere(node, ledger, &named);
    };
    let seen = look(node, (eni, ledger), &named, manner)?;
    let (mut fates, mut accepted) = (Vec::new(), Vec::new());
    for prefix in named {
        match reason_to_stay(&prefix, manner, &seen)? {
            Some(why) => fates.push((prefix.prefix, Fate::Kept(why))),
            None if manner.dry_run => fates.push((prefix.prefix, Fate::WouldBe)),
            None => accepted.push(prefix),
        }
    }
    free(node, ledger, &accepted, &seen)?;
    fates.extend(give_up(node, eni, ledger, (&accepted, manner))?);
    Ok(fates)
}

/// The named prefixes that are in the ledger or on the ENI. EC2 may still show prefixes that it
/// has just removed; these are left out.
fn named(node: &Node<'_>, ledger: &EniLedger, selection: &Selection) -> Result<Vec<Prefix>> {
    let removed = ledger.removed_prefixes()?;
    let mut named = ledger.read_prefixes()?;
    let actual = addresses::actual(node, ledger)?;
    for found in actual.iter().flat_map(|actual| &actual.prefixes) {
        if !removed.contains(found) && named.iter().all(|known| known.prefix != *found) {
            named.extend(Prefix::found(*found));
        }
    }
    named.retain(|prefix| selection.prefix.contains(&prefix.prefix));
    Ok(named)
}

/// Collects the facts by which prefixes must stay.
fn look(
    node: &Node<'_>,
    (eni, ledger): (&Eni, &EniLedger),
    named: &[Prefix],
    manner: &Manner,
) -> Result<Seen> {
    Ok(Seen {
        entries: ledger.read()?,
        unreadable: ledger.unreadable()?.into_iter().collect(),
        living: in_use::look_from(node.ledger, give_back::is_in(named))?,
        reserved: manner.reserved()?.into_keys().collect(),
        whole: attached::reason_to_keep(&eni.mac)?,
    })
}

/// The reason why a prefix is not given back, if there is one.
fn reason_to_stay(prefix: &Prefix, manner: &Manner, seen: &Seen) -> Result<Option<String>> {
    let mut unreadable = seen.unreadable.iter();
    if let Some((_, error)) = unreadable.find(|(address, _)| prefix.contains(**address)) {
        return Ok(Some(error.to_string()));
    }
    for candidate in inside(prefix, &seen.entries) {
        // Naming the prefix counts as `--force` for its addresses that no pod has.
        if let Some(why) = candidate.reason_to_stay(&seen.living, true)? {
            return Ok(Some(format!("{} of it: {why}", candidate.address)));
        }
    }
    let used = || give_back::in_use_by(prefix, &seen.living, &seen.reserved);
    let unknown = || match prefix.entry.state {
        State::Adopted if !manner.force => {
            Some("its owner is not known; --force releases it".to_owned())
        }
        _ => None,
    };
    Ok(seen.whole.clone().or_else(used).or_else(unknown))
}

/// The entries of a prefix's addresses.
fn inside(prefix: &Prefix, entries: &[Entry]) -> impl Iterator<Item = Candidate> {
    let inside = entries.iter().filter(|e| prefix.contains(e.address));
    inside.map(|entry| Candidate {
        address: entry.address,
        entry: Some(entry.clone()),
    })
}

/// Writes the prefixes into the ledger, and removes the entries of their addresses, which no
/// pod has.
fn free(node: &Node<'_>, ledger: &EniLedger, prefixes: &[Prefix], seen: &Seen) -> Result<()> {
    let known = ledger.read_prefixes()?;
    for prefix in prefixes {
        if known.iter().all(|known| known.prefix != prefix.prefix) {
            ledger.open()?.change_prefix(None, prefix, &Event::Seen)?;
        }
        // An address that has been claimed meanwhile keeps the prefix.
        addresses::carry_out(node, ledger, inside(prefix, &seen.entries).collect())?;
    }
    Ok(())
}

/// Has EC2 unassign every prefix of an ENI that eni-sync has assigned and of which no pod has
/// an address. The caller must have the turn, unless this is a dry run.
///
/// # Errors
/// Code 5 or 6 naming a file, and those of [`in_use::look_from`].
pub(super) fn release_own(
    node: &Node<'_>,
    ledger: &EniLedger,
    manner: &Manner,
) -> Result<Vec<(Cidr, Fate)>> {
    let own = own(ledger)?;
    if own.is_empty() {
        return Ok(Vec::new());
    }
    let mut enis = node.inventory.enis.iter();
    let Some(eni) = enis.find(|eni| eni.id == ledger.id()) else {
        return elsewhere(node, ledger, &own);
    };
    match manner.dry_run {
        true => preview(node, eni, (own, manner)),
        false => give_up(node, eni, ledger, (&own, manner)),
    }
}

/// The result that [`give_up`] would have.
fn preview(
    node: &Node<'_>,
    eni: &Eni,
    (own, manner): (Vec<Prefix>, &Manner),
) -> Result<Vec<(Cidr, Fate)>> {
    let whole = attached::reason_to_keep(&eni.mac)?;
    let living = in_use::look_from(node.ledger, give_back::is_in(&own))?;
    let reserved: Vec<IpAddr> = manner.reserved()?.into_keys().collect();
    let fate = |prefix: Prefix| {
        let in_use = || give_back::in_use_by(&prefix, &living, &reserved);
        let why = whole.clone().or_else(in_use);
        (prefix.prefix, why.map_or(Fate::WouldBe, Fate::Kept))
    };
    Ok(own.into_iter().map(fate).collect())
}

fn give_up(
    node: &Node<'_>,
    eni: &Eni,
    ledger: &EniLedger,
    (prefixes, manner): (&[Prefix], &Manner),
) -> Result<Vec<(Cidr, Fate)>> {
    if prefixes.is_empty() {
        return Ok(Vec::new());
    }
    {
        let entries = ledger.open()?;
        for prefix in prefixes {
            entries.note_prefix(prefix, &Event::Ended { after: now() })?;
        }
    }
    let mut kept = Vec::new();
    let reserved = || Ok(manner.settled()?.into_keys().collect());
    let which = (|_: &Prefix| true, reserved);
    let outcome = give_back::give_back(node, eni, ledger, which, &mut kept);
    let failure = outcome.err().map(|error| error.to_string());
    let left = ledger.read_prefixes()?;
    let fate = |prefix: Cidr| {
        if left.iter().all(|left| left.prefix != prefix) {
            return Fate::Released;
        }
        let why = kept.iter().find(|(kept, _)| *kept == prefix);
        let why = why.map(|(_, why)| why.clone()).or(failure.clone());
        Fate::Kept(why.unwrap_or_else(|| "it is in use again".to_owned()))
    };
    let fates = prefixes
        .iter()
        .map(|given| (given.prefix, fate(given.prefix)));
    Ok(fates.collect())
}

/// The prefixes that eni-sync has assigned.
fn own(ledger: &EniLedger) -> Result<Vec<Prefix>> {
    let mut own = ledger.read_prefixes()?;
    own.retain(|prefix| prefix.entry.state != State::Adopted);
    Ok(own)
}

/// The result for prefixes of an ENI that is not on this node: they stay on it, if it exists.
fn elsewhere(node: &Node<'_>, ledger: &EniLedger, own: &[Prefix]) -> Result<Vec<(Cidr, Fate)>> {
    let id = ledger.id();
    let actual = node.aws.ec2(&node.inventory.region)?.eni(id);
    let actual = actual.map_err(|failure| failure.error(&format!("look at {id}")))?;
    let fate = match actual {
        Some(_) => Fate::Kept("the ENI is not attached to this node".to_owned()),
        None => Fate::NotThere,
    };
    let fates = own.iter().map(|own| (own.prefix, fate.clone()));
    Ok(fates.collect())
}
