//! Ends attachments in the ledger, without a call to AWS: their addresses are not needed any more.
//! Whether a pod still has one of them is decided when it is to leave the ENI.

use std::time::{Duration, Instant};

use common::error::{Errors, Result};
use common::kernel::netns::Holders;

use crate::ledger::{Entries, Entry, Ledger, Owner, Whose, Wish};

/// How long a DEL waits for the ledgers of all ENIs together. Each is locked for milliseconds,
/// unless the process with the lock is stopped; the runtime repeats the DEL then.
const GIVE_UP_DEADLINE: Duration = Duration::from_secs(5);
/// How long it waits for each ledger at least, so that a stopped process on one ENI does not
/// block the others.
const LEAST_LOCK_WAIT: Duration = Duration::from_millis(100);

/// Marks the addresses of attachments as not needed any more, on every ENI. AWS is not asked:
/// the addresses leave when their cool-down is over. `why` is for the log.
///
/// # Errors
/// Code 5 naming a file of the ledger, 11 when it is locked for too long; the others are marked
/// nevertheless.
pub(crate) fn give_up(ledger: &Ledger, why: &str, is_ended: impl Fn(&Owner) -> bool) -> Result<()> {
    let is_of_ended = |entry: &Entry| entry.owner.as_ref().is_some_and(&is_ended);
    end_all(ledger, why, is_of_ended, |wish| is_ended(&wish.owner))
}

/// The same for entries, without wishes.
///
/// # Errors
/// As for [`give_up`].
pub(crate) fn give_up_entries(
    ledger: &Ledger,
    why: &str,
    is_ended: impl Fn(&Entry) -> bool,
) -> Result<()> {
    end_all(ledger, why, is_ended, |_| false)
}

fn end_all(
    ledger: &Ledger,
    why: &str,
    is_ended: impl Fn(&Entry) -> bool,
    is_idle: impl Fn(&Wish) -> bool,
) -> Result<()> {
    let start = Instant::now();
    let (mut errors, holders) = (Errors::default(), Holders::default());
    for eni in ledger.enis()? {
        let wait = GIVE_UP_DEADLINE.saturating_sub(start.elapsed());
        let wait = wait.max(LEAST_LOCK_WAIT);
        let entries = errors.keep(eni.open_to_end(wait));
        if let Some(entries) = entries {
            errors.keep(end_where(&entries, why, &is_ended, &holders));
            errors.keep(forget_where(&entries, &is_idle));
        }
    }
    errors.into_result()
}

/// Ends the entries for which that is true. The runtime's process, which sees the processes of
/// the node, also writes down which namespaces live without a path, and which have ended since.
fn end_where(
    entries: &Entries,
    why: &str,
    is_ended: impl Fn(&Entry) -> bool,
    holders: &Holders,
) -> Result<()> {
    for entry in entries.all()? {
        if entry.is_in_use() && is_ended(&entry) {
            entries.end(entry.looked_at(holders), why)?;
        } else if entry.lingers {
            let looked_at = entry.clone().looked_at(holders);
            if looked_at != entry {
                entries.write(&looked_at)?;
            }
        }
    }
    Ok(())
}

fn forget_where(entries: &Entries, is_idle: impl Fn(&Wish) -> bool) -> Result<()> {
    for wish in entries.wishes(Whose::Anybody)?.into_iter().filter(is_idle) {
        entries.forget_wish(&wish)?;
    }
    Ok(())
}
