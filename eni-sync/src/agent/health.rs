//! What shows whether the agent does its work: its threads, and its last look at EC2.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The agent is ready for so many intervals after a comparison with EC2.
const INTERVALS: u32 = 3;

/// What shows whether the agent does its work.
#[derive(Debug, Default)]
pub(crate) struct Health {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Threads that have ended and should not have.
    ended: Vec<&'static str>,
    reconciled: Option<Instant>,
    /// What the last look could not see of the namespaces of pods.
    unseen: Vec<String>,
    /// What is wrong with the plugins that are installed.
    plugins: Vec<String>,
    /// What watched networks have and the agent cannot register.
    unregistered: Vec<String>,
    /// What EC2 does not permit, since the last comparison with it.
    refusal: Option<String>,
}

/// Tells the health when the thread that has it ends, however it ends.
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

    /// Notes what EC2 does not permit; until the next comparison it is not tried in vain.
    pub(crate) fn note_refusal(&self, why: String) {
        // EC2 adds a number to each of its answers: the first one stands for all of them.
        self.known().refusal.get_or_insert(why);
    }

    /// Why EC2 gives no addresses at this time, as far as is known: what it has not permitted
    /// since the last comparison, or that there has been none for too long. The words stay the
    /// same while the reason does: resources are compared by them.
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

    /// Notes what could not be seen of the namespaces of pods.
    pub(crate) fn note_unseen(&self, unseen: Vec<String>) {
        self.known().unseen = unseen;
    }

    /// Whether every thread is there that should be.
    ///
    /// # Errors
    /// Which is not.
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

    /// Whether the ledger has been compared with EC2 lately.
    ///
    /// # Errors
    /// Since when it has not.
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

    /// What is wrong though the agent is ready.
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
    fn why_there_are_no_addresses_is_said_in_the_same_words_while_it_is_so() {
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
