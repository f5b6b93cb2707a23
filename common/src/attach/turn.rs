//! Turns: locks that decide which process may change a container, or collect the garbage of a
//! network. They are needed because a runtime that gave up on an ADD sends DEL while that ADD
//! still runs, and GC can come at any time.
//!
//! All turns are locks on bytes of one file, which stays empty: one byte for each container
//! and for each network. So there is nothing to clean up, and the kernel releases a turn when
//! its holder is killed. Two containers can have the same byte by chance; the only effect is
//! a needless wait. A container cannot reach the file, so it cannot block other processes.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc;

use crate::attach::deadlines;
use crate::cni::args::CmdArgs;
use crate::cni::identifier::ContainerId;
use crate::error::{Error, Result};
use crate::files::file::{FILE_MODE, create_directory};
use crate::files::lock::{Sharing, lock_byte};
use crate::records::ROOT;

/// The file's name in the directory of the records.
const FILE: &str = ".turns";

/// A lock, held until this value is dropped.
#[derive(Debug)]
pub struct Turn {
    _file: File,
}

/// What a byte of the file is the lock of.
enum Subject<'a> {
    Container(&'a ContainerId),
    Network(&'a str),
    Devices,
    Masters,
}

impl Turn {
    /// The turn to attach a container: exclusive for this container, and while no process
    /// collects garbage of the network.
    ///
    /// # Errors
    /// Code 5 naming the file, 11 when another process keeps the turn too long.
    pub fn to_attach(args: &CmdArgs) -> Result<Self> {
        let file = create()?;
        let network = Subject::Network(&args.conf.network);
        take(&file, &network, Sharing::Shared)?;
        take(
            &file,
            &Subject::Container(&args.container_id),
            Sharing::Alone,
        )?;
        Ok(Self { _file: file })
    }

    /// The turn to detach a container: exclusive for this container. `None` when no container
    /// was ever attached on this node.
    ///
    /// # Errors
    /// As for [`Turn::to_attach`].
    pub fn to_detach(args: &CmdArgs) -> Result<Option<Self>> {
        Self::of_existing(&Subject::Container(&args.container_id), Sharing::Alone)
    }

    /// The turn to collect the garbage of a network: while no process attaches a container to
    /// it.
    ///
    /// # Errors
    /// As for [`Turn::to_attach`].
    pub fn to_collect(network: &str) -> Result<Option<Self>> {
        Self::of_existing(&Subject::Network(network), Sharing::Alone)
    }

    /// The turn to move devices of the node, or to search for one. It is taken after all
    /// other turns, and held for a moment only.
    ///
    /// # Errors
    /// As for [`Turn::to_attach`].
    pub fn of_devices() -> Result<Option<Self>> {
        Self::of_existing(&Subject::Devices, Sharing::Alone)
    }

    /// The turn to choose an interface of the node as a master, until it is recorded: while
    /// no process decides to detach an ENI from the node. Many processes can hold it at the
    /// same time, each for a moment only.
    ///
    /// # Errors
    /// As for [`Turn::to_attach`].
    pub fn to_choose_master() -> Result<Option<Self>> {
        Self::of_existing(&Subject::Masters, Sharing::Shared)
    }

    /// The turn to decide that an ENI is detached from the node: while no process chooses a
    /// master or moves a device. It is held for a moment only.
    ///
    /// # Errors
    /// As for [`Turn::to_attach`].
    pub fn to_detach_eni() -> Result<Self> {
        let file = create()?;
        take(&file, &Subject::Masters, Sharing::Alone)?;
        take(&file, &Subject::Devices, Sharing::Alone)?;
        Ok(Self { _file: file })
    }

    fn of_existing(subject: &Subject<'_>, sharing: Sharing) -> Result<Option<Self>> {
        let Some(file) = open()? else {
            return Ok(None);
        };
        take(&file, subject, sharing)?;
        Ok(Some(Self { _file: file }))
    }
}

impl Subject<'_> {
    fn byte(&self) -> i64 {
        match self {
            Self::Container(id) => byte_of("container", id.as_str()),
            Self::Network(name) => byte_of("network", name),
            Self::Devices => byte_of("devices", ""),
            Self::Masters => byte_of("masters", ""),
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Container(id) => format!("container {id}"),
            Self::Network(name) => format!("network {name:?}"),
            Self::Devices => "the devices of this node".into(),
            Self::Masters => "the masters of this node".into(),
        }
    }
}

/// The offset of the byte for `name`, the same in every build: the FNV-1a hash of 64 bits,
/// shifted by one so that it is not negative.
fn byte_of(kind: &str, name: &str) -> i64 {
    let text = kind.bytes().chain([0]).chain(name.bytes());
    let hash = text.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    // The byte at the largest offset would have no end offset.
    i64::try_from(hash >> 1).map_or(0, |offset| offset.min(i64::MAX - 1))
}

/// Opens the file, and creates it and its directory if they are missing.
fn create() -> Result<File> {
    let path = path();
    let mut options = options();
    options.create(true).mode(FILE_MODE);
    let file = match options.open(&path) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
            create_directory(Path::new(ROOT)).and_then(|()| options.open(&path))
        }
        outcome => outcome,
    };
    file.map_err(|cause| unopened(&path, &cause))
}

/// Opens the file; `None` when no ADD can have a turn: no ADD was ever executed, or each one
/// fails because the file system is read-only or the path is not a regular file. DEL must not
/// fail for ever because of that.
fn open() -> Result<Option<File>> {
    let path = path();
    match options().open(&path) {
        Ok(file) => Ok(Some(file)),
        Err(cause) if prevents_every_add(&cause) => Ok(None),
        Err(cause) => Err(unopened(&path, &cause)),
    }
}

/// An exclusive lock needs a file that is open for writing. A symbolic link is not followed,
/// and a FIFO does not block.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    options
}

fn unopened(path: &Path, cause: &io::Error) -> Error {
    Error::io(format!("failed to open {path:?}"), cause)
}

fn prevents_every_add(cause: &io::Error) -> bool {
    matches!(
        cause.raw_os_error(),
        Some(libc::ENOENT | libc::ENOTDIR | libc::EROFS | libc::ELOOP | libc::EISDIR | libc::ENXIO)
    )
}

fn path() -> PathBuf {
    Path::new(ROOT).join(FILE)
}

fn take(file: &File, subject: &Subject<'_>, sharing: Sharing) -> Result<()> {
    let what = format!("the turn of {}", subject.describe());
    lock_byte(file, subject.byte(), sharing, &what, deadlines::TURN)
}
