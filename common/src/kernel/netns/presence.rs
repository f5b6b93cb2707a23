//! Whether a namespace still exists. Three answers, because "cannot be looked at" is
//! not "does not exist": what is done for a namespace that has ended cannot be undone.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::libc;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::holders::{Holders, sees_all_processes, was_kept_by_a_process};
use crate::error::{Error, ErrorCode, Result};

/// What the kernel calls a network namespace where it names one.
pub(super) const KIND: &str = "net:[";
/// More symbolic links than the kernel follows.
const LINKS: usize = 40;
/// The place of a process' start time among the words of its `stat`, behind its name.
/// Source: proc_pid_stat(5), field 22.
const START_TIME: usize = 19;

/// Nanoseconds of a second.
const NANOSECONDS: i64 = 1_000_000_000;
/// Clock ticks of a second, as `/proc` counts them. Source: `USER_HZ` of Linux.
const TICKS: i64 = 100;

/// Which namespace a path led to, to recognise later whether it still does. The kernel
/// gives the number of a namespace that has ended to the next one. What it never gives
/// again is the time at which it made the inode, as long as a mount or a descriptor
/// keeps that, and the time at which a process has started. Nobody can change either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetNsId {
    /// The device of the namespace file system.
    pub device: u64,
    /// The inode, as shown by `ls -l /proc/self/ns/net`.
    pub inode: u64,
    /// When the inode was made, in nanoseconds since 1970, if the path was a mount or a
    /// descriptor. Records of earlier versions do not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<i64>,
    /// The process that the path named. Records of earlier versions do not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessId>,
}

/// A process, which is another one than that of the same number later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessId {
    /// Its number, in the view of `/proc` that the path led through.
    pub pid: u32,
    /// When it started, in clock ticks since the boot.
    pub started: u64,
}

/// Whether a namespace exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It exists.
    Living,
    /// It has ended, for certain.
    Ended,
    /// It cannot be told from here, because of this. Whatever the namespace may have
    /// must not be given to others.
    Unknown(Error),
}

/// Where a path leads that once led to a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// To that namespace.
    Same,
    /// To another one, or to something else.
    Other,
    /// Nowhere.
    Missing,
    /// Nowhere, or to something else than a namespace, in a view of the file system that
    /// need not be the one in which it is a namespace.
    Hidden,
}

impl NetNsId {
    /// The identity of what `path` has led to, of which `metadata` is.
    pub(crate) fn of(metadata: &fs::Metadata, path: &Path) -> Self {
        let process = directory_of_process(path);
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            // The kernel makes it anew whenever somebody looks at a process' namespace.
            made: process.is_none().then(|| made(metadata)),
            process: process.and_then(|directory| ProcessId::of(&directory)),
        }
    }

    /// Whether both are the same namespace, by all that is known of both.
    pub fn is_same(&self, other: &Self) -> bool {
        let is_same_process = match (self.process, other.process) {
            (Some(one), Some(other)) if one.pid == other.pid => one == other,
            _ => true,
        };
        let is_same_inode = match (self.made, other.made) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        };
        self.has_number_of(other) && is_same_process && is_same_inode
    }

    fn has_number_of(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    /// Whether the namespace exists, and `path` leads to it.
    ///
    /// # Errors
    /// Code 8 when that cannot be told.
    pub fn is_at(&self, path: &str) -> Result<bool> {
        match look(path, *self) {
            Ok(Found::Same) => Ok(true),
            Ok(Found::Other | Found::Missing) => Ok(false),
            Ok(Found::Hidden) => Err(hidden(path)),
            Err(error) => Err(error),
        }
    }

    /// Whether the namespace exists, which `path` led to. Where the path leads elsewhere,
    /// it has ended if nothing on the node holds it.
    pub fn presence(&self, path: &str, holders: &Holders) -> Presence {
        let found = match look(path, *self) {
            Ok(found) => found,
            Err(error) => return Presence::Unknown(error),
        };
        match found {
            Found::Same => Presence::Living,
            Found::Hidden => Presence::Unknown(hidden(path)),
            Found::Other | Found::Missing => holders.presence(self, path),
        }
    }
}

impl ProcessId {
    /// When it started, in nanoseconds since 1970; at the end of that clock tick, since a
    /// runtime makes a namespace and starts the first process in it one after the other.
    /// Nothing when the clocks cannot be read. Of a clock that was set since then nobody knows.
    pub(super) fn started_at(self) -> Option<i64> {
        let nanoseconds = |clock: ClockId| {
            let time = clock_gettime(clock).ok()?;
            time.tv_sec()
                .checked_mul(NANOSECONDS)?
                .checked_add(time.tv_nsec())
        };
        // In this order a pause between the two makes the process older than it is.
        let now = nanoseconds(ClockId::CLOCK_REALTIME)?;
        let up = nanoseconds(ClockId::CLOCK_BOOTTIME)?;
        let started = i64::try_from(self.started).ok()?;
        let started = started.checked_add(1)?.checked_mul(NANOSECONDS / TICKS)?;
        now.checked_sub(up)?.checked_add(started)
    }

