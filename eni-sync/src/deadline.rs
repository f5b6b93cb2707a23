//! The deadline of a command. Everything that the command waits for shares it: locks, turns,
//! the agent, AWS.

use std::time::{Duration, Instant};

use common::error::{Error, ErrorCode, Result};

/// The deadline of a command. The default has none: each wait then takes up to its own limit.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    /// The deadline of a command that starts now and may take `time`.
    pub(crate) fn after(time: Duration) -> Self {
        Self(Instant::now().checked_add(time))
    }

    /// How much time is left.
    pub(crate) fn left(self) -> Duration {
        let left = |at: Instant| at.saturating_duration_since(Instant::now());
        self.0.map_or(Duration::MAX, left)
    }

    /// How long a wait may take whose own limit is `longest`: no longer than the time that is
    /// left.
    pub(crate) fn left_of(self, longest: Duration) -> Duration {
        self.left().min(longest)
    }

    /// Whether no time is left.
    pub(crate) fn is_over(self) -> bool {
        self.left().is_zero()
    }

    /// Checks that there is time left to begin with `what`, a noun for the error text.
    ///
    /// # Errors
    /// Code 11 when no time is left.
    pub(crate) fn require_time_for(self, what: &str) -> Result<()> {
        match self.is_over() {
            true => {
                let msg = format!("timed out before it was the turn of {what}");
                Err(Error::new(ErrorCode::TRY_AGAIN, msg))
            }
            false => Ok(()),
        }
    }

    /// The error (code 11) of a command that has no time left to wait for `what`.
    pub(crate) fn missed(what: &str) -> Error {
        let msg = format!("timed out waiting for {what}");
        Error::new(ErrorCode::TRY_AGAIN, msg)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_takes_what_is_left_and_no_more_than_it_may() {
        let minute = Duration::from_secs(60);
        let deadline = Deadline::after(minute);
        assert_eq!(
            deadline.left_of(Duration::from_secs(1)),
            Duration::from_secs(1)
        );
        assert!(deadline.left_of(2 * minute) <= minute && !deadline.is_over());
        assert!(Deadline::after(Duration::ZERO).is_over());
    }

    #[test]
    fn without_a_deadline_each_wait_has_its_own_time() {
        let minute = Duration::from_secs(60);
        assert_eq!(Deadline::default().left_of(minute), minute);
        assert!(!Deadline::default().is_over());
    }
}
