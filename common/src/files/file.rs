//! Files that are replaced atomically, and reading of files that may be something else.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::libc;

/// The mode of every file that is created: only root may read addresses and attachments.
pub const FILE_MODE: u32 = 0o600;
/// The mode of every directory that is created.
pub const DIRECTORY_MODE: u32 = 0o700;
/// The longest path of a socket, in bytes. Source: unix(7), `sun_path`.
pub const LONGEST_SOCKET_PATH: usize = 107;

/// Creates `directory` and its parents where they are missing.
///
/// # Errors
/// Those of `mkdir(2)`; an existing directory is not an error.
pub fn create_directory(directory: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY_MODE)
        .create(directory)
}

/// As [`create_directory`], and removes all permissions of group and others, also from an
/// existing directory: the kubelet creates directories for its mounts so that all users can
/// read them.
///
/// # Errors
/// Those of `mkdir(2)` and `chmod(2)`.
pub fn create_private_directory(directory: &Path) -> io::Result<()> {
    create_directory(directory)?;
    let mode = fs::metadata(directory)?.permissions().mode();
    if mode & !DIRECTORY_MODE & 0o7777 == 0 {
        return Ok(());
    }
    fs::set_permissions(directory, Permissions::from_mode(DIRECTORY_MODE))
}

/// Replaces the file at `path` by one with `content`, atomically: a reader finds the old
/// content or the new one at any moment, also after a crash of the process. A symbolic link at
/// `path` is replaced, not followed.
///
/// # Errors
/// Those of the file system; no temporary file is left.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    replace_noted(path, content, |_| {})
}

/// As [`replace`]; `note` is called with the new file before the file gets its name.
///
/// # Errors
/// As for [`replace`].
pub fn replace_noted(path: &Path, content: &[u8], note: impl Fn(&File)) -> io::Result<()> {
    let temporary = temporary_name(path);
    let written = create(&temporary)
        .and_then(|mut file| {
            note(&file);
            file.write_all(content)
        })
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The first error is the one that explains; the file may not even exist.
        fs::remove_file(&temporary).ok();
    }
    written
}

/// As [`replace`], and the content is on the disk when this returns, so that it survives a
/// power failure.
///
/// # Errors
/// Those of the file system; the old content is still there then.
pub fn replace_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = temporary_name(path);
    let written = create(&temporary)
        .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| sync_directory(path));
    if written.is_err() {
        // The first error is the one that explains; the file may not even exist.
        fs::remove_file(&temporary).ok();
    }
    written
}

fn sync_directory(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

/// Whether the error means that there is no file at a path.
pub fn is_missing(cause: &io::Error) -> bool {
    use io::ErrorKind::{InvalidFilename, NotADirectory, NotFound};
    matches!(cause.kind(), NotFound | NotADirectory | InvalidFilename)
}

/// Whether an error with this number says nothing of a file: there are too many open files or
/// too little memory, or the disk fails. What it is about may be there.
pub fn is_of_the_moment(errno: Option<i32>) -> bool {
    use libc::{EIO, EMFILE, ENFILE, ENOMEM};
    matches!(errno, Some(EIO | EMFILE | ENFILE | ENOMEM))
}

/// The version of a file: its inode and the time of its last change. The inode alone is not
/// enough, because a new file can get that of a removed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edition {
    inode: u64,
    changed: (i64, i64),
}

