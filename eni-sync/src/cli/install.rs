//! Puts the plugins of an image into the node's directory. An empty image has no shell
//! and no `cp` to do it with, and `cp` would leave half a plugin to be executed.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use common::error::{Error, Result};
use common::plugin::{DROP_IN, own_name};
use common::say;
use nix::unistd::geteuid;

use crate::installed::{self, EXECUTABLE};

/// What to do about a directory of another user.
const CURE: &str = "chown root:root it, or give the container DAC_OVERRIDE";

/// Installs every program in `source` into `target`, each by a rename, so that a runtime
/// finds the old one or the new one at any moment; a plugin that has the name of one of the Go
/// plugins also under a name of its own. What is the same, and this process's user's, stays as
/// it is: whoever owns a program can change what root executes.
///
/// # Errors
/// Code 5 naming the file, and the owner of a directory that takes no file; 7 when there
/// is nothing to install, 11 when another installation does not end.
pub(crate) fn run(source: &Path, target: &Path) -> Result<()> {
    let programs = programs(source)?;
    if programs.is_empty() {
        return Err(Error::config(format!("there is no program in {source:?}")));
    }
    warn_of_owner(target);
    let _lock = installed::lock(target)?;
    for (program, name) in named(programs) {
        let installed = target.join(name);
        let failed = |cause| failed(&installed, target, &cause);
        match is_same(&program, &installed).map_err(failed)? {
            true => say!("{} is up to date", installed.display()),
            false => {
                installed::put(&program, &installed).map_err(failed)?;
                say!("{} is installed", installed.display());
            }
        }
    }
    Ok(())
}

/// The programs with the names that they are installed under.
fn named(programs: Vec<PathBuf>) -> Vec<(PathBuf, String)> {
    let mut named = Vec::new();
    for program in programs {
        let name = program.file_name().unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        if DROP_IN.contains(&name.as_str()) {
            named.push((program.clone(), own_name(&name)));
        }
        named.push((program, name));
    }
    // The source may have both names, as the directory of an installation has.
    let mut seen = BTreeSet::new();
    named.retain(|(_, name)| seen.insert(name.clone()));
    named
}

/// Says whose the directory is, where that is not the user's who executes the programs.
fn warn_of_owner(target: &Path) {
    if let Some(owner) = other_owner(target) {
        say!("{target:?} belongs to {owner}, who can replace what root executes: {CURE}");
    }
}

fn failed(installed: &Path, target: &Path, cause: &io::Error) -> Error {
    let error = Error::io(format!("failed to install {installed:?}"), cause);
    match other_owner(target).filter(|_| cause.kind() == io::ErrorKind::PermissionDenied) {
        Some(owner) => {
            let details = format!("{cause}; {target:?} belongs to {owner}: {CURE}");
            error.with_details(details)
        }
        None => error,
    }
}

/// User, group and mode of a directory that is another user's.
fn other_owner(directory: &Path) -> Option<String> {
    let found = fs::metadata(directory).ok()?;
    let (uid, gid, mode) = (found.uid(), found.gid(), found.mode() & 0o7777);
    (uid != geteuid().as_raw()).then(|| format!("{uid}:{gid}, mode {mode:04o}"))
}

/// The programs in a directory, sorted.
fn programs(source: &Path) -> Result<Vec<PathBuf>> {
    let failed = |cause| Error::io(format!("failed to list {source:?}"), &cause);
    let mut found = Vec::new();
    for entry in fs::read_dir(source).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let metadata = fs::metadata(&path).map_err(failed)?;
        if metadata.is_file() && metadata.permissions().mode() & EXECUTABLE != 0 {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn is_same(program: &Path, installed: &Path) -> io::Result<bool> {
    let is_file = |metadata: &fs::Metadata| metadata.file_type().is_file();
    let there = match fs::symlink_metadata(installed) {
        Ok(there) if is_file(&there) => there,
        Ok(_) => return Ok(false),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(cause) => return Err(cause),
    };
    let here = fs::metadata(program)?;
    let same_kind = (here.len(), here.permissions()) == (there.len(), there.permissions());
    let is_own = there.uid() == geteuid().as_raw();
    Ok(same_kind && is_own && fs::read(program)? == fs::read(installed)?)
}
