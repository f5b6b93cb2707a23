//! Compares the prefixes in the ledger with those that EC2 shows on an ENI. An unknown prefix
//! is adopted, and a missing one is forgotten when a second look does not show it either.

use common::address::Cidr;
use common::error::Result;

use crate::ledger::{Absence, Entries, Event, Prefix, State, Takeover, now};
use crate::vpc::ec2::Description;

/// The differences.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Differences {
    /// On the ENI and unknown to the ledger.
    pub(crate) adopted: usize,
    /// In the ledger and not on the ENI any more.
    pub(crate) gone: usize,
    /// The same, but only one look at EC2 has shown it yet.
    pub(crate) missing: usize,
    /// Adopted, and can be used after one more look.
    pub(crate) settling: usize,
}

/// Writes down what a description shows of the prefixes of an ENI. Those in `undecided` may be
/// EC2's answer to a request, so they are left out.
///
/// # Errors
/// Code 5 naming a file of the ledger.
pub(crate) fn compare(
    entries: &Entries,
    actual: &Description,
    undecided: &[Cidr],
) -> Result<Differences> {
    let mut found = Differences::default();
    entries.forget_removed_prefixes()?;
    let (mut known, files) = (entries.prefixes()?, entries.prefix_files()?);
    known.retain(|known| !undecided.contains(&known.prefix));
    for prefix in &actual.prefixes {
        if !files.contains(prefix) && !undecided.contains(prefix) {
            adopt(entries, *prefix, &mut found)?;
        }
    }
    for prefix in known {
        match actual.prefixes.contains(&prefix.prefix) {
            true => seen(entries, &prefix, &mut found)?,
            false => missed(entries, &prefix, &mut found)?,
        }
    }
    Ok(found)
}

/// Writes down that the ENI has left the node, and all prefixes with it.
///
/// # Errors
/// Code 5 naming a file of the ledger.
pub(crate) fn note_gone(entries: &Entries) -> Result<Differences> {
    let mut found = Differences::default();
    entries.forget_removed_prefixes()?;
    for prefix in entries.prefixes()? {
        missed(entries, &prefix, &mut found)?;
    }
    Ok(found)
}

fn adopt(entries: &Entries, prefix: Cidr, found: &mut Differences) -> Result<()> {
    found.adopted += 1;
    found.settling += 1;
    Prefix::found(prefix).map_or(Ok(()), |new| {
        entries.change_prefix(None, &new, &Event::Seen)
    })
}

/// A description may still show a prefix that EC2 is removing or has just removed.
fn seen(entries: &Entries, prefix: &Prefix, found: &mut Differences) -> Result<()> {
    let entry = &prefix.entry;
    if entry.needs_confirmation(now()) && !entry.may_be_leaving(now()) {
        let after = entries.note_prefix(prefix, &Event::Seen)?;
        let is_settling = after.is_some_and(|Prefix { entry, .. }| {
            let is_new = entry.state == State::Adopted && !entry.was_seen_twice();
            is_new || entry.needs_second_look()
        });
        found.settling += usize::from(is_settling);
    }
    Ok(())
}

fn missed(entries: &Entries, prefix: &Prefix, found: &mut Differences) -> Result<()> {
    if !prefix.entry.is_on_eni() {
        return Ok(());
    }
    match prefix.entry.absence(now()) {
        Absence::TooEarly => Ok(()),
        Absence::Noted(noted) => {
            found.missing += 1;
            let mut after = prefix.clone();
            after.entry = *noted;
            entries.change_prefix(Some(prefix), &after, &Event::Missed(Takeover::Never))
        }
        Absence::Proven => {
            found.gone += 1;
            entries.forget_prefix(prefix)
        }
    }
}
