//! Frees addresses of prefixes that no pod needs any more: they stay on the ENI with their
//! prefix, so EC2 is not asked.

use common::attach::inventory::Eni;
use common::error::Result;

use super::supply::{self, prefix_of};
use crate::ledger::{EniLedger, Entry};

/// Frees the addresses of `ended` that are in a prefix of the ENI: the next pod may get them.
/// Returns these, and the others.
///
/// # Errors
/// Code 5 naming a file of the ledger.
pub(crate) fn free(
    ledger: &EniLedger,
    eni: Option<&Eni>,
    ended: Vec<Entry>,
) -> Result<(Vec<Entry>, Vec<Entry>)> {
    let entries = ledger.open()?;
    let prefixes = entries.prefixes()?;
    let unknown = eni.map_or(&[][..], |eni| &eni.prefixes);
    let there = supply::there(&prefixes, unknown);
    let (inside, others): (Vec<_>, Vec<_>) = ended
        .into_iter()
        .partition(|entry| prefix_of(&there, entry.address).is_some());
    let mut freed = Vec::new();
    for entry in inside {
        if entries.get(entry.address)?.as_ref() == Some(&entry) {
            entries.free(&entry)?;
            freed.push(entry);
        }
    }
    Ok((freed, others))
}
