//! Opens a log file, and refuses every other file. The path is from the configuration of a
//! network, whose author must not be able to change files of other programs, or parameters of
//! the kernel.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, Stat, fstat, fstatfs, major, minor, openat};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::files::file::FILE_MODE;

/// The first field of a line of a log, in which each 0 stands for a digit.
const TIME: &[u8] = b"time=0000-00-00T00:00:00.000Z";
/// The levels in the second field.
const LEVELS: [&[u8]; 2] = [b"info", b"error"];
/// At least as many bytes as the fields before the name of the plugin have.
const BEGINNING: usize = 64;

/// The types of file systems that are not told by their size. Source: linux/magic.h.
const TMPFS: u64 = 0x0102_1994;
const RAMFS: u64 = 0x8584_58f6;
const EFIVARFS: u64 = 0xde5e_81e4;

/// Opens the log file at `path` to append to it, or creates it. Other users who can write to
/// its directory must not redirect the lines to another file, neither by a symbolic or hard
/// link nor by a file that they own.
///
/// # Errors
/// Those of the file system; `InvalidInput` when it is not a file of these plugins.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(unfit("it is not the path of a file"));
    };
    // Such a descriptor only names the file.
    let named = OFlags::PATH | OFlags::CLOEXEC;
    let directory = openat(CWD, directory, named | OFlags::DIRECTORY, Mode::empty())?;
    // Neither a device nor a file of the kernel is even opened, and no file is made where none is
    // kept.
    match openat(&directory, name, named | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(found) => require_fit(&found)?,
        Err(Errno::NOENT) => require_kept(&directory)?,
        Err(errno) => return Err(errno.into()),
    }
    let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC;
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mode = Mode::from_raw_mode(FILE_MODE);
    let file = File::from(openat(&directory, name, flags, mode)?);
    require_fit(&file)?;
    require_log(&file)?;
    Ok(file)
}

fn require_fit(file: impl AsFd) -> io::Result<()> {
    require_own(&fstat(&file)?)?;
    require_kept(file)
}

fn require_own(found: &Stat) -> io::Result<()> {
    let is_file = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile;
    let is_own = found.st_uid == geteuid().as_raw() && found.st_nlink <= 1;
    match is_file && is_own {
        true => Ok(()),
        false => Err(unfit("it is not a regular file of this user with one name")),
    }
}

/// Makes sure that the file system keeps files, on a disk or in memory. One of the kernel's
/// interfaces, such as `/proc` or `/sys`, has no blocks.
fn require_kept(file: impl AsFd) -> io::Result<()> {
    let system = fstatfs(&file)?;
    let is_kept = match u64::try_from(system.f_type).unwrap_or_default() {
        // The devices of `/dev` are in memory too.
        TMPFS => !is_of_devices(fstat(&file)?.st_dev)?,
        RAMFS => true,
        // It has the blocks of the firmware's memory.
        EFIVARFS => false,
        _ => system.f_blocks > 0,
    };
    match is_kept {
        true => Ok(()),
        false => Err(unfit("its file system does not keep files")),
    }
}

/// Whether the file system with this number is a devtmpfs. Source: proc_pid_mountinfo(5).
fn is_of_devices(number: u64) -> io::Result<bool> {
    let number = format!("{}:{}", major(number), minor(number));
    let mounts = fs::read("/proc/self/mountinfo")?;
    let mounts = String::from_utf8_lossy(&mounts);
    let mut mounts = mounts.lines().filter_map(|line| line.split_once(" - "));
    Ok(mounts.any(|(mount, system)| {
        mount.split(' ').nth(2) == Some(&number) && system.starts_with("devtmpfs ")
    }))
}

/// Makes sure that the file is empty or begins with a line of a log. A full disk may have cut
/// its first line.
fn require_log(file: &File) -> io::Result<()> {
    let mut start = [0; BEGINNING];
    let length = file.read_at(&mut start, 0)?;
    match begins_log(start.get(..length).unwrap_or_default()) {
        true => Ok(()),
        false => Err(unfit("it is not a log of these plugins")),
    }
}

fn begins_log(start: &[u8]) -> bool {
    let agrees = |(byte, place): (&u8, &u8)| match place {
        b'0' => byte.is_ascii_digit(),
        _ => byte == place,
    };
    LEVELS.iter().any(|level| {
        let beginning = [TIME, b" level=", level, b" plugin="].concat();
        start.iter().zip(&beginning).all(agrees)
    })
}

fn unfit(why: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, why)
}
