//! Locks between processes. The kernel releases one when its file is closed, so also
//! when its holder is killed.
//!
//! flock(2) and fcntl(2) wait without a deadline, and nothing but a signal ends such a
//! wait. Whoever has to wait here tries again after a pause, so that a wait ends when its
//! time is over and leaves nothing behind, in a process that goes on for years too.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;

use crate::error::{Error, ErrorCode, Result};
use crate::file::FILE_MODE;

/// The first pause between two tries.
const FIRST_PAUSE: Duration = Duration::from_micros(50);
/// The longest pause for a lock that its holders have for milliseconds each.
const SHORT_PAUSE: Duration = Duration::from_millis(1);
/// The longest pause of all: fifty tries in a second, from each process that waits.
const LONG_PAUSE: Duration = Duration::from_millis(20);

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
    let try_once = || match fs2::FileExt::try_lock_exclusive(&file) {
        Ok(()) => Ok(true),
        Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(cause) => Err(cause),
    };
    wait(&format!("the lock {path:?}"), deadline, try_once)?;
    Ok(file)
}

/// Waits until `try_once`, which says whether it has got what another process may hold,
/// has got it, at most until `deadline`.
///
/// # Errors
/// Code 5 naming `what`, 11 when it is not to be had in time.
pub(crate) fn wait(
    what: &str,
    deadline: Duration,
    mut try_once: impl FnMut() -> io::Result<bool>,
) -> Result<()> {
    let start = Instant::now();
    loop {
        match try_once() {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
            Err(cause) => return Err(Error::io(format!("failed to take {what}"), &cause)),
        }
        let waited = start.elapsed();
        if waited >= deadline {
            let msg = format!("timed out waiting for {what}");
            let details = format!("another process has held it for {deadline:?}");
            return Err(Error::new(ErrorCode::TRY_AGAIN, msg).with_details(details));
        }
        thread::sleep(pause(waited).min(deadline - waited));
    }
}

/// The pause after so long a wait. It is a small part of what has been waited, so that
/// it makes no wait much longer, and those who have waited a second cost next to nothing.
fn pause(waited: Duration) -> Duration {
    let short = (waited / 16).clamp(FIRST_PAUSE, SHORT_PAUSE);
    short.max((waited / 256).min(LONG_PAUSE))
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
    fn a_wait_that_is_over_leaves_no_thread() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let _held = lock_exclusively(open(&path), &path, DEADLINE).unwrap();
        let waiting = thread::Builder::new().name("waits".into());
        let waiting = waiting.spawn(move || {
            lock_exclusively(open(&path), &path, Duration::from_millis(20)).unwrap_err();
            threads_named("waits")
        });
        // A thread inherits the name of the one that starts it.
        assert_eq!(waiting.unwrap().join().unwrap(), 1);
    }

    fn threads_named(name: &str) -> usize {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        let names = tasks.map(|task| std::fs::read_to_string(task.path().join("comm")));
        names.flatten().filter(|found| found.trim() == name).count()
    }

    #[test]
    fn pauses_begin_in_microseconds_and_stay_a_small_part_of_the_wait() {
        assert_eq!(pause(Duration::ZERO), FIRST_PAUSE);
        for milliseconds in [1, 10, 100, 1_000, 10_000, 100_000] {
            let waited = Duration::from_millis(milliseconds);
            assert!(pause(waited) <= waited / 16 && pause(waited) <= LONG_PAUSE);
        }
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
