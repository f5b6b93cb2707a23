//! Reads what is collected: the beginning of a file, the end of a log, the names in a directory.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use common::files::file;

/// How much of a file is collected; of a log, its end.
const FILE_LIMIT: usize = 256 << 10;
const LOG_LIMIT: usize = 2 << 20;

/// The path of a file in the archive, always below the archive's own directory.
pub(super) fn place(path: &Path) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut place = PathBuf::from("node");
    for component in absolute.components() {
        match component {
            Component::Normal(name) => place.push(name),
            Component::ParentDir if place.components().count() > 1 => {
                place.pop();
            }
            _ => {}
        }
    }
    place.display().to_string()
}

/// The names in a directory, and how many are not text.
pub(super) fn names(directory: &Path) -> io::Result<(Vec<String>, usize)> {
    let (mut names, mut others) = (Vec::new(), 0);
    for entry in fs::read_dir(directory)? {
        match entry?.file_name().into_string() {
            Ok(name) => names.push(name),
            Err(_) => others += 1,
        }
    }
    names.sort();
    Ok((names, others))
}

/// The start of a file, and whether there is more of it. A link, FIFO or device in its place is
/// refused, so that another user cannot make root read another file or wait.
///
/// # Errors
/// Those of the file system; `InvalidData` when it is not a regular file.
pub(super) fn head(path: &Path) -> io::Result<(Vec<u8>, bool)> {
    let (file, _) = file::open_regular(path)?;
    let mut content = Vec::new();
    // The kernel's own files do not report their length.
    file.take(FILE_LIMIT as u64 + 1).read_to_end(&mut content)?;
    let is_more = content.len() > FILE_LIMIT;
    if is_more {
        content.truncate(FILE_LIMIT);
        content = characters(&content);
    }
    Ok((content, is_more))
}

/// The end of a log, from the start of a line: a part of a line may be a secret without its
/// name.
///
/// # Errors
/// As for [`head`].
pub(super) fn end(path: &Path) -> io::Result<Vec<u8>> {
    let (file, length) = file::open_regular(path)?;
    last_lines(file, length)
}

fn last_lines(mut file: impl Read + Seek, length: u64) -> io::Result<Vec<u8>> {
    let start = length.saturating_sub(LOG_LIMIT as u64);
    file.seek(SeekFrom::Start(start))?;
    let mut content = Vec::new();
    file.take(LOG_LIMIT as u64).read_to_end(&mut content)?;
    if start > 0 {
        let line = content.iter().position(|byte| *byte == b'\n');
        content.drain(..line.map_or(content.len(), |end| end + 1));
    }
    Ok(characters(&content))
}

/// Replaces characters that were cut.
fn characters(content: &[u8]) -> Vec<u8> {
    String::from_utf8_lossy(content).into_owned().into_bytes()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn a_file_has_its_place_in_the_archive_however_it_is_named() {
        for (path, expected) in [
            ("/var/log/a.log", "node/var/log/a.log"),
            ("/var/log/../lib/./a", "node/var/lib/a"),
            ("/../../a", "node/a"),
        ] {
            assert_eq!(place(Path::new(path)), expected);
        }
        let here = place(Path::new("../a"));
        assert!(here.starts_with("node/") && !here.contains(".."), "{here}");
    }

    #[test]
    fn a_log_begins_with_a_whole_line() {
        let secret = format!("Authorization: {}\n", "x".repeat(LOG_LIMIT));
        let log = format!("{secret}last\n");
        let last = last_lines(Cursor::new(&log), log.len() as u64).unwrap();
        assert_eq!(last, b"last\n");
    }
}
