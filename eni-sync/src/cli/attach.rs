//! `eni-sync attach`: creates and attaches the ENIs of the configuration, before the kubelet
//! starts. The agent does the same later for ENIs that are missing then.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::Args;
use common::error::{Error, ErrorCode, Result};
use common::kernel::netlink::{Link, Netlink};
use common::say;
use indicatif::ProgressBar;

use crate::agent::configuration::Configuration;
use crate::cli::output;
use crate::deadline::Deadline;
use crate::provision::link;
use crate::provision::pass::{self, Step};
use crate::provision::plan::{self, Missing, Plan};
use crate::provision::report::{Eni, Problem, Report};
use crate::random;
use crate::vpc::clients::{Aws, Clients};
use crate::vpc::inventory;
use crate::vpc::rate_limit::RateLimit;

/// How long the command may take by default, in seconds, while the kubelet waits for it.
pub(super) const TIMEOUT: u64 = 300;
/// The first and the longest pause between two passes. They are random, because many nodes may
/// start at the same time.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The interval at which the progress line is redrawn.
const TICK: Duration = Duration::from_millis(100);

/// The options of `eni-sync attach`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// The configuration of the agent, of which the key `enis` is used
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
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

/// Attaches missing ENIs, and prints the ENIs of the node. The status is a failure when an ENI
/// is still missing.
///
/// # Errors
/// Code 5, 6 or 7 naming the configuration; the error of AWS when nothing could be done at all.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let configuration = Configuration::read(&options.config)?;
    if configuration.enis.is_empty() {
        let msg = format!("{:?} names no ENIs", options.config);
        return Err(Error::config(msg).with_details("its key enis is missing or empty"));
    }
    if options.dry_run {
        return preview(&configuration, options.json);
    }
    let deadline = Deadline::after(Duration::from_secs(options.timeout));
    let mut report = attach(&configuration, deadline)?;
    if let Err(error) = inventory::rename(deadline) {
        report.problems.push(Problem::new("", error));
    }
    print(&report, options.json)?;
    conclude(report.problems.iter().map(|problem| problem.says.as_str()))
}

/// Runs passes until no ENI is missing, or those that are will not come by waiting. Interfaces
/// are set up after each pass.
fn attach(configuration: &Configuration, deadline: Deadline) -> Result<Report> {
    let clients = Clients::new(Arc::new(RateLimit::of_nodes()));
    let progress = Progress::begin();
    let mut pause = FIRST_PAUSE;
    let mut before = None;
    let mut done = BTreeSet::new();
    loop {
        let mut tell = |step: Step<'_>| progress.tell(step);
        let pass = |aws: &Aws| pass::run(aws, &configuration.enis, deadline.left(), &mut tell);
        let mut outcome = joined(before.take(), clients.run_until(deadline, pass));
        if let Ok(report) = &mut outcome
            && configuration.links != Some(false)
        {
            set_up(report, &mut done, deadline);
        }
        let wait = pause.mul_f64((1.0 + random::chance()) / 2.0);
        if !is_temporary(&outcome) || deadline.left() <= wait {
            return outcome;
        }
        progress.wait(&outcome, wait);
        thread::sleep(wait);
        pause = LONGEST_PAUSE.min(pause * 2);
        before = outcome.ok();
    }
}

/// The result of all passes: an ENI that any of them has attached is new.
fn joined(before: Option<Report>, outcome: Result<Report>) -> Result<Report> {
    match (before, outcome) {
        (None, outcome) => outcome,
        (Some(before), Ok(mut report)) => {
            let was_new = |id: &str| before.enis.iter().any(|eni| eni.is_new && eni.id == id);
            for eni in &mut report.enis {
                eni.is_new |= was_new(&eni.id);
            }
            Ok(report)
        }
        (Some(mut before), Err(error)) => {
            before.problems = vec![Problem::new("", error)];
            Ok(before)
        }
    }
}

/// Whether an ENI is missing that another pass may attach.
fn is_temporary(outcome: &Result<Report>) -> bool {
    let passes = |error: &Error| error.code == ErrorCode::TRY_AGAIN;
    match outcome {
        Ok(report) => report.problems.iter().any(|problem| passes(&problem.error)),
        Err(error) => passes(error),
    }
}

