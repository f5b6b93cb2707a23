//! What one look at EC2 has shown and a second look must show as well before a decision depends
//! on it: descriptions may be outdated. A process that waits for the second look gives up its
//! turn meanwhile. All threads of an agent share these looks, so that many waiting pods need
//! only one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long after the first look the second one counts. Source: Amazon EC2 Developer Guide,
/// "Eventual consistency": a couple of seconds at first.
const BETWEEN: Duration = Duration::from_secs(5);
/// How long a first look counts. Long enough for a process that has to wait for its turn
/// meanwhile.
const VALID: Duration = Duration::from_secs(60);

/// What has to be seen twice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sighting {
    /// The ENI with this id is attached to nothing, or to an instance that never runs again.
    Dead(String),
    /// The ENI with this id has the address, which EC2 refuses to assign to it.
    There(String, IpAddr),
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
        looks.retain(|_, look| now.saturating_duration_since(look.at) < VALID);
        let look = looks.entry(seen).or_insert_with(|| Look {
            at: now,
            waiting: BTreeSet::new(),
        });
        look.waiting.extend(addresses);
        now.saturating_duration_since(look.at) >= BETWEEN
    }

    /// Forgets a first look, because a later look has shown something else.
    pub(crate) fn forget(&self, seen: &Sighting) {
        self.first().remove(seen);
    }

    /// How long it is until the second look that the claim of `address` waits for; `None` if it
    /// waits for none.
    pub(crate) fn until_second(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let looks = self.first();
        let waits = looks
            .values()
            .filter(|look| look.waiting.contains(&address));
        let waits = waits.map(|look| (look.at + BETWEEN).saturating_duration_since(now));
        waits.max()
    }

    /// The lock is also used after a panic, which leaves nothing half done here.
    fn first(&self) -> MutexGuard<'_, BTreeMap<Sighting, Look>> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 4, 9));

    fn dead() -> Sighting {
        Sighting::Dead("eni-1".to_owned())
    }

    #[test]
    fn a_sighting_counts_when_it_is_seen_again_five_seconds_later() {
        let (looks, start) = (Looks::default(), Instant::now());
        assert!(!looks.is_second(dead(), &[ADDRESS], start));
        let soon = start + BETWEEN - Duration::from_millis(1);
        assert!(!looks.is_second(dead(), &[ADDRESS], soon));
        assert!(looks.is_second(dead(), &[ADDRESS], start + BETWEEN));
        let other = Sighting::There("eni-1".to_owned(), ADDRESS);
        assert!(!looks.is_second(other, &[ADDRESS], start + BETWEEN));
    }

    #[test]
    fn a_first_look_counts_for_a_minute_and_until_something_else_is_seen() {
        let (looks, start) = (Looks::default(), Instant::now());
        looks.is_second(dead(), &[ADDRESS], start);
        looks.forget(&dead());
        assert!(!looks.is_second(dead(), &[ADDRESS], start + BETWEEN));
        assert!(!looks.is_second(dead(), &[ADDRESS], start + BETWEEN + VALID));
    }

    #[test]
    fn a_claim_waits_until_the_second_look_and_other_claims_do_not() {
        let (looks, start) = (Looks::default(), Instant::now());
        let other = IpAddr::from([10, 0, 4, 10]);
        looks.is_second(dead(), &[ADDRESS], start);
        let second = Duration::from_secs(2);
        let wait = looks.until_second(ADDRESS, start + second);
        assert_eq!(wait, Some(BETWEEN - second));
        assert_eq!(looks.until_second(other, start), None);
        let late = looks.until_second(ADDRESS, start + BETWEEN);
        assert_eq!(late, Some(Duration::ZERO));
    }
}
