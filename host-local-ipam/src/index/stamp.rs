//! The stamp of a directory, which shows whether the directory has changed since the
//! index was written.
//!
//! The kernel's clock for file times advances in steps of milliseconds, so a change of
//! the directory just after ours could leave its times unchanged. Therefore the stamp has
//! times that the kernel never sets: every change of a directory makes its mtime and
//! ctime equal, and the stamp makes them differ.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

/// How far in the past the mtime of the stamp is: more than the resolution of the times
/// on any file system.
const BEFORE: Duration = Duration::from_secs(3);

/// A directory at one moment: its inode, its mtime, which programs can set, and its
/// ctime, which they cannot set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    inode: u64,
    modified: [u64; 2],
    changed: [u64; 2],
}

impl Stamp {
    /// Words of a stamp.
    pub(crate) const WORDS: usize = 5;

    /// The present stamp of `directory`.
    ///
    /// # Errors
    /// Those of `stat(2)`.
    pub(crate) fn of(directory: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(directory)?;
        let words =
            |seconds: i64, nanoseconds: i64| [seconds.cast_unsigned(), nanoseconds.cast_unsigned()];
        Ok(Self {
            inode: metadata.ino(),
            modified: words(metadata.mtime(), metadata.mtime_nsec()),
            changed: words(metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// Sets a stamp of `directory` that is valid until the next change.
    ///
    /// # Errors
    /// Those of `utimensat(2)` and `stat(2)`; `Unsupported` when the file system does
    /// not keep the time.
    pub(crate) fn set(directory: &Path) -> io::Result<Self> {
        let before = SystemTime::now() - BEFORE;
        let since = before.duration_since(SystemTime::UNIX_EPOCH);
        let modified = TimeSpec::from_duration(since.map_err(io::Error::other)?);
        let follow = UtimensatFlags::FollowSymlink;
        utimensat(
            AT_FDCWD,
            directory,
            &TimeSpec::UTIME_OMIT,
            &modified,
            follow,
        )?;
        let stamp = Self::of(directory)?;
        if stamp.modified == stamp.changed {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(stamp)
    }

    /// The stamp of these words.
    pub(crate) fn parse([inode, m, n, c, d]: [u64; Self::WORDS]) -> Self {
        Self {
            inode,
            modified: [m, n],
            changed: [c, d],
        }
    }

    /// The words for the file.
    pub(crate) fn words(self) -> [u64; Self::WORDS] {
        let ([m, n], [c, d]) = (self.modified, self.changed);
        [self.inode, m, n, c, d]
    }
}
