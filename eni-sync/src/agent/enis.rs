//! Attaches the ENIs of the configuration that are missing, as `eni-sync attach` does before the
//! kubelet starts, and deletes those that instances have left which have gone. While nothing is
//! missing, that costs no call to EC2 but one an hour.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use common::attach::inventory::Inventory;
use common::error::Result;
use tracing::{error, info};

use crate::agent::news::News;
use crate::agent::shared::Agent;
use crate::provision;
use crate::provision::leaked;
use crate::provision::pass::{self, Step};
use crate::random;

/// How often it is looked whether something is missing; nobody is asked for it.
const LOOK: Duration = Duration::from_secs(5);
/// The pauses after a pass that could not attach everything.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// How long another process may take with the ENIs of the node.
const PATIENCE: Duration = Duration::from_secs(90);
/// So many comparisons with EC2 are an hour, as they are without a configuration.
const COMPARISONS: u32 = 8;

/// Attaches what is missing, for ever.
pub(crate) fn run(agent: &Arc<Agent>) {
    let mut news = News::default();
    let mut pause = FIRST_PAUSE;
    let mut attach_at = Instant::now();
    let interval = agent.configuration.reconcile_interval() * COMPARISONS;
    // Not all nodes at the same time.
    let mut clean_at = Instant::now() + interval.mul_f64(random::chance());
    while agent.await_turn() {
        let now = Instant::now();
        if attach_at <= now && agent.health.has_reconciled() {
            let findings = attach(agent).unwrap_or_else(|error| vec![error.to_string()]);
            if findings.is_empty() {
                pause = FIRST_PAUSE;
            } else {
                attach_at = now + pause.mul_f64((1.0 + random::chance()) / 2.0);
                pause = LONGEST_PAUSE.min(pause * 2);
            }
            for finding in news.among(findings) {
                error!("{finding}");
            }
        }
        if clean_at <= now {
            clean_at = now + interval;
            clean(agent, &mut news);
        }
        thread::sleep(LOOK.min(interval));
    }
}

/// Attaches what is missing. Returns what still is, and why.
fn attach(agent: &Agent) -> Result<Vec<String>> {
    let wanted = &agent.configuration.enis;
    let inventory = Inventory::read()?.unwrap_or_default();
    if provision::is_complete(&inventory, wanted)? {
        return Ok(Vec::new());
    }
    let mut tell = |step: Step<'_>| match step {
        Step::Creating { name, subnet } => info!(name, subnet, "an ENI is created"),
        Step::Attaching { name, eni } => info!(name, eni, "an ENI is attached"),
        Step::Attached { name, eni } => info!(name, eni, "{eni} of {name:?} is attached"),
        Step::Deleted { eni } => info!(eni, "{eni} is deleted: nobody wants it"),
    };
    let report = agent
        .clients
        .run(|aws| pass::run(aws, wanted, PATIENCE, &mut tell))?;
    let problems = report.problems.into_iter();
    Ok(problems.map(|problem| problem.says).collect())
}

/// Deletes what instances have left that have gone.
fn clean(agent: &Agent, news: &mut News) {
    match agent.clients.run(|aws| leaked::delete(aws, false)) {
        Ok(deleted) => {
            for eni in deleted {
                info!(
                    eni,
                    "{eni} is deleted: the instance that it was created for has gone"
                );
            }
        }
        Err(error) => {
            for finding in news.among(vec![error.to_string()]) {
                error!("{finding}");
            }
        }
    }
}
