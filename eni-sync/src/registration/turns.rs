//! Whose turn it is among the threads of one process that wait for EC2 to change the same ENI.
//! One of them leads: it waits for the turn of the ledger, and asks AWS for all. When it has
//! done so the others are woken, because they may have what they waited for.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The turns of this process on all ENIs.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    of_enis: Mutex<BTreeMap<String, Turn>>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Turn {
    is_led: bool,
    /// How many have ended before.
    ended: u64,
}

/// What a thread has to do that has joined a turn.
pub(crate) enum Part<'a> {
    /// It leads, until the value is dropped.
    Lead(Lead<'a>),
    /// Another one has led meanwhile.
    Served,
    /// Another one still leads, and the time is over.
    TooLate,
}

/// The thread that has this one leads.
pub(crate) struct Lead<'a> {
    turns: &'a Turns,
    eni: &'a str,
}

impl Turns {
    /// Leads where nobody does. Otherwise waits until that turn has ended, for so long at most.
    pub(crate) fn join<'a>(&'a self, eni: &'a str, patience: Duration) -> Part<'a> {
        let mut of_enis = self.of_enis();
        let turn = of_enis.entry(eni.to_owned()).or_default();
        if !turn.is_led {
            turn.is_led = true;
            return Part::Lead(Lead { turns: self, eni });
        }
        let before = turn.ended;
        let lasts = |of_enis: &mut BTreeMap<String, Turn>| {
            of_enis.get(eni).is_some_and(|turn| turn.ended == before)
        };
        let waited = self.ended.wait_timeout_while(of_enis, patience, lasts);
        let waited = waited.unwrap_or_else(PoisonError::into_inner).1;
        match waited.timed_out() {
            true => Part::TooLate,
            false => Part::Served,
        }
    }

    /// A thread that has ended in the middle has left nothing half done here.
    fn of_enis(&self) -> MutexGuard<'_, BTreeMap<String, Turn>> {
        self.of_enis.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        if let Some(turn) = self.turns.of_enis().get_mut(self.eni) {
            turn.is_led = false;
            turn.ended += 1;
        }
        self.turns.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(30);

    #[test]
    fn whoever_waits_is_woken_at_the_end_of_a_turn_and_a_later_one_leads() {
        let turns = Turns::default();
        let Part::Lead(lead) = turns.join("eni-1", Duration::ZERO) else {
            panic!("no thread leads before");
        };
        let is_in_time = || !matches!(turns.join("eni-1", DEADLINE), Part::TooLate);
        thread::scope(|scope| {
            let others = [0; 3].map(|_| scope.spawn(is_in_time));
            drop(lead);
            for other in others {
                assert!(other.join().unwrap());
            }
        });
        let next = turns.join("eni-1", Duration::ZERO);
        assert!(matches!(next, Part::Lead(_)));
    }

    #[test]
    fn a_process_that_waits_too_long_for_another_one_says_so() {
        let turns = Turns::default();
        let Part::Lead(_lead) = turns.join("eni-1", Duration::ZERO) else {
            panic!("nobody leads before");
        };
        assert!(matches!(turns.join("eni-1", Duration::ZERO), Part::TooLate));
        assert!(matches!(turns.join("eni-2", Duration::ZERO), Part::Lead(_)));
    }
}
