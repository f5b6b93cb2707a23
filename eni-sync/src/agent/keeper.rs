//! The thread that releases addresses when they are due, and compares the ledger with EC2
//! periodically.

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::attach::inventory::Eni;
use common::error::{Error, Result};
use common::say;
use tracing::{error, info};

use crate::agent::found;
use crate::agent::logged::Source;
use crate::agent::news::News;
use crate::agent::pace::Pace;
use crate::agent::pool;
use crate::agent::prefixes;
use crate::agent::reclaim::Reclaim;
use crate::agent::shared::Agent;
use crate::agent::visibility::Visibility;
use crate::ledger::until_described_since_boot;
use crate::provision;
use crate::registration::{detached, in_use, reconcile, release, without};
use crate::vpc::{eni, inventory};

/// The pause after the first error; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The time until the next look at EC2 if the last one left something open.
const ANOTHER_LOOK: Duration = Duration::from_secs(61);

/// How long it is until another look at EC2 settles what the last one left open. After a reboot
/// that is as soon as descriptions are younger than it.
fn until_another_look() -> Duration {
    let since_boot = until_described_since_boot();
    ANOTHER_LOOK.min(since_boot.unwrap_or(ANOTHER_LOOK))
}

impl Agent {
    /// Releases addresses when they are due, and compares the ledger with EC2 periodically.
    pub(super) fn keep(self: &Arc<Self>) {
        let mut pause = FIRST_PAUSE;
        let mut reconcile_at = Instant::now();
        let (mut left, mut visibility) = (Reclaim::default(), Visibility::default());
        let (mut news, mut pace) = (News::default(), Pace::default());
        while self.await_turn() {
            let (mut outcome, mut findings) = (Ok(()), Vec::new());
            if self.take_compare_due() {
                reconcile_at = reconcile_at.min(pace.next(Instant::now()));
            }
            if reconcile_at <= Instant::now() {
                pace.note(Instant::now());
                let looked = self.reconcile();
                let is_open = matches!(looked, Ok(true)) || self.until_look().is_some();
                // A tag that was missing before may be set now.
                self.keep_links();
                findings = self.examine(&mut visibility);
                findings.extend(self.find_detached());
                findings.extend(provision::unreadable());
                outcome = looked.and(self.reclaim(&mut left));
                let interval = self.configuration.reconcile_interval();
                let until_next = match outcome {
                    Ok(()) if is_open => interval.min(until_another_look()),
                    Ok(()) => interval,
                    Err(_) => pause,
                };
                reconcile_at = Instant::now() + until_next;
            }
            self.await_idle();
            let outcome = outcome.and(pool::keep(self, &mut findings));
            let prefixes = prefixes::keep(self, &mut findings);
            let outcome = outcome.and_then(|next| Ok(next.into_iter().chain(prefixes?).min()));
            let released = self.release_due(&mut findings);
            let outcome = outcome.and_then(|next| Ok(next.into_iter().chain(released?).min()));
            // A failure to read the ledger is reported by the steps before.
            if let Ok(refused) = without::refused(&self.ledger) {
                self.tell_without(Source::Ledger, refused);
            }
            for finding in news.among(findings) {
                say!("{finding}");
            }
            let wait = match outcome {
                Ok(next) => {
                    pause = FIRST_PAUSE;
                    next
                }
                Err(error) => {
                    error!("{error}; trying again in {pause:?}");
                    let wait = pause;
                    pause = LONGEST_PAUSE.min(pause * 2);
                    Some(wait)
                }
            };
            let until_reconcile = reconcile_at.saturating_duration_since(Instant::now());
            if !self.sleep(wait.unwrap_or(until_reconcile).min(until_reconcile)) {
                return;
            }
        }
    }

    /// Compares the ledger with EC2, and repairs the differences. Returns whether one more look
    /// soon will settle what this one could not.
    fn reconcile(&self) -> Result<bool> {
        let outcome = self.clients.run(|aws| {
            let (inventory, free) = inventory::discover_all(aws)?;
            self.shared.subnets.note(&free);
            self.logged.note(&inventory);
            self.note_compared(inventory::attachments(&inventory));
            let of_pods = |eni: &&Eni| eni::require_managed(eni).is_ok();
            let enis = inventory.enis.iter().filter(of_pods).count();
            self.clients.rate_limit().fit(enis);
            let node = self.node(aws, &inventory);
            reconcile::run(&node, self.configuration.grace(), &mut |_| {})
        });
        self.metrics.note_reconcile(&outcome);
        let report = outcome.inspect_err(|error| self.note_refusal(error))?;
        self.health.note_reconcile(Instant::now());
        self.resources.waker().wake();
        if !report.is_empty() {
            info!("{report}");
        }
        Ok(report.needs_another_look())
    }

    /// Finds out which namespaces of pods can be read, and ends the agent when these are too
    /// few. If that cannot be determined, releases fail, but addresses are registered. Returns
    /// the namespaces that cannot be read, as texts.
    fn examine(&self, visibility: &mut Visibility) -> Vec<String> {
        let unseen: Vec<String> = match in_use::of_node(&self.ledger) {
            Ok(living) => {
                if let Err(error) = visibility.note(living.hidden_names().cloned().collect()) {
                    self.end(error);
                }
                let (hidden, unreadable) = (living.hidden(), living.unreadable());
                self.metrics.note_namespaces(hidden.len(), unreadable.len());
                hidden.chain(unreadable).map(Error::to_string).collect()
            }
            Err(error) => vec![error.to_string()],
        };
        self.health.note_unseen(unseen.clone());
        unseen
    }

    /// Finds the pods whose ENI was detached, and returns messages about them.
    fn find_detached(&self) -> Vec<String> {
        let losses = match detached::of_node(&self.ledger) {
            Ok(losses) => losses,
            Err(error) => return vec![error.to_string()],
        };
        if losses.unknown.is_none() {
            self.metrics.note_detached(losses.found.len());
        }
        let found = losses.found.into_iter().map(|loss| loss.says);
        let unknown = losses.unknown.iter().map(Error::to_string);
        found.chain(unknown).collect()
    }

    /// Releases the reservations of ended containers of which no plugin has a record.
    fn reclaim(&self, left: &mut Reclaim) -> Result<()> {
        let configuration = &self.configuration;
        if configuration.reclaim == Some(false) {
            return Ok(());
        }
        let networks = found::watched(configuration)?;
        let count = left.run(&networks, configuration.grace())?;
        self.metrics.note_reclaimed(count);
        Ok(())
    }

    /// Releases due addresses, and returns how long it is until the next will be due.
    fn release_due(&self, kept: &mut Vec<String>) -> Result<Option<Duration>> {
        self.clients
            .run(|aws| release::release_in_batches(aws, &self.ledger, kept))
    }
}
