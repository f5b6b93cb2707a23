//! Network namespaces. The main thread never changes its namespace: work inside a
//! container's namespace runs on a thread of its own that ends there, so there is
//! no way back to get wrong.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{FsType, NSFS_MAGIC, PROC_SUPER_MAGIC, fstatfs};

use crate::error::{Error, ErrorCode, Result};
use crate::file::read_parameter;

/// The namespace of the process itself.
pub const OWN: &str = "/proc/self/ns/net";

/// The PID namespace of the process itself.
const OWN_PIDS: &str = "/proc/self/ns/pid";
/// The number of the machine's first PID namespace. Source: `PROC_PID_INIT_INO` of
/// Linux.
const FIRST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// An open network namespace: it lives at least as long as this value.
#[derive(Debug)]
pub struct NetNs {
    file: File,
    path: String,
}

/// Which namespace a path led to, to recognise later whether it still does.
/// Kernels reuse these numbers, so they only mean something together with the
/// path and the boot they were read in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct NetNsId {
    /// The device of the namespace file system.
    pub device: u64,
    /// The inode, as shown by `ls -l /proc/self/ns/net`.
    pub inode: u64,
}

impl NetNs {
    /// Opens the namespace at `path`.
    ///
    /// # Errors
    /// Code 8 with the words of the Go plugins when the path is missing or is
    /// something else than a namespace.
    pub fn open(path: &str) -> Result<Self> {
        let failed = |why: String| {
            let msg = format!("failed to open netns {path:?}: {why}");
            Error::new(ErrorCode::NETNS, msg)
        };
        let file = File::open(path)
            .map_err(|cause| failed(format!("failed to Statfs {path:?}")).because(&cause))?;
        let FsType(magic) = fstatfs(&file)
            .map_err(|errno| failed(format!("failed to Statfs {path:?}")).because(&errno.into()))?
            .filesystem_type();
        if magic != NSFS_MAGIC.0 && magic != PROC_SUPER_MAGIC.0 {
            return Err(failed(format!("unknown FS magic on {path:?}: {magic:x}")));
        }
        Ok(Self {
            file,
            path: path.to_owned(),
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
        })
    }

    /// The container's namespace on DEL, or nothing when it is gone: no path, a
    /// path that leads nowhere, or one that leads to something else (a plain file
    /// where the namespace was mounted, for example).
    pub fn open_for_del(path: &str) -> Option<Self> {
        if path.is_empty() {
            return None;
        }
        Self::open(path).ok()
    }

    /// The path it was opened by, exactly as given.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Which namespace this is.
    ///
    /// # Errors
    /// Code 8 when the namespace cannot be examined.
    pub fn id(&self) -> Result<NetNsId> {
        let metadata = self.file.metadata().map_err(|cause| {
            let msg = format!("failed to examine netns {:?}", self.path);
            Error::new(ErrorCode::NETNS, msg).because(&cause)
        })?;
        Ok(NetNsId::of(&metadata))
    }

    /// Runs `work` on a thread inside the namespace and returns what it returned.
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

impl NetNsId {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

/// Whether `path` leads to the namespace this process runs in. A path that leads
/// nowhere does not, as in libcni.
///
/// # Errors
/// Code 8 when the process cannot see its own namespace.
pub fn is_current(path: &str) -> Result<bool> {
    let own = fs::metadata(OWN).map_err(|cause| {
        Error::new(ErrorCode::NETNS, "get plugin's netns failed").because(&cause)
    })?;
    let given = match path {
        "" => None,
        path => fs::metadata(path).ok(),
    };
    Ok(given.is_some_and(|given| NetNsId::of(&given) == NetNsId::of(&own)))
}

/// Whether `path` still leads to the namespace it led to when `id` was read.
pub fn is_alive(path: &str, id: NetNsId) -> bool {
    fs::metadata(Path::new(path)).is_ok_and(|found| NetNsId::of(&found) == id)
}

/// Whether the namespace that `path` led to when `id` was read has ended for certain,
/// by what can be seen from here. A directory that is not shared with the runtime, as
/// it may be in a container, proves nothing.
pub fn has_ended(path: &str, id: NetNsId) -> bool {
    let path = Path::new(path);
    match fs::metadata(path) {
        Ok(found) if NetNsId::of(&found) == id => false,
        // An empty file may be the place of a mount that is not visible here.
        Ok(found) if found.is_file() && found.len() == 0 => {
            NetNs::open(&path.to_string_lossy()).is_ok()
        }
        Ok(_) => true,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
            let is_seen = path.parent().is_some_and(Path::is_dir);
            is_seen || (path.starts_with("/proc") && sees_all_processes())
        }
        Err(_) => false,
    }
}

/// Whether this process is in the machine's first PID namespace.
fn sees_all_processes() -> bool {
    fs::metadata(OWN_PIDS).is_ok_and(|found| found.ino() == FIRST_PID_NAMESPACE)
}

/// Writes kernel parameters below `/proc/sys` as seen from the calling thread's
/// namespace, so it belongs inside [`NetNs::run`].
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
