//! Whether a namespace still exists. There are three answers, because "cannot be examined" does
//! not mean "does not exist", and what is done after the end of a namespace cannot be undone.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::libc;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::holders::{Holders, was_kept_by_a_process};
use super::search::sees_all_processes;
use super::{NetNs, Nsid};
use crate::error::{Error, ErrorCode, Result};

/// The start of the kernel's name of a network namespace, such as `net:[4026531840]`.
pub(super) const KIND: &str = "net:[";
/// More symbolic links than the kernel follows.
const LINKS: usize = 40;
/// The index of the start time among the words of a process' `stat` after its name. Source:
/// proc_pid_stat(5), field 22.
const START_TIME: usize = 19;

/// Nanoseconds in a second.
const NANOSECONDS: i64 = 1_000_000_000;
/// Clock ticks in a second, as `/proc` counts them. Source: `USER_HZ` of Linux.
const TICKS: i64 = 100;

/// Identifies the namespace that a path led to, to recognise later whether it still does. The
/// inode is not enough: the kernel gives the inode number of a namespace that has ended to the
/// next one. The cookie is never used again, but older kernels do not tell it. Two times are never
/// reused and cannot be changed: the time at which the kernel made the inode, which is kept while
/// it is mounted or open, and the start time of a process.
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
    /// The number that the kernel gives to no other namespace until the next boot. Records of
    /// earlier versions do not have it, nor do those of kernels before 5.14.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<u64>,
    /// Its number in the namespace of the node, by which the kernel tells whether it has ended.
    /// Records of earlier versions do not have it, nor do those of kernels before 5.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nsid: Option<Nsid>,
}

/// Identifies a process, also after its pid was assigned to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessId {
    /// Its pid, in the `/proc` that the path led through.
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
    /// This process cannot determine it, because of this error. Addresses and devices that the
    /// namespace may have must not be given to others.
    Unknown(Error),
}

/// Where a path leads that led to a namespace earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// To that namespace.
    Same,
    /// To another namespace, or to another file.
    Other,
    /// Nowhere.
    Missing,
    /// It is missing or another file, but this process may have a different view of the file
    /// system than the process that has given the path.
    Hidden,
}

impl NetNsId {
    /// The identity of the namespace at `path`, which has this metadata.
    pub(crate) fn of(metadata: &fs::Metadata, path: &Path) -> Self {
        let process = directory_of_process(path);
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            // The inode of a process' namespace is made again whenever a process examines it.
            made: process.is_none().then(|| made(metadata)),
            process: process.and_then(|directory| ProcessId::of(&directory)),
            cookie: None,
            nsid: None,
        }
    }

    /// Whether both are the same namespace, by all properties that both have.
    pub fn is_same(&self, other: &Self) -> bool {
        if let (Some(one), Some(another)) = (self.cookie, other.cookie) {
            return one == another && self.has_number_of(other);
        }
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

    /// Whether both are the same namespace, without any doubt: the cookie, the inode or the process
    /// is.
    pub fn is_certainly(&self, other: &Self) -> bool {
        if let (Some(one), Some(another)) = (self.cookie, other.cookie) {
            return one == another && self.has_number_of(other);
        }
        let is_same_inode = self.made.is_some() && self.made == other.made;
        let is_same_process = self.process.is_some() && self.process == other.process;
        self.has_number_of(other) && (is_same_inode || is_same_process)
    }

    /// Whether the kernel says that it has ended, which it tells every process of the node.
    pub fn is_gone(&self) -> bool {
        matches!(self.is_taken(), Ok(Some(false)))
    }

    /// Whether a namespace has its number now. `None` when the kernel does not tell.
    ///
    /// # Errors
    /// Code 11 when the kernel cannot be asked now.
    pub(super) fn is_taken(&self) -> Result<Option<bool>> {
        let Some(nsid) = self.nsid else {
            return Ok(None);
        };
        nsid.is_taken().map_err(|cause| {
            let msg = format!(
                "failed to ask for the netns with the number {}",
                nsid.number
            );
            Error::new(ErrorCode::TRY_AGAIN, msg).because(&cause)
        })
    }

    /// Whether the namespace exists, and `path` leads to it.
    ///
    /// # Errors
    /// Code 8 when that cannot be determined.
    pub fn is_at(&self, path: &str) -> Result<bool> {
        match look(path, *self) {
            Ok(Found::Same) => Ok(true),
            Ok(Found::Other | Found::Missing) => Ok(false),
            Ok(Found::Hidden) | Err(_) if self.is_gone() => Ok(false),
            Ok(Found::Hidden) => Err(hidden(path)),
            Err(error) => Err(error),
        }
    }

    /// Whether the namespace exists. `path` led to it. If the path leads elsewhere now, the
    /// namespace has ended if nothing on the node keeps it alive.
    pub fn presence(&self, path: &str, holders: &Holders) -> Presence {
        match look(path, *self) {
            Ok(Found::Same) => Presence::Living,
            Ok(Found::Other | Found::Missing) => holders.presence(self, path),
            Ok(Found::Hidden) | Err(_) if self.is_gone() => Presence::Ended,
            Ok(Found::Hidden) => Presence::Unknown(hidden(path)),
            Err(error) => Presence::Unknown(error),
        }
    }
}

