//! How often the agent repeats a change that another program undoes. The number is limited, so
//! that the two do not undo each other's changes for ever.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// How often each change is tried within `WINDOW`.
pub(crate) const MOST: usize = 10;
pub(crate) const WINDOW: Duration = Duration::from_secs(600);

/// When each change was tried.
#[derive(Debug, Default)]
pub(crate) struct Attempts(HashMap<String, VecDeque<Instant>>);

impl Attempts {
    /// Whether a change may be tried once more. If so, notes the attempt.
    pub(crate) fn may_try(&mut self, name: &str) -> bool {
        let attempts = self.0.entry(name.to_owned()).or_default();
        attempts.retain(|time| time.elapsed() < WINDOW);
        let may_try = attempts.len() < MOST;
        if may_try {
            attempts.push_back(Instant::now());
        }
        may_try
    }
}
