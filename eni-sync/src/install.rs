//! Puts the plugins of an image into the node's directory. An empty image has no shell
//! and no `cp` to do it with, and `cp` would leave half a plugin to be executed.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use common::error::{Error, Result};
use common::file;

/// Some bit of these makes a file a program.
const EXECUTABLE: u32 = 0o111;

/// Installs every program in `source` into `target`, each by a rename, so that a runtime
/// finds the old one or the new one at any moment. What is the same stays as it is.
///
/// # Errors
/// Code 5 naming the file, 7 when there is nothing to install.
pub(crate) fn run(source: &Path, target: &Path) -> Result<()> {
    let programs = programs(source)?;
    if programs.is_empty() {
        return Err(Error::config(format!("there is no program in {source:?}")));
    }
    for program in programs {
        let installed = target.join(program.file_name().unwrap_or_default());
        let failed = |cause| Error::io(format!("failed to install {installed:?}"), &cause);
        match is_same(&program, &installed).map_err(failed)? {
            true => eprintln!("{} is up to date", installed.display()),
            false => {
                replace(&program, &installed).map_err(failed)?;
                eprintln!("{} is installed", installed.display());
            }
        }
    }
    Ok(())
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
    Ok(same_kind && fs::read(program)? == fs::read(installed)?)
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