impl ProcessId {
    /// Whether it has certainly started after an inode was made, which the kernel says was at
    /// `made`, in nanoseconds since 1970. Both times are exact to a clock tick only: the kernel
    /// shows the start of the tick in which the process started, and the time of an inode is
    /// that of the last tick before. The answer is wrong if the clock was set between the two.
    pub(super) fn is_younger_than(self, made: i64) -> bool {
        self.earliest_start() > Some(made)
    }

    /// `None` when the clocks cannot be read.
    fn earliest_start(self) -> Option<i64> {
        let nanoseconds = |clock: ClockId| {
            let time = clock_gettime(clock).ok()?;
            time.tv_sec()
                .checked_mul(NANOSECONDS)?
                .checked_add(time.tv_nsec())
        };
        // In this order, a delay between the two calls makes the process seem older, not
        // younger.
        let now = nanoseconds(ClockId::CLOCK_REALTIME)?;
        let up = nanoseconds(ClockId::CLOCK_BOOTTIME)?;
        let started = i64::try_from(self.started).ok()?;
        let started = started.checked_sub(1)?.checked_mul(NANOSECONDS / TICKS)?;
        now.checked_sub(up)?.checked_add(started)
    }

    /// The process of a directory such as `/proc/1`.
    pub(super) fn of(directory: &Path) -> Option<Self> {
        // The file is missing if the process has ended meanwhile.
        let text = fs::read_to_string(directory.join("stat")).ok()?;
        let pid = text.split_whitespace().next()?.parse().ok()?;
        // The process chooses its name, which can have brackets; it ends at the last one.
        let (_, words) = text.rsplit_once(')')?;
        let started = words.split_whitespace().nth(START_TIME)?.parse().ok()?;
        Some(Self { pid, started })
    }
}

impl Presence {
    /// Whether it exists, for callers that need an answer.
    ///
    /// # Errors
    /// The reason why that is unknown.
    pub fn is_living(self) -> Result<bool> {
        match self {
            Self::Living => Ok(true),
            Self::Ended => Ok(false),
            Self::Unknown(error) => Err(error),
        }
    }

    /// Whether it has certainly ended.
    pub fn has_ended(&self) -> bool {
        *self == Self::Ended
    }
}

/// Where `path` leads now, which led to `id` earlier.
///
/// # Errors
/// Code 8 when that cannot be told.
pub(crate) fn look(path: &str, id: NetNsId) -> Result<Found> {
    let at = Path::new(path);
    // For a process that is ending the kernel reports a missing permission once.
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
    let cookie = || NetNs::open(path.to_str()?).ok()?.cookie();
    if is_recognised((path, found), id, cookie)? {
        return Ok(Found::Same);
    }
    // `/proc` shows the namespaces of processes independent of mounts.
    Ok(
        match found.dev() == id.device || path.starts_with("/proc") {
            true => Found::Other,
            false => Found::Hidden,
        },
    )
}

