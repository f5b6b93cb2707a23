//! Files that come into being with their content, and only if nobody else's file has
//! the name: a process that is killed meanwhile leaves no reservation without a holder.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use common::files::file::FILE_MODE;
use common::say;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::libc;
use nix::unistd::linkat;

/// Where a file is written on file systems that have no unnamed files. Only the
/// holder of the lock uses it, and after a crash the next one removes it.
pub const UNFINISHED: &str = ".unfinished";

/// Creates the file `path`, complete or not at all, with the attributes that `mark` gives.
///
/// # Errors
/// `AlreadyExists` when something has this name, else those of the file system.
pub fn create(path: &Path, content: &[u8], mark: impl Fn(&File)) -> io::Result<()> {
    match create_unnamed(path, content, &mark) {
        Err(cause) if is_unsupported(&cause) => create_beside(path, content, &mark),
        created => created,
    }
}

/// Writes a file that has no name and then gives it one.
fn create_unnamed(path: &Path, content: &[u8], mark: &dyn Fn(&File)) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .mode(FILE_MODE)
        .custom_flags(libc::O_TMPFILE)
        .open(path.parent().unwrap_or(Path::new("/")))?;
    file.write_all(content)?;
    mark(&file);
    // Naming it by its descriptor would need CAP_DAC_READ_SEARCH, this only /proc.
    let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
    let follow = AtFlags::AT_SYMLINK_FOLLOW;
    Ok(linkat(AT_FDCWD, unnamed.as_str(), AT_FDCWD, path, follow)?)
}

/// Writes a file under another name and then gives it this one as well. Unlike a
/// rename, a link never replaces what is there.
fn create_beside(path: &Path, content: &[u8], mark: &dyn Fn(&File)) -> io::Result<()> {
    let unfinished = path.with_file_name(UNFINISHED);
    let written = write(&unfinished, content).map(|file| mark(&file));
    let created = written.and_then(|()| fs::hard_link(&unfinished, path));
    match fs::remove_file(&unfinished) {
        Err(cause) if created.is_ok() && cause.kind() != io::ErrorKind::NotFound => {
            // The reservation stands; the next one removes what is left.
            say!("failed to remove {unfinished:?}: {cause}");
            created
        }
        _ => created,
    }
}

/// What a killed process has left is removed and not overwritten: it may have been
/// given the name of a reservation already, and would be that reservation then.
fn write(path: &Path, content: &[u8]) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
        _ => {}
    }
    let mut file: File = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(path)?;
    file.write_all(content)?;
    Ok(file)
}

/// What file systems and old kernels say that know no unnamed files, or cannot name
/// one because there is no `/proc`.
fn is_unsupported(cause: &io::Error) -> bool {
    use nix::libc::{EINVAL, EISDIR, ENOENT, EOPNOTSUPP};
    matches!(
        cause.raw_os_error(),
        Some(EOPNOTSUPP | EISDIR | EINVAL | ENOENT)
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn both_ways_create_a_private_file_and_never_replace_one() {
        for create in [create_unnamed, create_beside] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("10.0.0.2");
            create(&path, b"c1\r\nnet1", &|_| ()).unwrap();
            let again = create(&path, b"c2\r\nnet1", &|_| ()).unwrap_err();
            assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(fs::read(&path).unwrap(), b"c1\r\nnet1");
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, FILE_MODE);
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn what_a_killed_process_left_does_not_change_its_reservation() {
        let directory = tempfile::tempdir().unwrap();
        let [first, second] = ["10.0.0.2", "10.0.0.3"].map(|name| directory.path().join(name));
        create_beside(&first, b"c1\r\nnet1", &|_| ()).unwrap();
        fs::hard_link(&first, directory.path().join(UNFINISHED)).unwrap();
        create_beside(&second, b"c2\r\nnet1", &|_| ()).unwrap();
        assert_eq!(fs::read(&first).unwrap(), b"c1\r\nnet1");
        assert_eq!(fs::read(&second).unwrap(), b"c2\r\nnet1");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }
}
