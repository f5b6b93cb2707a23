//! The parts of the ledger that are not addresses: wishes of attachments that wait for an
//! address of EC2's choice, and the request to EC2 whose answer is not known. Both are written
//! before EC2 is asked. They are in dot-files beside the entries, which versions without them
//! ignore.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use common::error::{Error, Result};
use common::kernel::netns::Holders;
use common::say;
use serde::{Deserialize, Serialize};

use super::clock::Clock;
use super::document::{read, remove, write};
use super::entry::DESCRIBE_LAG;
use super::prefix::asked_file;
use super::{EniLedger, Entries, Owner, Refusal, Timestamp, list, now};

/// The start of the name of a wish's file.
const WISH: &str = ".wanted-";
/// The start of the name of any of these files until its content is complete.
const UNFINISHED: &str = "..";
/// The name of the file about a request that EC2 choose addresses.
const UNHEARD: &str = ".unheard";

/// An attachment that waits for an address of EC2's choice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Wish {
    /// The attachment.
    pub(crate) owner: Owner,
    /// Whether it waits for an IPv6 address, and not for an IPv4 address.
    pub(crate) ipv6: bool,
    /// How often EC2's answer was lost.
    #[serde(default)]
    pub(crate) unheard: u32,
    /// Why EC2 assigned none, for the process that waits for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) refusal: Option<Refusal>,
}

impl Wish {
    /// The wish of an attachment.
    pub(crate) fn new(owner: Owner, ipv6: bool) -> Self {
        Self {
            owner,
            ipv6,
            unheard: 0,
            refusal: None,
        }
    }

    fn file(&self) -> String {
        file_of(&self.owner, self.ipv6)
    }

    /// Whether its attachment may still exist, as far as this process can see.
    fn may_be_alive(&self, holders: &Holders) -> bool {
        !self.owner.presence(holders).has_ended()
    }
}

/// Of whom wishes are read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Whose<'a> {
    /// All that wait on the ENI.
    Anybody,
    /// One attachment: the wishes of others are not read.
    Of(&'a Owner),
}

impl Whose<'_> {
    /// Whether the file with this name may be such a wish.
    fn may_be(self, name: &str) -> bool {
        match self {
            Self::Anybody => name.starts_with(WISH),
            Self::Of(owner) => {
                let families = [false, true];
                families.iter().any(|ipv6| name == file_of(owner, *ipv6))
            }
        }
    }

    fn is(self, wish: &Wish) -> bool {
        match self {
            Self::Anybody => true,
            Self::Of(owner) => wish.owner.is_same(owner),
        }
    }
}

/// The name of the file of a wish.
fn file_of(owner: &Owner, ipv6: bool) -> String {
    let Owner {
        container_id,
        ifname,
        ..
    } = owner;
    let family = if ipv6 { "ipv6" } else { "ipv4" };
    format!("{WISH}{container_id}-{ifname}-{family}")
}

/// A request that EC2 choose addresses, whose answer is not in the ledger: the process was
/// killed, or the answer was lost. Addresses without an entry that have come to the ENI since
/// then are those that EC2 chose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Unheard {
    /// The addresses that were on the ENI before.
    pub(crate) before: BTreeSet<IpAddr>,
    /// The addresses that the metadata have shown before and a description has denied.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) doubtful: BTreeSet<IpAddr>,
    /// How many EC2 was asked for, without those that were found since. Earlier versions did not
    /// write it down.
    #[serde(default = "any_number")]
    pub(crate) count: usize,
    /// When EC2 was asked last.
    since: Timestamp,
    /// The clock by which this time is measured.
    clock: Clock,
}

const fn any_number() -> usize {
    usize::MAX
}

/// What is on an ENI before EC2 is asked for so many addresses.
#[derive(Clone, Debug, Default)]
pub(crate) struct Before {
    /// As in [`Unheard`].
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// As in [`Unheard`].
    pub(crate) doubtful: BTreeSet<IpAddr>,
    /// As in [`Unheard`].
    pub(crate) count: usize,
}

impl Unheard {
    /// The same when so many of them were found.
    pub(crate) fn without(self, found: usize) -> Self {
        let count = self.count.saturating_sub(found);
        Self { count, ..self }
    }

    /// Whether a description now shows all that EC2 may have chosen.
    pub(crate) fn is_over(&self, now: Timestamp) -> bool {
        now.checked_sub(self.since)
            .is_none_or(|age| age >= DESCRIBE_LAG)
    }
}

impl EniLedger {
    /// How many wishes EC2 has not refused.
    ///
    /// # Errors
    /// Code 5 naming the directory.
    pub(crate) fn waiting_wishes(&self) -> Result<usize> {
        let mut waiting = 0;
        for name in list(&self.directory)? {
            if !name.starts_with(WISH) {
                continue;
            }
            // A file that cannot be read is logged where wishes are served.
            let wish: Option<Wish> = read(&self.directory.join(name)).ok().flatten();
            waiting += usize::from(wish.is_some_and(|wish| wish.refusal.is_none()));
        }
        Ok(waiting)
    }

