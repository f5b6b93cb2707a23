//! What is reserved in a directory, as far as a command needs to know it: from the
//! index where there is one that agrees with the directory, else from every file.

use std::fs;
use std::io;
use std::mem;
use std::path::Path;

use common::address::parse_address;
use common::attach::boot_id;
use common::error::{Error, Result};
use nix::libc::ENOENT;

use crate::boot::{Boot, Verdict};
use crate::index::{Entry, Index, Stamp};
use crate::reservation::{Owner, Reservation};
use crate::store::Store;
use crate::taken::Taken;

/// The reservations of a network at one moment.
#[derive(Debug)]
pub struct Survey {
    /// Those that the command is about, in the order of the file names.
    pub relevant: Vec<Reservation>,
    /// Of containers that have ended, or without a holder: not taken any more.
    pub abandoned: Vec<Reservation>,
    /// Where all of them are known from.
    origin: Origin,
}

#[derive(Debug)]
enum Origin {
    Index(Index),
    Files(Files),
}

/// What all files say.
#[derive(Debug)]
struct Files {
    entries: Vec<Entry>,
    taken: Taken,
    /// Whether an index can be made of it.
    is_indexable: bool,
}

impl Survey {
    /// What an allocation for `owner` has to respect, and what it need not; without
    /// an owner, what any allocation has to.
    ///
    /// # Errors
    /// Code 5 when the directory cannot be read.
    pub fn for_allocation(store: &Store, owner: Option<&Owner>, boot: &Boot) -> Result<Self> {
        let survey = match boot.is_known {
            true => Self::from_index(store, owner, boot.machine.boot_id()),
            false => None,
        };
        match survey.and_then(|survey| survey.without_abandoned(boot)) {
            Some(survey) => Ok(survey),
            None => Self::of_files_for_allocation(store, owner, boot),
        }
    }

    /// The same from the files, whatever the index says.
    ///
    /// # Errors
    /// Code 5 when the directory cannot be read.
    pub fn of_files_for_allocation(
        store: &Store,
        owner: Option<&Owner>,
        boot: &Boot,
    ) -> Result<Self> {
        let may_be_of = |r: &Reservation| owner.is_some_and(|owner| r.may_be_of(owner));
        let is_relevant = |r: &Reservation| may_be_of(r) || boot.judge(r) != Verdict::InUse;
        let survey = Self::of_files(store, is_relevant)?;
        let changed = || Error::internal("the reservations changed while they were read");
        survey.without_abandoned(boot).ok_or_else(changed)
    }

    /// What may be `owner`'s, whenever it was reserved.
    ///
    /// # Errors
    /// Code 5 when the directory cannot be read.
    pub fn of_owner(store: &Store, owner: &Owner) -> Result<Self> {
        // Without /proc there is no index, and nothing else is lacking.
        let boot_id = boot_id().ok();
        match boot_id.and_then(|id| Self::from_index(store, Some(owner), &id)) {
            Some(survey) => Ok(survey),
            None => Self::of_files(store, |r| r.may_be_of(owner)),
        }
    }

    /// Every file, and those of them that are relevant.
    ///
    /// # Errors
    /// Code 5 when the directory cannot be read.
    pub fn of_files(store: &Store, is_relevant: impl Fn(&Reservation) -> bool) -> Result<Self> {
        let directory = store.directory();
        let before = Stamp::of(directory).ok();
        let mut relevant = Vec::new();
        let mut entries = Vec::new();
        let mut is_indexable = true;
        for name in names(directory)? {
            let Some(reservation) = Reservation::read(directory, &name?) else {
                continue;
            };
            is_indexable &= reservation.has_usual_name();
            entries.push(reservation.entry());
            if is_relevant(&reservation) {
                relevant.push(reservation);
            }
        }
        // Somebody who does not take the lock may have changed what was read already.
        is_indexable &= before.is_some() && before == Stamp::of(directory).ok();
        Ok(Self::new(
            relevant,
            Origin::Files(Files::new(entries, is_indexable)),
        ))
    }

    /// What the index says, if the files that it names say the same.
    fn from_index(store: &Store, owner: Option<&Owner>, boot_id: &str) -> Option<Self> {
        let directory = store.directory();
        let mut index = Index::open(directory, boot_id)?;
        let mut relevant = Vec::new();
        for entry in index.find(owner.map(Owner::key))? {
            let reservation = Reservation::read(directory, &entry.address().to_string());
            relevant.push(reservation.filter(|r| r.entry() == entry)?);
        }
        Some(Self::new(relevant, Origin::Index(index)))
    }

    fn new(mut relevant: Vec<Reservation>, origin: Origin) -> Self {
        relevant.sort_unstable_by(|a, b| a.path.as_os_str().cmp(b.path.as_os_str()));
        Self {
            relevant,
            abandoned: Vec::new(),
            origin,
        }
    }

