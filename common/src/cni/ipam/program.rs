//! Whether a plugin in `CNI_PATH` is the running program, which then need not be executed again.
//!
//! Two names of one file are the same program. A copy is recognised by its length and its first
//! page, which has the build id: a hash that the linker computes over all that it links. A
//! comparison of all bytes would take longer than executing the file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::libc;

use crate::program::is_executable;

/// The file of the running program, even if its name leads to another file now.
const THIS_PROGRAM: &str = "/proc/self/exe";
/// The start of a build id in the headers of a program: the lengths of its name and of a SHA-1
/// sum, the type `NT_GNU_BUILD_ID`, and the name. Source: `elf.h`; System V ABI, "Note Section".
const BUILD_ID: [u8; 16] = *b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0";
/// The headers of a program are in its first page.
const HEADERS: usize = 4096;

/// Whether `path` leads to the running program. False when the file cannot be examined: its
/// execution then reports the reason.
pub(super) fn is_this_program(path: &Path) -> bool {
    is_same(Path::new(THIS_PROGRAM), path).unwrap_or(false)
}

/// Whether both files are the same program.
fn is_same(running: &Path, found: &Path) -> io::Result<bool> {
    let (own, other) = (fs::metadata(running)?, fs::metadata(found)?);
    if (own.dev(), own.ino()) == (other.dev(), other.ino()) {
        return Ok(true);
    }
    if !is_executable(&other) || own.len() != other.len() {
        return Ok(false);
    }
    let headers = headers(running)?;
    let has_build_id = headers.windows(BUILD_ID.len()).any(|part| part == BUILD_ID);
    Ok(has_build_id && headers == self::headers(found)?)
}

fn headers(path: &Path) -> io::Result<Vec<u8>> {
    let mut options = OpenOptions::new();
    let file: File = options
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    let mut headers = Vec::with_capacity(HEADERS);
    file.take(HEADERS as u64).read_to_end(&mut headers)?;
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Whether two files with this content are the same program, after `change` of the second
    /// one.
    fn is_same_after(content: &[u8], change: impl Fn(&Path)) -> bool {
        let directory = tempfile::tempdir().unwrap();
        let [running, found] = ["running", "found"].map(|name| directory.path().join(name));
        for path in [&running, &found] {
            fs::write(path, content).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        change(&found);
        is_same(&running, &found).unwrap()
    }

    fn program() -> Vec<u8> {
        [&b"\x7fELF"[..], &BUILD_ID, &[7; 20], &[0; 9000]].concat()
    }

    #[test]
    fn a_copy_with_the_same_build_id_is_the_same_program() {
        assert!(is_same_after(&program(), |_| {}));
    }

    #[test]
    fn two_names_of_one_file_are_the_same_program_whatever_its_content() {
        assert!(is_same_after(b"#!/bin/sh", |found| {
            fs::remove_file(found).unwrap();
            fs::hard_link(found.with_file_name("running"), found).unwrap();
        }));
    }

    #[test]
    fn without_a_build_id_a_copy_is_another_program() {
        assert!(!is_same_after(&[0; 9000], |_| {}));
    }

    #[test]
    fn another_build_is_another_program() {
        assert!(!is_same_after(&program(), |found| {
            let mut other = program();
            other[25] ^= 1;
            fs::write(found, other).unwrap();
        }));
        assert!(!is_same_after(&program(), |found| {
            fs::write(found, [program(), vec![0]].concat()).unwrap();
        }));
    }

    #[test]
    fn a_file_that_is_not_executable_is_not_called() {
        assert!(!is_same_after(&program(), |found| {
            fs::set_permissions(found, fs::Permissions::from_mode(0o644)).unwrap();
        }));
    }
}