    /// Whether there is a request for addresses or prefixes whose answer is not known.
    ///
    /// # Errors
    /// Code 5 naming the file.
    pub(crate) fn is_unheard(&self) -> Result<bool> {
        for name in [UNHEARD.to_owned(), asked_file(false), asked_file(true)] {
            let path = self.directory.join(name);
            let failed = |cause| Error::io(format!("failed to examine {path:?}"), &cause);
            if path.try_exists().map_err(failed)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The error of the file about the request for addresses, if it cannot be read.
    pub(super) fn unreadable_unheard(&self) -> Option<Error> {
        read::<Unheard>(&self.directory.join(UNHEARD)).err()
    }
}

impl Entries {
    /// Every wish of `whose` that can be read and whose attachment may still exist. The others
    /// are removed: no process waits for them.
    ///
    /// # Errors
    /// Code 5 naming the directory or the file.
    pub(crate) fn living_wishes(&self, whose: Whose<'_>) -> Result<Vec<Wish>> {
        let (mut living, holders) = (Vec::new(), Holders::default());
        for wish in self.wishes(whose)? {
            match wish.may_be_alive(&holders) {
                true => living.push(wish),
                false => self.forget_wish(&wish)?,
            }
        }
        Ok(living)
    }

    /// Every wish of `whose` that can be read.
    ///
    /// # Errors
    /// Code 5 naming the directory or the file.
    pub(crate) fn wishes(&self, whose: Whose<'_>) -> Result<Vec<Wish>> {
        let mut wishes: Vec<Wish> = Vec::new();
        for name in list(&self.directory)? {
            if name.starts_with(UNFINISHED) {
                // The writer of a file holds the lock, so the writer of this one was killed.
                remove(&self.directory.join(&name))?;
            }
            if !whose.may_be(&name) {
                continue;
            }
            match read(&self.directory.join(name)) {
                Ok(wish) => wishes.extend(wish),
                // The attachment writes its wish again when it is tried again.
                Err(error) => say!("{error}"),
            }
        }
        wishes.retain(|wish| whose.is(wish));
        Ok(wishes)
    }

    /// The wish of an attachment as it is in the ledger.
    ///
    /// # Errors
    /// Code 5 naming the file, 6 when it is not a wish.
    pub(crate) fn wish(&self, owner: &Owner, ipv6: bool) -> Result<Option<Wish>> {
        let wish: Option<Wish> = read(&self.directory.join(file_of(owner, ipv6)))?;
        Ok(wish.filter(|wish| wish.owner.is_same(owner)))
    }

    /// Writes a wish, which is on the disk afterwards.
    ///
    /// # Errors
    /// Code 5 naming the file.
    pub(crate) fn write_wish(&self, wish: &Wish) -> Result<()> {
        write(&self.directory.join(wish.file()), wish)
    }

    /// Removes a wish that is fulfilled or not needed any more.
    ///
    /// # Errors
    /// Code 5 naming the file.
    pub(crate) fn forget_wish(&self, wish: &Wish) -> Result<()> {
        remove(&self.directory.join(wish.file()))
    }

    /// The request for addresses whose answer is not known, if there is one.
    ///
    /// # Errors
    /// Code 5 naming the file, 6 when its content is something else.
    pub(crate) fn unheard(&self) -> Result<Option<Unheard>> {
        let found: Option<Unheard> = read(&self.unheard_path())?;
        Ok(found.map(|found| {
            let set_by = self.clock.was_set_by(&found.clock);
            Unheard {
                since: found.since.saturating_add_signed(set_by),
                ..found
            }
        }))
    }

    /// Writes down that EC2 is about to be asked for addresses.
    ///
    /// # Errors
    /// Code 5 naming the file.
    pub(crate) fn begin_unheard(&self, before: Before) -> Result<()> {
        let unheard = Unheard {
            before: before.addresses,
            doubtful: before.doubtful,
            count: before.count,
            since: now(),
            clock: self.clock.clone(),
        };
        self.write_unheard(&unheard)
    }

    /// Writes the request back after its answer has come, when the answer of an earlier request
    /// is still not known.
    ///
    /// # Errors
    /// Code 5 naming the file.
    pub(crate) fn write_unheard(&self, unheard: &Unheard) -> Result<()> {
        write(&self.unheard_path(), unheard)
    }

    /// Writes down that the answers of all requests are known.
    ///
    /// # Errors
    /// Code 5 naming the file.
    pub(crate) fn end_unheard(&self) -> Result<()> {
        remove(&self.unheard_path())
    }

    fn unheard_path(&self) -> PathBuf {
        self.directory.join(UNHEARD)
    }
}
