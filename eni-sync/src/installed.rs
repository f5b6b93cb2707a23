//! Which plugins a directory has, and how a plugin is installed there. A file is recognised by
//! its bytes: a program that may not be of this suite is never executed to find out.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::error::{Error, Result};
use common::files::file;
use common::files::lock::Lock;
use common::program::{DROP_IN, is_executable, marker_of, own_name};
use memchr::memmem;
use nix::libc;
use serde::Serialize;

/// The size limit of a plugin in bytes. A longer file is not read.
const LONGEST: u64 = 64 << 20;
/// The size limit of a version in bytes.
const LONGEST_VERSION: usize = 64;
/// Part of the paths of the source files of the Go reference plugins. Their programs contain
/// these paths.
const OF_GO: &[u8] = b"containernetworking/plugins/";
/// How long another process may take to install plugins.
const INSTALLATION: Duration = Duration::from_secs(30);

/// What a directory has under the name of a plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "origin", content = "version")]
pub(crate) enum Installed {
    /// The plugin of this suite, in this version.
    Ours(String),
    /// One of the Go reference plugins.
    Go,
    /// A file that is neither.
    Other,
    /// Nothing.
    Missing,
}

impl Installed {
    /// The origin as metrics and JSON name it.
    pub(crate) fn origin(&self) -> &'static str {
        match self {
            Self::Ours(_) => "ours",
            Self::Go => "go",
            Self::Other => "other",
            Self::Missing => "missing",
        }
    }

    /// The version of a plugin of this suite; empty for every other program.
    pub(crate) fn version(&self) -> &str {
        match self {
            Self::Ours(version) => version,
            Self::Go | Self::Other | Self::Missing => "",
        }
    }

    pub(crate) fn is_ours(&self) -> bool {
        matches!(self, Self::Ours(_))
    }
}

impl fmt::Display for Installed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ours(version) => write!(f, "this suite's, version {version}"),
            Self::Go => f.write_str("the Go plugin"),
            Self::Other => f.write_str("another program"),
            Self::Missing => f.write_str("missing"),
        }
    }
}

/// What a directory has under a name.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) name: String,
    /// The plugin that the name is for.
    pub(crate) plugin: &'static str,
    pub(crate) installed: io::Result<Installed>,
}

/// What a directory has under each of the names.
pub(crate) fn in_directory(directory: &Path) -> Vec<Found> {
    let found = names().map(|(name, plugin)| Found {
        installed: at(&directory.join(&name), plugin),
        name,
        plugin,
    });
    found.collect()
}

/// The names that the plugins are installed under, each with its plugin.
pub(crate) fn names() -> impl Iterator<Item = (String, &'static str)> {
    let own = DROP_IN.iter().map(|plugin| (own_name(plugin), *plugin));
    own.chain(DROP_IN.iter().map(|plugin| ((*plugin).to_owned(), *plugin)))
}

/// What is at a path where `plugin` is expected.
///
/// # Errors
/// Those of the file system. A missing file is not an error.
pub(crate) fn at(path: &Path, plugin: &str) -> io::Result<Installed> {
    // The metadata come first, so that a FIFO is not waited for and a device is not opened.
    let metadata = match fs::metadata(path) {
        Err(cause) if file::is_missing(&cause) => return Ok(Installed::Missing),
        metadata => metadata?,
    };
    if !is_executable(&metadata) || metadata.len() > LONGEST {
        return Ok(Installed::Other);
    }
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let mut program = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or_default());
    file?.take(LONGEST).read_to_end(&mut program)?;
    Ok(of(&program, plugin))
}

fn of(program: &[u8], plugin: &str) -> Installed {
    match version(program, plugin) {
        Some(version) => Installed::Ours(version),
        None if memmem::find(program, OF_GO).is_some() => Installed::Go,
        None => Installed::Other,
    }
}

/// The version that follows the marker of the plugin, if the program contains the marker.
fn version(program: &[u8], plugin: &str) -> Option<String> {
    let marker = marker_of(plugin);
    let at = memmem::find(program, marker.as_bytes())?;
    let rest = program.get(at + marker.len()..)?;
    let end = rest
        .iter()
        .take(LONGEST_VERSION)
        .position(|b| *b == b'\n')?;
    String::from_utf8(rest.get(..end)?.to_vec()).ok()
}

