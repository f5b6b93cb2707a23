//! The file of an attachment's record. A file that cannot be read still means that there is an
//! attachment, so it is not treated like a missing file.

use std::io;
use std::path::Path;

use rustix::fs::{XattrFlags, fsetxattr, lgetxattr};
use serde::de::DeserializeOwned;

use super::attachment::{Attachment, boot_id};
use crate::error::{Error, ErrorCode, Result};
use crate::files::file;
use crate::files::format;
use crate::say;

/// The maximum size of a record in bytes. Most of a record is the `ipam` section of the
/// configuration. No larger record is written, so a larger file is not a record.
pub(super) const RECORD_LIMIT: usize = 1 << 20;
/// The extended attribute of a record's file that has the boot id.
const BOOT: &str = "user.eni-cni.boot";

/// The content of an attachment's record file.
#[derive(Debug)]
pub enum Recorded<D> {
    /// There is no such file.
    Absent,
    /// The record.
    Whole(Box<Attachment<D>>),
    /// The file is not a record, or a record of a newer version: there is an attachment, but
    /// nothing is known of it. The error names the file and says what to do.
    Unreadable(Error),
}

impl<D> Recorded<D> {
    /// The record, if there is one; an unreadable one is an error.
    ///
    /// # Errors
    /// Code 5 naming the file.
    pub(super) fn whole(self) -> Result<Option<Attachment<D>>> {
        match self {
            Self::Absent => Ok(None),
            Self::Whole(record) => Ok(Some(*record)),
            Self::Unreadable(error) => Err(error),
        }
    }
}

/// Reads the record at `path`.
///
/// # Errors
/// Code 5 when the file system fails to read the file.
pub(super) fn read_record<D: DeserializeOwned>(path: &Path) -> Result<Recorded<D>> {
    let bytes = match file::read_regular(path, RECORD_LIMIT as u64) {
        Ok(bytes) => bytes,
        Err(cause) if file::is_missing(&cause) => return Ok(Recorded::Absent),
        Err(cause) if cause.kind() == io::ErrorKind::InvalidData => {
            return damaged(path, &cause.to_string());
        }
        Err(cause) => return Err(Error::io(format!("failed to read {path:?}"), &cause)),
    };
    if let Some(why) = format::newer(&bytes) {
        return Ok(Recorded::Unreadable(newer(path, &why)));
    }
    let why = match serde_json::from_slice::<Attachment<D>>(&bytes) {
        Ok(record) if record.is_of(path) => return Ok(Recorded::Whole(Box::new(record))),
        Ok(_) => "it is about another attachment".to_owned(),
        Err(cause) => cause.to_string(),
    };
    damaged(path, &why)
}

/// The error for a record that a newer version has written, even in an earlier boot: it must
/// not be replaced, because its content would be lost.
fn newer(path: &Path, why: &str) -> Error {
    let msg = format!("the record of an attachment in {path:?} is of a newer version");
    let details = format!(
        "{why}; DEL ends the attachment where its configuration and its result prove what it has"
    );
    Error::new(ErrorCode::IO, msg).with_details(details)
}

/// Handles a damaged record. It counts as absent if it was written in an earlier boot, because
/// nothing of the attachment has survived the reboot.
fn damaged<D>(path: &Path, why: &str) -> Result<Recorded<D>> {
    let boot = boot_id()?;
    if marked_boot(path).is_some_and(|marked| marked != boot.as_bytes()) {
        say!("ignoring {path:?}, which a power failure has damaged: {why}");
        return Ok(Recorded::Absent);
    }
    let msg = format!("cannot read the record of an attachment in {path:?}");
    Ok(Recorded::Unreadable(
        Error::new(ErrorCode::IO, msg).with_details(format!(
            "{why}; DEL ends the attachment where its configuration and its result prove what it \
             has. Otherwise make sure that the node has its device back and that no address of the \
             container is reserved, and remove the file"
        )),
    ))
}

/// Writes a record with the boot id as an attribute of its file. After a power failure a file
/// system may have the new name without the content; the attribute is on the disk together
/// with the name.
///
/// # Errors
/// Those of the file system; the old content is still there then.
pub(super) fn write(path: &Path, content: &[u8], boot: &str) -> io::Result<()> {
    file::replace_noted(path, content, |file| {
        // Without the attribute, a damaged record has to be removed by hand.
        fsetxattr(file, BOOT, boot.as_bytes(), XattrFlags::empty()).ok();
    })
}

/// The id of the boot in which the file was written, if it has the attribute.
fn marked_boot(path: &Path) -> Option<Vec<u8>> {
    let mut value = [0; 64];
    let length = lgetxattr(path, BOOT, &mut value[..]).ok()?;
    value.get(..length).map(<[u8]>::to_vec)
}
