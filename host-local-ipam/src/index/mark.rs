//! The mark of an address file, which shows whether it is still the file that was read.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, SystemTime};

use common::files::words::sum;
use nix::fcntl::AtFlags;
use nix::sys::stat::fstatat;

/// How long ago a file must have changed to have a mark: more than the resolution of the times on any
/// file system. A change just after another one could have the same time.
const SETTLED: Duration = Duration::from_secs(3);

/// The inode and the ctime of a file, as one number. Programs cannot set a ctime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark(u64);

impl Mark {
    /// That of a file which has to be read again in any case.
    pub(crate) const NONE: Self = Self(0);

    /// The mark of the file with this name in a directory.
    pub(crate) fn of(directory: &File, name: &Path) -> Self {
        let Ok(found) = fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) else {
            return Self::NONE;
        };
        let times = [found.st_ctime, found.st_ctime_nsec];
        let [seconds, nanoseconds] = times.map(i64::cast_unsigned);
        let changed = SystemTime::UNIX_EPOCH
            .checked_add(Duration::from_secs(seconds) + Duration::from_nanos(nanoseconds));
        let age = changed.and_then(|changed| SystemTime::now().duration_since(changed).ok());
        if age.is_none_or(|age| age <= SETTLED) {
            return Self::NONE;
        }
        Self(sum(found.st_ino, &[seconds, nanoseconds]).max(1))
    }

    /// Whether the file with this name is certainly still the one with this mark.
    pub(crate) fn is_of(self, directory: &File, name: &Path) -> bool {
        self != Self::NONE && self == Self::of(directory, name)
    }

    /// The mark of a word in the file of the index.
    pub(crate) fn parse(word: u64) -> Self {
        Self(word)
    }

    /// The word for the file of the index.
    pub(crate) fn word(self) -> u64 {
        self.0
    }
}
