//! What one look at EC2 has shown and a second look must show as well before a decision depends
//! on it: descriptions may be outdated. A process that waits for the second look gives up its
//! turn meanwhile. All threads of an agent share these looks, so that many waiting pods need
//! only one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::ledger::DESCRIBE_LAG;

/// How long after the first look the second one counts. Source: Amazon EC2 Developer Guide,
/// "Eventual consistency": a couple of seconds at first.
const BETWEEN: Duration = Duration::from_secs(5);
/// The same for an ENI that is attached to nothing, which may be in use again by then: longer
/// than descriptions may lag, so that two looks do not show the same moment.
const LAG: Duration = Duration::from_secs(DESCRIBE_LAG);
/// How long a first look counts after the second one may come. Long enough for a process that
/// has to wait for its turn meanwhile.
const VALID: Duration = Duration::from_secs(60);
/// How long after a second look has become due that nobody has made it is tried again: who has to
/// wait for a turn comes late.
const AGAIN: Duration = Duration::from_secs(1);

/// What has to be seen twice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sighting {
    /// The ENI with this id is attached to an instance that never runs again, so it does not
    /// matter how old the look is.
    Ended(String),
    /// The ENI with this id is attached to nothing.
    Detached(String),
    /// The ENI with this id has the address, which EC2 refuses to assign to it.
    There(String, IpAddr),
}

impl Sighting {
    /// How long after the first look the second one counts.
    fn between(&self) -> Duration {
        match self {
            Self::Detached(_) => LAG,
            Self::Ended(_) | Self::There(..) => BETWEEN,
        }
    }
}

#[derive(Debug)]
struct Look {
    at: Instant,
    /// The addresses whose claims wait for the second look.
    waiting: BTreeSet<IpAddr>,
}

/// The first looks.
#[derive(Debug, Default)]
pub(crate) struct Looks {
    first: Mutex<BTreeMap<Sighting, Look>>,
}

impl Looks {
    /// Notes what a look has shown for the claims of `addresses`, and returns whether it is the
    /// second time, long enough after the first.
    pub(crate) fn is_second(&self, seen: Sighting, addresses: &[IpAddr], now: Instant) -> bool {
        let mut looks = self.first();
        let age = |look: &Look| now.saturating_duration_since(look.at);
        looks.retain(|seen, look| age(look) < seen.between() + VALID);
        let between = seen.between();
        let look = looks.entry(seen).or_insert_with(|| Look {
            at: now,
            waiting: BTreeSet::new(),
        });
        if age(look) >= between {
            look.waiting.retain(|waiting| !addresses.contains(waiting));
            return true;
        }
        look.waiting.extend(addresses);
        false
    }

    /// Forgets the first looks at a dead ENI that a later look contradicts, which has shown
    /// `seen`, or that the ENI is not dead.
    pub(crate) fn forget_dead(&self, eni: &str, seen: Option<&Sighting>) {
        let is_of_eni = |first: &Sighting| match first {
            Sighting::Ended(id) | Sighting::Detached(id) => id == eni,
            Sighting::There(..) => false,
        };
        let mut looks = self.first();
        looks.retain(|first, _| Some(first) == seen || !is_of_eni(first));
    }

    /// How long it is until the next second look that any claim waits for; `None` if no claim
    /// waits for one.
    pub(crate) fn until_next(&self, now: Instant) -> Option<Duration> {
        let looks = self.first();
        let is_open = |(seen, look): &(&Sighting, &Look)| {
            !look.waiting.is_empty() && now < look.at + seen.between() + VALID
        };
        let open = looks.iter().filter(is_open);
        let wait = |(seen, look)| match until(seen, look, now) {
            Duration::ZERO => AGAIN,
            wait => wait,
        };
        open.map(wait).min()
    }

    /// How long it is until the second look that the claim of `address` waits for; `None` if it
    /// waits for none.
    pub(crate) fn until_second(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let looks = self.first();
        let waits = looks
            .iter()
            .filter(|(_, look)| look.waiting.contains(&address));
        waits.map(|(seen, look)| until(seen, look, now)).max()
    }

    /// The lock is also used after a panic, which leaves nothing half done here.
    fn first(&self) -> MutexGuard<'_, BTreeMap<Sighting, Look>> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long it is until the second look counts.
fn until(seen: &Sighting, look: &Look, now: Instant) -> Duration {
    (look.at + seen.between()).saturating_duration_since(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 4, 9));

