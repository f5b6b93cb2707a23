//! The directory of one network: a file per reserved address, the address handed
//! out last, and the lock. Its format is that of the Go plugin, which may write to
//! the same directory; what only we need is in dot-files, which it ignores.

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
use crate::boot::Boot;
use crate::form;
use crate::names::{LAST_RESERVED, LOCK, SMALL};
use crate::reservation::{Applicant, Holder, Reservation};

/// How long a command waits for the lock. Holders need milliseconds; the kubelet
/// gives up after minutes.
const LOCK_DEADLINE: Duration = Duration::from_secs(30);
/// Nobody may make us open another file than ours, or wait for one.
pub const OWN_FILE: i32 = libc::O_NOFOLLOW | libc::O_NONBLOCK;

/// The directory of a network, locked until this value is dropped.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    /// Held, not used. Only [`Store::peek`] may find none.
    _lock: Option<Lock>,
}

impl Store {
    /// The store in `directory`, which is created where it is missing.
    ///
    /// # Errors
    /// Code 5 naming the path, 7 when it is a directory of others, 11 when the lock is not
    /// released in time.
    pub fn create(directory: &Path) -> Result<Self> {
        if let Some(store) = Self::open(directory)? {
            return Ok(store);
        }
        file::create_directory(directory)
            .map_err(|cause| Error::io(format!("failed to create {directory:?}"), &cause))?;
        form::require_own(directory)?;
        Self::lock(directory)?
            .ok_or_else(|| Error::internal(format!("{directory:?} was removed meanwhile")))
    }

    /// The store in `directory`, if there is one. Nothing is reserved in a directory of
    /// others, where nothing is changed.
    ///
    /// # Errors
    /// Code 5 naming the path, 11 when the lock is not released in time.
    pub fn open(directory: &Path) -> Result<Option<Self>> {
        let store = Self::lock_existing(directory)?;
        if store.is_some() || !directory.is_dir() {
            return Ok(store);
        }
        match form::require_own(directory) {
            Ok(()) => Self::lock(directory),
            Err(error) if error.code == ErrorCode::NETWORK_CONFIG => {
                say!("nothing is reserved there: {error}");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The store in `directory`, if there is one, without writing anything: where
    /// there is no lock yet, no plugin has ever reserved anything.
    ///
    /// # Errors
    /// Those of [`Store::create`].
    pub fn peek(directory: &Path) -> Result<Option<Self>> {
        let store = Self::lock_existing(directory)?;
        Ok(store.or_else(|| directory.is_dir().then(|| Self::of(directory, None))))
    }

    /// The store in `directory`, locked with a lock that is there.
    fn lock_existing(directory: &Path) -> Result<Option<Self>> {
        let lock = Lock::take_existing(&directory.join(LOCK), LOCK_DEADLINE)?;
        Ok(lock.map(|lock| Self::of(directory, Some(lock))))
    }

    /// The store in `directory`, locked; nothing when the directory was removed meanwhile.
    fn lock(directory: &Path) -> Result<Option<Self>> {
        match Lock::take(&directory.join(LOCK), LOCK_DEADLINE) {
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

    /// Removes what nobody holds any more.
    ///
    /// # Errors
    /// Code 5 naming the file. The next survey then finds the same again.
    pub fn reclaim(&self, abandoned: &[Reservation], boot: &Boot) -> Result<()> {
        for reservation in abandoned {
            self.release(reservation)?;
        }
        boot.write(&self.directory)
    }

    /// The address that each of the first `sets` range sets handed out last. It only
    /// says where to begin, so one that cannot be read is none.
    ///
    /// # Errors
    /// Code 5 naming the file, when no plugin can have written its content: it would be
    /// overwritten.
    pub fn last_reserved(&self, sets: usize) -> Result<Vec<Option<IpAddr>>> {
        let read = |set| {
            let path = self.last_reserved_path(set);
            match file::read_regular(&path, SMALL) {
                Ok(content) => form::last_reserved(&path, &content),
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(cause) if cause.kind() == io::ErrorKind::InvalidData => {
                    Err(form::is_foreign(&path).because(&cause))
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
    /// Code 5 naming the file, 11 when somebody who does not take the lock was faster.
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

    /// Releases an address. One that is free already is success.
    ///
    /// # Errors
    /// Code 5 naming the file, also when it is not a file of host-local.
    pub fn release(&self, reservation: &Reservation) -> Result<()> {
        let path = &reservation.path;
        if let Holder::Unknown(why) = &reservation.holder {
            return Err(reservation.is_broken(why));
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

/// Overwrites a small file without emptying it first: truncation costs more than all
/// the rest of an allocation. A reader may see a mixture after a crash, which is no
/// address or one to begin at like any other.
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
    fn writing_in_place_leaves_nothing_of_a_longer_content() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        for content in ["10.0.0.2", "10.0.0.100", "10.0.0.3"] {
            write_in_place(&path, content.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
    }
}
