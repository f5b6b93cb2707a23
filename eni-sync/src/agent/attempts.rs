//! How often the agent does again what somebody else undoes: it never fights.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// How often one thing is tried within `WINDOW`.
pub(crate) const MOST: usize = 10;
pub(crate) const WINDOW: Duration = Duration::from_secs(600);

/// When each thing was tried.
#[derive(Debug, Default)]
pub(crate) struct Attempts(HashMap<String, VecDeque<Instant>>);

impl Attempts {
    /// Whether a thing may be tried once more; notes that it is.
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
