//! The ledger: what this node has done, is doing and will do to the addresses of its ENIs.
//! There is a file per address, which is on the disk before AWS is asked, so that a crash
//! leaves an intent in the ledger and never an address that no entry knows. The ledger only
//! records; it takes no decisions.

mod attachment;
mod clock;
mod content;
mod damage;
mod document;
mod entry;
mod excluded;
mod journal;
mod life_cycle;
mod owner;
mod policy;
mod prefix;
mod queue;
mod refusal;
mod state;
mod wish;

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::cni::identifier::is_identifier;
use common::error::{Error, ErrorCode, Result};
use common::files::file;
use common::files::format;
use common::files::in_place;
use common::files::lock::Lock;
use common::records;
use common::say;
use serde::{Deserialize, Serialize};

use self::attachment::Present;
pub(crate) use self::attachment::until_described_since_boot;
use self::clock::Clock;
pub(crate) use self::content::{Content, Contents};
pub(crate) use self::damage::{About, Damage};
pub(crate) use self::entry::{Absence, DESCRIBE_LAG, Entry, Timestamp, now};
pub(crate) use self::excluded::{Excluded, PARKED};
pub(crate) use self::life_cycle::Event;
pub(crate) use self::owner::{Life, Owner};
pub(crate) use self::policy::{
    DEFAULT_COOLDOWN, LONGEST_COOLDOWN, Takeover, default_cooldown_seconds,
};
pub(crate) use self::prefix::{Asked, Prefix};
use self::queue::{Held, Queue, Queues, TakeLock};
pub(crate) use self::refusal::Refusal;
pub(crate) use self::state::State;
pub(crate) use self::wish::{Before, Unheard, Whose, Wish};
use crate::deadline::Deadline;

/// The name of the lock that is held while entries are read and written, for milliseconds.
const LOCK: &str = ".lock";
/// The name of the lock that is held by the one process that may change the ENI, for as long as
/// AWS needs.
const TURN: &str = ".turn";
const LOCK_DEADLINE: Duration = Duration::from_secs(30);
/// The size limit of an entry in bytes. A larger file is not an entry. The limits of what it
/// consists of, [`Owner::require_short`] and [`Refusal::of`], keep it below that.
const ENTRY_LIMIT: u64 = 1 << 16;

/// The ledger of this node.
#[derive(Debug)]
pub(crate) struct Ledger {
    root: PathBuf,
    queues: Queues,
}

impl Ledger {
    /// The ledger at its fixed path.
    pub(crate) fn of_node() -> Self {
        Self {
            root: Path::new(records::ROOT).join("ledger"),
            queues: Queues::default(),
        }
    }

    /// The part of the ledger that is about one ENI.
    ///
    /// # Errors
    /// Code 999 when `id` is not a valid ENI id, which only a broken inventory has.
    pub(crate) fn of_eni(&self, id: &str) -> Result<EniLedger> {
        if !is_identifier(id) {
            return Err(Error::internal(format!("{id:?} is not the id of an ENI")));
        }
        Ok(EniLedger {
            directory: self.root.join(id),
            id: id.to_owned(),
            queue: self.queues.of_eni(id),
            deadline: Deadline::default(),
            attachment: None,
        })
    }

    /// The directory of the ledger, and that of each ENI in it.
    ///
    /// # Errors
    /// Code 5 naming the directory.
    pub(crate) fn directories(&self) -> Result<Vec<PathBuf>> {
        let enis = self.enis()?.into_iter().map(|eni| eni.directory);
        Ok([self.root.clone()].into_iter().chain(enis).collect())
    }

    /// Every ENI that the ledger knows. Files and directories with other names are ignored.
    ///
    /// # Errors
    /// Code 5 naming the directory.
    pub(crate) fn enis(&self) -> Result<Vec<EniLedger>> {
        let mut enis = Vec::new();
        for id in names(&self.root)?
            .into_iter()
            .filter(|id| is_identifier(id))
        {
            let path = self.root.join(&id);
            match fs::metadata(&path) {
                Ok(found) if found.is_dir() => enis.push(self.of_eni(&id)?),
                Ok(_) => {}
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
                Err(cause) => {
                    return Err(Error::io(format!("failed to examine {path:?}"), &cause));
                }
            }
        }
        Ok(enis)
    }
}

