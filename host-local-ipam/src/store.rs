//! The directory of one network: a file for each reserved address, the last reserved
//! addresses, and the lock. Its format is that of the Go plugin, which may write to the
//! same directory. Other data is in dot-files, which the Go plugin ignores.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::error::{Error, ErrorCode, Result};
use common::files::file::{self, FILE_MODE};
use common::files::lock::Lock;
use common::say;
use nix::libc;

use crate::allocator::Choice;
use crate::atomic;
use crate::form;
use crate::names::{LAST_RESERVED, LOCK, SMALL};
use crate::reservation::{Applicant, Holder, Reservation};

/// How long a command waits for the lock. It is held for milliseconds; the kubelet gives
/// up after minutes.
const LOCK_DEADLINE: Duration = Duration::from_secs(30);
/// The flags for opening a file of the store: a symbolic link is not followed, and a FIFO
/// does not block.
pub const OWN_FILE: i32 = libc::O_NOFOLLOW | libc::O_NONBLOCK;

/// The directory of a network, locked until this value is dropped.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    /// Only held. `None` only from [`Store::peek`].
    _lock: Option<Lock>,
}

impl Store {
    /// Opens the store in `directory` to reserve addresses. It is created if it is missing.
    ///
    /// # Errors
    /// Code 5 naming the path, 7 when the directory has other files, 11 when the lock is
    /// not free at the deadline.
    pub fn create(directory: &Path) -> Result<Self> {
        if let Some(store) = Self::lock_existing(directory)? {
            return Ok(store);
        }
        file::create_directory(directory)
            .map_err(|cause| Error::io(format!("failed to create {directory:?}"), &cause))?;
        form::require_own(directory)?;
        let lock = Lock::take(&directory.join(LOCK), LOCK_DEADLINE)?;
        Ok(Self::of(directory, Some(lock)))
    }

