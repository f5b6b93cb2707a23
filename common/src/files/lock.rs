//! Locks between processes, on whole files and on single bytes of a file. No other module
//! locks files. The kernel releases a lock when its file is closed, so also when its holder
//! is killed.
//!
//! flock(2) and fcntl(2) wait without a deadline, and only a signal ends such a wait. The
//! functions here try again after a pause instead. So a wait ends at its deadline and
//! leaves no thread behind, which matters in a daemon.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::error::{Error, ErrorCode, Result};
use crate::files::file::FILE_MODE;
use crate::files::in_place::has_no_room;

/// The first pause between two tries.
const FIRST_PAUSE: Duration = Duration::from_micros(50);
/// The longest pause of a short wait, for locks that are held for milliseconds.
const SHORT_PAUSE: Duration = Duration::from_millis(1);
/// The longest pause of all: each waiting process tries fifty times in a second.
const LONG_PAUSE: Duration = Duration::from_millis(20);

/// A lock on a file, held until this value is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Whether other processes may hold the lock at the same time.
#[derive(Clone, Copy)]
pub enum Sharing {
    /// Others may hold it too, if they take it shared.
    Shared,
    /// No other process may hold it.
    Alone,
}

impl Lock {
    /// Locks the file `path`, which is created if it is missing. Waits for another holder
    /// for `deadline` at most.
    ///
    /// # Errors
    /// Code 5 naming the file, 11 when the lock is not free after `deadline`.
    pub fn take(path: &Path, deadline: Duration) -> Result<Self> {
        let file = open(path, libc::O_CREAT).map_err(|cause| unopened(path, &cause))?;
        Self::of(file, path, deadline)
    }

    /// As [`Lock::take`], for a process that only removes files beside `path`. If the file is
    /// missing and cannot be created, because the disk is full or read-only, the directory is
    /// locked instead: what makes room must not need any. So such processes exclude each other.
    /// A process that has to create files cannot have the lock before there is room.
    ///
    /// # Errors
    /// As for [`Lock::take`].
    pub fn take_to_remove(path: &Path, deadline: Duration) -> Result<Self> {
        let cause = match open(path, libc::O_CREAT) {
            Ok(file) => return Self::of(file, path, deadline),
            Err(cause) => cause,
        };
        let is_refused = has_no_room(&cause) || cause.kind() == io::ErrorKind::ReadOnlyFilesystem;
        let directory = path.with_file_name(".");
        let lock = match is_refused {
            true => Self::take_existing(&directory, deadline)?,
            false => None,
        };
        let lock = lock.ok_or_else(|| unopened(path, &cause))?;
        // During the wait another process may have had room.
        Ok(Self::take_existing(path, deadline)?.unwrap_or(lock))
    }

    /// As [`Lock::take`], but does not create the file: `None` when it is missing or its
    /// name is too long. The file system may be read-only.
    ///
    /// # Errors
    /// As for [`Lock::take`].
    pub fn take_existing(path: &Path, deadline: Duration) -> Result<Option<Self>> {
        use io::ErrorKind::{InvalidFilename, NotFound};
        match open(path, 0) {
            Ok(file) => Self::of(file, path, deadline).map(Some),
            Err(cause) if matches!(cause.kind(), NotFound | InvalidFilename) => Ok(None),
            Err(cause) => Err(unopened(path, &cause)),
        }
    }

    /// Locks the whole of `file`, which was opened at `path`.
    #[expect(clippy::disallowed_methods, reason = "this is the module that locks")]
    fn of(file: File, path: &Path, deadline: Duration) -> Result<Self> {
        let try_once = || match fs2::FileExt::try_lock_exclusive(&file) {
            Ok(()) => Ok(true),
            Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(cause) => Err(cause),
        };
        wait(&format!("the lock {path:?}"), deadline, try_once)?;
        Ok(Self { _file: file })
    }
}

/// Whether a process holds the lock `path`. Calls of this function at the same moment do
/// not affect each other.
#[expect(clippy::disallowed_methods, reason = "this is the module that locks")]
pub fn is_held(path: &Path) -> bool {
    let held = io::ErrorKind::WouldBlock;
    // A file that cannot be opened cannot be locked either.
    open(path, 0).is_ok_and(|file| {
        fs2::FileExt::try_lock_shared(&file).is_err_and(|cause| cause.kind() == held)
    })
}

