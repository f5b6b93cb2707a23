//! The reservations in a directory that a command needs: from the index if it agrees with
//! the directory, otherwise from the files whose content it does not know.

use std::fs;
use std::mem;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use common::address::parse_address;
use common::error::{Error, ErrorCode, Errors, Result};
use common::records::boot_id;
use common::say;
use nix::libc::ENOENT;

use crate::boot::{Boot, Classification};
use crate::index::{self, Index};
use crate::reservation::{Holder, Owner, Reservation, owned_by};
use crate::store::Store;
use crate::taken::Taken;

/// The reservations of a network at one moment, and the changes of a command.
#[derive(Debug)]
pub struct Survey {
    /// The reservations that the command is about, in the order of the file names.
    pub relevant: Vec<Reservation>,
    /// The addresses that must not be assigned.
    pub taken: Taken,
    /// The reservations that are not valid any more.
    pub ended: Vec<Reservation>,
    /// The reservations that the command has made.
    pub made: Vec<Reservation>,
    /// The files that could not be read, which may be relevant, and the errors.
    pub unreadable: Vec<(PathBuf, Error)>,
    /// The addresses that have more than one file, because the names write them in different
    /// ways.
    duplicates: Vec<IpAddr>,
    index: Index,
}

impl Survey {
    /// The reservations for an allocation: those of `owner`, if there is one, and those that
    /// are abandoned or unproven are relevant.
    ///
    /// # Errors
    /// Code 5 when the directory cannot be read.
    pub fn for_allocation(store: &Store, owner: Option<&Owner>, boot: &Boot) -> Result<Self> {
        let boot_id = boot.is_known.then(|| boot.machine.boot_id());
        Self::without_abandoned(store, boot_id, owner, boot)
    }

    /// As [`Self::for_allocation`], from the files and not from the index.
    ///
    /// # Errors
    /// Code 5 when the directory cannot be read.
    pub fn of_files_for_allocation(
        store: &Store,
        owner: Option<&Owner>,
        boot: &Boot,
    ) -> Result<Self> {
        Self::without_abandoned(store, None, owner, boot)
    }

    /// The reservations of `owner`, of any boot.
    ///
    /// # Errors
    /// Code 5 when the directory cannot be read.
    pub fn of_owner(store: &Store, owner: &Owner) -> Result<Self> {
        // Without /proc the index is not used; that is the only effect.
        let boot_id = boot_id().ok();
        let may_be_of = |r: &Reservation| r.may_be_of(owner);
        let mut survey = Self::read(store, boot_id.as_deref(), Some(owner), may_be_of)?;
        survey.relevant = owned_by(survey.relevant, owner);
        Ok(survey)
    }

    /// The reservations from all files, and which of them are relevant.
    ///
    /// # Errors
    /// Code 5 when the directory cannot be read.
    pub fn of_files(store: &Store, is_relevant: impl Fn(&Reservation) -> bool) -> Result<Self> {
        Self::read(store, None, None, is_relevant)
    }

    fn without_abandoned(
        store: &Store,
        boot_id: Option<&str>,
        owner: Option<&Owner>,
        boot: &Boot,
    ) -> Result<Self> {
        let may_be_of = |r: &Reservation| owner.is_some_and(|owner| r.may_be_of(owner));
        let is_relevant =
            |r: &Reservation| may_be_of(r) || boot.classify(r) != Classification::InUse;
        let mut survey = Self::read(store, boot_id, owner, is_relevant)?;
        let all = mem::take(&mut survey.relevant).into_iter();
        let (abandoned, relevant) =
            all.partition(|r| boot.classify(r) == Classification::Abandoned);
        survey.relevant = relevant;
        survey.end(abandoned);
        Ok(survey)
    }

    /// Reads the index of this boot for `owner`, or else all files.
    fn read(
        store: &Store,
        boot_id: Option<&str>,
        owner: Option<&Owner>,
        is_relevant: impl Fn(&Reservation) -> bool,
    ) -> Result<Self> {
        let mut index = Index::open(store.directory(), boot_id);
        let mut relevant = index.find(owner, |is_known| read_all(store.directory(), is_known))?;
        let found = relevant.iter().map(|reservation| reservation.address);
        let taken = index.taken().unwrap_or_else(|| found.collect());
        let duplicates = duplicates_of(&relevant);
        let unreadable = relevant.iter().filter_map(unreadable).collect();
        let is_readable = |r: &Reservation| !matches!(r.holder, Holder::Unreadable(_));
        relevant.retain(|r| is_readable(r) && is_relevant(r));
        relevant.sort_unstable_by(|a, b| a.path.as_os_str().cmp(b.path.as_os_str()));
        Ok(Self {
            relevant,
            taken,
            ended: Vec::new(),
            made: Vec::new(),
            unreadable,
            duplicates,
            index,
        })
    }

    /// The reservations of which it is unknown in which boot they were made.
    pub fn unproven(&self, boot: &Boot) -> Vec<&Reservation> {
        let relevant = self.relevant.iter();
        relevant
            .filter(|r| boot.classify(r) == Classification::Unproven)
            .collect()
    }

    /// Whether each reservation of an earlier boot could be recognised, and is among the ended.
    pub fn has_examined_all(&self, boot: &Boot) -> bool {
        use Classification::{Abandoned, Unexamined};
        let mut relevant = self.relevant.iter();
        self.unreadable.is_empty()
            && relevant.all(|r| !matches!(boot.classify(r), Abandoned | Unexamined))
    }