/// Whether the file at a path, which has this metadata and `cookie` as a namespace, is the namespace
/// `id`. A namespace that was mounted again, after only processes kept it, has another inode than
/// before.
pub(super) fn is_recognised(
    (path, found): (&Path, &fs::Metadata),
    id: NetNsId,
    cookie: impl FnOnce() -> Option<u64>,
) -> io::Result<bool> {
    let now = NetNsId::of(found, path);
    if !now.has_number_of(&id) || now.is_certainly(&id) {
        return Ok(now.has_number_of(&id));
    }
    let cookies = id.cookie.and_then(|known| Some((known, cookie()?)));
    match (cookies, id.made, now.made) {
        (Some((known, cookie)), ..) => Ok(known == cookie),
        (None, Some(_), Some(made)) if !now.is_same(&id) => was_kept_by_a_process(&id, made),
        _ => Ok(now.is_same(&id)),
    }
}

/// Classifies a path that leads nowhere: it is missing, or this process sees another directory
/// or other processes than the one that has given the path.
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

/// The error for a path at which this process sees no namespace, but others may.
pub(crate) fn hidden(path: &str) -> Error {
    let msg = format!("netns {path:?} is not visible to this process");
    Error::new(ErrorCode::NETNS, msg).with_details(
        "it may see other mounts than the runtime of the containers: restart it, and if \
         findmnt finds no mount at the path on the node, remove what is there",
    )
}

/// Whether an error means that a path certainly leads nowhere.
pub(crate) fn leads_nowhere(cause: &io::Error) -> bool {
    matches!(
        cause.raw_os_error(),
        Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::ENAMETOOLONG | libc::ESRCH)
    ) || cause.kind() == io::ErrorKind::InvalidInput
}

/// When an inode of the namespace file system was made, in nanoseconds since 1970. It cannot be
/// changed later.
pub(super) fn made(metadata: &fs::Metadata) -> i64 {
    time(metadata.ctime(), metadata.ctime_nsec())
}

/// A time of the kernel in nanoseconds.
pub(super) fn time(seconds: i64, nanoseconds: i64) -> i64 {
    let seconds = seconds.saturating_mul(NANOSECONDS);
    seconds.saturating_add(nanoseconds)
}

/// Whether both have the same device and inode number.
pub(super) fn has_numbers_of(one: &fs::Metadata, other: &fs::Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// The directory of the process whose namespace `path` leads to, directly as `/proc/1/ns/net`
/// or by a symbolic link. `None` when it leads to a mount or a descriptor.
fn directory_of_process(path: &Path) -> Option<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        // A path that is not a symbolic link is a mount.
        let target = fs::read_link(&path).ok()?;
        if target
            .as_os_str()
            .as_encoded_bytes()
            .starts_with(KIND.as_bytes())
        {
            let parent = path.parent()?;
            // Otherwise it is in the directory of a process' descriptors.
            return parent.ends_with("ns").then(|| parent.with_file_name(""));
        }
        path = path.parent()?.join(target);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::process::Command;

    /// Its clock tick can be that of the inode.
    #[test]
    fn a_process_is_younger_than_an_inode_only_if_that_is_certain() {
        let directory = tempfile::tempdir().unwrap();
        for round in 0..50 {
            let mut process = Command::new("sleep").arg("60").spawn().unwrap();
            let id = ProcessId::of(&PathBuf::from(format!("/proc/{}", process.id()))).unwrap();
            let file = directory.path().join(round.to_string());
            fs::write(&file, "").unwrap();
            let made = made(&fs::metadata(&file).unwrap());
            process.kill().unwrap();
            process.wait().unwrap();
            assert!(!id.is_younger_than(made), "round {round}");
            assert!(id.is_younger_than(made - NANOSECONDS), "round {round}");
        }
    }
}