/// Locks one byte of `file`, at `offset`, until the file is closed. `what` describes the
/// lock in messages.
///
/// # Errors
/// Code 5 naming `what`, 11 when it is not free in time.
#[expect(clippy::disallowed_methods, reason = "this is the module that locks")]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the kernel's constants are 0 and 1; its structure is older than they are"
)]
pub fn lock_byte(
    file: &File,
    offset: i64,
    sharing: Sharing,
    what: &str,
    deadline: Duration,
) -> Result<()> {
    let kind = match sharing {
        Sharing::Shared => libc::F_RDLCK,
        Sharing::Alone => libc::F_WRLCK,
    };
    let byte = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: offset,
        l_len: 1,
        l_pid: 0,
    };
    let try_once = || match fcntl(file, FcntlArg::F_OFD_SETLK(&byte)) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(errno) => Err(errno.into()),
    };
    wait(what, deadline, try_once)
}

/// Opens the file of a lock for reading, which is enough to lock it. A symbolic link is not
/// followed, and a FIFO does not block.
fn open(path: &Path, flags: i32) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .mode(FILE_MODE)
        .custom_flags(flags | libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
}

fn unopened(path: &Path, cause: &io::Error) -> Error {
    Error::io(format!("failed to open {path:?}"), cause)
}

/// Calls `try_once` until it returns true, for `deadline` at most. It tries to take a lock
/// that another process may hold.
///
/// # Errors
/// Code 5 naming `what`, 11 when it is not free in time.
fn wait(
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

/// The pause after a wait of this length. It is a small part of the wait, so it does not
/// make it much longer, and a process that has waited for a second needs almost no CPU
/// time.
fn pause(waited: Duration) -> Duration {
    let short = (waited / 16).clamp(FIRST_PAUSE, SHORT_PAUSE);
    short.max((waited / 256).min(LONG_PAUSE))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(30);

    #[test]
    fn a_lock_that_is_not_released_in_time_is_code_11_and_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let held = Lock::take(&path, DEADLINE).unwrap();
        let error = Lock::take(&path, Duration::from_millis(20)).unwrap_err();
        assert_eq!(error.code, ErrorCode::TRY_AGAIN);
        assert!(error.msg.contains(path.to_str().unwrap()), "{error}");
        drop(held);
        Lock::take(&path, DEADLINE).unwrap();
    }

    #[test]
    fn a_wait_that_has_ended_leaves_no_thread() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let _held = Lock::take(&path, DEADLINE).unwrap();
        let waiting = thread::Builder::new().name("waits".into());
        let waiting = waiting.spawn(move || {
            Lock::take(&path, Duration::from_millis(20)).unwrap_err();
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
    fn a_missing_lock_file_is_created_by_take_but_not_by_take_existing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        assert!(Lock::take_existing(&path, DEADLINE).unwrap().is_none());
        assert!(!path.exists());
        drop(Lock::take(&path, DEADLINE).unwrap());
        let _held = Lock::take_existing(&path, DEADLINE).unwrap().unwrap();
        Lock::take(&path, Duration::ZERO).unwrap_err();
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "this is the module that locks")]
    fn a_process_that_asks_whether_a_lock_is_held_does_not_count_as_its_holder() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        assert!(!is_held(&path));
        let held = Lock::take(&path, DEADLINE).unwrap();
        assert!(is_held(&path));
        drop(held);
        let asking = open(&path, 0).unwrap();
        fs2::FileExt::try_lock_shared(&asking).unwrap();
        assert!(!is_held(&path));
    }

    #[test]
    fn a_byte_is_locked_shared_or_alone_and_other_bytes_stay_free() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("turns");
        let open = || {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            options.open(&path).unwrap()
        };
        let [first, second, third] = [open(), open(), open()];
        let lock =
            |file: &File, offset, sharing| lock_byte(file, offset, sharing, "it", Duration::ZERO);
        lock(&first, 7, Sharing::Shared).unwrap();
        lock(&second, 7, Sharing::Shared).unwrap();
        let error = lock(&third, 7, Sharing::Alone).unwrap_err();
        assert_eq!(error.code, ErrorCode::TRY_AGAIN);
        lock(&third, 8, Sharing::Alone).unwrap();
        drop((first, second));
        lock(&third, 7, Sharing::Alone).unwrap();
    }

    #[test]
    fn a_lock_that_is_released_in_time_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let held = Lock::take(&path, DEADLINE).unwrap();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| Lock::take(&path, DEADLINE));
            drop(held);
            waiting.join().unwrap().unwrap();
        });
    }
}