/// Sets up the interfaces: those of ENIs that were just attached as soon as they appear, others
/// if they are on the node. A pod may have got the interface of an ENI in `done`.
fn set_up(report: &mut Report, done: &mut BTreeSet<String>, deadline: Deadline) {
    let links = match Netlink::open().and_then(|mut netlink| netlink.links()) {
        Ok(links) => links,
        Err(error) => return report.problems.push(Problem::new("", error)),
    };
    for eni in &mut report.enis {
        let link = Link::of_hardware(&links, &eni.mac);
        let is_awaited = eni.is_new && !done.contains(&eni.id);
        let is_in_a_pod = link.is_none() && !is_awaited;
        if is_in_a_pod || link.is_some_and(|link| link.controller.is_some()) {
            continue;
        }
        match link::await_and_set_up(&eni.id, &eni.mac, deadline) {
            Ok(interface) => {
                eni.interface = interface;
                done.insert(eni.id.clone());
            }
            Err(error) => report.problems.push(Problem::new(&eni.name, error)),
        }
    }
}

fn print(report: &Report, json: bool) -> Result<()> {
    if json {
        return output::print_json(report);
    }
    let titles = [
        "NAME",
        "ENI",
        "INTERFACE",
        "MAC",
        "SUBNET",
        "CARD",
        "INDEX",
        "STATE",
    ];
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    let was = |eni: &Eni| {
        if eni.is_new {
            "attached"
        } else {
            "was attached"
        }
    };
    rows.extend(report.enis.iter().map(|eni| row(eni, was(eni))));
    let unwanted = report.unwanted.iter();
    rows.extend(unwanted.map(|eni| row(eni, "in no configuration")));
    output::print(output::table(&rows).as_bytes())
}

fn row(eni: &Eni, state: &str) -> Vec<String> {
    let interface = Some(eni.interface.as_str()).filter(|name| !name.is_empty());
    vec![
        eni.name.clone(),
        eni.id.clone(),
        interface.unwrap_or("-").to_owned(),
        eni.mac.clone(),
        eni.subnet_id.clone(),
        eni.place.network_card.to_string(),
        eni.place.device_index.to_string(),
        state.to_owned(),
    ]
}

/// Prints what would be done.
fn preview(configuration: &Configuration, json: bool) -> Result<ExitCode> {
    let plan = plan::make(&Aws::open(), &configuration.enis)?;
    match json {
        true => output::print_json(&plan)?,
        false => output::print(lines(&plan).as_bytes())?,
    }
    conclude(plan.problems.iter().map(|problem| problem.says.as_str()))
}

fn lines(plan: &Plan) -> String {
    if plan.missing.is_empty() && plan.problems.is_empty() {
        return "nothing is missing\n".to_owned();
    }
    plan.missing.iter().map(line).collect()
}

fn line(missing: &Missing) -> String {
    let name = &missing.name;
    let (card, index) = (missing.place.network_card, missing.place.device_index);
    let what = match &missing.id {
        Some(id) => format!("would attach {id}"),
        None => format!(
            "would create an ENI in {} with {} and attach it",
            missing.subnet_id,
            missing.security_groups.join(", ")
        ),
    };
    format!("{name}: {what} at network card {card}, device index {index}\n")
}

/// Prints the problems; the status is a failure if there are any.
fn conclude<'a>(problems: impl Iterator<Item = &'a str>) -> Result<ExitCode> {
    let mut status = ExitCode::SUCCESS;
    for says in problems {
        say!("{says}");
        status = ExitCode::FAILURE;
    }
    Ok(status)
}

/// The progress: a changing line on a terminal, separate lines in a log.
pub(super) enum Progress {
    Line(ProgressBar),
    Lines,
}

impl Progress {
    pub(super) fn begin() -> Self {
        if !io::stderr().is_terminal() {
            return Self::Lines;
        }
        let line = ProgressBar::new_spinner();
        line.enable_steady_tick(TICK);
        line.set_message("looking at the ENIs of this node");
        Self::Line(line)
    }

    pub(super) fn tell(&self, step: Step<'_>) {
        self.say(match step {
            Step::Creating { name, subnet } => format!("creating an ENI of {name} in {subnet}"),
            Step::Attaching { name, eni } => format!("attaching {eni} of {name}"),
            Step::Attached { name, eni } => format!("{eni} of {name} is attached"),
            Step::Deleted { eni } => format!("{eni} is deleted: no configuration names it"),
        });
    }

    fn wait(&self, outcome: &Result<Report>, time: Duration) {
        let report = outcome.as_ref().map(Report::outcome);
        if let Ok(Err(error)) | Err(error) = report.map_err(Error::clone) {
            self.say(format!("{error}; trying again in {} s", time.as_secs()));
        }
    }

    fn say(&self, text: String) {
        match self {
            Self::Line(line) => line.set_message(text),
            Self::Lines => say!("{text}"),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Self::Line(line) = self {
            line.finish_and_clear();
        }
    }
}
