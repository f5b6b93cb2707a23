//! How many free addresses the subnets of this node's ENIs have, by EC2's last answers. Other
//! users take addresses of the same subnets, so only EC2 decides; these numbers are for
//! forecasts.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::vpc::ec2::Family;

/// The free addresses of one family, by subnet. EC2 counts those of IPv4.
pub(crate) type Free = BTreeMap<(String, Family), usize>;

/// What is known of the subnets.
#[derive(Debug, Default)]
pub(crate) struct Subnets(Mutex<Free>);

impl Subnets {
    /// Notes EC2's numbers for all subnets, which replace those before.
    pub(crate) fn note(&self, ipv4: &BTreeMap<String, usize>) {
        let ipv4 = ipv4.iter();
        *self.known() = ipv4
            .map(|(subnet, free)| ((subnet.clone(), Family::V4), *free))
            .collect();
    }

    /// Notes that EC2 has assigned `count` addresses. If there were fewer by our count, the
    /// number is unknown from then on.
    pub(crate) fn note_assigned(&self, subnet: &str, family: Family, count: usize) {
        let mut known = self.known();
        let key = (subnet.to_owned(), family);
        match known.get(&key) {
            Some(free) if *free >= count => {
                let left = free - count;
                known.insert(key, left);
            }
            _ => {
                known.remove(&key);
            }
        }
    }

    /// Notes that EC2 has not found a free address.
    pub(crate) fn note_exhausted(&self, subnet: &str, family: Family) {
        self.known().insert((subnet.to_owned(), family), 0);
    }

    /// The numbers of free addresses that are known.
    pub(crate) fn free(&self) -> Free {
        self.known().clone()
    }

    fn known(&self) -> MutexGuard<'_, Free> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ec2_has_said_holds_until_it_says_something_else() {
        let subnets = Subnets::default();
        let free = |family| {
            let key = ("subnet-1".to_owned(), family);
            subnets.free().get(&key).copied()
        };
        let (v4, v6) = (Family::V4, Family::V6);
        assert_eq!(free(v4), None);
        subnets.note(&BTreeMap::from([("subnet-1".to_owned(), 3)]));
        assert_eq!((free(v4), free(v6)), (Some(3), None));
        subnets.note_assigned("subnet-1", v4, 3);
        assert_eq!(free(v4), Some(0));
        // Another user has released one.
        subnets.note_assigned("subnet-1", v4, 1);
        assert_eq!(free(v4), None);
        for family in Family::ALL {
            subnets.note_exhausted("subnet-1", family);
            assert_eq!(free(family), Some(0));
        }
        subnets.note(&BTreeMap::from([("subnet-1".to_owned(), 1)]));
        assert_eq!((free(v4), free(v6)), (Some(1), None));
    }
}
