//! The device-info file: what Multus reads to tell the pod, in its network-status,
//! which device it has. Source: Device Information Specification of the Kubernetes
//! network plumbing group, version 1.1.0. A device plugin that has written the file
//! knows more than we do, so an existing one is left alone.

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
/// The mode of the file: everybody may read it, and nobody is to change it.
const FILE_MODE: u32 = 0o444;
/// The mode of its directories where they are missing.
const DIRECTORY_MODE: u32 = 0o755;
/// A document is far smaller; whatever is larger is not ours.
const LIMIT: u64 = 4096;

/// The device with the path of the file that ADD is going to make, if it is to make
/// one: the device has a PCI address, and there is no such file.
pub fn plan(device: Device, path: Option<&str>) -> Device {
    match path {
        Some(path) if !device.pci_id.is_empty() && fs::symlink_metadata(path).is_err() => Device {
            device_info_file: path.to_owned(),
            ..device
        },
        _ => device,
    }
}

/// Makes the recorded file, complete or not at all.
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

/// Removes the recorded file, if it is the one that ADD has made.
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
        // What a killed ADD has left beside it is ours in any case.
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

/// Puts `content` at `path`, unless somebody else was faster.
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
    // The creation mask of the runtime must not keep Multus' readers out.
    file.set_permissions(Permissions::from_mode(FILE_MODE))?;
    file.write_all(content.as_bytes())
}
