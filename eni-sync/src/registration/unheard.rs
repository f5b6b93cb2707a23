//! Finds the addresses that EC2 chose for an ENI when its answer was lost, or the process was
//! killed before it could write them down. Before EC2 is asked to choose, the ledger notes
//! which addresses are on the ENI; an address that comes later and that has no entry was chosen by
//! EC2, unless more have come than EC2 was asked for. No pod has used it: it is being released, and
//! until it leaves the next attachment may get it.

use std::net::IpAddr;

use common::address::Cidr;
use common::attach::inventory::Eni;
use common::error::{ErrorCode, Result};
use common::say;

use crate::ledger::{
    Before, EniLedger, Entries, Entry, Event, PARKED, State, Timestamp, Unheard, now,
};
use crate::registration::lost::{self, Beside, Evidence, Verdict, mixed};
use crate::registration::node::Node;
use crate::registration::prefixes::ask;
use crate::vpc::ec2::Description;

/// The request whose answer is not known yet when EC2 is asked again.
///
/// # Errors
/// Code 5 or 6 naming the file.
pub(crate) fn earlier(ledger: &EniLedger) -> Result<Option<Unheard>> {
    ledger.open()?.unheard()
}

/// Writes down that EC2 is about to be asked to choose `count` addresses, so that none is lost if
/// this process ends. The caller must have the turn.
///
/// # Errors
/// Code 5 or 6 naming a file of the ledger, and those of describing the ENI.
pub(crate) fn begin(
    node: &Node<'_>,
    eni: &Eni,
    ledger: &EniLedger,
    earlier: Option<&Unheard>,
    count: usize,
) -> Result<()> {
    let mut before = present(node, eni, ledger)?;
    before.count = count;
    if let Some(earlier) = earlier {
        // What has come since then, the earlier request may have chosen. What has left since
        // then may be chosen by this one.
        let was_there = |address: &IpAddr| earlier.before.contains(address);
        let is_doubtful = |address: &IpAddr| earlier.doubtful.contains(address);
        before.doubtful.retain(|a| was_there(a) || is_doubtful(a));
        let doubtful = before.addresses.iter().filter(|a| is_doubtful(a));
        before.doubtful.extend(doubtful);
        before.addresses.retain(was_there);
        before.count = earlier.count.saturating_add(count);
    }
    ledger.open()?.begin_unheard(before)
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

/// The addresses that are on the ENI before EC2 is asked: those that the metadata, the ledger or, if
/// the metadata show what the ledger does not know, a description shows. Each may lack what is new.
/// What the metadata alone show may have been removed long ago, because they can lag behind for
/// longer than descriptions. An address that is gone by the ledger may be chosen again, so it is left
/// out.
fn present(node: &Node<'_>, eni: &Eni, ledger: &EniLedger) -> Result<Before> {
    let shown = node.aws.imds_soon();
    let shown = shown.and_then(|imds| imds.addresses(&eni.mac));
    let known = ledger.open()?.addresses()?;
    let is_known = |a: &IpAddr| known.contains(a) || eni.primary_addresses.contains(a);
    let is_all_known = shown.as_ref().is_ok_and(|shown| shown.iter().all(is_known));
    let mut before = Before::default();
    if !is_all_known && let Some(found) = describe(node, &eni.id)? {
        let described = found.primary.into_iter().chain(found.secondary);
        before.addresses.extend(described);
    }
    for address in shown.unwrap_or_default() {
        match is_known(&address) || before.addresses.contains(&address) {
            true => before.addresses.insert(address),
            false => before.doubtful.insert(address),
        };
    }
    for entry in ledger.open()?.all()? {
        before.doubtful.remove(&entry.address);
        match entry.is_on_eni() {
            true => before.addresses.insert(entry.address),
            false => before.addresses.remove(&entry.address),
        };
    }
    Ok(before)
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
    let at = now();
    let Some(actual) = describe(node, ledger.id())? else {
        return end_without_eni(&ledger.open()?);
    };
    let beside = look_beside(node, ledger, &actual, at)?;
    note(&ledger.open()?, &actual, &beside).map(drop)
}

/// What the metadata and the namespaces of the node show beside a description, if the answer of any
/// request is not known. EC2 was asked for the description `at` this time.
///
/// # Errors
/// Code 5 naming a file of the ledger, and those of reading the namespaces.
pub(crate) fn look_beside(
    node: &Node<'_>,
    ledger: &EniLedger,
    actual: &Description,
    at: Timestamp,
) -> Result<Beside> {
    let nothing = Beside {
        at,
        ..Beside::default()
    };
    if !ledger.is_unheard()? {
        return Ok(nothing);
    }
    // Without them, a later description tells.
    let listed = node.aws.imds_soon().and_then(|imds| {
        let addresses = imds.addresses(&actual.mac)?;
        let prefixes = imds.prefixes(&actual.mac)?;
        Ok((addresses, prefixes))
    });
    let (addresses, prefixes) = listed.unwrap_or_default();
    Ok(Beside {
        addresses,
        prefixes,
        occupied: ask::occupied_beside(node, ledger, actual)?,
        ..nothing
    })
}

/// What may be of a lost answer or not, and must not be adopted until that is known.
#[derive(Debug, Default)]
pub(crate) struct Undecided {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) prefixes: Vec<Cidr>,
}