    /// The process of a directory such as `/proc/1`.
    pub(super) fn of(directory: &Path) -> Option<Self> {
        // A process that has ended meanwhile has no such file: nothing is known of it then.
        let text = fs::read_to_string(directory.join("stat")).ok()?;
        let pid = text.split_whitespace().next()?.parse().ok()?;
        // The name, which the process chooses, ends with the last bracket.
        let (_, words) = text.rsplit_once(')')?;
        let started = words.split_whitespace().nth(START_TIME)?.parse().ok()?;
        Some(Self { pid, started })
    }
}

impl Presence {
    /// Whether it exists, for who can do nothing without an answer.
    ///
    /// # Errors
    /// Why it cannot be told.
    pub fn is_living(self) -> Result<bool> {
        match self {
            Self::Living => Ok(true),
            Self::Ended => Ok(false),
            Self::Unknown(error) => Err(error),
        }
    }

    /// Whether it has ended for certain.
    pub fn has_ended(&self) -> bool {
        *self == Self::Ended
    }
}

/// Where `path` leads, which led to `id`.
///
/// # Errors
/// Code 8 when that cannot be told.
pub(crate) fn look(path: &str, id: NetNsId) -> Result<Found> {
    let at = Path::new(path);
    // Of a process that is ending the kernel says once that it is not permitted to look.
    let found = fs::metadata(at).or_else(|_| fs::metadata(at));
    let outcome = match found {
        Ok(found) => recognise(at, &found, id),
        Err(cause) if leads_nowhere(&cause) => missing(at),
        Err(cause) => Err(cause),
    };
    outcome.map_err(|cause| {
        let msg = format!("failed to examine netns {path:?}");
        Error::new(ErrorCode::NETNS, msg).because(&cause)
    })
}

fn recognise(path: &Path, found: &fs::Metadata, id: NetNsId) -> io::Result<Found> {
    if is_recognised(path, found, id)? {
        return Ok(Found::Same);
    }
    // What a process has open is the same in every view.
    Ok(
        match found.dev() == id.device || path.starts_with("/proc") {
            true => Found::Other,
            false => Found::Hidden,
        },
    )
}

/// Whether what `path` has led to, of which `found` is, is the namespace `id`. One that was
/// mounted anew, when only processes were in it, has another inode than it had.
pub(super) fn is_recognised(path: &Path, found: &fs::Metadata, id: NetNsId) -> io::Result<bool> {
    let now = NetNsId::of(found, path);
    if now.is_same(&id) {
        return Ok(true);
    }
    match (id.made, now.made) {
        (Some(_), Some(made)) if now.has_number_of(&id) => was_kept_by_a_process(&id, made),
        _ => Ok(false),
    }
}

/// What it means that nothing is at `path`: there is nothing, or this process sees
/// another directory or other processes than who has told of the path.
fn missing(path: &Path) -> io::Result<Found> {
    let is_seen = match path.starts_with("/proc") {
        true => sees_all_processes()?,
        false => match path.parent().map(fs::metadata) {
            Some(Ok(parent)) => parent.is_dir(),
            Some(Err(cause)) if !leads_nowhere(&cause) => return Err(cause),
            _ => false,
        },
    };
    Ok(match is_seen {
        true => Found::Missing,
        false => Found::Hidden,
    })
}

/// The error about a path at which this process sees no namespace, and others may.
pub(crate) fn hidden(path: &str) -> Error {
    let msg = format!("netns {path:?} is not visible to this process");
    Error::new(ErrorCode::NETNS, msg).with_details(
        "it may see other mounts than the runtime of the containers: restart it, and if \
         findmnt finds no mount at the path on the node, remove what is there",
    )
}

/// Whether an error says for certain that a path leads to nothing.
pub(crate) fn leads_nowhere(cause: &io::Error) -> bool {
    matches!(
        cause.raw_os_error(),
        Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::ENAMETOOLONG | libc::ESRCH)
    ) || cause.kind() == io::ErrorKind::InvalidInput
}

/// When an inode of the namespace file system was made: nobody can change it later.
pub(super) fn made(metadata: &fs::Metadata) -> i64 {
    time(metadata.ctime(), metadata.ctime_nsec())
}

/// A time of the kernel in nanoseconds.
pub(super) fn time(seconds: i64, nanoseconds: i64) -> i64 {
    let seconds = seconds.saturating_mul(NANOSECONDS);
    seconds.saturating_add(nanoseconds)
}

/// Whether two inodes are one at this moment.
pub(super) fn has_numbers_of(one: &fs::Metadata, other: &fs::Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// The directory of the process whose namespace `path` names, if it names one so:
/// itself, as `/proc/1/ns/net`, or by a symbolic link.
fn directory_of_process(path: &Path) -> Option<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        // What is not a symbolic link is where a namespace is mounted.
        let target = fs::read_link(&path).ok()?;
        if target
            .as_os_str()
            .as_encoded_bytes()
            .starts_with(KIND.as_bytes())
        {
            let parent = path.parent()?;
            // The other place is the directory of a process' descriptors.
            return parent.ends_with("ns").then(|| parent.with_file_name(""));
        }
        path = path.parent()?.join(target);
    }
    None
}
