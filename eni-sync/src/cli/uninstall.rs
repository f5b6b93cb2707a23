//! `eni-sync uninstall`: removes from a node what `install` and eni-sync have created, and
//! restores the programs that were there before. Addresses are released first, while the ledger
//! knows them. State that pods still need stays; without `--force`, everything stays then.

mod needed;
mod unknown;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use common::attach::inventory;
use common::attach::turn::Turn;
use common::error::{Error, Errors, Result};
use common::files::file;
use common::files::lock::Lock;
use common::program::{ALL_PLUGINS, DROP_IN};
use common::records;
use common::text::printable;

use self::needed::Needed;
use crate::agent::configuration::CNI_PATH;
use crate::cli::output;
use crate::cli::release::{self, Manner};
use crate::installed::{self, Installed};
use crate::ledger::Ledger;
use crate::plugin::socket;

/// The name of this program.
const PROGRAM: &str = "eni-sync";
/// The advice about a running agent.
const STOP_AGENT: &str = "delete the DaemonSet, or stop the service, before";

/// The options of `eni-sync uninstall`.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// The directory that the runtime looks for plugins in
    #[arg(long, value_name = "DIRECTORY", default_value = CNI_PATH)]
    target: PathBuf,
    /// Remove the programs although pods are attached or an address stays; the records of
    /// these stay too
    #[arg(long)]
    force: bool,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// The configuration of the agent, which has the directories of host-local's reservations;
    /// without it, /etc/eni-sync/agent.json if there is one
    #[arg(long, value_name = "FILE")]
    agent_config: Option<PathBuf>,
}

