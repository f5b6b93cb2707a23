//! The files of the ledger that are no entries of addresses, read and written as a whole.

use std::io;
use std::path::Path;

use common::error::{Error, ErrorCode, Result};
use common::files::file;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::ENTRY_LIMIT;

/// What a file says; nothing where there is none.
///
/// # Errors
/// Code 5 naming the file, 6 when it says something else.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let undecodable = |why: String| {
        let msg = format!("{path:?} is not a file of the ledger");
        Error::new(ErrorCode::DECODING, msg).with_details(why)
    };
    match file::read_regular(path, ENTRY_LIMIT) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|cause| undecodable(cause.to_string())),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) if cause.kind() == io::ErrorKind::InvalidData => {
            Err(undecodable(cause.to_string()))
        }
        Err(cause) => Err(Error::io(format!("failed to read {path:?}"), &cause)),
    }
}

/// Writes a file; it is on the disk afterwards.
///
/// # Errors
/// Code 5 naming the file.
pub(super) fn write(path: &Path, document: &impl Serialize) -> Result<()> {
    let failed = |cause| Error::io(format!("failed to write {path:?}"), &cause);
    let text = serde_json::to_vec(document).map_err(|cause| failed(cause.into()))?;
    file::replace_durably(path, &text).map_err(failed)
}

/// Removes a file, if it is there.
///
/// # Errors
/// Code 5 naming the file.
pub(super) fn remove(path: &Path) -> Result<()> {
    file::remove(path).map_err(|cause| Error::io(format!("failed to remove {path:?}"), &cause))
}