/// Takes the lock that every process holds while it installs plugins of this suite in a
/// directory. The lock is on the directory itself and leaves no file there.
///
/// # Errors
/// Code 5 naming the directory, 11 when another process holds the lock too long.
pub(crate) fn lock(directory: &Path) -> Result<Option<Lock>> {
    let failed = |cause| Error::io(format!("failed to look at {directory:?}"), &cause);
    let directory = fs::canonicalize(directory).map_err(failed)?;
    Lock::take_existing(&directory, INSTALLATION)
}

/// The subdirectory with the programs of other projects that plugins of this suite have
/// replaced.
pub(crate) const REPLACED: &str = ".eni-cni-replaced";

/// The path of the program that the plugin `name` of this suite has replaced.
pub(crate) fn replaced(directory: &Path, name: &str) -> PathBuf {
    directory.join(REPLACED).join(name)
}

/// Keeps a copy of the program that is about to be replaced, unless it is of this suite:
/// uninstalling restores it. A later copy replaces an earlier one.
///
/// # Errors
/// Those of the file system.
pub(crate) fn keep_replaced(directory: &Path, name: &str, plugin: &str) -> io::Result<()> {
    let installed = directory.join(name);
    let is_program = match at(&installed, plugin)? {
        Installed::Go => true,
        Installed::Other => fs::metadata(&installed)?.is_file(),
        Installed::Missing | Installed::Ours(_) => false,
    };
    if !is_program {
        return Ok(());
    }
    file::create_directory(&directory.join(REPLACED))?;
    put(&installed, &replaced(directory, name))
}

/// Copies a program with its mode under a temporary name, and renames the copy when all of it
/// is on the disk, so that a runtime finds the old or the new program at any moment. The copy
/// is a separate file: writing into the file under one name does not change the others.
///
/// # Errors
/// Those of the file system. The old file stays then.
pub(crate) fn put(program: &Path, installed: &Path) -> io::Result<()> {
    replace(installed, |temporary| {
        fs::copy(program, temporary)?;
        File::open(temporary)?.sync_all()
    })
}

/// Restores the program that [`keep_replaced`] has kept. At any moment the program exists under
/// one of the two names, also on the disk.
///
/// # Errors
/// Those of the file system. The program then exists under one of the two names.
pub(crate) fn put_back(kept: &Path, installed: &Path) -> io::Result<()> {
    fs::rename(kept, installed)?;
    for directory in [installed, kept].into_iter().filter_map(Path::parent) {
        File::open(directory)?.sync_all()?;
    }
    Ok(())
}

/// Gives an installed program one more name, a hard link, as atomically as [`put`].
///
/// # Errors
/// Those of the file system. The old file stays then.
pub(crate) fn link(program: &Path, installed: &Path) -> io::Result<()> {
    replace(installed, |temporary| fs::hard_link(program, temporary))
}

/// Replaces a file by the one that `make` creates under a temporary name.
fn replace(installed: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    file::remove_temporary(installed)?;
    let temporary = file::temporary_name(installed);
    let written = make(&temporary).and_then(|()| fs::rename(&temporary, installed));
    if written.is_err() {
        // The first error explains the failure; the temporary file may not exist.
        fs::remove_file(&temporary).ok();
    }
    written?;
    match installed.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_what_its_bytes_say() {
        let ours = b"\x7fELF..eni-cni plugin ipvlan version 0.2.0-rc.1\nmore";
        let expected = Installed::Ours("0.2.0-rc.1".to_owned());
        assert_eq!(of(ours, "ipvlan"), expected);
        // A plugin under the name of another one would do something else.
        assert_eq!(of(ours, "host-local"), Installed::Other);
        let go = b"/build/github.com/containernetworking/plugins/pkg/ns/ns.go";
        assert_eq!(of(go, "ipvlan"), Installed::Go);
        assert_eq!(of(b"#!/bin/sh", "ipvlan"), Installed::Other);
        let endless = [marker_of("ipvlan").as_bytes(), &[b'1'; 100]].concat();
        assert_eq!(of(&endless, "ipvlan"), Installed::Other);
    }
}
