//! How many prefixes an agent keeps on each ENI, and EC2's refusals to assign them. All threads
//! of the agent share it; a plugin without an agent keeps none and asks for none.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::address::Cidr;
use common::attach::inventory::Eni;

use crate::vpc::ec2::Family;

/// How long EC2 is not asked again for prefixes that it has refused. It is the VPC CNI's time.
const PAUSE: Duration = Duration::from_secs(120);
/// How long an adopted prefix of which an address was in use is not examined again.
const USED: Duration = Duration::from_secs(60);

/// Between which numbers of free prefixes an ENI is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Level {
    /// When there are fewer free addresses than this number of prefixes has, more are assigned.
    pub(crate) low: usize,
    /// Up to how many are then assigned.
    pub(crate) high: usize,
}

/// The stock of prefixes for networks without addresses.
#[derive(Debug, Default)]
pub(crate) struct Stock {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// By the MAC address of the ENI.
    levels: BTreeMap<(String, Family), Level>,
    refused: BTreeMap<(String, Family), Refused>,
    /// When an address of an adopted prefix was in use, by the id of the ENI.
    used: HashMap<(String, Cidr), Instant>,
}

#[derive(Debug)]
struct Refused {
    at: Instant,
    why: String,
}

impl Stock {
    /// Sets the levels, by MAC address and family.
    pub(crate) fn set(&self, levels: BTreeMap<(String, Family), Level>) {
        self.known().levels = levels;
    }

    /// The level of a family on an ENI; `None` if the agent keeps none, or there is no agent.
    pub(crate) fn level(&self, eni: &Eni, family: Family) -> Option<Level> {
        let levels = &self.known().levels;
        levels.get(&(eni.mac.clone(), family)).copied()
    }

    /// Whether EC2 may be asked for prefixes of a family again.
    pub(crate) fn may_ask(&self, eni: &Eni, family: Family, now: Instant) -> bool {
        let known = self.known();
        let refused = known.refused.get(&(eni.id.clone(), family));
        refused.is_none_or(|refused| now.saturating_duration_since(refused.at) >= PAUSE)
    }

    /// Notes why there are no more prefixes of a family for a while.
    pub(crate) fn refuse(&self, eni: &Eni, family: Family, why: String, now: Instant) {
        let key = (eni.id.clone(), family);
        self.known().refused.insert(key, Refused { at: now, why });
    }

    /// Notes that EC2 has assigned prefixes again.
    pub(crate) fn accept(&self, eni: &Eni, family: Family) {
        self.known().refused.remove(&(eni.id.clone(), family));
    }

    /// Notes that an address of an adopted prefix is in use.
    pub(crate) fn note_used(&self, eni: &str, prefix: Cidr, now: Instant) {
        let used = &mut self.known().used;
        used.retain(|_, at| now.saturating_duration_since(*at) < USED);
        used.insert((eni.to_owned(), prefix), now);
    }

    /// Whether all namespaces may be read again to find out if an adopted prefix can be used.
    pub(crate) fn may_open(&self, eni: &str, prefix: Cidr, now: Instant) -> bool {
        let known = self.known();
        let used = known.used.get(&(eni.to_owned(), prefix));
        used.is_none_or(|at| now.saturating_duration_since(*at) >= USED)
    }

    /// How long it is until EC2 may be asked again for what it refused last.
    pub(crate) fn until_next(&self, now: Instant) -> Option<Duration> {
        let known = self.known();
        let until = |refused: &Refused| (refused.at + PAUSE).saturating_duration_since(now);
        let until = known.refused.values().map(until);
        until.filter(|wait| !wait.is_zero()).min()
    }

    /// The refusals at this time, each to be logged once. A refusal that was not repeated for a
    /// long time does not count: the prefixes are not needed any more.
    pub(crate) fn refusals(&self, now: Instant) -> Vec<String> {
        let mut known = self.known();
        let is_over = |at: Instant| now.saturating_duration_since(at) >= 2 * PAUSE;
        known.refused.retain(|_, refused| !is_over(refused.at));
        known.refused.values().map(|r| r.why.clone()).collect()
    }

    /// The lock is also used after a panic, which leaves nothing half done here.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vpc::eni::tests::eni;

    #[test]
    fn what_ec2_has_refused_is_asked_for_again_after_two_minutes() {
        let (stock, start) = (Stock::default(), Instant::now());
        assert!(stock.may_ask(&eni(), Family::V4, start));
        stock.refuse(&eni(), Family::V4, "why".to_owned(), start);
        let soon = start + PAUSE - Duration::from_millis(1);
        assert!(!stock.may_ask(&eni(), Family::V4, soon));
        assert!(stock.may_ask(&eni(), Family::V6, soon));
        assert!(stock.may_ask(&eni(), Family::V4, start + PAUSE));
        assert_eq!(stock.refusals(start + PAUSE), ["why"]);
        stock.accept(&eni(), Family::V4);
        assert!(stock.may_ask(&eni(), Family::V4, start));
        assert!(stock.refusals(start).is_empty());
        stock.refuse(&eni(), Family::V4, "why".to_owned(), start);
        assert!(stock.refusals(start + 2 * PAUSE).is_empty());
    }

    #[test]
    fn an_adopted_prefix_that_somebody_uses_is_looked_at_again_after_a_minute() {
        let (stock, start) = (Stock::default(), Instant::now());
        let (one, other) = (["10.0.4.16/28", "10.0.4.32/28"])
            .map(|text| text.parse().unwrap())
            .into();
        stock.note_used("eni-1", one, start);
        let soon = start + USED - Duration::from_millis(1);
        assert!(!stock.may_open("eni-1", one, soon));
        assert!(stock.may_open("eni-1", other, soon));
        assert!(stock.may_open("eni-2", one, soon));
        assert!(stock.may_open("eni-1", one, start + USED));
    }
}
