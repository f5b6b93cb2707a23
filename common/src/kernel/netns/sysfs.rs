//! The interfaces of a network namespace as sysfs shows them to who is inside. Nothing is
//! mounted anywhere for that, and nobody else sees it.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use super::{NetNs, leads_nowhere};
use crate::error::{Error, ErrorCode, Result};
use crate::files::file::read_parameter;

impl NetNs {
    /// The index of the interface that has this number in sysfs; nothing where the namespace
    /// does not have it. An interface keeps the number for its life, whatever it is called and
    /// wherever it is, and nobody can choose it. Source: `kernfs_rename_ns` of Linux.
    ///
    /// # Errors
    /// Code 8 when the namespace cannot be entered, 11 when sysfs cannot be read: the namespace
    /// may have the interface.
    pub fn index_of_sysfs_number(&self, number: u64) -> Result<Option<u32>> {
        self.run(|| {
            find(number).map_err(|cause| {
                let msg = format!("failed to read the sysfs of netns {:?}", self.path());
                Error::new(ErrorCode::TRY_AGAIN, msg).because(&cause)
            })
        })
    }
}

/// The same in the namespace of the calling thread.
fn find(number: u64) -> io::Result<Option<u32>> {
    let sysfs = open()?;
    let root = PathBuf::from(format!("/proc/thread-self/fd/{}", sysfs.as_raw_fd()));
    for entry in fs::read_dir(root.join("class/net"))? {
        let interface = entry?.path();
        match fs::metadata(&interface) {
            Ok(found) if found.ino() == number => {
                let index = read_parameter(&interface.join("ifindex"))?;
                return index.parse().map(Some).map_err(io::Error::other);
            }
            // It has ended, or has another name by now; that is for the next command.
            Err(cause) if !leads_nowhere(&cause) => return Err(cause),
            _ => {}
        }
    }
    Ok(None)
}

/// A sysfs of the thread's namespace.
fn open() -> io::Result<OwnedFd> {
    let context = fsopen("sysfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(context.as_fd())?;
    let read_only = MountAttrFlags::MOUNT_ATTR_RDONLY;
    Ok(fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        read_only,
    )?)
}