impl Undecided {
    /// How many addresses and prefixes.
    pub(crate) fn count(&self) -> usize {
        self.addresses.len() + self.prefixes.len()
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

/// Writes down the addresses and prefixes of lost answers, as far as a description and the metadata
/// show them. Returns what is not decided yet.
///
/// # Errors
/// Code 5 or 6 naming a file of the ledger.
pub(crate) fn note(entries: &Entries, actual: &Description, beside: &Beside) -> Result<Undecided> {
    let prefixes = ask::note_unheard(entries, actual, beside)?;
    let Some(unheard) = readable(entries)? else {
        let addresses = Vec::new();
        return Ok(Undecided {
            addresses,
            prefixes,
        });
    };
    let addresses = note_addresses(entries, actual, beside, unheard)?;
    Ok(Undecided {
        addresses,
        prefixes,
    })
}

fn note_addresses(
    entries: &Entries,
    actual: &Description,
    beside: &Beside,
    unheard: Unheard,
) -> Result<Vec<IpAddr>> {
    let known = entries.addresses()?;
    let is_new = |address: &IpAddr| {
        let is_known = known.contains(address) && !is_back(entries, *address);
        !is_known && !unheard.before.contains(address) && !actual.primary.contains(address)
    };
    let new = |shown: &mut dyn Iterator<Item = &IpAddr>| -> Vec<IpAddr> {
        shown.copied().filter(is_new).collect()
    };
    let is_over = unheard.is_over(beside.at);
    let verdict = lost::decide(Evidence {
        described: new(&mut actual.secondary.iter()),
        listed: new(&mut beside.addresses.iter()),
        doubtful: unheard.doubtful.iter().copied().collect(),
        count: unheard.count,
        is_over,
    });
    let (chosen, mut undecided) = match verdict {
        Verdict::Chosen { these, undecided } => (these, undecided),
        Verdict::Mixed(addresses) => {
            if unheard.count > 0 {
                say!("{}", mixed(&actual.id, &addresses));
            }
            (Vec::new(), Vec::new())
        }
    };
    for address in &chosen {
        note_chosen(entries, &actual.id, *address)?;
    }
    let unheard = unheard.without(chosen.len());
    if unheard.count == 0 {
        undecided.clear();
    }
    match is_over {
        true => entries.end_unheard()?,
        false if chosen.is_empty() => {}
        false => entries.write_unheard(&unheard)?,
    }
    Ok(undecided)
}

/// Writes down an address that EC2 has chosen for nobody who could be told.
fn note_chosen(entries: &Entries, eni: &str, address: IpAddr) -> Result<()> {
    say!("EC2 has chosen {address} for {eni}, and its answer was lost");
    let known = entries.get(address)?;
    // An excluded address stays on the ENI for a while, because EC2 would choose it again.
    let is_excluded = entries.excluded().is_ok_and(|list| list.contains(address));
    let until = if is_excluded { now() + PARKED } else { now() };
    let Some(entry) = Entry::spare(address, known.clone(), until) else {
        return Ok(());
    };
    // It was not there when EC2 was asked, so it is EC2's answer.
    let assigned = Event::Assigned { for_pool: false };
    entries.change(known.as_ref(), &entry, &assigned)
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
