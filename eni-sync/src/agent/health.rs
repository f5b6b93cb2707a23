//! The health of the agent: its threads, and its last comparison with EC2.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// For how many intervals after a comparison with EC2 the agent is ready.
const INTERVALS: u32 = 3;

/// The health of the agent.
#[derive(Debug, Default)]
pub(crate) struct Health {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Threads that have ended although they should not.
    ended: Vec<&'static str>,
    reconciled: Option<Instant>,
    /// The namespaces of pods that the last look could not read.
    unseen: Vec<String>,
    /// Problems of the installed plugins.
    plugins: Vec<String>,
    /// Reservations of watched networks that the agent cannot register.
    unregistered: Vec<String>,
    /// A missing permission in EC2, since the last comparison.
    refusal: Option<String>,
}

/// Notes the end of the thread that owns this value, for whatever reason it ends.
pub(crate) struct Lasting<'a> {
    pub(crate) health: &'a Health,
    pub(crate) thread: &'static str,
}

impl Drop for Lasting<'_> {
    fn drop(&mut self) {
        self.health.known().ended.push(self.thread);
    }
}

impl Health {
    /// Notes that the ledger has been compared with EC2.
    pub(crate) fn note_reconcile(&self, now: Instant) {
        let mut known = self.known();
        (known.reconciled, known.refusal) = (Some(now), None);
    }

    /// Notes a missing permission in EC2; until the next comparison the call is not tried in
    /// vain.
    pub(crate) fn note_refusal(&self, why: String) {
        // Each answer of EC2 has a different request id: the first answer stands for all of
        // them.
        self.known().refusal.get_or_insert(why);
    }

    /// Why EC2 assigns no addresses at this time, as far as is known: a permission that was
    /// missing since the last comparison, or that the last comparison is too old. The text
    /// stays the same while the reason does, because resources are compared by it.
    pub(crate) fn refusal(&self, interval: Duration, now: Instant) -> Option<String> {
        let known = self.known();
        let longest = interval * INTERVALS;
        let late = |last: &Instant| now.saturating_duration_since(*last) > longest;
        let late = known.reconciled.filter(late).map(|_| {
            let seconds = longest.as_secs();
            format!("the last comparison with EC2 is more than {seconds} s old")
        });
        known.refusal.clone().or(late)
    }

    /// Notes the namespaces of pods that could not be read.
    pub(crate) fn note_unseen(&self, unseen: Vec<String>) {
        self.known().unseen = unseen;
    }

    /// Checks that every thread runs that should.
    ///
    /// # Errors
    /// The threads that have ended.
    pub(crate) fn alive(&self) -> std::result::Result<(), String> {
        match self.known().ended.as_slice() {
            [] => Ok(()),
            ended => Err(format!("threads have ended: {}", ended.join(", "))),
        }
    }

    /// Whether the ledger has been compared with EC2 at all.
    pub(crate) fn has_reconciled(&self) -> bool {
        self.known().reconciled.is_some()
    }

    /// Checks that the ledger has been compared with EC2 recently.
    ///
    /// # Errors
    /// How old the last comparison is.
    pub(crate) fn ready(
        &self,
        interval: Duration,
        now: Instant,
    ) -> std::result::Result<(), String> {
        let Some(last) = self.known().reconciled else {
            return Err("the ledger has not been compared with EC2 yet".to_owned());
        };
        let age = now.saturating_duration_since(last);
        if age > interval * INTERVALS {
            let seconds = age.as_secs();
            return Err(format!("the last comparison with EC2 is {seconds} s old"));
        }
        Ok(())
    }

    /// The problems that do not affect readiness.
    pub(crate) fn findings(&self) -> Vec<String> {
        let known = self.known();
        [&known.unregistered, &known.unseen, &known.plugins]
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    }

    /// Notes what watched networks have and the agent cannot register.
    pub(crate) fn note_unregistered(&self, findings: Vec<String>) {
        self.known().unregistered = findings;
    }

    /// Notes what is wrong with the plugins that are installed.
    pub(crate) fn note_plugins(&self, findings: Vec<String>) {
        self.known().plugins = findings;
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(100);

    #[test]
    fn a_thread_that_ends_is_named() {
        let health = Health::default();
        health.alive().unwrap();
        let guard = Lasting {
            health: &health,
            thread: "keeper",
        };
        health.alive().unwrap();
        drop(guard);
        assert_eq!(health.alive().unwrap_err(), "threads have ended: keeper");
    }

    #[test]
    fn the_agent_is_ready_from_its_first_comparison_until_three_intervals_after_the_last() {
        let health = Health::default();
        let start = Instant::now();
        assert!(health.ready(INTERVAL, start).is_err());
        health.note_reconcile(start);
        health.ready(INTERVAL, start + INTERVAL * 3).unwrap();
        let late = start + INTERVAL * 3 + Duration::from_secs(1);
        let error = health.ready(INTERVAL, late).unwrap_err();
        assert_eq!(error, "the last comparison with EC2 is 301 s old");
    }

    #[test]
    fn the_reason_for_missing_addresses_keeps_its_words_while_it_lasts() {
        let health = Health::default();
        let start = Instant::now();
        assert_eq!(health.refusal(INTERVAL, start), None);
        health.note_reconcile(start);
        assert_eq!(health.refusal(INTERVAL, start + INTERVAL * 3), None);
        let late = "the last comparison with EC2 is more than 300 s old".to_owned();
        for intervals in 4..6 {
            let found = health.refusal(INTERVAL, start + INTERVAL * intervals);
            assert_eq!(found.as_ref(), Some(&late));
        }
        for request in ["a", "b"] {
            health.note_refusal(format!("not permitted (request {request})"));
            let found = health.refusal(INTERVAL, start);
            assert_eq!(found.unwrap(), "not permitted (request a)");
        }
        health.note_reconcile(start);
        assert_eq!(health.refusal(INTERVAL, start), None);
    }
}
