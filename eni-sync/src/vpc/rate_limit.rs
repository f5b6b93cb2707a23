//! The rate limit that all clients of an agent share: the budget of changes, the attempts of a
//! call, and the metrics of both. A plugin that works without an agent has none of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::deadline::Deadline;
use crate::random;
use crate::vpc::calls::Calls;
use crate::vpc::failure::{Failure, Kind};
use crate::vpc::pauses::Pauses;
use crate::vpc::token_bucket::{Bucket, Urgency};

/// The ends of the names of the actions that create, attach, change, detach and delete ENIs.
const OF_ENIS: [&str; 2] = ["NetworkInterface", "NetworkInterfaceAttribute"];
/// How long a release lets registrations go first.
const RELEASE_DELAY: Duration = Duration::from_secs(5);
/// How often a waiting release checks the budget.
const LOOK: Duration = Duration::from_millis(100);

type Outcome<T> = std::result::Result<T, Failure>;

/// The rate limit of one node.
#[derive(Debug)]
pub(crate) struct RateLimit {
    pub(crate) calls: Arc<Calls>,
    queue: Mutex<Queue>,
    /// The pauses between the attempts of throttled descriptions.
    of_looks: Pauses,
}

#[derive(Debug)]
struct Queue {
    bucket: Bucket,
    /// How many registrations wait for a token.
    registrations: usize,
}

impl RateLimit {
    pub(crate) fn new(calls: Arc<Calls>) -> Self {
        let bucket = Bucket::new(Instant::now());
        calls.budget.set(bucket.rate());
        Self {
            calls,
            queue: Mutex::new(Queue {
                bucket,
                registrations: 0,
            }),
            of_looks: Pauses::OF_PODS,
        }
    }

    /// The rate limit of a command that many nodes start at the same moment, and that no pod
    /// waits for.
    pub(crate) fn of_nodes() -> Self {
        Self {
            of_looks: Pauses::OF_NODES,
            ..Self::new(Arc::default())
        }
    }

    /// Makes a call as soon as the budget allows it, and again when it was throttled or
    /// not answered.
    ///
    /// # Errors
    /// The failure of the last attempt.
    pub(crate) fn call<T>(
        &self,
        action: &'static str,
        deadline: Deadline,
        ask: impl Fn() -> Outcome<T>,
    ) -> Outcome<T> {
        let (began, left) = (Instant::now(), deadline.left());
        let mut attempts = 0;
        loop {
            let answer = self.attempt(urgency(action), &ask);
            attempts += 1;
            let of_throttled = self.pauses(action);
            let pauses = match answer.as_ref().err().map(|failure| failure.kind) {
                Some(Kind::Throttled) => of_throttled,
                Some(Kind::Unanswered) => Pauses::OF_PODS,
                _ => return answer,
            };
            let is_throttled = answer.as_ref().is_err_and(is_throttled);
            let wait = match urgency(action) {
                // The budget itself says when the next attempt may be.
                Some(_) if is_throttled => Duration::ZERO,
                _ => pauses.after(attempts, random::chance()),
            };
            // The limit is that of throttled calls also here: one lost answer must not end a
            // call that has been throttled for minutes.
            if began.elapsed() + wait >= left.min(of_throttled.time) {
                return answer;
            }
            thread::sleep(wait);
        }
    }

    /// The pauses between the attempts of a throttled call.
    fn pauses(&self, action: &str) -> Pauses {
        let is_of_enis = OF_ENIS.iter().any(|end| action.ends_with(end));
        match (is_of_enis, urgency(action)) {
            (true, _) => Pauses::OF_NODES,
            (_, None) => self.of_looks,
            (_, Some(_)) => Pauses::OF_PODS,
        }
    }

    /// Makes a change that must not be made twice, as soon as the budget allows it. Repeats it
    /// only when EC2 has throttled it.
    ///
    /// # Errors
    /// The failure of the last attempt.
    pub(crate) fn call_while_throttled<T>(
        &self,
        action: &'static str,
        deadline: Deadline,
        ask: impl Fn() -> Outcome<T>,
    ) -> Outcome<T> {
        while_throttled(deadline, || self.attempt(urgency(action), &ask))
    }

    /// Makes a change that a pod waits for, once, as soon as the budget allows it.
    ///
    /// # Errors
    /// The failure of the attempt.
    pub(crate) fn call_once<T>(&self, ask: impl Fn() -> Outcome<T>) -> Outcome<T> {
        self.attempt(Some(Urgency::Registration), &ask)
    }

    fn attempt<T>(&self, urgency: Option<Urgency>, ask: &impl Fn() -> Outcome<T>) -> Outcome<T> {
        if let Some(urgency) = urgency {
            self.await_bucket(urgency, |bucket, urgency| {
                bucket.take(urgency, Instant::now())
            });
        }
        let answer = ask();
        if urgency.is_some() && answer.as_ref().is_err_and(is_throttled) {
            self.slow_down();
        }
        answer
    }