    /// The same with what is abandoned apart; nothing when the index is a wrong one.
    fn without_abandoned(mut self, boot: &Boot) -> Option<Self> {
        let all = mem::take(&mut self.relevant).into_iter();
        (self.abandoned, self.relevant) = all.partition(|r| boot.judge(r) == Verdict::Abandoned);
        let entries = self.abandoned.iter().map(Reservation::entry).collect();
        self.origin.change(&[], entries).ok()?;
        Some(self)
    }

    /// Those that do not show in which boot they were made.
    pub fn unproven(&self, boot: &Boot) -> Vec<&Reservation> {
        let relevant = self.relevant.iter();
        relevant
            .filter(|r| boot.judge(r) == Verdict::Unproven)
            .collect()
    }

    /// Counts these as abandoned, too; an error when the index is a wrong one.
    ///
    /// # Errors
    /// Code 999 when the index disagrees, which is then of no use.
    pub fn abandon(&mut self, ended: Vec<Reservation>) -> Result<()> {
        let entries = ended.iter().map(Reservation::entry).collect();
        self.abandoned.extend(ended);
        let changed =
            |cause| Error::internal("the index of the reservations is wrong").because(&cause);
        self.origin.change(&[], entries).map_err(changed)
    }

    /// The addresses that must not be handed out.
    pub fn taken(&self) -> &Taken {
        match &self.origin {
            Origin::Index(index) => index.taken(),
            Origin::Files(files) => &files.taken,
        }
    }

    /// Whether this is more than a hint: it comes from the files, or their names are
    /// all that the index says.
    pub fn is_certain(&self, store: &Store) -> bool {
        let Origin::Index(index) = &self.origin else {
            return true;
        };
        let addresses = names(store.directory()).map(|names| {
            let names = names.filter_map(Result::ok);
            let addresses = names.filter_map(|name| parse_address(&name).ok());
            addresses.collect::<Taken>()
        });
        addresses.is_ok_and(|taken| taken == *index.taken())
    }

    /// Leaves an index behind, after a command that has made and removed these
    /// reservations.
    pub fn leave_index(mut self, store: &Store, made: &[Entry], removed: Vec<Entry>) {
        let changed = made.len() + removed.len() + self.abandoned.len() > 0;
        let left = self.origin.change(made, removed);
        let left = left.and_then(|()| self.origin.save(store.directory(), changed));
        // Where none can be left, the next command reads the files: slower, but a full
        // disk is no reason to fail.
        left.ok();
    }
}

impl Origin {
    fn change(&mut self, made: &[Entry], removed: Vec<Entry>) -> io::Result<()> {
        match self {
            Self::Index(index) => {
                removed
                    .into_iter()
                    .try_for_each(|entry| index.remove(entry))?;
                made.iter().try_for_each(|entry| index.insert(*entry))
            }
            Self::Files(files) => {
                files.change(made, removed);
                Ok(())
            }
        }
    }

    fn save(self, directory: &Path, is_changed: bool) -> io::Result<()> {
        match self {
            Self::Index(index) if is_changed => index.save(directory),
            Self::Files(files) if files.is_indexable => {
                let boot_id = boot_id().map_err(io::Error::other)?;
                Index::create(directory, &boot_id, files.entries)
            }
            Self::Index(_) | Self::Files(_) => Ok(()),
        }
    }
}

impl Files {
    fn new(mut entries: Vec<Entry>, is_indexable: bool) -> Self {
        entries.sort_unstable();
        Self {
            taken: taken(&entries),
            entries,
            is_indexable,
        }
    }

    fn change(&mut self, made: &[Entry], mut removed: Vec<Entry>) {
        if !removed.is_empty() {
            removed.sort_unstable();
            self.entries
                .retain(|entry| removed.binary_search(entry).is_err());
            self.taken = taken(&self.entries);
        }
        self.entries.extend(made);
    }
}

/// The addresses of entries that are in order.
fn taken(entries: &[Entry]) -> Taken {
    Taken::from_sorted(entries.iter().map(|entry| entry.number()))
}

/// Every reservation in `directory`; none where there is no such directory. Nothing is
/// locked: what is being written names nobody yet.
///
/// # Errors
/// Code 5 naming the directory that cannot be read.
pub fn reservations(directory: &Path) -> Result<Vec<Reservation>> {
    let names = match names(directory) {
        Err(error) if error.errno() == Some(ENOENT) => return Ok(Vec::new()),
        names => names?,
    };
    let read = names.map(|name| Ok(Reservation::read(directory, &name?)));
    read.filter_map(Result::transpose).collect()
}

/// The names in `directory` that are texts.
fn names(directory: &Path) -> Result<impl Iterator<Item = Result<String>>> {
    let failed = move |cause| Error::io(format!("failed to list {directory:?}"), &cause);
    let entries = fs::read_dir(directory).map_err(failed)?;
    let names = entries.map(move |entry| Ok(entry.map_err(failed)?.file_name().into_string()));
    // An address is a text, so other names are none.
    Ok(names.filter_map(|name: Result<_>| name.map(Result::ok).transpose()))
}
