//! The lock of a network's directory, which the Go plugin takes as well.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use common::error::{Error, Result};
use common::file::FILE_MODE;
use common::lock::lock_exclusively;

use crate::store::OWN_FILE;

pub const LOCK: &str = "lock";
/// How long a command waits for the lock. Holders need milliseconds; the kubelet
/// gives up after minutes.
const LOCK_DEADLINE: Duration = Duration::from_secs(30);

/// The locked lock of `directory`; nothing when it is missing and `flags` do not
/// create it. It is opened for reading, so that a read-only file system is no obstacle
/// to those who only look.
///
/// # Errors
/// Code 5 naming the path, 11 when the lock is not to be had.
pub fn take(directory: &Path, flags: i32) -> Result<Option<File>> {
    use io::ErrorKind::{InvalidFilename, NotFound};

    let path = directory.join(LOCK);
    let lock = OpenOptions::new()
        .read(true)
        .mode(FILE_MODE)
        .custom_flags(flags | OWN_FILE)
        .open(&path);
    match lock {
        Ok(lock) => lock_exclusively(lock, &path, LOCK_DEADLINE).map(Some),
        // Where the name of the network is too long, there is no directory either.
        Err(cause) if matches!(cause.kind(), NotFound | InvalidFilename) => Ok(None),
        Err(cause) => Err(Error::io(format!("failed to open {path:?}"), &cause)),
    }
}
