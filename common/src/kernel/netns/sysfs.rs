//! The interfaces of a network namespace as sysfs shows them to who is inside. Nothing is
//! mounted anywhere for that, and nobody else sees it.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::libc::ENODEV;
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use super::{NetNs, leads_nowhere};
use crate::error::{Error, ErrorCode, Result};
use crate::files::file::read_parameter;

/// How often the interfaces are looked through while a container renames them.
const PASSES: usize = 20;

/// Which interface has a number in sysfs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbered {
    /// The one with this index.
    Index(u32),
    /// None in this namespace.
    Nowhere,
    /// The kernel, older than 5.2, or a filter of system calls does not allow to look.
    Unknown,
}

impl NetNs {
    /// Finds the interface that has this number in sysfs. `indexes` are those that can have it,
    /// according to netlink: each of them is looked at, also while the container renames it. An
    /// interface keeps the number for its life, whatever its name and wherever it is, and nobody
    /// can choose it. Source: `kernfs_rename_ns` of Linux.
    ///
    /// # Errors
    /// Code 8 when the namespace cannot be entered, 11 when sysfs cannot be read or does not show
    /// all of `indexes`: the namespace may have the interface.
    pub fn find_sysfs_number(&self, number: u64, indexes: &[u32]) -> Result<Numbered> {
        self.run(|| {
            find(number, indexes).map_err(|cause| {
                let msg = format!("failed to read the sysfs of netns {:?}", self.path());
                Error::new(ErrorCode::TRY_AGAIN, msg).because(&cause)
            })
        })
    }
}

/// The same in the namespace of the calling thread.
fn find(number: u64, indexes: &[u32]) -> io::Result<Numbered> {
    let sysfs = match open() {
        Err(Errno::NOSYS | Errno::PERM) => return Ok(Numbered::Unknown),
        opened => opened?,
    };
    let root = PathBuf::from(format!("/proc/thread-self/fd/{}", sysfs.as_raw_fd()));
    let mut unseen: HashSet<u32> = indexes.iter().copied().collect();
    for _ in 0..PASSES {
        for entry in fs::read_dir(root.join("class/net"))? {
            let Some((found, index)) = look_at(&entry?.path())? else {
                continue;
            };
            if found == number {
                return Ok(Numbered::Index(index));
            }
            unseen.remove(&index);
        }
        if unseen.is_empty() {
            return Ok(Numbered::Nowhere);
        }
    }
    Err(io::Error::other(format!(
        "it does not show interface {unseen:?}, which may be renamed all the time"
    )))
}

/// The number and the index of an interface; `None` if it has ended, or has another name by now.
fn look_at(interface: &Path) -> io::Result<Option<(u64, u32)>> {
    // Open, so that both are of one interface.
    let opened = File::open(interface).and_then(|directory| {
        let inside = PathBuf::from(format!("/proc/thread-self/fd/{}", directory.as_raw_fd()));
        let index = read_parameter(&inside.join("ifindex"))?;
        let index = index.parse().map_err(io::Error::other)?;
        Ok((directory.metadata()?.ino(), index))
    });
    match opened {
        Err(cause) if leads_nowhere(&cause) || cause.raw_os_error() == Some(ENODEV) => Ok(None),
        opened => opened.map(Some),
    }
}

/// A sysfs of the thread's namespace.
fn open() -> std::result::Result<OwnedFd, Errno> {
    let context = fsopen("sysfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(context.as_fd())?;
    let read_only = MountAttrFlags::MOUNT_ATTR_RDONLY;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, read_only)
}
