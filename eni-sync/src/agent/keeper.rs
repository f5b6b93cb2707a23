//! The thread that releases what is due, when it is due, and compares the ledger with EC2
//! from time to time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::attach::inventory::Eni;
use common::error::{Error, Result};
use common::say;
use tracing::{error, info};

use crate::agent::found;
use crate::agent::news::News;
use crate::agent::orphans::Hygiene;
use crate::agent::pool;
use crate::agent::prefixes;
use crate::agent::reclaim::Reclaim;
use crate::agent::said::Source;
use crate::agent::shared::Agent;
use crate::agent::visibility::Sight;
use crate::registration::{detached, in_use, reconcile, release, without};
use crate::vpc::{eni, inventory};

/// After an error, the next try waits this long at least, and twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long after a look at EC2 that has left something open the next one comes.
const ANOTHER_LOOK: Duration = Duration::from_secs(61);

/// Since when the agent sees what containers have left that have gone.
#[derive(Default)]
struct Left {
    hygiene: Hygiene,
    reclaim: Reclaim,
}

impl Agent {
    /// Releases what is due, when it is due, and compares the ledger with EC2 from time
    /// to time.
    pub(super) fn keep(self: &Arc<Self>) {
        let mut pause = FIRST_PAUSE;
        let mut reconcile_at = Instant::now();
        let (mut left, mut sight) = (Left::default(), Sight::default());
        let mut news = News::default();
        while self.await_turn() {
            let (mut outcome, mut findings) = (Ok(()), Vec::new());
            if reconcile_at <= Instant::now() {
                let looked = self.reconcile();
                let is_open = matches!(looked, Ok(true));
                // A tag that was missing may be there now.
                self.keep_links();
                findings = self.examine(&mut sight);
                findings.extend(self.find_detached());
                outcome = looked.and(self.clean(&mut left, &mut findings));
                let interval = self.configuration.reconcile_interval();
                let until_next = match outcome {
                    Ok(()) if is_open => interval.min(ANOTHER_LOOK),
                    Ok(()) => interval,
                    Err(_) => pause,
                };
                reconcile_at = Instant::now() + until_next;
            }
            self.await_calm();
            let outcome = outcome.and(pool::keep(self, &mut findings));
            let outcome = outcome.and(prefixes::keep(self, &mut findings));
            let released = self.release_due(&mut findings);
            let outcome = outcome.and_then(|next| Ok(next.into_iter().chain(released?).min()));
            // Who cannot read the ledger cannot do anything else either, and says so.
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

    /// Compares the ledger with EC2, and repairs what differs. Says whether one more look
    /// soon finds out what this one could not.
    fn reconcile(&self) -> Result<bool> {
        let outcome = self.clients.run(|aws| {
            let (inventory, free) = inventory::discover_all(aws)?;
            self.shared.subnets.note(&free);
            self.said.note(&inventory);
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

    /// Finds out what can be seen of the namespaces of pods, and ends the agent when that
    /// is too little. Where it cannot be found out, releases fail, and addresses are
    /// registered all the same. Returns what is not visible.
    fn examine(&self, sight: &mut Sight) -> Vec<String> {
        let unseen: Vec<String> = match in_use::of_node(&self.ledger) {
            Ok(living) => {
                if let Err(error) = sight.note(living.hidden_names().cloned().collect()) {
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

    /// Finds out which pods run without their ENI, and returns what is to be said of them.
    fn find_detached(&self) -> Vec<String> {
        let found = detached::of_node(&self.ledger);
        if let Ok(found) = &found {
            self.metrics.note_detached(found.len());
        }
        found.unwrap_or_else(|error| vec![error.to_string()])
    }

    /// Ends the attachments whose containers have gone, and releases what containers have
    /// left behind that no plugin has a record of.
    fn clean(&self, left: &mut Left, kept: &mut Vec<String>) -> Result<()> {
        let configuration = &self.configuration;
        let grace = configuration.grace();
        let ended = left.hygiene.run(configuration.cni_path(), grace, kept);
        if configuration.reclaim == Some(false) {
            return ended;
        }
        let networks = found::watched(configuration);
        let released = networks.and_then(|networks| left.reclaim.run(&networks, grace));
        ended.and(released.map(|count| self.metrics.note_reclaimed(count)))
    }

    /// Releases what is due, and returns when something will be.
    fn release_due(&self, kept: &mut Vec<String>) -> Result<Option<Duration>> {
        self.clients
            .run(|aws| release::release_in_batches(aws, &self.ledger, kept))
    }
}
