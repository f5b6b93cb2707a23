//! Writes a document where the disk has no room for another file: what releases something must
//! not wait until there is room.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::libc;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

/// The unit of [`MetadataExt::blocks`] in bytes.
const BLOCK: u64 = 512;

/// Overwrites the file at `path` if `replaced`, the outcome of replacing it by the JSON
/// `document`, says that there is no room for a new file. That is one write into blocks that
/// the file has. A power failure at that moment may leave a damaged file, and if the document is
/// longer than a page, so may a kill; otherwise a process that is killed leaves the old content or
/// the new one.
///
/// # Errors
/// Those of `replaced`; the old content is still there then.
pub fn or_overwrite(replaced: io::Result<()>, path: &Path, document: &[u8]) -> io::Result<()> {
    match replaced {
        // The first error is the one that explains.
        Err(cause) if has_no_room(&cause) => overwrite(path, document).map_err(|_| cause),
        outcome => outcome,
    }
}

/// Whether the error says that the disk, or the user's part of it, is full.
pub fn has_no_room(cause: &io::Error) -> bool {
    matches!(
        cause.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    )
}

/// Overwrites a file by a JSON document, which may end with spaces.
fn overwrite(path: &Path, document: &[u8]) -> io::Result<()> {
    let file = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    let found = file.metadata()?;
    let length = u64::try_from(document.len()).unwrap_or(u64::MAX);
    if !found.is_file() || length > found.len().max(found.blocks() * BLOCK) {
        return Err(ErrorKind::StorageFull.into());
    }
    // A block can be that of attributes.
    if length > found.len() {
        match fallocate(&file, FallocateFlags::KEEP_SIZE, 0, length) {
            // Some file systems cannot claim room.
            Err(Errno::OPNOTSUPP) => {}
            claimed => claimed?,
        }
    }
    let mut content = document.to_vec();
    let old = usize::try_from(found.len()).unwrap_or_default();
    content.resize(document.len().max(old), b' ');
    file.write_all_at(&content, 0)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_document_is_overwritten_where_its_file_has_room_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("10.0.4.70");
        assert!(overwrite(&path, b"{}").is_err());
        fs::write(&path, "").unwrap();
        assert!(overwrite(&path, b"{}").is_err());
        fs::write(&path, r#"{"a": 123456789}"#).unwrap();
        for text in [r#"{"a": 1}"#, r#"{"a": 1234567890123456}"#, "[]"] {
            overwrite(&path, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap().trim_end(), text);
        }
        let long = "1".repeat(1 << 20);
        assert!(overwrite(&path, long.as_bytes()).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap().trim_end(), "[]");
    }
}