/// What the ledger has of one ENI.
#[derive(Clone, Debug)]
pub(crate) struct EniLedger {
    directory: PathBuf,
    id: String,
    queue: Arc<Queue>,
    deadline: Deadline,
    /// How the ENI is attached to this node, as far as the caller knows.
    attachment: Option<Present>,
}

impl EniLedger {
    /// The id of the ENI.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// The same, with the deadline of a command for every wait.
    #[must_use]
    pub(crate) fn until(self, deadline: Deadline) -> Self {
        Self { deadline, ..self }
    }

    /// Waits until no other process changes the ENI. The requests that arrive meanwhile become
    /// one batch of the next process that has the turn.
    ///
    /// # Errors
    /// Code 5 naming the file, 11 when the turn does not come in time.
    pub(crate) fn take_turn(&self, deadline: Duration) -> Result<Lock> {
        self.create()?;
        Lock::take(&self.directory.join(TURN), self.deadline.left_of(deadline))
    }

    /// Locks the entries until the value is dropped.
    ///
    /// # Errors
    /// Code 5 naming the file, 11 when the lock is not free in time.
    pub(crate) fn open(&self) -> Result<Entries> {
        self.create()?;
        self.entries(self.deadline.left_of(LOCK_DEADLINE), Lock::take)
    }

    /// The same with a deadline, to end entries: that needs no room on the disk.
    ///
    /// # Errors
    /// As for [`EniLedger::open`].
    pub(crate) fn open_to_end(&self, deadline: Duration) -> Result<Entries> {
        self.create()?;
        self.entries(deadline, Lock::take_to_remove)
    }

    fn entries(&self, deadline: Duration, lock: TakeLock) -> Result<Entries> {
        Ok(Entries {
            eni: self.id.clone(),
            directory: self.directory.clone(),
            _held: self
                .queue
                .lock(&self.directory.join(LOCK), deadline, lock)?,
            clock: Clock::read()?,
            attachment: self.attachment.clone(),
        })
    }

    /// The entries at this moment, for a caller that only reads: nothing is locked, and no
    /// directory is created. Addresses that EC2 has removed are not among them.
    ///
    /// # Errors
    /// Code 5 naming the directory.
    pub(crate) fn read(&self) -> Result<Vec<Entry>> {
        let mut entries = read_all(&self.directory, &Clock::read()?)?;
        entries.retain(|entry| entry.state != State::Removed);
        Ok(attachment::under(entries, self.attachment.as_ref()))
    }

    /// Whether the ledger has no address and no prefix of this ENI, and no request to EC2 whose
    /// answer may have been lost.
    ///
    /// # Errors
    /// Code 5 naming the directory or a file.
    pub(crate) fn is_empty(&self) -> Result<bool> {
        let is_empty = self.read()?.is_empty() && self.read_prefixes()?.is_empty();
        Ok(is_empty && self.damage()?.is_empty() && !self.is_unheard()?)
    }

    fn create(&self) -> Result<()> {
        let failed = |cause| Error::io(format!("failed to create {:?}", self.directory), &cause);
        file::create_directory(&self.directory).map_err(failed)
    }
}

/// A file that the system failed to read: the address that its name has, if any, and the error.
pub(crate) type Unread = (Option<IpAddr>, Error);

/// The entries of one ENI, locked.
#[derive(Debug)]
pub(crate) struct Entries {
    eni: String,
    directory: PathBuf,
    _held: Held,
    /// The clock by which the times of the entries are measured.
    clock: Clock,
    attachment: Option<Present>,
}

/// The content of an entry's file, to be read.
#[derive(Deserialize)]
struct Found {
    #[serde(flatten)]
    entry: Entry,
    /// The clock by which its times are measured. Files of versions before the clock was
    /// recorded have none.
    #[serde(default)]
    clock: Option<Clock>,
}

/// The content of an entry's file, to be written.
#[derive(Serialize)]
struct Written<'a> {
    #[serde(flatten)]
    entry: &'a Entry,
    clock: &'a Clock,
}

impl Entries {
    /// Every entry that can be read. A file that cannot be read stays, and its address is not
    /// changed: nothing is decided without knowledge.
    ///
    /// # Errors
    /// Code 5 naming the directory.
    pub(crate) fn all(&self) -> Result<Vec<Entry>> {
        let entries = read_all(&self.directory, &self.clock)?;
        Ok(attachment::under(entries, self.attachment.as_ref()))
    }

