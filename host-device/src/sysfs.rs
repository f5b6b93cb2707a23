//! Reads properties of a device from sysfs: its interfaces, its driver, its inode.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use common::error::{Error, Result};
use common::files::file::is_missing;
use common::kernel::netlink::Link;
use common::kernel::netns;

/// The directory with the network interfaces.
const INTERFACES: &str = "/sys/class/net";

/// The interfaces of the device in `directory`, or of the virtio device below it.
pub fn interfaces_in(directory: &Path) -> Result<Vec<String>> {
    let unreadable = |path: &Path, cause: &io::Error| {
        missing(&format!(
            "failed to read directory {:?}",
            path.display().to_string()
        ))
        .because(cause)
    };
    let net = directory.join("net");
    match list(&net) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
        outcome => return outcome.map_err(|cause| unreadable(&net, &cause)),
    }
    let children = list(directory).map_err(|cause| unreadable(directory, &cause))?;
    let mut virtio = children.iter().filter(|name| name.starts_with("virtio"));
    let net = virtio.find_map(|name| list(&directory.join(name).join("net")).ok());
    net.ok_or_else(|| {
        let path = directory.display().to_string();
        missing(&format!("no net directory under device {path:?}"))
    })
}

/// The names of the host's interfaces; none when sysfs is not mounted.
///
/// # Errors
/// Code 5 when sysfs cannot be read.
pub fn interfaces() -> Result<Vec<String>> {
    match list(Path::new(INTERFACES)) {
        Err(cause) if is_missing(&cause) => Ok(Vec::new()),
        outcome => {
            outcome.map_err(|cause| Error::io(format!("failed to list {INTERFACES:?}"), &cause))
        }
    }
}

/// The names in `directory`, sorted.
pub fn list(directory: &Path) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(directory)?;
    let names = entries.map(|e| e.map(|e| e.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<io::Result<Vec<String>>>()?;
    names.sort();
    Ok(names)
}

/// The name of the driver that the device in `directory` is bound to.
pub fn driver_of(directory: &Path) -> io::Result<String> {
    let target = fs::read_link(directory.join("driver"))?;
    let name = target.file_name().unwrap_or_default();
    Ok(name.to_string_lossy().into_owned())
}

/// The inode of an interface of the host in sysfs; `None` when it does not exist any more. It does
/// not change when the interface is renamed or moved, and cannot be chosen: an imitation has
/// another one. Source: `kernfs_rename_ns` of Linux.
///
/// # Errors
/// As for [`netns::sysfs_number`].
pub fn sysfs_number(link: &Link) -> Result<Option<u64>> {
    netns::sysfs_number(&Path::new(INTERFACES).join(&link.name), link.index)
}

/// The inode of the interface that has this name now; `None` when there is no such interface, or
/// when sysfs shows another namespace.
///
/// # Errors
/// Code 5 when sysfs cannot be read.
pub fn sysfs_number_at(name: &str) -> Result<Option<u64>> {
    let path = Path::new(INTERFACES).join(name);
    match fs::metadata(&path) {
        Ok(found) => Ok(Some(found.ino())),
        Err(cause) if is_missing(&cause) => Ok(None),
        Err(cause) => Err(Error::io(format!("failed to examine {path:?}"), &cause)),
    }
}

/// The error of the Go plugin for a missing device.
pub fn missing(why: &str) -> Error {
    not_one(why).not_found()
}

/// As [`missing`], for a device that exists but is ambiguous.
pub fn not_one(why: &str) -> Error {
    Error::internal(format!("failed to find host device: {why}"))
}
