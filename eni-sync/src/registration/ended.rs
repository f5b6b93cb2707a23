//! Ends attachments in the ledger, without a call to AWS: their addresses are not needed any more.
//! Whether a pod still has one of them is decided when it is to leave the ENI.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use common::error::{Errors, Result};
use common::kernel::netns::Holders;
use common::say;

use crate::ledger::{Entries, Entry, Ledger, Owner, Unread, Whose, Wish};

/// How long a DEL waits for the ledgers of all ENIs together. Each is locked for milliseconds, which
/// become seconds for the last of many pods that start and end on a busy node. If the process with
/// the lock is stopped, the runtime repeats the DEL.
const GIVE_UP_DEADLINE: Duration = Duration::from_secs(20);
/// How long it waits for each ledger at least, so that a stopped process on one ENI does not
/// block the others.
const LEAST_LOCK_WAIT: Duration = Duration::from_millis(100);

/// Marks the addresses of attachments as not needed any more, on every ENI. AWS is not asked: the
/// addresses leave when their cool-down is over. `is_ended` is asked about the owner of each
/// address, and of each wish, which has none yet.
///
/// # Errors
/// Code 5 naming a file of the ledger that cannot be read or written, 11 when it is locked for too
/// long; the others are marked nevertheless. A file that cannot be read and is not of an address of
/// the attachment must not keep its pod from ending. If the runtime does not know the addresses, a
/// DEL that has found an entry of the attachment takes such a file for another's.
pub(crate) fn give_up(
    ledger: &Ledger,
    why: &Why,
    is_ended: impl Fn(&Owner, Option<IpAddr>) -> bool,
) -> Result<()> {
    let is_of_ended = |entry: &Entry| {
        let owner = entry.owner.as_ref();
        owner.is_some_and(|owner| is_ended(owner, Some(entry.address)))
    };
    let mut pass = Pass::new(why.text());
    pass.end_all(ledger, is_of_ended, |wish| is_ended(&wish.owner, None))?;
    let is_found = pass.is_found;
    pass.finish(|address| match why {
        Why::Gc => true,
        Why::Del { addresses } if addresses.is_empty() => !is_found,
        Why::Del { addresses } => address.is_some_and(|address| addresses.contains(&address)),
    })
}

/// The same for entries, without wishes. A file that could not be read is only logged.
///
/// # Errors
/// As for [`give_up`].
pub(crate) fn give_up_entries(
    ledger: &Ledger,
    why: &'static str,
    is_ended: impl Fn(&Entry) -> bool,
) -> Result<()> {
    let mut pass = Pass::new(why);
    pass.end_all(ledger, is_ended, |_| false)?;
    // The next pass of the agent reads the file again.
    pass.finish(|_| false)
}

/// Which command ends attachments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// DEL, of one attachment.
    Del {
        /// Its addresses as the runtime knows them; none if it does not.
        addresses: Vec<IpAddr>,
    },
    /// GC, of any number.
    Gc,
}

impl Why {
    fn text(&self) -> &'static str {
        match self {
            Self::Del { .. } => "DEL",
            Self::Gc => "GC",
        }
    }
}

/// One pass through the ledgers of all ENIs.
struct Pass {
    why: &'static str,
    holders: Holders,
    /// Whether an entry was found that is meant.
    is_found: bool,
    /// The files that the system could not read, which may be of an entry that is meant.
    unread: Vec<Unread>,
    errors: Errors,
}

impl Pass {
    fn new(why: &'static str) -> Self {
        Self {
            why,
            holders: Holders::default(),
            is_found: false,
            unread: Vec::new(),
            errors: Errors::default(),
        }
    }

    fn end_all(
        &mut self,
        ledger: &Ledger,
        is_ended: impl Fn(&Entry) -> bool,
        is_idle: impl Fn(&Wish) -> bool,
    ) -> Result<()> {
        let start = Instant::now();
        for eni in ledger.enis()? {
            let wait = GIVE_UP_DEADLINE.saturating_sub(start.elapsed());
            let wait = wait.max(LEAST_LOCK_WAIT);
            let entries = self.errors.keep(eni.open_to_end(wait));
            if let Some(entries) = entries {
                let ended = self.end_where(&entries, &is_ended);
                self.errors.keep(ended);
                self.errors.keep(forget_where(&entries, &is_idle));
            }
        }
        Ok(())
    }

    /// Ends the entries for which that is true. The runtime's process, which sees the processes of
    /// the node, also writes down which namespaces live without a path, and which have ended since.
    fn end_where(&mut self, entries: &Entries, is_ended: impl Fn(&Entry) -> bool) -> Result<()> {
        let (all, unread) = entries.all_and_unread()?;
        self.unread.extend(unread);
        for entry in all {
            let is_meant = is_ended(&entry);
            self.is_found |= is_meant;
            if is_meant && entry.is_in_use() {
                entries.end(entry.looked_at(&self.holders), self.why)?;
            } else if entry.lingers {
                let looked_at = entry.clone().looked_at(&self.holders);
                if looked_at != entry {
                    entries.write(&looked_at)?;
                }
            }
        }
        Ok(())
    }

    /// All errors; those of files that could not be read only if these may be meant.
    fn finish(mut self, may_be_meant: impl Fn(Option<IpAddr>) -> bool) -> Result<()> {
        for (address, error) in self.unread {
            if may_be_meant(address) {
                self.errors.keep::<()>(Err(error));
            } else {
                say!("{error}");
            }
        }
        self.errors.into_result()
    }
}

fn forget_where(entries: &Entries, is_idle: impl Fn(&Wish) -> bool) -> Result<()> {
    for wish in entries.wishes(Whose::Anybody)?.into_iter().filter(is_idle) {
        entries.forget_wish(&wish)?;
    }
    Ok(())
}
