//! What is reserved in a directory, as far as a command needs to know it: from the
//! index where there is one that agrees with the directory, else from every file.

use std::fs;
use std::mem;
use std::net::IpAddr;
use std::path::Path;

use common::address::parse_address;
use common::error::{Error, ErrorCode, Errors, Result};
use common::records::boot_id;
use nix::libc::ENOENT;

use crate::boot::{Boot, Verdict};
use crate::index::{self, Index};
use crate::reservation::{Owner, Reservation, owned_by};
use crate::store::Store;
use crate::taken::Taken;

/// The reservations of a network at one moment, and what the command does to them.
#[derive(Debug)]
pub struct Survey {
    /// Those that the command is about, in the order of the file names.
    pub relevant: Vec<Reservation>,
    /// The addresses that must not be handed out.
    pub taken: Taken,
    /// Those whose addresses are not taken any more.
    pub ended: Vec<Reservation>,
    /// Those that the command has made.
    pub made: Vec<Reservation>,
    /// The addresses of files that spell the address of another file in another way.
    twice: Vec<IpAddr>,
    index: Index,
}

impl Survey {
    /// What an allocation for `owner` has to respect, and what it need not; without
    /// an owner, what any allocation has to.
    ///
    /// # Errors
    /// Code 5 when the directory cannot be read.
    pub fn for_allocation(store: &Store, owner: Option<&Owner>, boot: &Boot) -> Result<Self> {
        let boot_id = boot.is_known.then(|| boot.machine.boot_id());
        Self::without_abandoned(store, boot_id, owner, boot)
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
        Self::without_abandoned(store, None, owner, boot)
    }

    /// What is `owner`'s, whenever it was reserved.
    ///
    /// # Errors
    /// Code 5 when the directory cannot be read.
    pub fn of_owner(store: &Store, owner: &Owner) -> Result<Self> {
        // Without /proc there is no index, and nothing else is lacking.
        let boot_id = boot_id().ok();
        let may_be_of = |r: &Reservation| r.may_be_of(owner);
        let mut survey = Self::read(store, boot_id.as_deref(), Some(owner), may_be_of)?;
        survey.relevant = owned_by(survey.relevant, owner);
        Ok(survey)
    }

    /// Every file, and those of them that are relevant.
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
        let is_relevant = |r: &Reservation| may_be_of(r) || boot.judge(r) != Verdict::InUse;
        let mut survey = Self::read(store, boot_id, owner, is_relevant)?;
        let all = mem::take(&mut survey.relevant).into_iter();
        let (abandoned, relevant) = all.partition(|r| boot.judge(r) == Verdict::Abandoned);
        survey.relevant = relevant;
        survey.end(abandoned);
        Ok(survey)
    }

    /// What the index of this boot says about `owner`, else what all files say.
    fn read(
        store: &Store,
        boot_id: Option<&str>,
        owner: Option<&Owner>,
        is_relevant: impl Fn(&Reservation) -> bool,
    ) -> Result<Self> {
        let mut index = Index::open(store.directory(), boot_id);
        let mut relevant = index.find(owner, || read_all(store.directory()))?;
        let found = relevant.iter().map(|reservation| reservation.address);
        let taken = index.taken().cloned().unwrap_or_else(|| found.collect());
        let twice = named_again(&relevant);
        relevant.retain(is_relevant);
        relevant.sort_unstable_by(|a, b| a.path.as_os_str().cmp(b.path.as_os_str()));
        Ok(Self {
            relevant,
            taken,
            ended: Vec::new(),
            made: Vec::new(),
            twice,
            index,
        })
    }

    /// Those that do not show in which boot they were made.
    pub fn unproven(&self, boot: &Boot) -> Vec<&Reservation> {
        let relevant = self.relevant.iter();
        relevant
            .filter(|r| boot.judge(r) == Verdict::Unproven)
            .collect()
    }

    /// Counts these as taken no longer. An address with two files is, until both have ended.
    pub fn end(&mut self, ended: Vec<Reservation>) {
        for Reservation { address, .. } in &ended {
            match self.twice.iter().position(|other| other == address) {
                Some(at) => drop(self.twice.swap_remove(at)),
                None => self.taken.remove(*address),
            }
        }
        self.ended.extend(ended);
    }

    /// Whether this is more than a hint: it comes from the files, or their names are
    /// all that the index says.
    pub fn is_certain(&self, store: &Store) -> bool {
        if self.index.taken().is_none() {
            return true;
        }
        let addresses = names(store.directory()).map(|names| {
            let names = names.filter_map(Result::ok);
            let addresses = names.filter_map(|name| parse_address(&name).ok());
            addresses.collect::<Taken>()
        });
        addresses.is_ok_and(|taken| taken == self.taken)
    }

    /// Whether a command that fails with this error would do so without the index.
    pub fn is_final(&self, store: &Store, error: &Error) -> bool {
        match error.code {
            // Perhaps it is the index that has filled the disk.
            ErrorCode::IO => index::discard(store.directory()).is_err(),
            _ => self.is_certain(store),
        }
    }

    /// Releases the relevant reservations, as many as possible.
    ///
    /// # Errors
    /// Code 5 naming the files that cannot be removed.
    pub fn release(mut self, store: &Store) -> Result<()> {
        let mut errors = Errors::default();
        for reservation in mem::take(&mut self.relevant) {
            if errors.keep(store.release(&reservation)).is_some() {
                self.ended.push(reservation);
            }
        }
        self.leave_index();
        errors.into_result()
    }

    /// Leaves an index behind that says what the command has made of the directory.
    pub fn leave_index(self) {
        // Where none can be left, the next command reads the files: slower, but a full
        // disk is no reason to fail.
        self.index.save(&self.made, &self.ended).ok();
    }
}

/// Every reservation in `directory`; none where there is no such directory. Nothing is
/// locked: what is being written names nobody yet.
///
/// # Errors
/// Code 5 naming the directory that cannot be read.
pub fn reservations(directory: &Path) -> Result<Vec<Reservation>> {
    match read_all(directory) {
        Err(error) if error.errno() == Some(ENOENT) => Ok(Vec::new()),
        all => all,
    }
}

fn read_all(directory: &Path) -> Result<Vec<Reservation>> {
    let read = names(directory)?.map(|name| Ok(Reservation::read(directory, &name?)));
    read.filter_map(Result::transpose).collect()
}

/// The address of each file but the first of an address.
fn named_again(all: &[Reservation]) -> Vec<IpAddr> {
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

/// The names in `directory` that are texts.
fn names(directory: &Path) -> Result<impl Iterator<Item = Result<String>>> {
    let failed = move |cause| Error::io(format!("failed to list {directory:?}"), &cause);
    let entries = fs::read_dir(directory).map_err(failed)?;
    let names = entries.map(move |entry| Ok(entry.map_err(failed)?.file_name().into_string()));
    // An address is a text, so other names are none.
    Ok(names.filter_map(|name: Result<_>| name.map(Result::ok).transpose()))
}
