//! The index: the content of a directory's address files in one file, so that the cost of a
//! command does not depend on their number. It is only a cache. It is used while no other
//! program has changed the directory. An address file is read before its entry is trusted,
//! and if the index is wrong in any way, all files are read and a new index is made.
//!
//! Only `survey` uses it, by the functions below. Besides, only `form` knows its name,
//! because it has to know the names of all files of a store.

mod file;
mod header;
mod page;
mod stamp;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use common::error::Result;
use common::records::boot_id;

use file::IndexFile;
use page::{Entry, Key};
use stamp::Stamp;

use crate::reservation::{Owner, Reservation};
use crate::taken::Taken;

/// The name of the file. The Go plugin reads it like every file of the directory, and finds
/// no container in it.
pub(crate) const NAME: &str = ".reservations.index";
/// Up to this number of address files, reading them costs no more than an index.
const FEW: usize = 8;

/// The index of a directory during one command.
#[derive(Debug)]
pub(crate) struct Index {
    directory: PathBuf,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The file agrees with the directory.
    Agrees(IndexFile),
    /// The file cannot be used. This is the stamp of the directory before the address files
    /// are read.
    Unknown(Option<Stamp>),
    /// The entries of the address files, from which a new index is made.
    Read(Vec<Entry>),
}

impl Index {
    /// The index of `directory` in this boot. Without a boot id the file is not read, and is
    /// replaced after the address files were read.
    pub(crate) fn open(directory: &Path, boot_id: Option<&str>) -> Self {
        let file = boot_id.and_then(|id| IndexFile::open(directory, Key::of(id)));
        Self {
            directory: directory.to_owned(),
            state: file.map_or_else(|| State::before(directory), State::Agrees),
        }
    }

    /// The reservations that may be of `owner` and those without a holder, if the index
    /// agrees with the directory and their files agree with it; otherwise the result of
    /// `read_all`.
    ///
    /// # Errors
    /// Those of `read_all`.
    pub(crate) fn find(
        &mut self,
        owner: Option<&Owner>,
        read_all: impl FnOnce() -> Result<Vec<Reservation>>,
    ) -> Result<Vec<Reservation>> {
        if let State::Agrees(file) = &mut self.state {
            let entries = file.find(owner.map(|owner| Key::of(&owner.container_id)));
            match entries.and_then(|entries| read(&self.directory, entries)) {
                Some(found) => return Ok(found),
                None => self.state = State::before(&self.directory),
            }
        }
        let all = read_all()?;
        self.replace(&all);
        Ok(all)
    }

    /// The addresses that are taken, if the index agrees with the directory.
    pub(crate) fn taken(&self) -> Option<&Taken> {
        match &self.state {
            State::Agrees(file) => Some(file.taken()),
            State::Unknown(_) | State::Read(_) => None,
        }
    }

    /// Takes the entries of all address files, unless a process that does not use the lock
    /// may have changed files that were read already.
    fn replace(&mut self, all: &[Reservation]) {
        let State::Unknown(before) = &self.state else {
            return;
        };
        let is_unchanged = before.is_some() && *before == Stamp::of(&self.directory).ok();
        if is_unchanged && all.iter().all(has_usual_name) {
            self.state = State::Read(all.iter().map(Entry::of).collect());
        }
    }

    /// Writes an index that agrees with the directory, after these reservations were made and
    /// removed.
    ///
    /// # Errors
    /// Those of the file system, and when the index is full or damaged. It does not agree
    /// with the directory then.
    pub(crate) fn save(self, made: &[Reservation], removed: &[Reservation]) -> io::Result<()> {
        let mut made = made.iter().map(Entry::of);
        let mut removed = removed.iter().map(Entry::of);
        match self.state {
            State::Agrees(_) if made.len() + removed.len() == 0 => Ok(()),
            State::Agrees(mut file) => {
                removed.try_for_each(|entry| file.remove(entry))?;
                made.try_for_each(|entry| file.insert(entry))?;
                file.save(&self.directory)
            }
            State::Read(mut entries) => {
                let mut removed: Vec<Entry> = removed.collect();
                removed.sort_unstable();
                entries.retain(|entry| removed.binary_search(entry).is_err());
                entries.extend(made);
                make(&self.directory, entries)
            }
            State::Unknown(_) => Ok(()),
        }
    }
}

impl State {
    fn before(directory: &Path) -> Self {
        Self::Unknown(Stamp::of(directory).ok())
    }
}

/// Creates the index of `directory`, whose address files have these entries, or removes it if
/// there are only a few.
fn make(directory: &Path, entries: Vec<Entry>) -> io::Result<()> {
    if entries.len() <= FEW {
        return discard(directory);
    }
    let boot_id = boot_id().map_err(io::Error::other)?;
    IndexFile::create(directory, Key::of(&boot_id), entries)
}

/// Removes the index of `directory`.
///
/// # Errors
/// Those of `unlink(2)`; `NotFound` when there is none.
pub(crate) fn discard(directory: &Path) -> io::Result<()> {
    fs::remove_file(directory.join(NAME))
}

/// Reads the reservations of these entries; `None` when a file does not agree with its entry.
fn read(directory: &Path, entries: Vec<Entry>) -> Option<Vec<Reservation>> {
    let read = entries.into_iter().map(|entry| {
        let reservation = Reservation::read(directory, &entry.address().to_string());
        reservation.filter(|reservation| Entry::of(reservation) == entry)
    });
    read.collect()
}

/// Whether the file has the canonical name of its address. The index has only addresses and
/// no names.
fn has_usual_name(reservation: &Reservation) -> bool {
    reservation.path.ends_with(reservation.address.to_string())
}
