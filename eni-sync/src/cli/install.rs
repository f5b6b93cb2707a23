//! Puts the plugins of an image into the node's directory. An empty image has no shell
//! and no `cp` to do it with, and `cp` would leave half a plugin to be executed.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use common::error::{Error, Result};
use common::files::file;
use common::say;
use nix::unistd::geteuid;

/// Some bit of these makes a file a program.
const EXECUTABLE: u32 = 0o111;
/// What to do about a directory of another user.
const CURE: &str = "chown root:root it, or give the container DAC_OVERRIDE";

/// Installs every program in `source` into `target`, each by a rename, so that a runtime
/// finds the old one or the new one at any moment. What is the same, and this process's
/// user's, stays as it is: whoever owns a program can change what root executes.
///
/// # Errors
/// Code 5 naming the file, and the owner of a directory that takes no file; 7 when there
/// is nothing to install.
pub(crate) fn run(source: &Path, target: &Path) -> Result<()> {
    let programs = programs(source)?;
    if programs.is_empty() {
        return Err(Error::config(format!("there is no program in {source:?}")));
    }
    warn_of_owner(target);
    for program in programs {
        let installed = target.join(program.file_name().unwrap_or_default());
        let failed = |cause| failed(&installed, target, &cause);
        match is_same(&program, &installed).map_err(failed)? {
            true => say!("{} is up to date", installed.display()),
            false => {
                replace(&program, &installed).map_err(failed)?;
                say!("{} is installed", installed.display());
            }
        }
    }
    Ok(())
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

/// Copies with the mode, and renames when all of it is on the disk.
fn replace(program: &Path, installed: &Path) -> io::Result<()> {
    file::remove_temporary(installed)?;
    let temporary = file::temporary_name(installed);
    let written = fs::copy(program, &temporary)
        .and_then(|_| File::open(&temporary)?.sync_all())
        .and_then(|()| fs::rename(&temporary, installed));
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
