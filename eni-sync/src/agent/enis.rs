//! Attaches missing ENIs of the configuration, as `eni-sync attach` does before the kubelet
//! starts, and deletes ENIs of ended instances. While no ENI is missing, that costs one call to
//! EC2 an hour.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use common::attach::inventory::Inventory;
use common::error::Result;
use tracing::{error, info};

use crate::agent::news::News;
use crate::agent::shared::Agent;
use crate::provision;
use crate::provision::leaked::{self, Cleaned};
use crate::provision::pass::{self, Step};
use crate::random;

/// How often the files are checked for missing ENIs; that needs no call.
const LOOK: Duration = Duration::from_secs(5);
/// The pauses after a pass that could not attach everything.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// How long another process may take with the ENIs of the node.
const LOCK_DEADLINE: Duration = Duration::from_secs(90);
/// The interval of the clean-up in comparisons with EC2: about an hour with the default
/// configuration.
const COMPARISONS: u32 = 8;

/// Attaches missing ENIs, for ever.
pub(crate) fn run(agent: &Arc<Agent>) {
    let mut news = News::default();
    let mut passes = Passes::new(Instant::now());
    let interval = agent.configuration.reconcile_interval() * COMPARISONS;
    // Not all nodes at the same time.
    let mut clean_at = Instant::now() + interval.mul_f64(random::chance());
    while agent.await_turn() {
        let now = Instant::now();
        if passes.are_due(now) && agent.health.has_reconciled() {
            let outcome = attach(agent);
            let is_complete = outcome.as_ref().is_ok_and(|left| left.is_complete);
            passes.note(is_complete, now, random::chance());
            let findings =
                outcome.map_or_else(|error| vec![error.to_string()], |left| left.findings);
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

/// When the next pass may run.
struct Passes {
    next: Instant,
    pause: Duration,
}

impl Passes {
    fn new(now: Instant) -> Self {
        Self {
            next: now,
            pause: FIRST_PAUSE,
        }
    }

    fn are_due(&self, now: Instant) -> bool {
        self.next <= now
    }

    /// Notes whether all ENIs are attached now. If not, for whatever reason, the next pass
    /// comes later; the random `chance` spreads the nodes over time.
    fn note(&mut self, is_complete: bool, now: Instant, chance: f64) {
        if is_complete {
            *self = Self::new(now);
            return;
        }
        self.next = now + self.pause.mul_f64((1.0 + chance) / 2.0);
        self.pause = LONGEST_PAUSE.min(self.pause * 2);
    }
}

/// The result of a pass.
struct Left {
    is_complete: bool,
    /// Why ENIs are missing.
    findings: Vec<String>,
}

/// Attaches missing ENIs.
fn attach(agent: &Agent) -> Result<Left> {
    let wanted = &agent.configuration.enis;
    let is_complete = || {
        let inventory = Inventory::read()?.unwrap_or_default();
        provision::is_complete(&inventory, wanted)
    };
    if is_complete()? {
        let findings = Vec::new();
        return Ok(Left {
            is_complete: true,
            findings,
        });
    }
    let mut tell = |step: Step<'_>| match step {
        Step::Creating { name, subnet } => info!(name, subnet, "an ENI is created"),
        Step::Attaching { name, eni } => info!(name, eni, "an ENI is attached"),
        Step::Attached { name, eni } => info!(name, eni, "{eni} of {name:?} is attached"),
        Step::Deleted { eni } => info!(eni, "{eni} is deleted: no configuration names it"),
    };
    let report = agent
        .clients
        .run(|aws| pass::run(aws, wanted, LOCK_DEADLINE, &mut tell))?;
    let problems = report.problems.into_iter();
    Ok(Left {
        findings: problems.map(|problem| problem.says).collect(),
        is_complete: is_complete()?,
    })
}

/// Deletes the ENIs that ended instances have left.
fn clean(agent: &Agent, news: &mut News) {
    let outcome = agent.clients.run(|aws| leaked::delete(aws, false));
    let cleaned = outcome.unwrap_or_else(|error| Cleaned {
        errors: vec![error],
        ..Cleaned::default()
    });
    for eni in cleaned.deleted {
        info!(
            eni,
            "{eni} is deleted: the instance that it was created for has gone"
        );
    }
    let errors = cleaned.errors.iter().map(ToString::to_string);
    for finding in news.among(errors.collect()) {
        error!("{finding}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_that_leaves_something_makes_the_next_ones_later_and_later() {
        let mut now = Instant::now();
        let mut passes = Passes::new(now);
        let mut pauses = Vec::new();
        for _ in 0..9 {
            assert!(passes.are_due(now));
            passes.note(false, now, 1.0);
            pauses.push((passes.next - now).as_secs());
            now = passes.next;
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 600, 600, 600]);
        passes.note(false, now, 0.0);
        assert_eq!((passes.next - now).as_secs(), 300);
        assert!(!passes.are_due(now));
        passes.note(true, now, 0.5);
        assert!(passes.are_due(now));
        assert_eq!(passes.pause, FIRST_PAUSE);
    }
}