/// Removes what eni-sync has created. The status is a failure when any of it stays.
///
/// # Errors
/// Code 7 naming the running agent, the attached pods, or the ENIs that are being created or
/// deleted; the errors of AWS; code 5 naming a file.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let found = [records::ROOT, inventory::DIRECTORY].map(Path::new);
    let found = found.map(|path| (path, path.exists()));
    let _alone = alone(options)?;
    refuse_while_needed(options)?;
    let stays = release(options)?;
    if stays && !options.force {
        output::print(
            b"addresses stay, so nothing else is removed; --force removes the programs\n",
        )?;
        return Ok(ExitCode::FAILURE);
    }
    // EC2 may have taken minutes, and a pod may have started.
    refuse_while_needed(options)?;
    let mut errors = Errors::default();
    errors.keep(programs(options));
    let is_needed = unneeded(options, &found, stays, &mut errors)?;
    // After a failure, the program is needed to repeat the command.
    if errors.is_empty() && (options.force || !is_needed) {
        errors.keep(own_program(options));
    }
    errors.into_result()?;
    Ok(if is_needed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Removes the state of this suite, unless `stays` or the node's state show that it is still
/// needed, and returns whether it is. After an error it stays too, because a program that could
/// not be removed may use it.
fn unneeded(
    options: &Options,
    found: &[(&Path, bool)],
    stays: bool,
    errors: &mut Errors,
) -> Result<bool> {
    // A plugin that was started before its program was removed may still choose a master or
    // move a device. It takes this lock for that: it has either written its record before, or
    // finds no state after.
    let _turn = match options.dry_run {
        true => None,
        false => errors.keep(Turn::to_detach_eni()),
    };
    let needed = errors.keep(Needed::look());
    let is_needed = stays || needed.is_none_or(|needed| !needed.is_empty());
    if is_needed {
        let line = format!("{} stays: it is still needed\n", records::ROOT);
        output::print(line.as_bytes())?;
    } else if errors.is_empty() {
        errors.keep(state(options, found));
    }
    Ok(is_needed)
}

fn refuse_while_needed(options: &Options) -> Result<()> {
    if options.force {
        return Ok(());
    }
    Needed::look()?.refuse()
}

/// Checks that no agent serves, and prevents one from starting until the value is dropped.
fn alone(options: &Options) -> Result<Option<Lock>> {
    let path = Path::new(socket::PATH);
    let lock = if options.dry_run {
        None
    } else {
        socket::prepare(path)?;
        let lock = socket::lock(path, Duration::ZERO)?;
        Some(lock.ok_or_else(|| {
            let msg = "an agent starts on this node, or another `uninstall` runs";
            Error::config(msg).with_details(STOP_AGENT)
        })?)
    };
    if socket::is_listened_on(path) {
        let msg = "the agent runs, and would bring back what is removed";
        return Err(Error::config(msg).with_details(STOP_AGENT));
    }
    Ok(lock)
}

/// Releases the addresses that eni-sync has assigned; true when any of them stays. With an
/// empty ledger, AWS is not needed.
fn release(options: &Options) -> Result<bool> {
    let mut is_any = false;
    for eni in Ledger::of_node().enis()? {
        is_any |= !eni.is_empty()?;
    }
    if !is_any {
        return Ok(false);
    }
    let manner = Manner {
        force: true,
        dry_run: options.dry_run,
        agent_config: options.agent_config.clone(),
    };
    let stays = match release::release_own(&manner) {
        Err(error) if options.force => {
            output::print(format!("not every address is released: {error}\n").as_bytes())?;
            true
        }
        outcome => outcome?,
    };
    Ok(unknown::print_all()? || stays)
}

/// Removes the plugins of this suite, and restores those that they had replaced.
fn programs(options: &Options) -> Result<()> {
    let directory = &options.target;
    if !directory.exists() {
        return Ok(());
    }
    let _lock = installed::lock(directory)?;
    let mut errors = Errors::default();
    // The program with all plugins has the marker of each plugin.
    let all = DROP_IN
        .first()
        .map(|plugin| (ALL_PLUGINS.to_owned(), *plugin));
    for (name, plugin) in installed::names().chain(all) {
        errors.keep(program(options, &name, plugin));
    }
    let kept = directory.join(installed::REPLACED);
    // Programs that could not be restored are kept there.
    if errors.is_empty() && !options.dry_run && kept.exists() {
        let removed = fs::remove_dir_all(&kept).map_err(|cause| failed(&kept, &cause));
        errors.keep(removed);
    }
    errors.into_result()
}

/// Removes this program.
fn own_program(options: &Options) -> Result<()> {
    if !options.target.exists() {
        return Ok(());
    }
    let _lock = installed::lock(&options.target)?;
    program(options, PROGRAM, PROGRAM)
}

/// Removes or restores the program under one name. A program that is not of this suite stays.
fn program(options: &Options, name: &str, plugin: &str) -> Result<()> {
    let path = options.target.join(name);
    let before = installed::replaced(&options.target, name);
    let has_before = DROP_IN.contains(&name) && before.is_file();
    match installed::at(&path, plugin).map_err(|cause| failed(&path, &cause))? {
        Installed::Ours(_) => {}
        Installed::Missing if has_before => {}
        Installed::Missing => return Ok(()),
        other => return tell(options, &path, &format!("stays: it is {other}"), None),
    }
    match has_before {
        true => {
            if !options.dry_run {
                installed::put_back(&before, &path).map_err(|cause| {
                    let msg = format!("failed to put {before:?} back to {path:?}");
                    Error::io(msg, &cause)
                })?;
            }
            let would = "would be what it was before";
            tell(options, &path, "is what it was before", Some(would))
        }
        false => {
            if !options.dry_run {
                file::remove(&path).map_err(|cause| failed(&path, &cause))?;
            }
            tell(options, &path, "is removed", Some("would be removed"))
        }
    }
}

/// Removes the state of eni-sync and the plugins. Reservations of host-local have the format of
/// Go's host-local, and stay.
fn state(options: &Options, found: &[(&Path, bool)]) -> Result<()> {
    let mut errors = Errors::default();
    for (path, was_there) in found {
        if !options.dry_run && path.exists() {
            let removed = empty(path).map_err(|cause| failed(path, &cause));
            if errors.keep(removed).is_none() {
                continue;
            }
        }
        if *was_there {
            tell(options, path, "is removed", Some("would be removed"))?;
        }
    }
    errors.into_result()
}

/// Removes a directory. If it is a mount point, as in a container, it is only emptied; the
/// kernel's error then depends on whether the root can be written.
fn empty(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    let is_mount = |cause: &io::Error| {
        use io::ErrorKind::{ReadOnlyFilesystem, ResourceBusy};
        [ReadOnlyFilesystem, ResourceBusy].contains(&cause.kind())
    };
    match fs::remove_dir(directory) {
        Err(cause) if is_mount(&cause) && fs::read_dir(directory)?.next().is_none() => Ok(()),
        outcome => outcome,
    }
}

fn tell(options: &Options, path: &Path, done: &str, would: Option<&str>) -> Result<()> {
    let what = match options.dry_run {
        true => would.unwrap_or(done),
        false => done,
    };
    let line = format!("{} {what}", path.display());
    output::print(format!("{}\n", printable(&line)).as_bytes())
}

fn failed(path: &Path, cause: &io::Error) -> Error {
    Error::io(format!("failed to remove {path:?}"), cause)
}