    /// The same, and why the system failed to read files, which are not damaged by that, each with
    /// the address in its name.
    ///
    /// # Errors
    /// As for [`Entries::all`].
    pub(crate) fn all_and_unread(&self) -> Result<(Vec<Entry>, Vec<Unread>)> {
        read_each(&self.directory, &self.clock)
    }

    /// The addresses that this node must not assign to pods.
    ///
    /// # Errors
    /// Code 5 or 6 naming the file.
    pub(crate) fn excluded(&self) -> Result<Excluded> {
        let root = self.directory.parent();
        root.map_or(Ok(Excluded::default()), excluded::read)
    }

    /// Every address that has a file, also one that cannot be read: its address is known to the
    /// ledger nevertheless.
    ///
    /// # Errors
    /// Code 5 naming the directory.
    pub(crate) fn addresses(&self) -> Result<HashSet<IpAddr>> {
        addresses(&self.directory)
    }

    /// The entry of one address.
    ///
    /// # Errors
    /// Code 5 naming the file, 6 when it is not an entry.
    pub(crate) fn get(&self, address: IpAddr) -> Result<Option<Entry>> {
        let entry = read(&self.path(address), &self.clock)?;
        Ok(entry.map(|entry| entry.under(self.attachment.as_ref())))
    }

    /// Writes an entry, which is on the disk afterwards. A file that cannot be read is not
    /// replaced, because its meaning is unknown.
    ///
    /// # Errors
    /// Code 5 naming the file, 6 when it is not an entry, and 7 when it would be too long to be
    /// read. The old file stays then.
    pub(crate) fn write(&self, entry: &Entry) -> Result<()> {
        self.get(entry.address)?;
        let path = self.path(entry.address);
        let failed = |cause| Error::io(format!("failed to write {path:?}"), &cause);
        let clock = &self.clock;
        let text = serde_json::to_vec(&Written { entry, clock });
        let text = text.map_err(|cause| failed(cause.into()))?;
        document::require_readable(&path, &text, ENTRY_LIMIT)?;
        let replaced = file::replace_durably(&path, &text);
        in_place::or_overwrite(replaced, &path, &text).map_err(failed)
    }

    /// Writes down what `event` has made of the address of `entry`, which is in the ledger.
    ///
    /// # Errors
    /// As for [`Entries::write`].
    pub(crate) fn note(&self, entry: Entry, event: &Event) -> Result<()> {
        let before = entry.clone();
        match self.after(entry, event) {
            Some(after) if after == before => Ok(()),
            Some(after) => self.change(Some(&before), &after, event),
            None => self.forget(&before),
        }
    }

    /// Writes down what `event` has made of an address: `before` is what the ledger had before.
    ///
    /// # Errors
    /// As for [`Entries::write`].
    pub(crate) fn change(
        &self,
        before: Option<&Entry>,
        after: &Entry,
        event: &Event,
    ) -> Result<()> {
        let after = after.clone().proven_by(event, self.attachment.as_ref());
        self.write(&after)?;
        journal::tell(&self.eni, before, &after, event);
        Ok(())
    }

    /// Writes down that the claimed address of `entry` is on the ENI, because one of its
    /// prefixes contains it. It is for the attachment or the pool that has claimed it.
    ///
    /// # Errors
    /// As for [`Entries::write`].
    pub(crate) fn cover(&self, entry: Entry) -> Result<()> {
        let for_pool = entry.is_for_pool();
        if let Some(after) = self.after(entry, &Event::Assigned { for_pool }) {
            self.write(&after)?;
            journal::covered(&self.eni, &after);
        }
        Ok(())
    }

    /// Writes down that the attachment of `entry` has ended; `why` is for the log.
    ///
    /// # Errors
    /// As for [`Entries::write`].
    pub(crate) fn end(&self, entry: Entry, why: &str) -> Result<()> {
        let before = entry.clone();
        match entry.ended() {
            Some(entry) => {
                self.write(&entry)?;
                journal::ended(&self.eni, &before, why);
                Ok(())
            }
            None => self.forget(&before),
        }
    }

    /// Removes the entries of addresses that EC2 removed so long ago that no description shows
    /// them any more. Returns the others.
    ///
    /// # Errors
    /// Code 5 naming the file.
    pub(crate) fn forget_removed(&self) -> Result<Vec<Entry>> {
        let is_over =
            |entry: &Entry| entry.state == State::Removed && !entry.was_removed_lately(now());
        let (over, left): (Vec<_>, Vec<_>) = self.all()?.into_iter().partition(is_over);
        for entry in over {
            self.remove(entry.address)?;
        }
        Ok(left)
    }