impl Edition {
    /// The version of the file at a path; `None` when the file is missing or cannot be
    /// examined.
    pub fn of(path: &Path) -> Option<Self> {
        let found = fs::symlink_metadata(path).ok()?;
        Some(Self {
            inode: found.ino(),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

/// The paths of the entries of a directory, sorted; none when it is missing.
///
/// # Errors
/// Those of the file system, also when the path is not a directory.
pub fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(cause) => return Err(cause),
    };
    let paths: io::Result<Vec<PathBuf>> = entries.map(|entry| Ok(entry?.path())).collect();
    let mut paths = paths?;
    // Paths are compared by their parts, which takes far longer, and these differ in the last.
    paths.sort_unstable_by(|one, other| one.as_os_str().cmp(other.as_os_str()));
    Ok(paths)
}

/// Reads a regular file of at most `limit` bytes. A symbolic link, a FIFO or a socket is an
/// error: another user must not make this process read another file, or wait for it.
///
/// # Errors
/// Those of the file system; `InvalidData` when it is not a regular file or too large.
pub fn read_regular(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let (file, length) = open_regular(path)?;
    if length > limit {
        return Err(invalid("the file is too large"));
    }
    // With room for one more byte, the second read finds the end without growing the buffer.
    let length = usize::try_from(length).unwrap_or_default();
    let mut content = Vec::with_capacity(length + 1);
    file.take(limit).read_to_end(&mut content)?;
    Ok(content)
}

/// Checks that [`read_regular`] would read a file with this content: a writer must not leave what its
/// readers refuse.
///
/// # Errors
/// `FileTooLarge` with both lengths.
pub fn require_readable(content: &[u8], limit: u64) -> io::Result<()> {
    let length = content.len();
    if u64::try_from(length).is_ok_and(|length| length <= limit) {
        return Ok(());
    }
    let why = format!("{length} bytes, and its readers take {limit} at most");
    Err(io::Error::new(io::ErrorKind::FileTooLarge, why))
}

/// Opens a regular file for reading, as [`read_regular`] does, and returns its length in bytes
/// too.
///
/// # Errors
/// Those of the file system; `InvalidData` when it is not a regular file.
pub fn open_regular(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .map_err(|cause| match cause.raw_os_error() {
            // The kernel's errors for a symbolic link and for a socket.
            Some(libc::ELOOP | libc::ENXIO) => invalid("not a regular file"),
            _ => cause,
        })?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(invalid("not a regular file"));
    }
    Ok((file, metadata.len()))
}

/// Reads a parameter of the kernel from `/proc` or `/sys`: a short text, which the kernel
/// returns with one read. White space around it is removed.
///
/// # Errors
/// Those of the file system.
pub fn read_parameter(path: &Path) -> io::Result<String> {
    let mut text = [0; 256];
    let length = File::open(path)?.read(&mut text)?;
    let text = text.get(..length).unwrap_or_default();
    Ok(String::from_utf8_lossy(text).trim().to_owned())
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Removes a file, and the temporary file that a killed [`replace`] has left beside it. A
/// missing file is success.
///
/// # Errors
/// Those of `unlink(2)`.
pub fn remove(path: &Path) -> io::Result<()> {
    remove_temporary(path)?;
    remove_one(path)
}

/// Removes the temporary file that a killed process has left beside `path`, if there is one. A
/// directory of that name is kept: [`replace`] does not make one.
///
/// # Errors
/// Those of `unlink(2)`.
pub fn remove_temporary(path: &Path) -> io::Result<()> {
    match remove_one(&temporary_name(path)) {
        Err(cause) if cause.kind() == io::ErrorKind::IsADirectory => Ok(()),
        outcome => outcome,
    }
}

fn remove_one(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(cause) if !is_missing(&cause) && !is_absent(path) => Err(cause),
        _ => Ok(()),
    }
}

/// A read-only file system refuses to remove even a file that does not exist.
fn is_absent(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|cause| is_missing(&cause))
}

/// Creates a file at `path`. A file that is there already is removed and not opened: a killed
/// process may have left it, or another user may have put a FIFO or a link there.
fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(FILE_MODE);
    match options.open(path) {
        Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => {
            remove_one(path)?;
            options.open(path)
        }
        outcome => outcome,
    }
}

/// A dot-file beside `path`. Its name is always the same, so that killed processes leave one
/// at most and the next process replaces it.
pub fn temporary_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.tmp"))
}
