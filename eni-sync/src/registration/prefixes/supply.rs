//! What the ledger has of prefixes and of the addresses in them, as numbers: which prefixes
//! the VPC delivers to an ENI, how many addresses of them are free, how many slots of the ENI
//! are used, and how many addresses it can still have. Pure.

use std::net::IpAddr;

use common::address::{Cidr, number};
use common::attach::inventory::Eni;

use super::stock::Level;
use crate::ledger::{Entry, Prefix, State, Timestamp};
use crate::vpc::ec2::Family;
use crate::vpc::eni;

/// How many addresses a prefix of IPv4 has.
const IPV4_SIZE: usize = 16;
/// How many addresses of a prefix are tried that nobody has: AWS reserves fewer in a subnet,
/// and a prefix that is in no range of the subnet has none that can be used.
const TRIED: usize = 16;

/// The prefixes that the VPC delivers to an ENI, by the ledger, and by the inventory where the
/// ledger does not know them.
pub(crate) fn there(prefixes: &[Prefix], inventory: &[Cidr]) -> Vec<Cidr> {
    let is_known = |prefix: &&Cidr| prefixes.iter().any(|known| known.prefix == **prefix);
    let unknown = inventory.iter().filter(|prefix| !is_known(prefix));
    let known = prefixes.iter().filter(|prefix| prefix.is_there());
    let known = known.map(|prefix| prefix.prefix);
    known.chain(unknown.copied()).collect()
}

/// Those of them that need no look at EC2 before an address of them is used.
pub(crate) fn trusted(prefixes: &[Prefix], eni: &Eni, now: Timestamp) -> Vec<Cidr> {
    let mut there = there(prefixes, &eni.prefixes);
    there.retain(|prefix| {
        let mut known = prefixes.iter();
        let known = known.find(|known| known.prefix == *prefix);
        eni.prefixes.contains(prefix) || known.is_some_and(|known| known.entry.is_believed(now))
    });
    there
}

/// The prefix of a list that has an address.
pub(crate) fn prefix_of(prefixes: &[Cidr], address: IpAddr) -> Option<Cidr> {
    let mut prefixes = prefixes.iter();
    prefixes.find(|prefix| prefix.contains(address)).copied()
}

/// How many addresses of an ENI a family has, and can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slots {
    /// Its addresses, the primary one included, and its prefixes: each takes one slot.
    pub(crate) used: usize,
    /// What the instance type allows; 0 when EC2 has not said.
    pub(crate) limit: usize,
    /// The free addresses of its prefixes for networks without addresses. Of IPv6 there are
    /// more than anybody counts.
    pub(crate) free_in_prefixes: usize,
    /// Whether it has prefixes for networks without addresses.
    pub(crate) has_prefixes: bool,
}

impl Slots {
    /// The slots of an ENI, as far as the node knows. What is only wanted takes none.
    pub(crate) fn of(eni: &Eni, entries: &[Entry], prefixes: &[Prefix], family: Family) -> Self {
        let there = there(prefixes, &eni.prefixes);
        let single = entries
            .iter()
            .filter(|entry| entry.is_on_eni() && prefix_of(&there, entry.address).is_none());
        let single = single.map(|entry| entry.address);
        let firsts = there.iter().map(|prefix| prefix.address());
        let all = eni.primary_addresses.iter().copied();
        let all = all.chain(single).chain(firsts);
        let of_pods = prefixes.iter().filter(|prefix| {
            prefix.pool.is_none() && prefix.entry.state == State::Pooled && is_of(prefix, family)
        });
        Self {
            used: all.filter(|address| Family::of(*address) == family).count(),
            limit: family.limit(eni),
            has_prefixes: of_pods.clone().next().is_some(),
            free_in_prefixes: of_pods
                .map(|prefix| free(prefix, entries))
                .fold(0, usize::saturating_add),
        }
    }

    /// How many slots are left, each for an address or a prefix.
    pub(crate) fn left(&self) -> usize {
        match self.limit {
            // EC2 has not said; it refuses what is too much.
            0 => usize::MAX,
            limit => limit.saturating_sub(self.used),
        }
    }

    /// How many pods can still get an address on the ENI: those in its prefixes, and one for
    /// each slot that is left, or sixteen where an agent makes prefixes of them.
    pub(crate) fn pods_left(&self, as_prefixes: bool) -> usize {
        let each = if as_prefixes { IPV4_SIZE } else { 1 };
        let later = self.left().saturating_mul(each);
        self.free_in_prefixes.saturating_add(later)
    }
}

fn is_of(prefix: &Prefix, family: Family) -> bool {
    Family::of(prefix.prefix.address()) == family
}

/// How many addresses of a prefix can be handed out; none of one that is closed.
pub(crate) fn free(prefix: &Prefix, entries: &[Entry]) -> usize {
    if prefix.entry.state != State::Pooled || prefix.entry.is_missing() {
        return 0;
    }
    let size = number(prefix.prefix.last()) - number(prefix.prefix.address()) + 1;
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    size.saturating_sub(taken(prefix, entries))
}

