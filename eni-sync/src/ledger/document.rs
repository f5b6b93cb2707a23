//! The files of the ledger that are not entries of addresses, read and written as a whole.

use std::io;
use std::path::Path;

use common::error::{Error, ErrorCode, Result};
use common::files::{file, format};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The size limit of a file in bytes. The longest file is the list of excluded addresses.
const LIMIT: u64 = 1 << 20;

/// The content of a file; `None` if it does not exist.
///
/// # Errors
/// Code 5 naming the file, 6 when its content is something else.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let undecodable = |why: String| {
        let msg = format!("{path:?} is not a file of the ledger");
        let details = format!("{why}; it stays as it is until somebody removes it");
        Error::new(ErrorCode::DECODING, msg).with_details(details)
    };
    match file::read_regular(path, LIMIT) {
        Ok(bytes) => {
            require_known_format(path, &bytes)?;
            let found = serde_json::from_slice(&bytes);
            found
                .map(Some)
                .map_err(|cause| undecodable(cause.to_string()))
        }
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) if cause.kind() == io::ErrorKind::InvalidData => {
            Err(undecodable(cause.to_string()))
        }
        Err(cause) => Err(Error::io(format!("failed to read {path:?}"), &cause)),
    }
}

fn require_known_format(path: &Path, content: &[u8]) -> Result<()> {
    let refused = |why: String| {
        let msg = format!("{path:?} is a file of a newer ledger");
        let details = format!("{why}; it stays as it is");
        Error::new(ErrorCode::DECODING, msg).with_details(details)
    };
    format::newer(content).map_or(Ok(()), |why| Err(refused(why)))
}

/// Writes a file, which is on the disk afterwards. A file of a newer format is not replaced,
/// because it may have content that this version does not know.
///
/// # Errors
/// Code 5 naming the file, 6 when it is of a newer format, and 7 when it would be too long to be
/// read. The old file stays then.
pub(super) fn write(path: &Path, document: &impl Serialize) -> Result<()> {
    if let Ok(there) = file::read_regular(path, LIMIT) {
        require_known_format(path, &there)?;
    }
    let failed = |cause| Error::io(format!("failed to write {path:?}"), &cause);
    let text = serde_json::to_vec(document).map_err(|cause| failed(cause.into()))?;
    require_readable(path, &text, LIMIT)?;
    file::replace_durably(path, &text).map_err(failed)
}

/// Checks that a file with this content would be read again: what only the writer knows would
/// neither be used nor ended by anybody.
///
/// # Errors
/// Code 7 naming the file and the limit, which is in bytes.
pub(super) fn require_readable(path: &Path, text: &[u8], limit: u64) -> Result<()> {
    let length = text.len();
    if u64::try_from(length).is_ok_and(|length| length <= limit) {
        return Ok(());
    }
    let msg = format!("cannot write {path:?} with {length} bytes");
    let details = format!("this file of the ledger has {limit} at most");
    Err(Error::config(msg).with_details(details))
}

/// Removes a file, if it is there.
///
/// # Errors
/// Code 5 naming the file.
pub(super) fn remove(path: &Path) -> Result<()> {
    file::remove(path).map_err(|cause| Error::io(format!("failed to remove {path:?}"), &cause))
}

/// Removes a file that cannot be read, and returns whether it did. A file of a newer format
/// stays, and so does what is not a regular file.
///
/// # Errors
/// Code 5 naming the file.
pub(super) fn remove_damaged(path: &Path) -> Result<bool> {
    match file::read_regular(path, LIMIT) {
        Ok(text) if format::newer(&text).is_none() => remove(path).map(|()| true),
        _ => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_a_newer_format_is_neither_read_nor_replaced() {
        let name = format!("eni-sync-{}.unheard", std::process::id());
        let path = std::env::temp_dir().join(name);
        let text = r#"{"formatVersion":3,"since":7}"#;
        std::fs::write(&path, text).unwrap();
        let refused = [
            read::<serde_json::Value>(&path).unwrap_err(),
            write(&path, &7).unwrap_err(),
        ];
        for error in refused {
            assert_eq!(error.code, ErrorCode::DECODING);
            assert!(error.msg.contains(".unheard"), "{error}");
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        // A damaged file is replaced.
        std::fs::write(&path, "{").unwrap();
        write(&path, &7).unwrap();
        let found: Option<u64> = read(&path).unwrap();
        remove(&path).unwrap();
        assert_eq!(found, Some(7));
    }
}
