//! `eni-sync doctor`: checks everything that pods' addresses depend on, and says what to do
//! about problems. It reads and never writes. The facts are collected once; every check is a
//! function from the facts to findings.

mod access;
mod addresses;
mod configuration;
mod enis;
mod facts;
mod finding;
mod found;
mod host;
mod installed;
mod network;
mod prefixes;
mod range;
mod ranges;
mod report;
mod resources;
mod shared_segment;
mod source;
mod wanted;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use common::error::Result;
use serde::Serialize;

use crate::cli::output;
use facts::Facts;
pub(crate) use finding::{Finding, Level};
use report::{Manner, Report};
use source::Source;

/// The findings, or why there are none.
pub(crate) type Findings = std::result::Result<Vec<Finding>, String>;

/// The options of `eni-sync doctor`.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Also show the checks that have passed
    #[arg(long)]
    all: bool,
    /// Files with NetworkAttachmentDefinitions or CNI configurations, YAML or JSON; `-`
    /// is stdin
    #[arg(long, value_name = "FILE", num_args = 1..)]
    nad: Vec<PathBuf>,
    /// A directory of CNI configurations, such as /etc/cni/net.d
    #[arg(long, value_name = "DIRECTORY")]
    cni_conf_dir: Option<PathBuf>,
    /// The configuration of the agent, which may watch networks that do not chain
    /// eni-sync; without it, /etc/eni-sync/agent.json where there is one
    #[arg(long, value_name = "FILE")]
    agent_config: Option<PathBuf>,
    /// The directory of the plugins; without it, that of the agent's configuration, or
    /// /opt/cni/bin
    #[arg(long, value_name = "DIRECTORY")]
    cni_path: Option<PathBuf>,
    /// Ask EC2 to assign and unassign an address that is in no subnet, to find out whether the
    /// role permits it
    #[arg(long)]
    probe_permissions: bool,
}

/// The document of `--json`.
#[derive(Serialize)]
struct Document<'a> {
    errors: usize,
    warnings: usize,
    findings: &'a [Finding],
}

impl<'a> Document<'a> {
    fn of(report: &Report<'a>) -> Self {
        Self {
            errors: report.count(Level::Error),
            warnings: report.count(Level::Warning),
            findings: report.findings,
        }
    }
}

/// Runs the checks, and prints the findings. The status is a failure when any of them is an
/// error.
///
/// # Errors
/// Why no check could be made.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let sources = sources(&options.nad, options.cni_conf_dir.as_deref());
    let agent = agent_config(options.agent_config.as_deref());
    let plugins = options.cni_path.as_deref();
    let facts = Facts::collect(
        sources,
        agent.as_deref(),
        plugins,
        options.probe_permissions,
    )?;
    let findings = examine(&facts);
    let report = Report::of(&facts, &findings);
    match options.json {
        true => output::print_json(&Document::of(&report))?,
        false => output::print(report.render(Manner::new(options.all)).as_bytes())?,
    }
    Ok(match report.count(Level::Error) {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// The given configuration of the agent, else that at the default path, if there is one.
pub(crate) fn agent_config(given: Option<&Path>) -> Option<PathBuf> {
    given.map(Path::to_owned).or_else(found::agent)
}

/// The given networks, else those of this node.
fn sources(files: &[PathBuf], directory: Option<&Path>) -> Vec<Source> {
    match (files.is_empty(), directory) {
        (true, None) => found::networks(),
        _ => source::read(files, directory),
    }
}

/// The findings, as text and as JSON.
///
/// # Errors
/// As for [`run`].
pub(crate) fn report(
    cni_conf_dir: Option<&Path>,
    agent_config: Option<&Path>,
    cni_path: &Path,
) -> Result<(String, String)> {
    let sources = sources(&[], cni_conf_dir);
    let facts = Facts::collect(sources, agent_config, Some(cni_path), false)?;
    let findings = examine(&facts);
    let report = Report::of(&facts, &findings);
    let text = report.render(Manner::whole());
    Ok((text, output::json(&Document::of(&report))?))
}

/// The findings.
///
/// # Errors
/// As for [`run`].
pub(crate) fn findings(
    cni_conf_dir: Option<&Path>,
    agent_config: Option<&Path>,
    cni_path: &Path,
) -> Result<Vec<Finding>> {
    let sources = sources(&[], cni_conf_dir);
    let facts = Facts::collect(sources, agent_config, Some(cni_path), false)?;
    Ok(examine(&facts))
}

fn examine(facts: &Facts) -> Vec<Finding> {
    let groups = [
        access::check,
        host::check,
        installed::check,
        enis::check,
        wanted::check,
        addresses::check,
        configuration::check,
        ranges::check,
        prefixes::check,
        resources::check,
        shared_segment::check,
    ];
    groups.iter().flat_map(|check| check(facts)).collect()
}
