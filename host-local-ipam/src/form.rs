//! Recognises the files of a host-local store, those of this plugin and of the Go plugin.
//! `dataDir` may be set to a directory with other files, which may have names like
//! addresses: these must not be changed.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use common::address::parse_address;
use common::error::{Error, ErrorCode, Result};
use common::files::file::is_missing;

use crate::atomic::UNFINISHED;
use crate::index;
use crate::names::{BOOT_ID, LAST_RESERVED, LOCK};
use crate::reservation::{Holder, Reservation};

/// The files that are written under a temporary name and then renamed.
const REPLACED: [&str; 2] = [BOOT_ID, index::NAME];

/// Makes sure that `directory` is a store, or can become one: a plugin has reserved an
/// address there, or it has only files that host-local makes.
///
/// # Errors
/// Code 7 naming another file, 5 when the directory or a file in it cannot be read.
pub fn require_own(directory: &Path) -> Result<()> {
    let first_turn = format!("{LAST_RESERVED}0");
    for mark in [BOOT_ID, &first_turn] {
        if exists(&directory.join(mark))? {
            return Ok(());
        }
    }
    let failed = |cause| Error::io(format!("failed to list {directory:?}"), &cause);
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        names.push(name.to_string_lossy().into_owned());
    }
    let is_locked = names.iter().any(|name| name == LOCK);
    for name in &names {
        if !is_own(directory, name, is_locked)? {
            let msg =
                format!("{directory:?} is not a directory of host-local: it contains {name:?}");
            let details = "choose another dataDir, or another name for the network";
            return Err(Error::config(msg).with_details(details));
        }
    }
    Ok(())
}

/// Whether there is something at `path`.
fn exists(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(cause) if is_missing(&cause) => Ok(false),
        Err(cause) => Err(Error::io(format!("failed to examine {path:?}"), &cause)),
    }
}

/// Whether a plugin can have made the file `name`. A killed Go plugin can leave an empty
/// file with the name of an address, but it creates the lock file before.
fn is_own(directory: &Path, name: &str, is_locked: bool) -> Result<bool> {
    if parse_address(name).is_ok() {
        let reservation = Reservation::read(directory, name);
        return match reservation.map(|reservation| reservation.holder) {
            None | Some(Holder::Owner(_)) => Ok(true),
            Some(Holder::Nobody) => Ok(is_locked),
            Some(Holder::Unknown(_)) => Ok(false),
            Some(Holder::Unreadable(error)) => Err(error),
        };
    }
    let is_turn = name.starts_with(LAST_RESERVED);
    let is_replaced = |whole: &&str| name == *whole || name == format!(".{whole}.tmp");
    Ok([LOCK, UNFINISHED].contains(&name) || is_turn || REPLACED.iter().any(is_replaced))
}

/// The address in a `last_reserved_ip` file; `None` when a power failure has left only a
/// part of it.
///
/// # Errors
/// Code 5 naming the file, when host-local cannot have written its content.
pub fn last_reserved(path: &Path, content: &[u8]) -> Result<Option<IpAddr>> {
    if let Ok(address) = parse_address(&String::from_utf8_lossy(content)) {
        return Ok(Some(address));
    }
    let is_part = |byte: &u8| byte.is_ascii_hexdigit() || b".:\0 \r\n".contains(byte);
    match content.iter().all(is_part) {
        true => Ok(None),
        false => Err(foreign_file(path)),
    }
}

/// The error for a file that host-local would overwrite but has not written.
pub fn foreign_file(path: &Path) -> Error {
    let msg = format!("{path:?} is not a file of host-local");
    Error::new(ErrorCode::IO, msg).with_details("it does not contain an address; move it away")
}
