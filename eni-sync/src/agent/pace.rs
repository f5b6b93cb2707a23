//! How often the agent asks EC2 because of changes on the node, which a pod may cause without end:
//! the first times at once, and then at regular intervals, none of them lost. Pure: the caller
//! gives the time.

use std::time::{Duration, Instant};

/// How often at once.
const AT_ONCE: u32 = 8;
/// The interval after that.
const INTERVAL: Duration = Duration::from_secs(10);

/// What was asked so far.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// When all of it would have been asked at regular intervals.
    paid: Option<Instant>,
}

impl Pace {
    /// When EC2 may be asked next: now, or later.
    pub(crate) fn next(&self, now: Instant) -> Instant {
        let ahead = INTERVAL * (AT_ONCE - 1);
        let paid = self.paid.and_then(|paid| paid.checked_sub(ahead));
        paid.map_or(now, |next| next.max(now))
    }

    /// Notes that EC2 is asked now.
    pub(crate) fn note(&mut self, now: Instant) {
        let paid = self.paid.map_or(now, |paid| paid.max(now));
        self.paid = Some((paid + INTERVAL).min(now + INTERVAL * AT_ONCE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When each of these is asked, if a change comes all the time.
    fn asked(pace: &mut Pace, from: Instant, count: u32) -> Vec<Duration> {
        let mut now = from;
        let mut ask = |_| {
            now = pace.next(now);
            pace.note(now);
            now - from
        };
        (0..count).map(&mut ask).collect()
    }

    #[test]
    fn the_first_changes_are_followed_at_once_and_the_others_at_intervals() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let times = asked(&mut pace, start, AT_ONCE + 3);
        let (at_once, later) = times.split_at(AT_ONCE as usize);
        assert!(at_once.iter().all(Duration::is_zero), "{times:?}");
        let expected = [INTERVAL, INTERVAL * 2, INTERVAL * 3];
        assert_eq!(later, expected);
    }

    #[test]
    fn a_pause_makes_room_for_changes_at_once_but_not_for_more_than_at_first() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        asked(&mut pace, start, AT_ONCE);
        let soon = start + INTERVAL * 2;
        let times = asked(&mut pace, soon, 3);
        assert_eq!(times, [Duration::ZERO, Duration::ZERO, INTERVAL]);
        let late = start + INTERVAL * 1000;
        let times = asked(&mut pace, late, AT_ONCE + 1);
        assert_eq!(times.last(), Some(&INTERVAL));
    }
}