/// How many addresses of a prefix the ledger has something of.
pub(crate) fn taken(prefix: &Prefix, entries: &[Entry]) -> usize {
    let inside = entries.iter();
    inside.filter(|e| prefix.contains(e.address)).count()
}

/// How many prefixes of a family have to be assigned so that an ENI has what `level` says,
/// when so many attachments wait for an address. A /80 is never used up: they are counted.
pub(crate) fn missing(
    level: Level,
    prefixes: &[&Prefix],
    entries: &[Entry],
    waiting: usize,
    family: Family,
) -> usize {
    // What is on its way into the stock needs no other one in its place.
    let is_coming =
        |prefix: &Prefix| prefix.entry.state == State::Adopted && !prefix.entry.was_seen_twice();
    let coming = prefixes.iter().filter(|p| is_coming(p)).count();
    match family {
        Family::V4 => {
            let free = prefixes.iter().map(|p| free(p, entries)).sum::<usize>();
            let free = free + coming * IPV4_SIZE;
            if free >= level.low * IPV4_SIZE + waiting {
                return 0;
            }
            let wanted = level.high * IPV4_SIZE + waiting;
            wanted.saturating_sub(free).div_ceil(IPV4_SIZE)
        }
        Family::V6 => {
            let open = prefixes.iter().filter(|p| free(p, entries) > 0).count();
            match open + coming {
                there if there >= level.low => 0,
                there => level.high - there,
            }
        }
    }
}

/// The prefixes that nobody has any address of and that are more than `level` says, the last
/// ones first.
pub(crate) fn surplus<'a>(
    level: Level,
    prefixes: &[&'a Prefix],
    taken: impl Fn(&Prefix) -> usize,
    family: Family,
) -> Vec<&'a Prefix> {
    let pooled = prefixes.iter().filter(|p| p.entry.state == State::Pooled);
    let pooled: Vec<&Prefix> = pooled.copied().collect();
    let too_many = match family {
        Family::V4 => {
            let free = pooled.iter().map(|p| IPV4_SIZE.saturating_sub(taken(p)));
            let free: usize = free.sum();
            free.saturating_sub(level.high * IPV4_SIZE) / IPV4_SIZE
        }
        Family::V6 => pooled.len().saturating_sub(level.high),
    };
    let mut empty: Vec<&Prefix> = pooled.into_iter().filter(|p| taken(p) == 0).collect();
    empty.sort_by_key(|prefix| prefix.prefix.address());
    empty.into_iter().rev().take(too_many).collect()
}

/// The first address of the open prefixes of a family that nobody has.
pub(crate) fn free_address(
    prefixes: &[Prefix],
    eni: &Eni,
    family: Family,
    now: Timestamp,
    is_taken: impl Fn(IpAddr) -> bool,
) -> Option<IpAddr> {
    let mut open: Vec<&Prefix> = prefixes
        .iter()
        .filter(|p| p.pool.is_none() && is_of(p, family) && is_usable(p, eni, now))
        .collect();
    open.sort_by_key(|prefix| prefix.prefix.address());
    open.into_iter().find_map(|prefix| {
        let free = addresses(prefix.prefix).filter(|address| !is_taken(*address));
        let mut tried = free.take(TRIED);
        tried.find(|address| eni::require_assignable(eni, *address).is_ok())
    })
}

fn is_usable(prefix: &Prefix, eni: &Eni, now: Timestamp) -> bool {
    let is_pooled = prefix.entry.state == State::Pooled && !prefix.entry.is_missing();
    prefix.is_open(now) || is_pooled && eni.prefixes.contains(&prefix.prefix)
}

/// The addresses of a prefix, in order.
fn addresses(prefix: Cidr) -> impl Iterator<Item = IpAddr> {
    let first = prefix.address();
    let numbers = number(first)..=number(prefix.last());
    numbers.map(move |number| common::address::numbered(number, first))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::now;
    use crate::vpc::eni::tests::eni;

    #[test]
    fn the_first_free_address_is_found_soon_also_where_a_prefix_has_none() {
        let prefixes = ["2001:db8:4:0:1::/80", "2001:db8:5:0:1::/80"];
        let [own, foreign] = prefixes.map(|text| Prefix::assigned(text.parse().unwrap(), None));
        let prefixes = [foreign.unwrap(), own.unwrap()];
        let taken = |count: u128| {
            let first = number(prefixes[1].prefix.address());
            move |address: IpAddr| number(address) < first + count
        };
        let find = |prefixes: &[Prefix], count| {
            free_address(prefixes, &eni(), Family::V6, now(), taken(count))
        };
        assert_eq!(
            find(&prefixes, 20),
            Some("2001:db8:4:0:1::14".parse().unwrap())
        );
        // A /80 that is in no range of the subnet.
        assert_eq!(find(&prefixes[..1], 0), None);
    }
}
