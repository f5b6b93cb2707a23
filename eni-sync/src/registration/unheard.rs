//! Finds the addresses that EC2 chose for an ENI when its answer was lost, or the process was
//! killed before it could write them down. Before EC2 is asked to choose, the ledger notes
//! which addresses are on the ENI; an address that a description shows later and that has no
//! entry was chosen by EC2. No pod has used it: it is being released, and until it leaves the
//! next attachment may get it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use common::attach::inventory::Eni;
use common::error::{ErrorCode, Result};
use common::say;

use crate::ledger::{EniLedger, Entries, Entry, Event, PARKED, State, Unheard, now};
use crate::registration::node::Node;
use crate::registration::prefixes::ask;
use crate::vpc::ec2::Description;

/// Writes down that EC2 is about to be asked to choose, so that no address is lost if this
/// process ends. Returns what [`end`] needs. The caller must have the turn.
///
/// # Errors
/// Code 5 or 6 naming a file of the ledger, and those of describing the ENI.
pub(crate) fn begin(node: &Node<'_>, eni: &Eni, ledger: &EniLedger) -> Result<Option<Unheard>> {
    let earlier = ledger.open()?.unheard()?;
    let mut before = present(node, eni, ledger)?;
    if let Some(earlier) = &earlier {
        // What has come since then, the earlier request may have chosen. What has left since
        // then may be chosen by this one.
        before.retain(|address| earlier.before.contains(address));
    }
    ledger.open()?.begin_unheard(before)?;
    Ok(earlier)
}

/// Writes down that EC2 has answered, and that the ledger has what it chose.
///
/// # Errors
/// Code 5 naming the file.
pub(crate) fn end(ledger: &EniLedger, earlier: Option<Unheard>) -> Result<()> {
    let entries = ledger.open()?;
    match earlier {
        Some(earlier) => entries.write_unheard(&earlier),
        None => entries.end_unheard(),
    }
}

/// The addresses that are on the ENI before EC2 is asked, by the metadata if these show nothing
/// that the ledger does not know: what was removed long ago may be among them, because they can lag
/// behind for longer than descriptions. An address that is gone by the ledger may be chosen again,
/// so it is left out.
fn present(node: &Node<'_>, eni: &Eni, ledger: &EniLedger) -> Result<BTreeSet<IpAddr>> {
    let shown = node.aws.imds_soon();
    let shown = shown.and_then(|imds| imds.addresses(&eni.mac));
    let known = ledger.open()?.addresses()?;
    let is_known = |a: &IpAddr| known.contains(a) || eni.primary_addresses.contains(a);
    let mut present: BTreeSet<IpAddr> = match shown {
        Ok(shown) if shown.iter().all(is_known) => shown.into_iter().collect(),
        _ => describe(node, &eni.id)?
            .map(|found| found.primary.into_iter().chain(found.secondary).collect())
            .unwrap_or_default(),
    };
    for entry in ledger.open()?.all()? {
        if !entry.is_on_eni() {
            present.remove(&entry.address);
        }
    }
    Ok(present)
}

/// Looks for addresses and prefixes of lost answers, if there may be any. The caller must have
/// the turn.
///
/// # Errors
/// Those of describing the ENI, and code 5 or 6 naming a file of the ledger.
pub(crate) fn find(node: &Node<'_>, ledger: &EniLedger) -> Result<()> {
    if !ledger.is_unheard()? {
        return Ok(());
    }
    let actual = describe(node, ledger.id())?;
    let entries = ledger.open()?;
    match actual {
        Some(actual) => note(&entries, &actual),
        None => end_without_eni(&entries),
    }
}

/// Ends the requests for an ENI that EC2 does not show, once a description would show what EC2
/// chose.
fn end_without_eni(entries: &Entries) -> Result<()> {
    for ipv6 in [false, true] {
        if ask::asked(entries, ipv6)?.is_some_and(|asked| asked.is_over(now())) {
            entries.end_asking(ipv6)?;
        }
    }
    match readable(entries)? {
        Some(unheard) if unheard.is_over(now()) => entries.end_unheard(),
        _ => Ok(()),
    }
}

/// The request whose answer is not known, if it can be read. A file that is damaged or of a
/// newer format stays, and blocks only attachments that need another choice of EC2: they get
/// the error of [`begin`].
///
/// # Errors
/// Code 5 naming the file.
pub(crate) fn readable(entries: &Entries) -> Result<Option<Unheard>> {
    match entries.unheard() {
        Err(error) if error.code == ErrorCode::DECODING => Ok(None),
        unheard => unheard,
    }
}

/// Writes down the addresses and prefixes of lost answers, as far as a description shows them.
///
/// # Errors
/// Code 5 or 6 naming a file of the ledger.
pub(crate) fn note(entries: &Entries, actual: &Description) -> Result<()> {
    ask::note_unheard(entries, actual)?;
    let Some(unheard) = readable(entries)? else {
        return Ok(());
    };
    let known = entries.addresses()?;
    let is_lost = |address: &&IpAddr| {
        let is_known = known.contains(*address) && !is_back(entries, **address);
        !is_known && !unheard.before.contains(*address)
    };
    for address in actual.secondary.iter().filter(is_lost) {
        say!(
            "EC2 has chosen {address} for {}, and its answer was lost",
            actual.id
        );
        let known = entries.get(*address)?;
        // An excluded address stays on the ENI for a while, because EC2 would choose it again.
        let is_excluded = entries.excluded().is_ok_and(|list| list.contains(*address));
        let until = if is_excluded { now() + PARKED } else { now() };
        if let Some(entry) = Entry::spare(*address, known.clone(), until) {
            // It was not there when EC2 was asked, so it is EC2's answer.
            let assigned = Event::Assigned { for_pool: false };
            entries.change(known.as_ref(), &entry, &assigned)?;
        }
    }
    match unheard.is_over(now()) {
        true => entries.end_unheard(),
        false => Ok(()),
    }
}

/// Whether an address that EC2 removed is on the ENI again: the removal is so long ago that no
/// description shows the time before.
fn is_back(entries: &Entries, address: IpAddr) -> bool {
    // An entry that cannot be read is not changed.
    let entry = entries.get(address).ok().flatten();
    entry.is_some_and(|entry| entry.state == State::Removed && !entry.was_removed_lately(now()))
}

fn describe(node: &Node<'_>, eni: &str) -> Result<Option<Description>> {
    let found = node.aws.ec2(&node.inventory.region)?.eni(eni);
    found.map_err(|failure| failure.error(&format!("look at {eni}")))
}
