//! The index: the content of a directory's address files in one file, so that the cost of a
//! command does not depend on their number. It is only a cache. It is used while no other
//! program has changed the directory; after that, the files that are still the ones that were read
//! are not read again. An address file is read before its entry is trusted, and if the index is
//! wrong in any way, all files are read and a new index is made.
//!
//! Only `survey` uses it, by the functions below. Besides, only `form` knows its name,
//! because it has to know the names of all files of a store.

mod file;
mod header;
mod mark;
mod page;
mod stamp;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use common::address::parse_address;
use common::error::Result;
use common::records::boot_id;

use file::IndexFile;
use mark::Mark;
use page::{Entry, Key, Noted};
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
    /// The address files have to be read.
    Unknown(Before),
    /// The entries of the address files, from which a new index is made.
    Read(Vec<Noted>),
}

/// What is known before the address files are read.
#[derive(Debug)]
struct Before {
    /// The directory.
    stamp: Option<Stamp>,
    /// The same, opened.
    directory: Option<File>,
    /// What an index of an earlier moment has.
    noted: HashMap<IpAddr, Noted>,
}

impl Index {
    /// The index of `directory` in this boot. Without a boot id the file is not read, and is
    /// replaced after the address files were read.
    pub(crate) fn open(directory: &Path, boot_id: Option<&str>) -> Self {
        let file = boot_id.and_then(|id| IndexFile::open(directory, Key::of(id)));
        let state = match file {
            Some(file) if file.agrees_with(directory) => State::Agrees(file),
            Some(file) => State::Unknown(Before::with(directory, file.all().unwrap_or_default())),
            None => State::Unknown(Before::with(directory, Vec::new())),
        };
        Self {
            directory: directory.to_owned(),
            state,
        }
    }

    /// The reservations that may be of `owner` and those without a holder, if the index
    /// agrees with the directory and their files agree with it; otherwise the result of
    /// `read_all`, which leaves out the file names that its argument accepts: the index knows their
    /// content, and they are of other containers.
    ///
    /// # Errors
    /// Those of `read_all`.
    pub(crate) fn find(
        &mut self,
        owner: Option<&Owner>,
        read_all: impl Fn(&mut dyn FnMut(&str) -> bool) -> Result<Vec<Reservation>>,
    ) -> Result<Vec<Reservation>> {
        let owner = owner.map(|owner| Key::of(&owner.container_id));
        if let State::Agrees(file) = &mut self.state {
            let entries = file.find(owner);
            match entries.and_then(|entries| read(&self.directory, entries)) {
                Some(found) => return Ok(found),
                None => self.forget(),
            }
        }
        if let State::Unknown(before) = &self.state {
            let mut kept = Vec::new();
            let read = read_all(&mut |name| {
                let known = before.known(name, owner);
                kept.extend(known);
                known.is_some()
            })?;
            let is_all = kept.is_empty();
            if self.replace(&read, kept) || is_all {
                return Ok(read);
            }
            self.forget();
        }
        let all = read_all(&mut |_| false)?;
        self.replace(&all, Vec::new());
        Ok(all)
    }

    /// The addresses that are taken, if that is known besides what [`find`](Self::find) has returned.
    pub(crate) fn taken(&self) -> Option<Taken> {
        match &self.state {
            State::Agrees(file) => Some(file.taken().clone()),
            State::Read(noted) => Some(noted.iter().map(|noted| noted.entry.address()).collect()),
            State::Unknown(_) => None,
        }
    }

    /// Whether the taken addresses are those of the index, and not of the files' names.
    pub(crate) fn is_believed(&self) -> bool {
        matches!(self.state, State::Agrees(_))
    }

    fn forget(&mut self) {
        self.state = State::Unknown(Before::with(&self.directory, Vec::new()));
    }

    /// Takes the entries of all address files: those that were read, and those whose content was
    /// known. Returns whether these are all.
    fn replace(&mut self, read: &[Reservation], known: Vec<Noted>) -> bool {
        let State::Unknown(before) = &self.state else {
            return false;
        };
        // No index is made of a few.
        let is_marked = known.len() + read.len() > FEW;
        let noted = read.iter().map(|reservation| Noted {
            entry: Entry::of(reservation),
            mark: if is_marked {
                before.mark_of(&reservation.path)
            } else {
                Mark::NONE
            },
        });
        let noted = noted.chain(known).collect();
        // After the marks, which are of the files that were read then.
        let is_all = before.includes_all(&self.directory, read);
        if is_all {
            self.state = State::Read(noted);
        }
        is_all
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
            State::Read(mut noted) => {
                let mut removed: Vec<Entry> = removed.collect();
                removed.sort_unstable();
                noted.retain(|noted| removed.binary_search(&noted.entry).is_err());
                let mark = Mark::NONE;
                noted.extend(made.map(|entry| Noted { entry, mark }));
                make(&self.directory, noted)
            }
            State::Unknown(_) => Ok(()),
        }
    }
}

impl Before {
    fn with(directory: &Path, noted: Vec<Noted>) -> Self {
        let noted = noted.into_iter();
        Self {
            stamp: Stamp::of(directory).ok(),
            directory: File::open(directory).ok(),
            noted: noted.map(|noted| (noted.entry.address(), noted)).collect(),
        }
    }

    /// What is known of the address file with this name, if it is still the one that was read, has a
    /// holder, and that is not the container `owner`.
    fn known(&self, name: &str, owner: Option<Key>) -> Option<Noted> {
        let address = parse_address(name).ok()?;
        let noted = self.noted.get(&address)?;
        let is_needed = [Some(Key::IRREGULAR), owner].contains(&Some(noted.entry.key()));
        let is_known = !is_needed
            && address.to_string() == name
            && noted.mark.is_of(self.directory.as_ref()?, Path::new(name));
        is_known.then_some(*noted)
    }

    fn mark_of(&self, path: &Path) -> Mark {
        match (&self.directory, path.file_name()) {
            (Some(directory), Some(name)) => Mark::of(directory, Path::new(name)),
            _ => Mark::NONE,
        }
    }

    /// Whether the files that were read, and those that were known, are all of the directory, and an
    /// index can have them: no process that does not use the lock has changed it meanwhile.
    fn includes_all(&self, directory: &Path, read: &[Reservation]) -> bool {
        let is_unchanged = self.stamp.is_some() && self.stamp == Stamp::of(directory).ok();
        is_unchanged && read.iter().all(has_usual_name)
    }
}

/// Creates the index of `directory`, whose address files have these entries, or removes it if
/// there are only a few.
fn make(directory: &Path, entries: Vec<Noted>) -> io::Result<()> {
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
