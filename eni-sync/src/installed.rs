//! Which plugins a directory has, and how one is put there. What a file is, its bytes say: a
//! program that may be another's is never executed to find out.

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

/// No plugin is longer, in bytes; what is longer is not read.
const LONGEST: u64 = 64 << 20;
/// No version is longer.
const LONGEST_VERSION: usize = 64;
/// In the path of every source of the Go reference plugins, which are in their programs.
const OF_GO: &[u8] = b"containernetworking/plugins/";
/// How long another process may take to install plugins.
const INSTALLATION: Duration = Duration::from_secs(30);

/// What a directory has in the place of a plugin.
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
    /// The word for machines.
    pub(crate) fn origin(&self) -> &'static str {
        match self {
            Self::Ours(_) => "ours",
            Self::Go => "go",
            Self::Other => "other",
            Self::Missing => "missing",
        }
    }

    /// The version of one of ours; empty for anything else, which is not executed.
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

/// What is at a path in the place of `plugin`.
///
/// # Errors
/// Those of the file system; a missing file is none.
pub(crate) fn at(path: &Path, plugin: &str) -> io::Result<Installed> {
    // Neither waits for the other end of a FIFO nor opens a device.
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

/// The version that stands behind the marker of the plugin, if the program has it.
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

/// The lock of everybody who puts plugins of this suite into a directory. It is on the
/// directory itself and leaves nothing there.
///
/// # Errors
/// Code 5 naming the directory, 11 when another process does not end.
pub(crate) fn lock(directory: &Path) -> Result<Option<Lock>> {
    let failed = |cause| Error::io(format!("failed to look at {directory:?}"), &cause);
    let directory = fs::canonicalize(directory).map_err(failed)?;
    Lock::take_existing(&directory, INSTALLATION)
}

/// Where a directory keeps the programs of others that ours have replaced in it.
pub(crate) const REPLACED: &str = ".eni-cni-replaced";

/// The place of the program that ours of this name has replaced.
pub(crate) fn replaced(directory: &Path, name: &str) -> PathBuf {
    directory.join(REPLACED).join(name)
}

/// Keeps a copy of the program of somebody else that ours is about to replace, the newest
/// one, for whoever uninstalls.
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

/// Copies a program with its mode, and renames the copy when all of it is on the disk, so that a runtime finds
/// the old one or the new one at any moment. The copy is a file of its own: what somebody
/// writes into the file of one name changes no other name.
///
/// # Errors
/// Those of the file system; what was there stays then.
pub(crate) fn put(program: &Path, installed: &Path) -> io::Result<()> {
    replace(installed, |temporary| {
        fs::copy(program, temporary)?;
        File::open(temporary)?.sync_all()
    })
}

/// Puts the program back that [`keep_replaced`] has kept. At any moment one of the two names is
/// there, also on the disk.
///
/// # Errors
/// Those of the file system; one of the two names has the program then.
pub(crate) fn put_back(kept: &Path, installed: &Path) -> io::Result<()> {
    fs::rename(kept, installed)?;
    for directory in [installed, kept].into_iter().filter_map(Path::parent) {
        File::open(directory)?.sync_all()?;
    }
    Ok(())
}

/// Gives a program that is installed one more name, as [`put`] does.
///
/// # Errors
/// Those of the file system; what was there stays then.
pub(crate) fn link(program: &Path, installed: &Path) -> io::Result<()> {
    replace(installed, |temporary| fs::hard_link(program, temporary))
}

/// Replaces a file by what `make` makes under another name.
fn replace(installed: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    file::remove_temporary(installed)?;
    let temporary = file::temporary_name(installed);
    let written = make(&temporary).and_then(|()| fs::rename(&temporary, installed));
    if written.is_err() {
        // The first error is the one that explains; the file may not even exist.
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
