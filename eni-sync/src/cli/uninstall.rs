//! `eni-sync uninstall`: takes from a node what `install` and eni-sync have brought, and puts
//! back what was there before. Addresses are released first, while there is a ledger that knows
//! them. What pods still need stays, and without `--force` everything does.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use common::attach::inventory;
use common::error::{Error, Errors, Result};
use common::files::file;
use common::kernel::netns::{Holders, Presence};
use common::plugin::{ALL_PLUGINS, DROP_IN};
use common::records::{Records, boot_id};
use common::text::printable;
use serde_json::Value;

use crate::agent::configuration::CNI_PATH;
use crate::cli::{output, release};
use crate::installed::{self, Installed};
use crate::ledger::{Ledger, State};
use crate::plugin::socket;

/// What eni-sync and the plugins know; what they have until the next boot is beside it.
const STATE: &str = "/var/lib/cni/eni-cni";
/// The program itself, which has no other name.
const PROGRAM: &str = "eni-sync";

/// What to remove, and how.
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
}

/// Removes what eni-sync has brought. The status is a failure when anything of it stays.
///
/// # Errors
/// Code 7 naming the agent that runs or the pods that are attached; what AWS says; code 5
/// naming a file.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    if socket::is_listened_on(Path::new(socket::PATH)) {
        let msg = "the agent runs, and would bring back what is removed";
        let details = "delete the DaemonSet, or stop the service, before";
        return Err(Error::config(msg).with_details(details));
    }
    let attached = attached()?;
    if !attached.is_empty() && !options.force {
        let msg = format!("{} are attached: end their pods before", attached.len());
        let listed = attached.join("; ");
        let details = format!("{listed}; --force removes the programs all the same");
        return Err(Error::config(msg).with_details(details));
    }
    let stays = release(options)?;
    if stays && !options.force {
        output::print(
            b"addresses stay, so nothing else is removed; --force removes the programs\n",
        )?;
        return Ok(ExitCode::FAILURE);
    }
    let mut errors = Errors::default();
    errors.keep(programs(options));
    let is_needed = stays || !attached.is_empty();
    match is_needed {
        true => output::print(format!("{STATE} stays: pods need it\n").as_bytes())?,
        false => {
            errors.keep(state(options));
        }
    }
    errors.into_result()?;
    Ok(match is_needed {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

/// The attachments of pods that live, or may. What cannot be read may be one.
fn attached() -> Result<Vec<String>> {
    let (boot, holders, mut errors) = (boot_id()?, Holders::default(), Errors::default());
    let mut attached = Vec::new();
    for plugin in ["host-device", "ipvlan"] {
        let records = Records::of(plugin).all_readable::<Value>(&mut errors)?;
        for record in records {
            if !is_over(&record.presence(&boot, &holders)) {
                attached.push(format!(
                    "container {}, interface {}, network {}",
                    record.container_id, record.ifname, record.network
                ));
            }
        }
    }
    errors.into_result()?;
    for eni in Ledger::of_node().enis()? {
        for entry in eni.read()? {
            let is_used = matches!(entry.state, State::Held | State::Claiming { .. });
            let Some(owner) = entry.owner.filter(|_| is_used) else {
                continue;
            };
            // A pool is the agent's own, which does not run.
            let is_pod = owner.netns().is_some() || !owner.container_id.is_empty();
            if is_pod && !is_over(&owner.presence(&holders)) {
                attached.push(owner.to_string());
            }
        }
    }
    let mut attached: Vec<String> = attached.iter().map(|a| printable(a).into_owned()).collect();
    attached.sort();
    attached.dedup();
    Ok(attached)
}

fn is_over(presence: &Presence) -> bool {
    matches!(presence, Presence::Ended)
}

/// Releases what eni-sync has assigned; true when any of it stays. A node whose ledger has
/// nothing needs no AWS.
fn release(options: &Options) -> Result<bool> {
    let mut is_any = false;
    for eni in Ledger::of_node().enis()? {
        is_any |= !eni.read()?.is_empty() || !eni.unreadable()?.is_empty();
    }
    if !is_any {
        return Ok(false);
    }
    match release::release_own(options.dry_run) {
        Err(error) if options.force => {
            output::print(format!("the addresses stay: {error}\n").as_bytes())?;
            Ok(true)
        }
        outcome => outcome,
    }
}

/// Removes the programs of this suite, and puts back those that they had replaced.
fn programs(options: &Options) -> Result<()> {
    let directory = &options.target;
    if !directory.exists() {
        return Ok(());
    }
    let _lock = installed::lock(directory)?;
    let mut errors = Errors::default();
    // The program with all plugins is each of them.
    let all = DROP_IN
        .first()
        .map(|plugin| (ALL_PLUGINS.to_owned(), *plugin));
    let own = [(PROGRAM.to_owned(), PROGRAM)].into_iter().chain(all);
    for (name, plugin) in installed::names().chain(own) {
        errors.keep(program(options, &name, plugin));
    }
    let kept = directory.join(installed::REPLACED);
    if !options.dry_run && kept.exists() {
        let removed = fs::remove_dir_all(&kept).map_err(|cause| failed(&kept, &cause));
        errors.keep(removed);
    }
    errors.into_result()
}

/// Ends what the directory has under one name. A program that is not this suite's stays.
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
                installed::put(&before, &path).map_err(|cause| failed(&path, &cause))?;
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

/// Removes what eni-sync and the plugins know. Reservations of host-local are of a format that
/// Go's host-local has too, and stay.
fn state(options: &Options) -> Result<()> {
    let mut errors = Errors::default();
    for path in [STATE, inventory::DIRECTORY].map(Path::new) {
        if !path.exists() {
            continue;
        }
        if !options.dry_run {
            let removed = empty(path).map_err(|cause| failed(path, &cause));
            if errors.keep(removed).is_none() {
                continue;
            }
        }
        tell(options, path, "is removed", Some("would be removed"))?;
    }
    errors.into_result()
}

/// Removes a directory. Where it is a mount, as in a container, it is left empty.
fn empty(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    match fs::remove_dir(directory) {
        Err(cause) if cause.kind() == io::ErrorKind::ResourceBusy => Ok(()),
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