    /// Adapts the budget to the number of ENIs for pods that the node has.
    pub(crate) fn fit(&self, enis: usize) {
        let mut queue = self.queue();
        queue.bucket.fit(enis);
        self.calls.budget.set(queue.bucket.rate());
    }

    fn slow_down(&self) {
        let mut queue = self.queue();
        queue.bucket.throttle(random::chance(), Instant::now());
        self.calls.budget.set(queue.bucket.rate());
    }

    /// Waits until the budget allows a registration, without taking the token: addresses that
    /// are requested meanwhile become part of the same call.
    pub(crate) fn await_registration(&self) {
        self.await_bucket(Urgency::Registration, |bucket, urgency| {
            bucket.clone().take(urgency, Instant::now())
        });
    }

    fn await_bucket(
        &self,
        urgency: Urgency,
        take: impl Fn(&mut Bucket, Urgency) -> std::result::Result<(), Duration>,
    ) {
        let since = Instant::now();
        let is_registration = urgency == Urgency::Registration;
        self.queue().registrations += usize::from(is_registration);
        loop {
            let mut queue = self.queue();
            let is_delayed = since.elapsed() < RELEASE_DELAY;
            let waits = !is_registration && is_delayed && queue.registrations > 0;
            // A release that has waited long enough is as urgent as a registration.
            let urgency = match is_delayed {
                true => urgency,
                false => Urgency::Registration,
            };
            let taken = match waits {
                true => Err(LOOK),
                false => take(&mut queue.bucket, urgency),
            };
            let Err(wait) = taken else {
                queue.registrations -= usize::from(is_registration);
                self.calls.budget.set(queue.bucket.rate());
                break;
            };
            drop(queue);
            thread::sleep(if is_registration {
                wait
            } else {
                wait.min(LOOK)
            });
        }
        self.calls
            .budget_wait
            .observe(since.elapsed().as_secs_f64());
    }

    /// The lock is also used after a panic, which leaves nothing half done here.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Repeats a call while EC2 throttles it. EC2 has certainly not carried out a throttled
/// request.
///
/// # Errors
/// The failure of the last attempt.
pub(crate) fn while_throttled<T>(deadline: Deadline, ask: impl Fn() -> Outcome<T>) -> Outcome<T> {
    repeated_while(deadline, is_throttled, ask)
}

/// Repeats a call that was throttled or not answered.
///
/// # Errors
/// The failure of the last attempt.
pub(crate) fn repeated<T>(deadline: Deadline, ask: impl Fn() -> Outcome<T>) -> Outcome<T> {
    let is_again = |failure: &Failure| matches!(failure.kind, Kind::Throttled | Kind::Unanswered);
    repeated_while(deadline, is_again, ask)
}

fn repeated_while<T>(
    deadline: Deadline,
    is_again: impl Fn(&Failure) -> bool,
    ask: impl Fn() -> Outcome<T>,
) -> Outcome<T> {
    let (began, left) = (Instant::now(), deadline.left());
    let pauses = Pauses::OF_PODS;
    let mut attempts = 0;
    loop {
        let answer = ask();
        attempts += 1;
        let wait = pauses.after(attempts, random::chance());
        let is_again = answer.as_ref().is_err_and(&is_again);
        if !is_again || began.elapsed() + wait >= left.min(pauses.time) {
            return answer;
        }
        thread::sleep(wait);
    }
}

fn is_throttled(failure: &Failure) -> bool {
    failure.kind == Kind::Throttled
}

/// The urgency of an action; `None` for one that does not use the budget.
fn urgency(action: &str) -> Option<Urgency> {
    if action.starts_with("Assign") {
        Some(Urgency::Registration)
    } else if action.starts_with("Unassign") {
        Some(Urgency::Release)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn failure(kind: Kind) -> Failure {
        Failure {
            action: "AssignPrivateIpAddresses",
            kind,
            code: "Code".to_owned(),
            request_id: None,
            answer: "Code: text".to_owned(),
        }
    }

    fn attempts(action: &'static str, kinds: &[Kind]) -> (usize, Outcome<()>) {
        let rate_limit = RateLimit::new(Arc::default());
        let made = Cell::new(0);
        let outcome = rate_limit.call(action, Deadline::default(), || {
            let kind = kinds.get(made.get());
            made.set(made.get() + 1);
            kind.map_or(Ok(()), |kind| Err(failure(*kind)))
        });
        (made.get(), outcome)
    }

    #[test]
    fn what_is_throttled_or_not_answered_is_asked_again() {
        for action in ["AssignPrivateIpAddresses", "DescribeSubnets"] {
            let kinds = [Kind::Throttled, Kind::Unanswered];
            assert_eq!(attempts(action, &kinds), (3, Ok(())), "{action}");
        }
    }

    #[test]
    fn a_refusal_is_not_asked_again() {
        let (made, outcome) = attempts("AssignPrivateIpAddresses", &[Kind::Invalid]);
        assert_eq!((made, outcome), (1, Err(failure(Kind::Invalid))));
    }
}
