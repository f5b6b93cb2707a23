//! Creates files atomically with their content, and never replaces a file: a process that
//! is killed meanwhile does not leave an empty reservation.

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

/// The name under which a file is written on file systems without unnamed files. Only the
/// holder of the lock uses it, and after a crash the next holder removes it.
pub const UNFINISHED: &str = ".unfinished";

/// Creates the file `path` with `content`, atomically. `mark` sets attributes of the file
/// before it gets its name.
///
/// # Errors
/// `AlreadyExists` when the path exists, otherwise those of the file system.
pub fn create(path: &Path, content: &[u8], mark: impl Fn(&File)) -> io::Result<()> {
    match create_unnamed(path, content, &mark) {
        Err(cause) if is_unsupported(&cause) => create_beside(path, content, &mark),
        created => created,
    }
}

/// Writes a file without a name, and then links it to `path`.
fn create_unnamed(path: &Path, content: &[u8], mark: &dyn Fn(&File)) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .mode(FILE_MODE)
        .custom_flags(libc::O_TMPFILE)
        .open(path.parent().unwrap_or(Path::new("/")))?;
    file.write_all(content)?;
    mark(&file);
    // Linking the descriptor itself would need CAP_DAC_READ_SEARCH; this needs only
    // /proc.
    let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
    let follow = AtFlags::AT_SYMLINK_FOLLOW;
    Ok(linkat(AT_FDCWD, unnamed.as_str(), AT_FDCWD, path, follow)?)
}

/// Writes a file under another name, and then links it to `path`. Unlike a rename, a link
/// never replaces an existing file.
fn create_beside(path: &Path, content: &[u8], mark: &dyn Fn(&File)) -> io::Result<()> {
    let unfinished = path.with_file_name(UNFINISHED);
    let written = write(&unfinished, content).map(|file| mark(&file));
    let created = written.and_then(|()| fs::hard_link(&unfinished, path));
    match fs::remove_file(&unfinished) {
        Err(cause) if created.is_ok() && cause.kind() != io::ErrorKind::NotFound => {
            // The reservation is valid; the next one removes the other name.
            say!("failed to remove {unfinished:?}: {cause}");
            created
        }
        _ => created,
    }
}

/// Writes a new file. The file of a killed process is removed and not overwritten,
/// because it may be linked to a reservation already.
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

/// Whether the error is that of a file system or an old kernel without unnamed files, or
/// of a missing `/proc`.
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
    fn both_functions_create_a_private_file_and_never_replace_one() {
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
    fn the_file_of_a_killed_process_is_not_overwritten() {
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
