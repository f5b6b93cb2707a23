//! The lock of a network's directory, which the Go plugin takes as well.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use common::error::{Error, ErrorCode, Result};
use common::file::FILE_MODE;

use crate::store::OWN_FILE;

const LOCK: &str = "lock";
/// How long a command waits for the lock. Holders need milliseconds; the kubelet
/// gives up after minutes.
const LOCK_DEADLINE: Duration = Duration::from_secs(30);

/// The locked lock of `directory`; nothing when it is missing and `flags` do not
/// create it. It is opened for reading, so that a read-only file system is no obstacle
/// to those who only look.
///
/// # Errors
/// Code 5 naming the path, 11 when the lock is not to be had.
pub(crate) fn take(directory: &Path, flags: i32) -> Result<Option<File>> {
    let path = directory.join(LOCK);
    let lock = OpenOptions::new()
        .read(true)
        .mode(FILE_MODE)
        .custom_flags(flags | OWN_FILE)
        .open(&path);
    match lock {
        Ok(lock) => lock_exclusively(lock, &path, LOCK_DEADLINE).map(Some),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(Error::io(format!("failed to open {path:?}"), &cause)),
    }
}

/// Takes the lock, waiting for its holder at most until `deadline`. The kernel
/// releases it when the file is closed, so also when its holder is killed.
fn lock_exclusively(lock: File, path: &Path, deadline: Duration) -> Result<File> {
    let failed = |cause: &io::Error| Error::io(format!("failed to lock {path:?}"), cause);
    match fs2::FileExt::try_lock_exclusive(&lock) {
        Ok(()) => return Ok(lock),
        Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {}
        Err(cause) => return Err(failed(&cause)),
    }
    // The kernel has no flock with a deadline. A thread that waits in vain ends with
    // this process, which is about to report the error.
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let locked = fs2::FileExt::lock_exclusive(&lock).map(|()| lock);
        // Nobody listens any more after the deadline, and the file is closed then.
        sender.send(locked).ok();
    });
    match receiver.recv_timeout(deadline) {
        Ok(locked) => locked.map_err(|cause| failed(&cause)),
        Err(_) => {
            let msg = format!("timed out waiting for the lock {path:?}");
            let details = format!("another process has held it for {deadline:?}");
            Err(Error::new(ErrorCode::TRY_AGAIN, msg).with_details(details))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let path = directory.path().join(LOCK);
        let held = lock_exclusively(open(&path), &path, LOCK_DEADLINE).unwrap();
        let error = lock_exclusively(open(&path), &path, Duration::from_millis(20)).unwrap_err();
        assert_eq!(error.code, ErrorCode::TRY_AGAIN);
        assert!(error.msg.contains(path.to_str().unwrap()), "{error}");
        drop(held);
        lock_exclusively(open(&path), &path, LOCK_DEADLINE).unwrap();
    }

    #[test]
    fn a_lock_that_is_released_in_time_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(LOCK);
        let held = lock_exclusively(open(&path), &path, LOCK_DEADLINE).unwrap();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| lock_exclusively(open(&path), &path, LOCK_DEADLINE));
            drop(held);
            waiting.join().unwrap().unwrap();
        });
    }
}
