//! The file of an attachment's record: written whole, and read as what it is. A file that cannot
//! be read says that there is an attachment, so it is not taken for none.

use std::io;
use std::path::Path;

use rustix::fs::{XattrFlags, fsetxattr, lgetxattr};
use serde::de::DeserializeOwned;

use super::attachment::{Attachment, boot_id};
use crate::error::{Error, ErrorCode, Result};
use crate::files::file;
use crate::files::format;
use crate::say;

/// The most bytes of a record, which is mostly what the configuration says of addresses.
/// No longer one is written, so whatever is larger is not one.
pub(super) const RECORD_LIMIT: usize = 1 << 20;
/// The extended attribute in which a record's file has the number of its boot.
const BOOT: &str = "user.eni-cni.boot";

/// What the file of an attachment's record says.
#[derive(Debug)]
pub enum Recorded<D> {
    /// There is no such file.
    Absent,
    /// The record.
    Whole(Box<Attachment<D>>),
    /// There is something else in its place, or a record of a newer version: an attachment was
    /// made, and nothing is known of it. The error names the file and what to do.
    Unreadable(Error),
}

impl<D> Recorded<D> {
    /// The record, where one that cannot be read is an error.
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
/// Code 5 when the file exists and the disk does not give it.
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

/// The refusal of a record that a newer version has written, in whichever boot: what it says
/// would be lost if another one took its place.
fn newer(path: &Path, why: &str) -> Error {
    let msg = format!("the record of an attachment in {path:?} is of a newer version");
    let details = format!(
        "{why}; DEL ends the attachment where its configuration and its result prove what it has"
    );
    Error::new(ErrorCode::IO, msg).with_details(details)
}

/// What is in the place of a record counts as none where it was written before the machine
/// was started: nothing of the attachment has lived on.
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
             has. Else see to it that the node has its device back and that no address of the \
             container is reserved, and remove the file"
        )),
    ))
}

/// Writes a record that belongs to this boot. A file system may have the new name on the
/// disk before the content; what is noted of a file is there with its name.
///
/// # Errors
/// Those of the file system; the old content is still there then.
pub(super) fn write(path: &Path, content: &[u8], boot: &str) -> io::Result<()> {
    file::replace_noted(path, content, |file| {
        // Without it, a record that is damaged has to be removed by hand.
        fsetxattr(file, BOOT, boot.as_bytes(), XattrFlags::empty()).ok();
    })
}

/// The boot in which the file was written, if that is noted.
fn marked_boot(path: &Path) -> Option<Vec<u8>> {
    let mut value = [0; 64];
    let length = lgetxattr(path, BOOT, &mut value[..]).ok()?;
    value.get(..length).map(<[u8]>::to_vec)
}
