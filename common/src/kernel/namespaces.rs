//! Lists the network namespaces of the machine that are visible to this process: those that a
//! runtime has mounted under a name, and those of processes. A namespace that only an open
//! descriptor keeps is not found.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::libc::ESRCH;

use crate::error::{Error, ErrorCode, Result};
use crate::files::file;
use crate::kernel::netns::{NetNsId, OWN, PROCESSES, hidden, numbered};
use crate::say;

/// Where runtimes mount the namespaces of pods: containerd, CRI-O and podman use the
/// first, Docker the second.
const DIRECTORIES: [&str; 2] = ["/run/netns", "/var/run/docker/netns"];
/// The namespace of a process, in its directory.
const OF_PROCESS: &str = "ns/net";

/// The namespaces that runtimes have mounted under a name.
#[derive(Debug, Default)]
pub struct Named {
    /// The paths that lead to a namespace.
    pub visible: Vec<PathBuf>,
    /// The paths at which other processes may see a namespace, with an error that says why it
    /// is not visible here. A runtime creates an empty file and mounts the namespace on it.
    pub hidden: Vec<(PathBuf, Error)>,
}

/// Lists the namespaces that runtimes have mounted under a name.
///
/// # Errors
/// Code 5 naming the directory that cannot be read, 8 when `/proc` is not mounted.
pub fn named() -> Result<Named> {
    let own = fs::metadata(OWN).map_err(|cause| {
        Error::new(ErrorCode::NETNS, "get plugin's netns failed").because(&cause)
    })?;
    let mut named = Named::default();
    for directory in DIRECTORIES {
        for path in list(Path::new(directory))? {
            match fs::metadata(&path) {
                Ok(found) if found.dev() == own.dev() => named.visible.push(path),
                Ok(found) if found.is_file() && found.len() == 0 => {
                    let why = hidden(&path.to_string_lossy());
                    named.hidden.push((path, why));
                }
                // This is not a file of a runtime.
                Ok(_) => {}
                Err(cause) if has_ended(&cause) => {}
                Err(cause) => {
                    let msg = format!("failed to examine netns {path:?}");
                    let why = Error::new(ErrorCode::NETNS, msg).because(&cause);
                    named.hidden.push((path, why));
                }
            }
        }
    }
    Ok(named)
}

/// The visible namespaces: for each one a path and its identity. Those that end meanwhile are
/// left out; those that cannot be examined are logged and left out.
///
/// # Errors
/// As for [`named`].
pub fn visible() -> Result<Vec<(PathBuf, NetNsId)>> {
    let Named {
        visible: paths,
        hidden,
    } = named()?;
    let (mut seen, mut found) = (HashSet::new(), Vec::new());
    let mut unseen: Vec<String> = hidden.iter().map(|(_, why)| why.to_string()).collect();
    let named = paths.into_iter().map(|path| (fs::metadata(&path), path));
    for (metadata, path) in named.chain(of_processes()?) {
        match metadata {
            Ok(metadata) => {
                if seen.insert((metadata.dev(), metadata.ino())) {
                    let id = NetNsId::of(&metadata, &path);
                    found.push((path, id));
                }
            }
            Err(cause) if has_ended(&cause) => {}
            Err(cause) => unseen.push(format!("{path:?}: {cause}")),
        }
    }
    if let Some(first) = unseen.first() {
        let count = unseen.len();
        say!("{count} network namespaces cannot be examined, such as {first}");
    }
    Ok(found)
}

/// The namespaces of processes: for each process the properties of its namespace, or why it cannot
/// be examined, and its path. A process whose first thread has ended is where the next one is.
///
/// # Errors
/// Code 5 when `/proc` cannot be read.
pub fn of_processes() -> Result<impl Iterator<Item = (io::Result<fs::Metadata>, PathBuf)>> {
    let found = numbered(Path::new(PROCESSES));
    let processes = found.map_err(|cause| not_listed(PROCESSES.as_ref(), &cause))?;
    Ok(processes.into_iter().map(|process| {
        let path = process.join(OF_PROCESS);
        match fs::metadata(&path) {
            Err(cause) if has_ended(&cause) => of_threads(&process).unwrap_or((Err(cause), path)),
            found => (found, path),
        }
    }))
}

/// The same of the first thread of a process that has not ended.
fn of_threads(process: &Path) -> Option<(io::Result<fs::Metadata>, PathBuf)> {
    let threads = numbered(&process.join("task")).ok()?;
    threads.into_iter().find_map(|thread| {
        let path = thread.join(OF_PROCESS);
        let found = fs::metadata(&path).ok()?;
        Some((Ok(found), path))
    })
}

/// Whether an error about a path of [`of_processes`] means that the process has ended: such a
/// process first has no namespace, and later no directory.
pub fn has_ended(cause: &io::Error) -> bool {
    cause.kind() == io::ErrorKind::NotFound || cause.raw_os_error() == Some(ESRCH)
}

/// The entries of `directory`; none when it is missing.
fn list(directory: &Path) -> Result<Vec<PathBuf>> {
    file::list(directory).map_err(|cause| not_listed(directory, &cause))
}

fn not_listed(directory: &Path, cause: &io::Error) -> Error {
    Error::io(format!("failed to list {directory:?}"), cause)
}
