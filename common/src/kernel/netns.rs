//! Network namespaces. The main thread never changes its namespace: work inside a
//! container's namespace runs on a separate thread that ends there, so that no code has
//! to switch back.

mod cookie;
mod holders;
mod nsid;
mod presence;
mod search;
mod sysfs;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::OnceLock;

use nix::libc::{O_NONBLOCK, O_PATH};
use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{FsType, NSFS_MAGIC, PROC_SUPER_MAGIC, fstatfs, statfs};

use crate::error::{Error, ErrorCode, Result};
use crate::files::file::read_parameter;

pub use self::holders::{Bearer, Holders, STILL_THERE};
pub use self::nsid::Nsid;
use self::presence::is_recognised;
pub(crate) use self::presence::{Found, hidden, leads_nowhere, look};
pub use self::presence::{NetNsId, Presence};
pub use self::search::PROCESSES;
use self::search::is_on;
pub(crate) use self::search::numbered;
pub use self::sysfs::{Numbered, sysfs_number};

/// The namespace of the process itself.
pub const OWN: &str = "/proc/self/ns/net";

/// An open network namespace, which exists at least as long as this value.
#[derive(Debug)]
pub struct NetNs {
    file: File,
    path: String,
    cookie: OnceLock<Option<u64>>,
}

/// Why a path could not be opened.
enum Unopened {
    /// It certainly does not lead to a namespace.
    NoNamespace(Error),
    /// It may lead to one.
    Failed(Error),
}

impl From<Unopened> for Error {
    fn from(why: Unopened) -> Self {
        match why {
            Unopened::NoNamespace(error) | Unopened::Failed(error) => error,
        }
    }
}

impl NetNs {
    /// Opens the namespace at `path`.
    ///
    /// # Errors
    /// Code 8 with the text of the Go plugins when the path is missing or not a
    /// namespace.
    pub fn open(path: &str) -> Result<Self> {
        Ok(Self::try_open(path)?)
    }

    /// Opens the container's namespace on DEL. `None` when it has ended: the path is
    /// empty, missing, or not a namespace (for example, the file on which the namespace
    /// was mounted).
    ///
    /// # Errors
    /// Code 8 when the path may lead to a namespace that cannot be opened now.
    pub fn open_for_del(path: &str) -> Result<Option<Self>> {
        if path.is_empty() {
            return Ok(None);
        }
        match Self::try_open(path) {
            Ok(netns) => Ok(Some(netns)),
            Err(Unopened::NoNamespace(_)) => Ok(None),
            Err(Unopened::Failed(error)) => Err(error),
        }
    }

    /// Opens the namespace with this inode number, at a path by which something keeps it alive:
    /// the namespace of a thread, a descriptor or a mount. `None` when the path leads there no
    /// more. A pod may have replaced its descriptor by a file whose server never answers, so
    /// nothing but a namespace is opened.
    ///
    /// # Errors
    /// Code 8 when the path may still lead to the namespace, also when it belongs to a process
    /// that must not be examined.
    pub fn open_held(path: &Path, inode: u64) -> Result<Option<Self>> {
        // For a process that is ending the kernel reports a missing permission at first.
        let opened = open_number(path, inode).or_else(|_| open_number(path, inode));
        match opened {
            Ok(file) => Ok(file.map(|file| Self {
                file,
                path: path.to_string_lossy().into_owned(),
                cookie: OnceLock::new(),
            })),
            Err(cause) if leads_nowhere(&cause) => Ok(None),
            Err(cause) => {
                let msg = format!("failed to open netns {path:?}");
                Err(Error::new(ErrorCode::NETNS, msg).because(&cause))
            }
        }
    }

    fn try_open(path: &str) -> std::result::Result<Self, Unopened> {
        // The path is not opened before that, because opening a FIFO or a device could
        // block or have side effects.
        let kind = statfs(path).map_err(|errno| unopened(path, &errno.into()))?;
        require_namespace(path, kind.filesystem_type())?;
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(O_NONBLOCK);
        let file = options.open(path).map_err(|cause| unopened(path, &cause))?;
        let kind = fstatfs(&file).map_err(|errno| unopened(path, &errno.into()))?;
        require_namespace(path, kind.filesystem_type())?;
        Ok(Self {
            file,
            path: path.to_owned(),
            cookie: OnceLock::new(),
        })
    }

    /// The namespace this process runs in: the node's.
    ///
    /// # Errors
    /// Code 8 when `/proc` is not mounted.
    pub fn own() -> Result<Self> {
        let failed = |cause: io::Error| {
            Error::new(ErrorCode::NETNS, "get plugin's netns failed").because(&cause)
        };
        Ok(Self {
            file: File::open(OWN).map_err(failed)?,
            path: OWN.to_owned(),
            cookie: OnceLock::new(),
        })
    }

    /// Whether it is a network namespace and not one of another type: a descriptor of a process,
    /// by whose path a namespace is known, may be of another file by now.
    pub fn is_of_network(&self) -> bool {
        let link = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let target = fs::read_link(link);
        target.is_ok_and(|target| target.as_os_str().as_bytes().starts_with(b"net:"))
    }

