//! What the address files of a directory say, in one file that costs the same to read
//! and to change however many they are. It is a hint and nothing more: it is believed
//! as long as nobody but us has changed the directory, the files have the last word,
//! and whatever is wrong with it, the files are read and a new one is made.
//!
//! Only `survey` asks it, by the functions below; nothing else knows of it but `form`,
//! which has to know the names of all files of a store.

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

/// The file. The Go plugin reads it as it reads every file, and finds no container.
pub(crate) const NAME: &str = ".reservations.index";
/// Up to here, reading the address files costs no more than an index.
const FEW: usize = 8;

/// The index of a directory, as one command finds it and leaves it.
#[derive(Debug)]
pub(crate) struct Index {
    directory: PathBuf,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The file agrees with the directory.
    Agrees(IndexFile),
    /// The file says nothing; this is the directory before the address files are read.
    Unknown(Option<Stamp>),
    /// What the address files say, from which a new file is made.
    Read(Vec<Entry>),
}

impl Index {
    /// The index of `directory` in this boot. Without a boot the file is not looked at, and
    /// is replaced when the address files have been read.
    pub(crate) fn open(directory: &Path, boot_id: Option<&str>) -> Self {
        let file = boot_id.and_then(|id| IndexFile::open(directory, Key::of(id)));
        Self {
            directory: directory.to_owned(),
            state: file.map_or_else(|| State::before(directory), State::Agrees),
        }
    }

    /// The reservations that may be `owner`'s and those that name nobody, if the index
    /// agrees with the directory and their files say the same; else what `read_all` finds.
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

    /// Takes note of all address files, unless somebody who does not take the lock may have
    /// changed what was read already.
    fn replace(&mut self, all: &[Reservation]) {
        let State::Unknown(before) = &self.state else {
            return;
        };
        let is_unchanged = before.is_some() && *before == Stamp::of(&self.directory).ok();
        if is_unchanged && all.iter().all(has_usual_name) {
            self.state = State::Read(all.iter().map(Entry::of).collect());
        }
    }

    /// Leaves an index that agrees with the directory, in which these reservations were made
    /// and removed.
    ///
    /// # Errors
    /// Those of the file system, and when the index is full or a wrong one. It does not agree
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

/// Makes the index of `directory`, whose address files are these, or removes the one that
/// is there when they are few.
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

/// The reservations of these entries; nothing when a file says another thing.
fn read(directory: &Path, entries: Vec<Entry>) -> Option<Vec<Reservation>> {
    let read = entries.into_iter().map(|entry| {
        let reservation = Reservation::read(directory, &entry.address().to_string());
        reservation.filter(|reservation| Entry::of(reservation) == entry)
    });
    read.collect()
}

/// Whether the file has the name that a plugin gives it. The index has addresses only.
fn has_usual_name(reservation: &Reservation) -> bool {
    reservation.path.ends_with(reservation.address.to_string())
}
