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
use rustix::net::netdevice::index_to_name;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

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

    /// The number in sysfs of the interface of this namespace that has this index. Of two interfaces
    /// the one that was made later has the higher number, wherever it was made, except that the
    /// numbers of a kernel before 5.5 have 32 bits and begin again. Source: `__kernfs_new_node` of
    /// Linux. `None` as for [`sysfs_number`].
    ///
    /// # Errors
    /// As for [`Self::find_sysfs_number`].
    pub fn sysfs_number_of(&self, index: u32) -> Result<Option<u64>> {
        self.run(|| searched(index))
    }
}

/// The number in sysfs of the interface of this namespace that has this index. `directory` is where
/// it probably is; another process may rename the interface at this moment. `None` when there is no
/// such interface, or when the kernel, older than 5.2, or a filter of system calls does not allow to
/// look for it under other names.
///
/// # Errors
/// Code 5 when `directory` cannot be read, else as for [`NetNs::find_sysfs_number`].
pub fn sysfs_number(directory: &Path, index: u32) -> Result<Option<u64>> {
    let found = look_at(directory)
        .map_err(|cause| Error::io(format!("failed to examine {directory:?}"), &cause))?;
    if let Some((number, _)) = found.filter(|(_, of)| *of == index) {
        return Ok(Some(number));
    }
    searched(index)
}

/// As [`sysfs_number`] in the namespace of the calling thread, by a sysfs of its own.
fn searched(index: u32) -> Result<Option<u64>> {
    let found = opened().and_then(|sysfs| match sysfs {
        Some(sysfs) => search(&sysfs, &[index], |(_, of)| of == index),
        None => Ok(None),
    });
    let found = found.map_err(|cause| {
        let msg = format!("failed to find interface {index} in sysfs");
        Error::new(ErrorCode::TRY_AGAIN, msg).because(&cause)
    })?;
    Ok(found.map(|(number, _)| number))
}

/// As [`NetNs::find_sysfs_number`] in the namespace of the calling thread.
fn find(number: u64, indexes: &[u32]) -> io::Result<Numbered> {
    let Some(sysfs) = opened()? else {
        return Ok(Numbered::Unknown);
    };
    let found = search(&sysfs, indexes, |(of, _)| of == number)?;
    Ok(found.map_or(Numbered::Nowhere, |(_, index)| Numbered::Index(index)))
}

/// Looks at the interfaces of a sysfs until one is `wanted` by its number and its index, or all of
/// `indexes` were seen, or do not exist any more.
fn search(
    sysfs: &OwnedFd,
    indexes: &[u32],
    wanted: impl Fn((u64, u32)) -> bool,
) -> io::Result<Option<(u64, u32)>> {
    let root = PathBuf::from(format!("/proc/thread-self/fd/{}", sysfs.as_raw_fd()));
    let mut unseen: HashSet<u32> = indexes.iter().copied().collect();
    for _ in 0..PASSES {
        for entry in fs::read_dir(root.join("class/net"))? {
            let Some(found) = look_at(&entry?.path())? else {
                continue;
            };
            if wanted(found) {
                return Ok(Some(found));
            }
            unseen.remove(&found.1);
        }
        if unseen.is_empty() {
            return Ok(None);
        }
        remove_ended(&mut unseen)?;
    }
    match unseen.is_empty() {
        true => Ok(None),
        false => Err(io::Error::other(format!(
            "it does not show interface {unseen:?}, which may be renamed all the time"
        ))),
    }
}

/// Removes the indexes that no interface of the thread's namespace has.
fn remove_ended(indexes: &mut HashSet<u32>) -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    for index in indexes.clone() {
        match index_to_name(&socket, index) {
            Err(Errno::NODEV) => drop(indexes.remove(&index)),
            named => drop(named?),
        }
    }
    Ok(())
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

/// A sysfs of the thread's namespace; `None` where the system does not allow that.
fn opened() -> io::Result<Option<OwnedFd>> {
    match open() {
        Err(Errno::NOSYS | Errno::PERM) => Ok(None),
        opened => Ok(opened.map(Some)?),
    }
}

fn open() -> std::result::Result<OwnedFd, Errno> {
    let context = fsopen("sysfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(context.as_fd())?;
    let read_only = MountAttrFlags::MOUNT_ATTR_RDONLY;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, read_only)
}