    /// Opens the store in `directory` to release addresses; `None` when it is missing. What
    /// is not a directory, or has other files, is not changed and counts as missing: nothing
    /// can be reserved there, and an error would make the runtime repeat the DEL for ever.
    ///
    /// # Errors
    /// Code 5 naming the path, 11 when the lock is not free at the deadline.
    pub fn open(directory: &Path) -> Result<Option<Self>> {
        match Self::lock_existing(directory) {
            Ok(None) if is_directory(directory)? => {}
            Err(error) if error.errno() == Some(libc::ENOTDIR) => {
                say!("nothing is reserved there: {error}");
                return Ok(None);
            }
            store => return store,
        }
        match form::require_own(directory) {
            Ok(()) => Self::lock_to_release(directory),
            Err(error) if error.code == ErrorCode::NETWORK_CONFIG => {
                say!("nothing is reserved there: {error}");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Opens the store in `directory` without writing; `None` when it is missing. Without
    /// a lock file it is not locked, because no plugin has reserved an address yet.
    ///
    /// # Errors
    /// Those of [`Store::create`].
    pub fn peek(directory: &Path) -> Result<Option<Self>> {
        match Self::lock_existing(directory)? {
            None if is_directory(directory)? => Ok(Some(Self::of(directory, None))),
            store => Ok(store),
        }
    }

    /// The store in `directory`, locked by its existing lock file; `None` when that is
    /// missing.
    fn lock_existing(directory: &Path) -> Result<Option<Self>> {
        let lock = Lock::take_existing(&directory.join(LOCK), LOCK_DEADLINE)?;
        Ok(lock.map(|lock| Self::of(directory, Some(lock))))
    }

    /// The store in `directory`, which has no lock file; `None` when the directory was removed
    /// meanwhile.
    fn lock_to_release(directory: &Path) -> Result<Option<Self>> {
        match Lock::take_to_remove(&directory.join(LOCK), LOCK_DEADLINE) {
            Ok(lock) => Ok(Some(Self::of(directory, Some(lock)))),
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn of(directory: &Path, lock: Option<Lock>) -> Self {
        Self {
            directory: directory.to_owned(),
            _lock: lock,
        }
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Removes reservations that are not used any more.
    ///
    /// # Errors
    /// Code 5 naming the file. The next command finds the reservations again.
    pub fn reclaim(&self, abandoned: &[Reservation]) -> Result<()> {
        abandoned.iter().try_for_each(|one| self.release(one))
    }

    /// The last reserved address of each of the first `sets` range sets. It only
    /// determines where the search begins, so a file that cannot be read is treated as
    /// missing.
    ///
    /// # Errors
    /// Code 5 naming the file, when host-local cannot have written its content, because
    /// it would be overwritten.
    pub fn last_reserved(&self, sets: usize) -> Result<Vec<Option<IpAddr>>> {
        let read = |set| {
            let path = self.last_reserved_path(set);
            match file::read_regular(&path, SMALL) {
                Ok(content) => form::last_reserved(&path, &content),
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(cause) if cause.kind() == io::ErrorKind::InvalidData => {
                    Err(form::foreign_file(&path).because(&cause))
                }
                Err(cause) => {
                    say!("Error retrieving last reserved ip: {path:?}: {cause}");
                    Ok(None)
                }
            }
        };
        (0..sets).map(read).collect()
    }

    /// Reserves one address of every range set for `applicant`: all of them or none.
    ///
    /// # Errors
    /// Code 5 naming the file, 11 when a process that does not use the lock has reserved
    /// an address meanwhile.
    pub fn reserve(
        &self,
        applicant: &Applicant,
        choices: &[Choice<'_>],
    ) -> Result<Vec<Reservation>> {
        let mut reserved = Vec::new();
        let outcome = self.reserve_each(applicant, choices, &mut reserved);
        if let Err(error) = outcome {
            for Reservation { path, .. } in reserved {
                if let Err(cause) = fs::remove_file(&path) {
                    say!("undoing the reservation {path:?}: {cause}");
                }
            }
            return Err(error);
        }
        Ok(reserved)
    }

    fn reserve_each(
        &self,
        applicant: &Applicant,
        choices: &[Choice<'_>],
        reserved: &mut Vec<Reservation>,
    ) -> Result<()> {
        let content = applicant.owner.content();
        let remember = |file: &File| applicant.container.remember(file);
        for Choice { address, .. } in choices {
            let path = self.directory.join(address.to_string());
            atomic::create(&path, content.as_bytes(), remember).map_err(|cause| {
                let code = match cause.kind() {
                    io::ErrorKind::AlreadyExists => ErrorCode::TRY_AGAIN,
                    _ => ErrorCode::IO,
                };
                Error::new(code, format!("failed to reserve {path:?}")).because(&cause)
            })?;
            reserved.push(Reservation {
                address: *address,
                holder: Holder::Owner(applicant.owner.clone()),
                path,
            });
        }
        for (set, Choice { address, .. }) in choices.iter().enumerate() {
            let path = self.last_reserved_path(set);
            write_in_place(&path, address.to_string().as_bytes())
                .map_err(|cause| Error::io(format!("failed to write {path:?}"), &cause))?;
        }
        Ok(())
    }

    /// Releases an address; a missing file is success.
    ///
    /// # Errors
    /// Code 5 naming the file, also when it is not a file of host-local.
    pub fn release(&self, reservation: &Reservation) -> Result<()> {
        let path = &reservation.path;
        match &reservation.holder {
            Holder::Owner(_) | Holder::Nobody => {}
            Holder::Unknown(why) => return Err(reservation.not_a_reservation(why)),
            Holder::Unreadable(error) => return Err(error.clone()),
        }
        match fs::remove_file(path) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                Err(Error::io(format!("failed to release {path:?}"), &cause))
            }
            _ => Ok(()),
        }
    }

    fn last_reserved_path(&self, set: usize) -> PathBuf {
        self.directory.join(format!("{LAST_RESERVED}{set}"))
    }
}

/// Waits until every process has ended its work that has the lock of the network's `directory` at
/// this moment, for `deadline` at most. A directory without a lock has none.
///
/// # Errors
/// Code 5 naming the file, 11 when the lock is not free at the deadline.
pub fn await_lock(directory: &Path, deadline: Duration) -> Result<()> {
    Lock::take_existing(&directory.join(LOCK), deadline).map(drop)
}

/// Whether there is a directory at this path.
///
/// # Errors
/// Code 5 naming the path, when that is not known.
pub fn is_directory(path: &Path) -> Result<bool> {
    match fs::metadata(path) {
        Ok(found) => Ok(found.is_dir()),
        Err(cause) if file::is_missing(&cause) => Ok(false),
        Err(cause) => Err(Error::io(format!("failed to examine {path:?}"), &cause)),
    }
}

/// Overwrites a small file without truncating it first, because that would cost more than
/// the rest of an allocation. After a crash the file may have a mixture of both contents;
/// that is only where the next search begins.
fn write_in_place(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(FILE_MODE)
        .custom_flags(OWN_FILE)
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let written = file.write_all(content);
    if written.is_err() && metadata.len() == 0 {
        fs::remove_file(path)?;
    }
    written?;
    let length = content.len() as u64;
    if metadata.len() > length {
        file.set_len(length)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_in_place_removes_the_rest_of_a_longer_content() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        for content in ["10.0.0.2", "10.0.0.100", "10.0.0.3"] {
            write_in_place(&path, content.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
    }
}
