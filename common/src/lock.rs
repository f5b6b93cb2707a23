//! Locks between processes. The kernel releases one when its file is closed, so also
//! when its holder is killed.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::libc;

use crate::error::{Error, ErrorCode, Result};
use crate::file::FILE_MODE;

/// A lock on a file, held until this value is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock `path`, which is created where it is missing, waiting for its
    /// holder at most until `deadline`.
    ///
    /// # Errors
    /// Code 5 naming the file, 11 when the lock is not to be had in time.
    pub fn take(path: &Path, deadline: Duration) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .mode(FILE_MODE)
            .custom_flags(libc::O_CREAT | libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)
            .map_err(|cause| Error::io(format!("failed to open {path:?}"), &cause))?;
        let file = lock_exclusively(file, path, deadline)?;
        Ok(Self { _file: file })
    }
}

/// Locks `file`, which was opened at `path`, waiting for its holder at most until
/// `deadline`.
///
/// # Errors
/// Code 5 naming the file, 11 when the lock is not to be had in time.
pub fn lock_exclusively(file: File, path: &Path, deadline: Duration) -> Result<File> {
    match fs2::FileExt::try_lock_exclusive(&file) {
        Ok(()) => return Ok(file),
        Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {}
        Err(cause) => return Err(Error::io(format!("failed to lock {path:?}"), &cause)),
    }
    wait(&format!("the lock {path:?}"), deadline, move || {
        fs2::FileExt::lock_exclusive(&file).map(|()| file)
    })
}

/// Waits until `take`, which blocks, has got what another process holds, at most until
/// `deadline`.
///
/// # Errors
/// Code 5 naming `what`, 11 when it is not to be had in time.
pub(crate) fn wait<T: Send + 'static>(
    what: &str,
    deadline: Duration,
    take: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T> {
    // The kernel's locks have no deadline. A thread that waits in vain ends with this
    // process, which is about to report the error.
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        // Nobody listens any more after the deadline, and the lock is given up then.
        sender.send(take()).ok();
    });
    match receiver.recv_timeout(deadline) {
        Ok(taken) => taken.map_err(|cause| Error::io(format!("failed to take {what}"), &cause)),
        Err(_) => {
            let msg = format!("timed out waiting for {what}");
            let details = format!("another process has held it for {deadline:?}");
            Err(Error::new(ErrorCode::TRY_AGAIN, msg).with_details(details))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(30);

    fn open(path: &Path) -> File {
        File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .unwrap()
    }

    #[test]
    fn a_lock_that_is_not_released_in_time_is_code_11_and_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let held = lock_exclusively(open(&path), &path, DEADLINE).unwrap();
        let error = lock_exclusively(open(&path), &path, Duration::from_millis(20)).unwrap_err();
        assert_eq!(error.code, ErrorCode::TRY_AGAIN);
        assert!(error.msg.contains(path.to_str().unwrap()), "{error}");
        drop(held);
        lock_exclusively(open(&path), &path, DEADLINE).unwrap();
    }

    #[test]
    fn a_lock_that_is_released_in_time_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let held = lock_exclusively(open(&path), &path, DEADLINE).unwrap();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| lock_exclusively(open(&path), &path, DEADLINE));
            drop(held);
            waiting.join().unwrap().unwrap();
        });
    }
}
