//! How many prefixes an agent keeps on which ENI, and what EC2 has refused of them. All
//! threads of the agent share it; a plugin without an agent has none and asks for none.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::address::Cidr;
use common::attach::inventory::Eni;

use crate::vpc::ec2::Family;

/// How long nobody asks for prefixes again that EC2 has refused. It is the VPC CNI's time.
const PAUSE: Duration = Duration::from_secs(120);
/// How long nobody looks again whether an adopted prefix can be used for pods, of which
/// somebody had an address.
const USED: Duration = Duration::from_secs(60);

/// Between which numbers of free prefixes an ENI is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Level {
    /// When there are fewer free addresses than this many prefixes have, more are assigned.
    pub(crate) low: usize,
    /// How many there are then.
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
    /// When somebody had an address of an adopted prefix, by the id of the ENI.
    used: HashMap<(String, Cidr), Instant>,
}

#[derive(Debug)]
struct Refused {
    at: Instant,
    why: String,
}

impl Stock {
    /// Sets what is to be kept, by MAC address and family.
    pub(crate) fn set(&self, levels: BTreeMap<(String, Family), Level>) {
        self.known().levels = levels;
    }

    /// What is to be kept of a family on an ENI; nothing where no agent keeps any.
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

    /// Notes that there are again.
    pub(crate) fn accept(&self, eni: &Eni, family: Family) {
        self.known().refused.remove(&(eni.id.clone(), family));
    }

    /// Notes that somebody has an address of an adopted prefix.
    pub(crate) fn note_used(&self, eni: &str, prefix: Cidr, now: Instant) {
        let used = &mut self.known().used;
        used.retain(|_, at| now.saturating_duration_since(*at) < USED);
        used.insert((eni.to_owned(), prefix), now);
    }

    /// Whether it is worth a look into all namespaces whether an adopted prefix can be used.
    pub(crate) fn may_open(&self, eni: &str, prefix: Cidr, now: Instant) -> bool {
        let known = self.known();
        let used = known.used.get(&(eni.to_owned(), prefix));
        used.is_none_or(|at| now.saturating_duration_since(*at) >= USED)
    }

    /// How long it is until EC2 may be asked again for what it has refused last.
    pub(crate) fn until_next(&self, now: Instant) -> Option<Duration> {
        let known = self.known();
        let until = |refused: &Refused| (refused.at + PAUSE).saturating_duration_since(now);
        let until = known.refused.values().map(until);
        until.filter(|wait| !wait.is_zero()).min()
    }

    /// Why there are none at this time, each to be said once. Where nobody has asked again
    /// since long, none are missing.
    pub(crate) fn refusals(&self, now: Instant) -> Vec<String> {
        let mut known = self.known();
        let is_over = |at: Instant| now.saturating_duration_since(at) >= 2 * PAUSE;
        known.refused.retain(|_, refused| !is_over(refused.at));
        known.refused.values().map(|r| r.why.clone()).collect()
    }

    /// A thread that has ended in the middle has left nothing half done here.
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
