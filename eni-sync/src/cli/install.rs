//! `eni-sync install`: copies the plugins of an image into the node's directory. The image is
//! empty apart from the programs, so it has no `cp`; and `cp` would leave half a plugin that
//! may be executed.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use common::error::{Error, ErrorCode, Result};
use common::files::file;
use common::program::{ALL_PLUGINS, DROP_IN, is_executable, own_name};
use common::say;
use nix::sys::statvfs::statvfs;
use nix::unistd::geteuid;

use crate::installed;

/// The advice about a directory of another user.
const CURE: &str = "chown root:root it, or give the container DAC_OVERRIDE";
/// The advice about a read-only directory.
const REMOUNT: &str = "remount its file system writable on the node, or install elsewhere: a runtime's \
                       bin_dir says where it looks for plugins";
/// The advice about a full file system.
const MAKE_ROOM: &str = "make room on the node, then the container is started again";

/// A program and the name under which it is installed.
#[derive(Debug, PartialEq, Eq)]
struct Name {
    program: PathBuf,
    name: String,
    /// An installed name of the same program, to which this name can be a hard link.
    other_name: Option<&'static str>,
}

/// Installs every program in `source` into `target`, each by a rename, so that a runtime finds
/// the old or the new one at any moment; `eni-cni` under the names of all plugins, and a plugin
/// with the name of a Go plugin also under a name of its own. A file that is equal and belongs
/// to this process's user is not replaced; one of another user is, because its owner could
/// change what root executes.
///
/// # Errors
/// Code 5 naming the file, and the owner of a directory that cannot be written, with what to
/// do; 7 when there is nothing to install, 11 when another installation takes too long. Nothing
/// is installed if there is no room for all programs.
pub(crate) fn run(source: &Path, target: &Path) -> Result<()> {
    let programs = programs(source)?;
    if programs.is_empty() {
        return Err(Error::config(format!("there is no program in {source:?}")));
    }
    warn_of_owner(target);
    let names = named(programs);
    require_room(&names, target)?;
    let _lock = installed::lock(target)?;
    for name in names {
        let installed = target.join(&name.name);
        let is_new = install(&name, target);
        match is_new.map_err(|cause| failed(&installed, target, &cause))? {
            true => say!("{} is installed", installed.display()),
            false => say!("{} is up to date", installed.display()),
        }
    }
    Ok(())
}

/// Keeps the program of another project that has this name. If that fails, for example for lack
/// of room, the plugin is installed nevertheless: pods need it now, and `uninstall` reports
/// that there is no program to restore.
fn keep_replaced(target: &Path, name: &str) {
    if !DROP_IN.contains(&name) {
        return;
    }
    if let Err(cause) = installed::keep_replaced(target, name, name) {
        say!("the {name} that was in {target:?} before is not kept: {cause}");
    }
}

/// Installs a program under one name, and returns whether that was necessary.
fn install(name: &Name, target: &Path) -> io::Result<bool> {
    let installed = target.join(&name.name);
    if let Some(other_name) = name.other_name {
        let other = target.join(other_name);
        if is_one_file(&other, &installed) {
            return Ok(false);
        }
        // Some file systems have no hard links; then it is a copy.
        if installed::link(&other, &installed).is_ok() {
            return Ok(true);
        }
    }
    let is_drop_in = DROP_IN.contains(&name.name.as_str());
    let must_be_alone = is_drop_in && has_other_names(&installed);
    if is_same(&name.program, &installed)? && !must_be_alone {
        return Ok(false);
    }
    keep_replaced(target, &name.name);
    installed::put(&name.program, &installed)?;
    Ok(true)
}

/// The programs with the names under which they are installed. Names that only this suite uses
/// are hard links to one file; the other names are separate files, so that another program
/// which writes into one of them changes no other name.
fn named(programs: Vec<PathBuf>) -> Vec<Name> {
    let mut named = Vec::new();
    for program in programs {
        let name = program.file_name().unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        let mut add = |name: String, other_name| {
            named.push(Name {
                program: program.clone(),
                name,
                other_name,
            });
        };
        if name == ALL_PLUGINS {
            add(name, None);
            for plugin in DROP_IN {
                add(own_name(plugin), Some(ALL_PLUGINS));
                add(plugin.to_owned(), None);
            }
            continue;
        }
        if DROP_IN.contains(&name.as_str()) {
            add(own_name(&name), None);
        }
        add(name, None);
    }
    // The source may have all names, if it is the directory of an installation.
    let mut seen = BTreeSet::new();
    named.retain(|name| seen.insert(name.name.clone()));
    named
}

/// Warns if the directory does not belong to the user who executes the programs.
fn warn_of_owner(target: &Path) {
    if let Some(owner) = other_owner(target) {
        say!("{target:?} belongs to {owner}, who can replace what root executes: {CURE}");
    }
}