    /// Makes sure that every file could be read that may be relevant.
    ///
    /// # Errors
    /// Code 5 naming the first file that could not be read.
    pub fn require_readable(&self) -> Result<()> {
        let Some((_, error)) = self.unreadable.first() else {
            return Ok(());
        };
        let mut error = error.clone();
        match self.unreadable.len() {
            1 => {}
            count => error.msg += &format!(" and {} other files", count - 1),
        }
        Err(error)
    }

    /// Leaves out, and logs, the files that could not be read, unless `may_be_relevant` is true
    /// for their addresses.
    pub fn pass_over_unreadable(&mut self, may_be_relevant: impl Fn(IpAddr) -> bool) {
        let address = |path: &Path| parse_address(path.file_name()?.to_str()?).ok();
        let all = mem::take(&mut self.unreadable).into_iter();
        let (relevant, others): (Vec<_>, Vec<_>) =
            all.partition(|(path, _)| address(path).is_none_or(&may_be_relevant));
        self.unreadable = relevant;
        others.iter().for_each(|(_, error)| say!("{error}"));
    }

    /// Removes these from the taken addresses. An address with two files is taken until both
    /// have ended.
    pub fn end(&mut self, ended: Vec<Reservation>) {
        for Reservation { address, .. } in &ended {
            match self.duplicates.iter().position(|other| other == address) {
                Some(at) => drop(self.duplicates.swap_remove(at)),
                None => self.taken.remove(*address),
            }
        }
        self.ended.extend(ended);
    }

    /// Whether the taken addresses are certain: they are from the files, or the names of the
    /// files agree with the index.
    pub fn is_certain(&self, store: &Store) -> bool {
        if !self.index.is_believed() {
            return true;
        }
        let addresses = names(store.directory()).map(|names| {
            let names = names.filter_map(Result::ok);
            let addresses = names.filter_map(|name| parse_address(&name).ok());
            addresses.collect::<Taken>()
        });
        addresses.is_ok_and(|taken| taken == self.taken)
    }

    /// Whether a command that has failed with this error would also fail without the index.
    pub fn is_final(&self, store: &Store, error: &Error) -> bool {
        match error.code {
            // The index may have filled the disk.
            ErrorCode::IO => index::discard(store.directory()).is_err(),
            _ => self.is_certain(store),
        }
    }

    /// Releases the relevant reservations, as many as possible.
    ///
    /// # Errors
    /// Code 5 naming the files that cannot be removed, or may be relevant and cannot be read.
    pub fn release(mut self, store: &Store) -> Result<()> {
        let mut errors = Errors::default();
        errors.keep(self.require_readable());
        for reservation in mem::take(&mut self.relevant) {
            if errors.keep(store.release(&reservation)).is_some() {
                self.ended.push(reservation);
            }
        }
        self.save_index();
        errors.into_result()
    }

    /// Writes an index with the changes of the command.
    pub fn save_index(self) {
        // If that fails, the next command reads the files, which is slower; a full disk must
        // not make the command fail.
        self.index.save(&self.made, &self.ended).ok();
    }
}

/// Every reservation in `directory`; none when it is missing. No lock is taken: a file that
/// is being written has no holder yet.
///
/// # Errors
/// Code 5 naming the directory that cannot be read.
pub fn reservations(directory: &Path) -> Result<Vec<Reservation>> {
    match read_all(directory, &mut |_| false) {
        Err(error) if error.errno() == Some(ENOENT) => Ok(Vec::new()),
        all => all,
    }
}

/// The reservations in `directory` but for those in files with names that `is_known` accepts.
fn read_all(directory: &Path, is_known: &mut dyn FnMut(&str) -> bool) -> Result<Vec<Reservation>> {
    let unknown = names(directory)?.filter(|name| !name.as_ref().is_ok_and(|name| is_known(name)));
    let read = unknown.map(|name| Ok(Reservation::read(directory, &name?)));
    read.filter_map(Result::transpose).collect()
}

/// The file and the error of a reservation that could not be read.
fn unreadable(reservation: &Reservation) -> Option<(PathBuf, Error)> {
    match &reservation.holder {
        Holder::Unreadable(error) => Some((reservation.path.clone(), error.clone())),
        Holder::Owner(_) | Holder::Nobody | Holder::Unknown(_) => None,
    }
}

/// The address of each file after the first one of the same address.
fn duplicates_of(all: &[Reservation]) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = all.iter().map(|reservation| reservation.address).collect();
    addresses.sort_unstable();
    let pairs = addresses.windows(2);
    pairs
        .filter_map(|pair| match pair {
            [one, other] if one == other => Some(*one),
            _ => None,
        })
        .collect()
}

/// The names in `directory` that are valid UTF-8.
fn names(directory: &Path) -> Result<impl Iterator<Item = Result<String>>> {
    let failed = move |cause| Error::io(format!("failed to list {directory:?}"), &cause);
    let entries = fs::read_dir(directory).map_err(failed)?;
    let names = entries.map(move |entry| Ok(entry.map_err(failed)?.file_name().into_string()));
    // Other names are not addresses.
    Ok(names.filter_map(|name: Result<_>| name.map(Result::ok).transpose()))
}