    /// Removes the entry of an address that no pod needs any more and that is on the ENI only
    /// as a part of a prefix, which stays.
    ///
    /// # Errors
    /// Code 5 naming the file.
    pub(crate) fn free(&self, entry: &Entry) -> Result<()> {
        self.remove(entry.address)?;
        journal::freed(&self.eni, entry);
        Ok(())
    }

    /// Removes the entry of an address that is known not to be on the ENI.
    ///
    /// # Errors
    /// Code 5 naming the file.
    pub(crate) fn forget(&self, entry: &Entry) -> Result<()> {
        self.remove(entry.address)?;
        journal::forgotten(&self.eni, entry);
        Ok(())
    }

    fn remove(&self, address: IpAddr) -> Result<()> {
        let path = self.path(address);
        file::remove(&path).map_err(|cause| Error::io(format!("failed to remove {path:?}"), &cause))
    }

    fn path(&self, address: IpAddr) -> PathBuf {
        self.directory.join(address.to_string())
    }
}

fn read_all(directory: &Path, clock: &Clock) -> Result<Vec<Entry>> {
    let (entries, unread) = read_each(directory, clock)?;
    unread.iter().for_each(|(_, error)| say!("{error}"));
    Ok(entries)
}

fn read_each(directory: &Path, clock: &Clock) -> Result<(Vec<Entry>, Vec<Unread>)> {
    let (mut entries, mut unread) = (Vec::new(), Vec::new());
    for name in names(directory)? {
        match read(&directory.join(&name), clock) {
            Ok(entry) => entries.extend(entry),
            Err(error) if error.code == ErrorCode::IO => unread.push((name.parse().ok(), error)),
            // One damaged file must not block all other addresses.
            Err(error) => say!("{error}"),
        }
    }
    Ok((entries, unread))
}

/// The entry in a file, with its times converted to `clock`.
fn read(path: &Path, clock: &Clock) -> Result<Option<Entry>> {
    let undecodable = |why: String| {
        let msg = format!("{path:?} is not an entry of the ledger");
        let details = format!("{why}; its address stays as it is until somebody removes the file");
        Error::new(ErrorCode::DECODING, msg).with_details(details)
    };
    let bytes = match file::read_regular(path, ENTRY_LIMIT) {
        Ok(bytes) => bytes,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) if cause.kind() == io::ErrorKind::InvalidData => {
            return Err(undecodable(cause.to_string()));
        }
        Err(cause) => return Err(Error::io(format!("failed to read {path:?}"), &cause)),
    };
    if let Some(why) = format::newer(&bytes) {
        let msg = format!("{path:?} is an entry of a newer ledger");
        let details = format!("{why}; its address stays as it is");
        return Err(Error::new(ErrorCode::DECODING, msg).with_details(details));
    }
    let found = serde_json::from_slice(&bytes);
    let Found { entry, clock: then } = found.map_err(|cause| undecodable(cause.to_string()))?;
    if path.file_name().and_then(|name| name.to_str()) != Some(&entry.address.to_string()) {
        return Err(undecodable(format!("it is about {}", entry.address)));
    }
    let set_by = then.map_or(0, |then| clock.was_set_by(&then));
    Ok(Some(entry.moved_by(set_by).without_assumptions()))
}

/// The addresses that have a file in a directory.
fn addresses(directory: &Path) -> Result<HashSet<IpAddr>> {
    let names = names(directory)?.into_iter();
    Ok(names.filter_map(|name| name.parse().ok()).collect())
}

/// The names in a directory, sorted, without dot-files; empty without a directory.
fn names(directory: &Path) -> Result<Vec<String>> {
    let mut names = list(directory)?;
    names.retain(|name| !name.starts_with('.'));
    Ok(names)
}

/// All names in a directory, sorted; empty without a directory.
fn list(directory: &Path) -> Result<Vec<String>> {
    let failed = |cause| Error::io(format!("failed to list {directory:?}"), &cause);
    let found = file::list(directory).map_err(failed)?;
    let names = found.iter().filter_map(|path| path.file_name()?.to_str());
    Ok(names.map(str::to_owned).collect())
}