fn failed(installed: &Path, target: &Path, cause: &io::Error) -> Error {
    let error = Error::io(format!("failed to install {installed:?}"), cause);
    let cure = match cause.kind() {
        io::ErrorKind::PermissionDenied if other_owner(target).is_some() => CURE,
        io::ErrorKind::ReadOnlyFilesystem => REMOUNT,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => MAKE_ROOM,
        _ => return error,
    };
    match owner(target) {
        Some((_, owner)) => {
            let details = format!("{cause}; {target:?} belongs to {owner}: {cure}");
            error.with_details(details)
        }
        None => error,
    }
}

/// Checks that there is room for all programs before the first of them is replaced. If that
/// cannot be determined, the installation is tried.
///
/// # Errors
/// Code 5 naming the directory, its owner, and what is needed.
fn require_room(names: &[Name], target: &Path) -> Result<()> {
    let (Ok(disk), Ok(needed)) = (statvfs(target), needed(names, target)) else {
        return Ok(());
    };
    let free = disk.blocks_available().saturating_mul(disk.fragment_size());
    // Some file systems do not report their size.
    if disk.blocks() == 0 || needed <= free.saturating_add(left_over(names, target)) {
        return Ok(());
    }
    let msg = format!("failed to install the plugins in {target:?}: No space left on device");
    let owner = owner(target).map_or(String::new(), |(_, owner)| owner);
    let details = format!(
        "{} KiB are needed and {} KiB are free; {target:?} belongs to {owner}: {MAKE_ROOM}",
        needed.div_ceil(1024),
        free / 1024
    );
    Err(Error::new(ErrorCode::IO, msg).with_details(details))
}

/// How many bytes have to be free. A program that is replaced frees its bytes only after its
/// successor is complete.
fn needed(names: &[Name], target: &Path) -> io::Result<u64> {
    let (mut used, mut most) = (0_u64, 0);
    for name in names.iter().filter(|name| name.other_name.is_none()) {
        let installed = target.join(&name.name);
        if is_same(&name.program, &installed)? {
            continue;
        }
        used += fs::metadata(&name.program)?.len();
        most = most.max(used);
        // A program of another project is kept, and a file with several names stays under the
        // others.
        let goes = fs::symlink_metadata(&installed)
            .ok()
            .filter(|it| it.nlink() == 1);
        used = used.saturating_sub(goes.map_or(0, |it| it.len()));
    }
    Ok(most)
}

/// How many bytes an interrupted installation has left in temporary files, which are replaced.
fn left_over(names: &[Name], target: &Path) -> u64 {
    let temporary = names
        .iter()
        .map(|name| file::temporary_name(&target.join(&name.name)));
    let left = temporary.filter_map(|path| fs::symlink_metadata(path).ok());
    left.map(|file| file.len()).sum()
}

/// The owner of a directory: the user, and user, group and mode as text.
fn owner(directory: &Path) -> Option<(u32, String)> {
    let found = fs::metadata(directory).ok()?;
    let (uid, gid, mode) = (found.uid(), found.gid(), found.mode() & 0o7777);
    Some((uid, format!("{uid}:{gid}, mode {mode:04o}")))
}

/// User, group and mode of a directory that belongs to another user.
fn other_owner(directory: &Path) -> Option<String> {
    let (_, owner) = owner(directory).filter(|(uid, _)| *uid != geteuid().as_raw())?;
    Some(owner)
}

/// The programs in a directory, sorted; the one with all plugins comes first.
fn programs(source: &Path) -> Result<Vec<PathBuf>> {
    let failed = |cause| Error::io(format!("failed to list {source:?}"), &cause);
    let mut found = Vec::new();
    for entry in fs::read_dir(source).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let metadata = fs::metadata(&path).map_err(failed)?;
        if is_executable(&metadata) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Whether both are names of one file.
fn is_one_file(one: &Path, other: &Path) -> bool {
    let number = |path| fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()));
    match (number(one), number(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

/// Whether the file at a path has other names. A program that is installed by writing into the
/// file would change all of them.
fn has_other_names(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|file| file.nlink() > 1)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn names(programs: &[&str]) -> Vec<(String, Option<&'static str>)> {
        let named = named(programs.iter().map(PathBuf::from).collect());
        let pair = |name: Name| (name.name, name.other_name);
        named.into_iter().map(pair).collect()
    }

    #[test]
    fn the_program_with_all_plugins_has_all_names() {
        let mut all = names(&["eni-cni", "eni-ipvlan", "eni-sync", "host-local"]);
        all.sort();
        let own = |name: &str| (name.to_owned(), Some("eni-cni"));
        let other = |name: &str| (name.to_owned(), None);
        let expected = [
            other("eni-cni"),
            own("eni-host-device"),
            own("eni-host-local"),
            own("eni-ipvlan"),
            other("eni-sync"),
            other("host-device"),
            other("host-local"),
            other("ipvlan"),
        ];
        assert_eq!(all, expected);
    }

    #[test]
    fn a_plugin_as_a_program_of_its_own_has_two_names() {
        let other = |name: &str| (name.to_owned(), None);
        assert_eq!(names(&["ipvlan"]), [other("eni-ipvlan"), other("ipvlan")]);
    }
}