    fn ended() -> Sighting {
        Sighting::Ended("eni-1".to_owned())
    }

    fn detached() -> Sighting {
        Sighting::Detached("eni-1".to_owned())
    }

    #[test]
    fn what_is_attached_to_nothing_is_dead_when_two_looks_cannot_show_the_same_moment() {
        let (looks, start) = (Looks::default(), Instant::now());
        let lag = Duration::from_secs(60);
        assert!(!looks.is_second(detached(), &[ADDRESS], start));
        let soon = start + lag - Duration::from_millis(1);
        assert!(!looks.is_second(detached(), &[ADDRESS], soon));
        let wait = Some(Duration::from_millis(1));
        assert_eq!(looks.until_second(ADDRESS, soon), wait);
        assert_eq!(looks.until_next(soon), wait);
        assert!(looks.is_second(detached(), &[ADDRESS], start + lag));
        assert_eq!(looks.until_next(start + lag), None);
    }

    #[test]
    fn a_second_look_that_is_due_is_waited_for_until_it_comes_or_counts_no_more() {
        let (looks, start) = (Looks::default(), Instant::now());
        assert_eq!(looks.until_next(start), None);
        assert!(!looks.is_second(ended(), &[ADDRESS], start));
        let other = Sighting::There("eni-1".to_owned(), IpAddr::from([10, 0, 4, 10]));
        assert!(!looks.is_second(other, &[], start + BETWEEN));
        for late in [start + BETWEEN, start + BETWEEN + VALID - AGAIN] {
            assert_eq!(looks.until_next(late), Some(AGAIN));
        }
        assert_eq!(looks.until_next(start + BETWEEN + VALID), None);
        assert!(looks.is_second(ended(), &[ADDRESS], start + BETWEEN));
        assert_eq!(looks.until_next(start + BETWEEN), None);
    }

    #[test]
    fn an_eni_that_comes_off_a_dead_instance_is_looked_at_anew() {
        let (looks, start) = (Looks::default(), Instant::now());
        assert!(!looks.is_second(ended(), &[ADDRESS], start));
        looks.forget_dead("eni-1", Some(&detached()));
        assert!(!looks.is_second(detached(), &[ADDRESS], start + BETWEEN));
        assert!(!looks.is_second(ended(), &[ADDRESS], start + BETWEEN));
    }

    #[test]
    fn a_sighting_counts_when_it_is_seen_again_five_seconds_later() {
        let (looks, start) = (Looks::default(), Instant::now());
        assert!(!looks.is_second(ended(), &[ADDRESS], start));
        let soon = start + BETWEEN - Duration::from_millis(1);
        assert!(!looks.is_second(ended(), &[ADDRESS], soon));
        assert!(looks.is_second(ended(), &[ADDRESS], start + BETWEEN));
        let other = Sighting::There("eni-1".to_owned(), ADDRESS);
        assert!(!looks.is_second(other, &[ADDRESS], start + BETWEEN));
    }

    #[test]
    fn a_first_look_counts_for_a_minute_more_and_until_something_else_is_seen() {
        let (looks, start) = (Looks::default(), Instant::now());
        looks.is_second(ended(), &[ADDRESS], start);
        looks.forget_dead("eni-1", None);
        assert!(!looks.is_second(ended(), &[ADDRESS], start + BETWEEN));
        let late = start + BETWEEN + BETWEEN + VALID;
        assert!(!looks.is_second(ended(), &[ADDRESS], late));
    }

    #[test]
    fn a_claim_waits_until_the_second_look_and_other_claims_do_not() {
        let (looks, start) = (Looks::default(), Instant::now());
        let other = IpAddr::from([10, 0, 4, 10]);
        looks.is_second(ended(), &[ADDRESS], start);
        let second = Duration::from_secs(2);
        let wait = looks.until_second(ADDRESS, start + second);
        assert_eq!(wait, Some(BETWEEN - second));
        assert_eq!(looks.until_second(other, start), None);
        let late = looks.until_second(ADDRESS, start + BETWEEN);
        assert_eq!(late, Some(Duration::ZERO));
        // Another claim waits for the same, and is not looked at now.
        looks.is_second(ended(), &[other], start + second);
        assert!(looks.is_second(ended(), &[ADDRESS], start + BETWEEN));
        let after = start + BETWEEN;
        assert_eq!(looks.until_second(ADDRESS, after), None);
        assert_eq!(looks.until_second(other, after), Some(Duration::ZERO));
    }
}