    /// The path it was opened by, exactly as given.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Which namespace this is, to compare it with others. It is entered for that, unless a socket
    /// was made in it already.
    ///
    /// # Errors
    /// Code 8 when the namespace cannot be examined.
    pub fn id(&self) -> Result<NetNsId> {
        Ok(NetNsId {
            cookie: self.cookie(),
            ..self.outer_id()?
        })
    }

    /// The same by everything that identifies it later, to be written down: the kernel is told to
    /// give it a number in the namespace of this process, if it has none.
    ///
    /// # Errors
    /// Code 8 when the namespace cannot be examined.
    pub fn id_to_record(&self) -> Result<NetNsId> {
        Ok(NetNsId {
            nsid: Nsid::of(self).ok().flatten(),
            ..self.id()?
        })
    }

    /// The same as far as that is visible without entering it, which is enough to compare it with
    /// another namespace that exists now.
    ///
    /// # Errors
    /// Code 8 when the namespace cannot be examined.
    pub fn outer_id(&self) -> Result<NetNsId> {
        let metadata = self.examined(self.file.metadata())?;
        Ok(NetNsId::of(&metadata, Path::new(&self.path)))
    }

    /// Whether it is the namespace `id`.
    ///
    /// # Errors
    /// Code 8 when the namespace, or what is in it, cannot be examined.
    pub fn is(&self, id: NetNsId) -> Result<bool> {
        let metadata = self.examined(self.file.metadata())?;
        let cookie = || self.cookie();
        self.examined(is_recognised(
            (Path::new(&self.path), &metadata),
            id,
            cookie,
        ))
    }

    fn examined<T>(&self, outcome: io::Result<T>) -> Result<T> {
        outcome.map_err(|cause| {
            let msg = format!("failed to examine netns {:?}", self.path);
            Error::new(ErrorCode::NETNS, msg).because(&cause)
        })
    }

    /// Runs `work` on a thread inside the namespace, and returns its result.
    ///
    /// # Errors
    /// Code 8 when the namespace cannot be entered, else those of `work`.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let inside = || {
            setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(|errno| {
                let msg = format!("failed to enter netns {:?}", self.path);
                Error::new(ErrorCode::NETNS, msg).because(&errno.into())
            })?;
            work()
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new()
                .spawn_scoped(scope, inside)
                .map_err(|cause| Error::internal("failed to start a thread").because(&cause))?;
            match thread.join() {
                Ok(outcome) => outcome,
                Err(_) => Err(Error::internal("a thread inside the netns ended early")),
            }
        })
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Opens the file at `path`, if it is the namespace with this inode number.
fn open_number(path: &Path, inode: u64) -> io::Result<Option<File>> {
    let device = fs::metadata(OWN)?.dev();
    let mut options = OpenOptions::new();
    // Such a descriptor names the file without opening it.
    let named = options.read(true).custom_flags(O_PATH).open(path)?;
    if !is_on(&named, device)? || named.metadata()?.ino() != inode {
        return Ok(None);
    }
    File::open(format!("/proc/self/fd/{}", named.as_raw_fd())).map(Some)
}

/// Classifies the error `cause` of opening `path`.
fn unopened(path: &str, cause: &io::Error) -> Unopened {
    let msg = format!("failed to open netns {path:?}: failed to Statfs {path:?}");
    let error = Error::new(ErrorCode::NETNS, msg).because(cause);
    match leads_nowhere(cause) {
        true => Unopened::NoNamespace(error),
        false => Unopened::Failed(error),
    }
}

/// Makes sure that what is at `path` is on a file system that has namespaces.
fn require_namespace(path: &str, kind: FsType) -> std::result::Result<(), Unopened> {
    let FsType(magic) = kind;
    if magic == NSFS_MAGIC.0 || magic == PROC_SUPER_MAGIC.0 {
        return Ok(());
    }
    let msg = format!("failed to open netns {path:?}: unknown FS magic on {path:?}: {magic:x}");
    Err(Unopened::NoNamespace(Error::new(ErrorCode::NETNS, msg)))
}

/// Whether `path` leads to the namespace this process runs in; false when it leads
/// nowhere, as in libcni.
///
/// # Errors
/// Code 8 when the namespace of the process or the path cannot be examined.
pub fn is_current(path: &str) -> Result<bool> {
    let failed = |cause: io::Error| {
        Error::new(ErrorCode::NETNS, "get plugin's netns failed").because(&cause)
    };
    let own = fs::metadata(OWN).map_err(failed)?;
    if path.is_empty() {
        return Ok(false);
    }
    match fs::metadata(path) {
        Ok(given) => Ok(presence::has_numbers_of(&given, &own)),
        Err(cause) if leads_nowhere(&cause) => Ok(false),
        Err(cause) => {
            let msg = format!("failed to examine netns {path:?}");
            Err(Error::new(ErrorCode::NETNS, msg).because(&cause))
        }
    }
}

/// Writes a kernel parameter below `/proc/sys`, of the calling thread's namespace: for a
/// container, to be called inside [`NetNs::run`].
///
/// # Errors
/// Those of the file system.
pub fn write_sysctl(name: &str, value: &str) -> io::Result<()> {
    fs::write(Path::new("/proc/sys").join(name), value)
}

/// Reads a kernel parameter below `/proc/sys`; see [`write_sysctl`].
///
/// # Errors
/// Those of the file system.
pub fn read_sysctl(name: &str) -> io::Result<String> {
    read_parameter(&Path::new("/proc/sys").join(name))
}
