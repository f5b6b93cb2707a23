//! The device-info file, from which Multus shows the device in the pod's network-status.
//! Source: Device Information Specification of the Kubernetes network plumbing group,
//! version 1.1.0. An existing file is not changed: a device plugin that has written it
//! has more information.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use common::error::{Error, Result};
use common::files::file;
use serde_json::json;

use crate::device::Device;

/// The version of the specification that the document follows.
const VERSION: &str = "1.1.0";
/// The mode of the file: all users may read it, and no user may change it.
const FILE_MODE: u32 = 0o444;
/// The mode of its directories, if they are created.
const DIRECTORY_MODE: u32 = 0o755;
/// The maximum size in bytes. A document is far smaller, so a larger file is not ours.
const LIMIT: u64 = 4096;

/// The device with the path of the file that ADD will write. It writes one if the device
/// has a PCI address and the file does not exist.
pub fn plan(device: Device, path: Option<&str>) -> Device {
    match path {
        Some(path) if !device.pci_id.is_empty() && fs::symlink_metadata(path).is_err() => Device {
            device_info_file: path.to_owned(),
            ..device
        },
        _ => device,
    }
}

/// Writes the recorded file atomically.
///
/// # Errors
/// Code 5 naming the file.
pub fn write(device: &Device) -> Result<()> {
    if device.device_info_file.is_empty() {
        return Ok(());
    }
    let path = Path::new(&device.device_info_file);
    publish(path, &document(device))
        .map_err(|cause| Error::io(format!("failed to write device info file {path:?}"), &cause))
}

/// Removes the recorded file, if it is the one that ADD has written.
///
/// # Errors
/// Code 5 naming the file.
pub fn remove(device: &Device) -> Result<()> {
    if device.device_info_file.is_empty() {
        return Ok(());
    }
    let path = Path::new(&device.device_info_file);
    let removed = match file::read_regular(path, LIMIT) {
        Ok(content) if content == document(device).into_bytes() => file::remove(path),
        // A temporary file of a killed ADD is removed in any case.
        _ => file::remove_temporary(path),
    };
    removed.map_err(|cause| {
        Error::io(
            format!("failed to remove device info file {path:?}"),
            &cause,
        )
    })
}

fn document(device: &Device) -> String {
    let pci = json!({"pci-address": device.pci_id});
    json!({"type": "pci", "version": VERSION, "pci": pci}).to_string()
}

/// Writes `content` to `path`, unless the file exists meanwhile.
fn publish(path: &Path, content: &str) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(DIRECTORY_MODE)
            .create(parent)?;
    }
    let temporary = file::temporary_name(path);
    file::remove_temporary(path)?;
    let published = write_new(&temporary, content).and_then(|()| fs::hard_link(&temporary, path));
    file::remove_temporary(path)?;
    match published {
        Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        outcome => outcome,
    }
}

fn write_new(path: &Path, content: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(path)?;
    // The umask of the runtime must not remove the permission to read.
    file.set_permissions(Permissions::from_mode(FILE_MODE))?;
    file.write_all(content.as_bytes())
}
