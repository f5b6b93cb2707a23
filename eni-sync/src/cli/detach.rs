//! `eni-sync detach`: detaches and deletes ENIs of the node that its configuration does not
//! name any more, and deletes ENIs of ended instances.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use common::error::Result;
use common::say;
use serde_json::{Value, json};

use crate::agent::configuration::Configuration;
use crate::cli::attach::TIMEOUT;
use crate::cli::output;
use crate::deadline::Deadline;
use crate::provision::leaked;
use crate::provision::removal::{self, Fate, Outcome, Removed};
use crate::vpc::clients::Aws;

/// The options of `eni-sync detach`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// The configuration of the agent; the ENIs in its key `enis` stay
    #[arg(long, value_name = "FILE", required_unless_present = "leaked")]
    config: Option<PathBuf>,
    /// Delete the ENIs that were created for instances which have ended
    #[arg(long, conflicts_with = "config")]
    leaked: bool,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Give up after this time
    #[arg(long, value_name = "SECONDS", default_value_t = TIMEOUT)]
    timeout: u64,
}

/// Detaches and deletes ENIs. The status is a failure when an ENI stays because it carries
/// pods, or for a reason that is printed after the results.
///
/// # Errors
/// Code 5, 6 or 7 naming the configuration, and the error of AWS if nothing was done.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let aws = Aws::open().until(Deadline::after(Duration::from_secs(options.timeout)));
    let Outcome { removed, errors } = match &options.config {
        Some(path) => {
            let configuration = Configuration::read(path)?;
            removal::run(&aws, &configuration.enis, options.dry_run)?
        }
        None => delete_leaked(&aws, options.dry_run)?,
    };
    let status = print(&removed, options.json)?;
    for error in &errors {
        say!("{error}");
    }
    Ok(match errors.is_empty() {
        true => status,
        false => ExitCode::FAILURE,
    })
}

fn delete_leaked(aws: &Aws, dry_run: bool) -> Result<Outcome> {
    let cleaned = leaked::delete(aws, dry_run)?;
    let fate = match dry_run {
        true => Fate::WouldBe,
        false => Fate::Deleted,
    };
    let rows = cleaned.deleted.into_iter().map(|id| Removed {
        name: String::new(),
        id,
        fate: fate.clone(),
    });
    Ok(Outcome {
        removed: rows.collect(),
        errors: cleaned.errors,
    })
}

fn print(removed: &[Removed], json: bool) -> Result<ExitCode> {
    match json {
        true => {
            output::print_json(&json!({"enis": removed.iter().map(document).collect::<Value>()}))?
        }
        false => output::print(lines(removed).as_bytes())?,
    }
    let is_kept = |eni: &Removed| matches!(eni.fate, Fate::Kept(_));
    Ok(match removed.iter().any(is_kept) {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

fn document(eni: &Removed) -> Value {
    let (state, reasons) = match &eni.fate {
        Fate::Deleted => ("deleted", &[][..]),
        Fate::WouldBe => ("would-be-deleted", &[][..]),
        Fate::Kept(reasons) => ("kept", reasons.as_slice()),
    };
    json!({"name": eni.name, "id": eni.id, "state": state, "reasons": reasons})
}

fn lines(removed: &[Removed]) -> String {
    if removed.is_empty() {
        return "nothing to detach\n".to_owned();
    }
    let line = |eni: &Removed| {
        let of = match eni.name.as_str() {
            "" => String::new(),
            name => format!(" of {name}"),
        };
        let fate = match &eni.fate {
            Fate::Deleted => "deleted".to_owned(),
            Fate::WouldBe => "would be deleted".to_owned(),
            Fate::Kept(reasons) => format!("kept: {}", reasons.join("; ")),
        };
        let line = format!("{}{of}: {fate}", eni.id);
        format!("{}\n", common::text::printable(&line))
    };
    removed.iter().map(line).collect()
}
