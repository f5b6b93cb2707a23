//! The state with its lock. Tests, on their own threads, wait here for changes, and held
//! requests wait to be released.

use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use time::{OffsetDateTime, format_description};
use tokio::sync::Notify;
use tokio::time::timeout_at;

use super::fault::{self, Fault, Hold};
use super::id::InstanceId;
use super::state::{self, State};

/// The data that the lab and its servers share.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// The state has changed: tests check it again.
    pub(super) changed: Condvar,
    /// Held requests check again whether they are released.
    pub(super) released: Notify,
    /// The time of the next delayed change may be another one.
    rescheduled: Notify,
}

impl Shared {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State::new()),
            changed: Condvar::new(),
            released: Notify::new(),
            rescheduled: Notify::new(),
        }
    }

    /// The current state.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A test that panicked while it held the lock has left no incomplete change:
        // changes are made on copies.
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        state.settle(Instant::now());
        state
    }

    /// Changes the state and wakes everything that waits for it.
    pub(super) fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let result = change(&mut state);
        state.version += 1;
        self.changed.notify_all();
        self.rescheduled.notify_one();
        result
    }

    /// Applies delayed changes when they are due, also without any request.
    pub(super) async fn follow_time(&self) {
        loop {
            // Taking the lock applies what is due.
            let next = self.lock().world.next_due();
            let rescheduled = self.rescheduled.notified();
            match next {
                // After either of them, the loop checks again.
                Some(due) => drop(timeout_at(due.into(), rescheduled).await),
                None => rescheduled.await,
            }
        }
    }

    /// Waits until the state is no longer of this version, something is due, or the
    /// deadline.
    pub(super) fn wait_for_change(&self, version: u64, deadline: Instant) {
        let state = self.lock();
        let next = state
            .world
            .next_due()
            .map_or(deadline, |due| due.min(deadline));
        let time = next.saturating_duration_since(Instant::now());
        if state.version == version {
            drop(self.changed.wait_timeout(state, time));
        }
    }

    /// Counts a call, and returns its fault and its number.
    pub(super) fn arrive(&self, action: &str) -> (Option<Fault>, u64) {
        self.update(|state| {
            *state.calls.entry(action.to_owned()).or_default() += 1;
            let number = state.version;
            (fault::next(&mut state.faults, action), number)
        })
    }

    /// The time of EC2's clock, in HTTP's format.
    pub(super) fn date(&self) -> String {
        let now = state::now() + self.lock().rules.clock_ahead;
        let now = OffsetDateTime::from_unix_timestamp(now).expect("the year has four digits");
        let form =
            "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT";
        let form = format_description::parse_borrowed::<2>(form).expect("the form is right");
        now.format(&form).expect("the parts are known")
    }

    pub(super) fn latency(&self, action: &str) -> Duration {
        let rules = &self.lock().rules;
        let own = rules.latency_of.get(action);
        own.copied().unwrap_or(rules.latency)
    }

    pub(super) fn terminate(&self, instance: &InstanceId) {
        self.update(|state| {
            let mut change = state.change(None);
            // If the instance no longer exists, there is nothing to terminate.
            if change.terminate_instance(instance.as_str()).is_ok() {
                let (world, events) = (change.world, change.events);
                state.commit(world, events);
            }
        });
    }

    pub(super) fn attach_for_vpc_cni(&self, instance: &InstanceId) {
        self.update(|state| {
            let mut change = state.change(None);
            // An instance that no longer exists has no VPC CNI.
            if change.attach_for_vpc_cni(instance).is_ok() {
                let (world, events) = (change.world, change.events);
                state.commit(world, events);
            }
        });
    }

    /// Holds a call at the point that the test has chosen, until it is released or its
    /// client has disconnected.
    pub(super) async fn wait_while_held(&self, action: &str, hold: Hold) {
        let passes = self.lock().passes;
        let is_held = || {
            let state = self.lock();
            state.passes == passes && state.holds.get(action) == Some(&hold)
        };
        if !is_held() {
            return;
        }
        let _held = Held::new(self);
        loop {
            let released = self.released.notified();
            if !is_held() {
                return;
            }
            released.await;
        }
    }
}

/// A held request is counted as long as this value exists.
struct Held<'a>(&'a Shared);

impl<'a> Held<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.update(|state| state.held += 1);
        Self(shared)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.update(|state| state.held -= 1);
    }
}
