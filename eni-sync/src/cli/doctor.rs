//! `eni-sync doctor`: looks at everything that pods' addresses depend on, and says what
//! to do about what is wrong. It reads and never writes. Facts are collected once;
//! every check is a function from them to findings.

mod access;
mod addresses;
mod configuration;
mod enis;
mod facts;
mod finding;
mod host;
mod installed;
mod network;
mod range;
mod ranges;
mod resources;
mod source;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use common::error::Result;
use serde::Serialize;

use crate::cli::output;
use facts::Facts;
pub(crate) use finding::{Finding, Level};

/// What the doctor has found, or why it could not look.
pub(crate) type Findings = std::result::Result<Vec<Finding>, String>;

/// What to look at.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Files with NetworkAttachmentDefinitions or CNI configurations, YAML or JSON; `-`
    /// is stdin
    #[arg(long, value_name = "FILE", num_args = 1..)]
    nad: Vec<PathBuf>,
    /// A directory of CNI configurations, such as /etc/cni/net.d
    #[arg(long, value_name = "DIRECTORY")]
    cni_conf_dir: Option<PathBuf>,
    /// The configuration of the agent, which may watch networks that do not chain
    /// eni-sync
    #[arg(long, value_name = "FILE")]
    agent_config: Option<PathBuf>,
    /// The directory of the plugins; without it, that of the agent's configuration, or
    /// /opt/cni/bin
    #[arg(long, value_name = "DIRECTORY")]
    cni_path: Option<PathBuf>,
    /// Ask EC2 to assign and unassign an address that is in no subnet, to learn
    /// whether the role permits it
    #[arg(long)]
    probe_permissions: bool,
}

/// The document of `--json`.
#[derive(Serialize)]
struct Report<'a> {
    errors: usize,
    warnings: usize,
    findings: &'a [Finding],
}

impl<'a> Report<'a> {
    fn of(findings: &'a [Finding]) -> Self {
        let count = |level| findings.iter().filter(|f| f.level == level).count();
        Self {
            errors: count(Level::Error),
            warnings: count(Level::Warning),
            findings,
        }
    }
}

/// Looks, and prints what it finds. The status is a failure when anything is an error.
///
/// # Errors
/// What keeps it from looking at all.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let sources = source::read(&options.nad, options.cni_conf_dir.as_deref());
    let (agent, plugins) = (options.agent_config.as_deref(), options.cni_path.as_deref());
    let facts = Facts::collect(sources, agent, plugins, options.probe_permissions)?;
    let findings = examine(&facts);
    let report = Report::of(&findings);
    match options.json {
        true => output::print_json(&report)?,
        false => output::print(render(&report).as_bytes())?,
    }
    Ok(match report.errors {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// What it finds, as text and as JSON.
///
/// # Errors
/// As for [`run`].
pub(crate) fn report(
    cni_conf_dir: Option<&Path>,
    agent_config: Option<&Path>,
    cni_path: &Path,
) -> Result<(String, String)> {
    let findings = findings(cni_conf_dir, agent_config, cni_path)?;
    let report = Report::of(&findings);
    Ok((render(&report), output::json(&report)?))
}

/// What it finds.
///
/// # Errors
/// As for [`run`].
pub(crate) fn findings(
    cni_conf_dir: Option<&Path>,
    agent_config: Option<&Path>,
    cni_path: &Path,
) -> Result<Vec<Finding>> {
    let sources = source::read(&[], cni_conf_dir);
    let facts = Facts::collect(sources, agent_config, Some(cni_path), false)?;
    Ok(examine(&facts))
}

fn examine(facts: &Facts) -> Vec<Finding> {
    let groups = [
        access::check,
        host::check,
        installed::check,
        enis::check,
        addresses::check,
        configuration::check,
        ranges::check,
        resources::check,
    ];
    groups.iter().flat_map(|check| check(facts)).collect()
}

fn render(report: &Report<'_>) -> String {
    let mut rows = Vec::new();
    for finding in report.findings {
        let says = format!("{}: {}", finding.subject, finding.says);
        let (level, check) = (finding.level.name(), finding.check);
        rows.push(vec![level.to_owned(), check.to_owned(), says]);
        if !finding.advice.is_empty() {
            let advice = format!("  {}", finding.advice);
            rows.push(vec![String::new(), String::new(), advice]);
        }
    }
    let Report {
        errors, warnings, ..
    } = report;
    format!(
        "{}\nerrors: {errors}, warnings: {warnings}\n",
        output::table(&rows)
    )
}
