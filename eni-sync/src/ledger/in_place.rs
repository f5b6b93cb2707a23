//! Writes an entry of the ledger where the disk has no room for another file: what releases an
//! address must not wait until there is room.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use common::files::file;
use nix::libc;

/// The unit of [`MetadataExt::blocks`] in bytes.
const BLOCK: u64 = 512;

/// As [`file::replace_durably`]. If there is no room for a new file, the existing one is
/// overwritten, with one write into blocks that it has: a process that is killed leaves the
/// old content or the new one. Only a power failure at that moment may leave a damaged entry,
/// which keeps its address.
///
/// # Errors
/// As for [`file::replace_durably`].
pub(super) fn replace(path: &Path, document: &[u8]) -> io::Result<()> {
    match file::replace_durably(path, document) {
        Err(cause) if has_no_room(&cause) => overwrite(path, document).map_err(|_| cause),
        outcome => outcome,
    }
}

fn has_no_room(cause: &io::Error) -> bool {
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
        let name = format!("eni-sync-in-place-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        assert!(overwrite(&path, b"{}").is_err());
        fs::write(&path, "").unwrap();
        assert!(overwrite(&path, b"{}").is_err());
        fs::write(&path, r#"{"a": 123456789}"#).unwrap();
        for text in [r#"{"a": 1}"#, r#"{"a": 1234567890123456}"#, "[]"] {
            overwrite(&path, text.as_bytes()).unwrap();
            let read = fs::read_to_string(&path).unwrap();
            assert_eq!(read.trim_end(), text);
        }
        let long = "1".repeat(1 << 20);
        assert!(overwrite(&path, long.as_bytes()).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap().trim_end(), "[]");
        fs::remove_file(&path).unwrap();
    }
}
