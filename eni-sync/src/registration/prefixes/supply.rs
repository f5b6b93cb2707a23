//! Counts prefixes and their addresses by the ledger: which prefixes the VPC delivers to an
//! ENI, how many of their addresses are free, how many slots of the ENI are used, and how many
//! addresses it can still have. Pure.

use std::net::IpAddr;

use common::address::{Cidr, number};
use common::attach::inventory::Eni;

use super::stock::Level;
use crate::ledger::{Entry, Prefix, State, Timestamp};
use crate::vpc::ec2::Family;
use crate::vpc::eni;

/// How many addresses an IPv4 prefix has.
pub(super) const IPV4_SIZE: usize = 16;
/// The largest number of pods that an ENI is counted for; no node has as many.
pub(crate) const MOST_PODS: usize = 1024;
/// How many free addresses of a prefix are tried: AWS reserves fewer in a subnet, and a prefix
/// outside of the subnet's ranges has no usable address.
const TRIED: usize = 16;

/// The prefixes that are on an ENI, by the ledger, and by the inventory for prefixes that the
/// ledger does not know.
pub(crate) fn there(prefixes: &[Prefix], inventory: &[Cidr]) -> Vec<Cidr> {
    let known = prefixes.iter().filter(|prefix| prefix.is_there());
    let known = known.map(|prefix| prefix.prefix);
    known.chain(unknown(prefixes, inventory)).collect()
}

/// The prefixes that the inventory shows on an ENI and that the ledger does not know.
pub(super) fn unknown(prefixes: &[Prefix], inventory: &[Cidr]) -> Vec<Cidr> {
    let is_known = |prefix: &&Cidr| prefixes.iter().any(|known| known.prefix == **prefix);
    let unknown = inventory.iter().filter(|prefix| !is_known(prefix));
    unknown.copied().collect()
}

/// The prefixes of an ENI of which an address can be used without a look at EC2. The inventory
/// alone proves nothing of one that the ledger does not know: EC2's description may have been old.
/// The metadata, which show the prefixes in `shown`, must show it as well.
pub(crate) fn trusted(prefixes: &[Prefix], eni: &Eni, shown: &[Cidr], now: Timestamp) -> Vec<Cidr> {
    let mut trusted = unknown(prefixes, &eni.prefixes);
    trusted.retain(|prefix| !eni.may_be_former && shown.contains(prefix));
    let known = prefixes.iter().filter(|prefix| {
        let is_proven = prefix.entry.is_believed(now) || is_listed(prefix, eni, now);
        prefix.is_there() && is_proven
    });
    trusted.extend(known.map(|known| known.prefix));
    trusted
}

/// The prefix in a list that contains an address.
pub(crate) fn prefix_of(prefixes: &[Cidr], address: IpAddr) -> Option<Cidr> {
    let mut prefixes = prefixes.iter();
    prefixes.find(|prefix| prefix.contains(address)).copied()
}

/// The slots of an ENI in one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slots {
    /// Its addresses, the primary one included, and its prefixes: each takes one slot.
    pub(crate) used: usize,
    /// What the instance type allows; 0 when EC2 has not said.
    pub(crate) limit: usize,
    /// The used slots in which no pod can get a single address: those of primary addresses, of
    /// prefixes, and of addresses that were found on the ENI.
    closed: usize,
    /// The slots of single addresses that pods have or a pool keeps.
    singles: usize,
    /// The number of addresses in its prefixes.
    in_prefixes: usize,
    /// The number of these that are free for networks without addresses.
    free_in_prefixes: usize,
    /// How many addresses one more prefix would have.
    in_next_prefix: usize,
}

impl Slots {
    /// The slots of an ENI, as far as the node knows. An address that is only claimed uses
    /// none.
    pub(crate) fn of(eni: &Eni, entries: &[Entry], prefixes: &[Prefix], family: Family) -> Self {
        let mut there = there(prefixes, &eni.prefixes);
        there.retain(|prefix| Family::of(prefix.address()) == family);
        let is_single = |entry: &&Entry| {
            let is_of_family = Family::of(entry.address) == family && entry.is_on_eni();
            is_of_family && prefix_of(&there, entry.address).is_none()
        };
        let singles = entries.iter().filter(is_single);
        let adopted = singles.clone().filter(|e| e.state == State::Adopted);
        let for_pods = |entry: &&Entry| matches!(entry.state, State::Held | State::Pooled);
        let own = eni.primary_addresses.iter();
        let own = own.filter(|address| Family::of(**address) == family);
        let not_singles = own.count() + there.len();
        let of_family = prefixes.iter().filter(|prefix| is_of(prefix, family));
        // host-local alone knows which of the others are free, and only its networks get them.
        let for_all = of_family.filter(|prefix| prefix.ranges_file.is_none());
        Self {
            used: not_singles + singles.clone().count(),
            limit: family.limit(eni),
            closed: not_singles + adopted.count(),
            singles: singles.clone().filter(for_pods).count(),
            in_prefixes: sum(there.iter().map(|prefix| {
                let known = prefixes.iter().find(|known| known.prefix == *prefix);
                known.map_or(size(*prefix), Prefix::size)
            })),
            free_in_prefixes: sum(for_all.map(|prefix| free(prefix, entries))),
            in_next_prefix: match family {
                Family::V4 => IPV4_SIZE,
                Family::V6 => MOST_PODS,
            },
        }
    }

    /// How many slots are left, each for an address or a prefix.
    pub(crate) fn left(&self) -> usize {
        match self.limit {
            // The limit is not known; EC2 refuses what is too much.
            0 => usize::MAX,
            limit => limit.saturating_sub(self.used),
        }
    }

    /// For how many pods the ENI has room, including those that have an address: one for each
    /// address of its prefixes, and one for each slot that is neither closed nor a prefix's,
    /// including those in cool-down. `None` if the limit is not known.
    pub(crate) fn for_pods(&self) -> Option<usize> {
        let limit = (self.limit > 0).then_some(self.limit)?;
        let single = limit.saturating_sub(self.closed);
        Some(self.in_prefixes.saturating_add(single).min(MOST_PODS))
    }

    /// How many addresses the ENI has for pods now: those of its prefixes, and single ones that
    /// pods have or a pool keeps.
    pub(crate) fn present(&self) -> usize {
        self.in_prefixes.saturating_add(self.singles)
    }

    /// For how many more pods of any network the ENI has addresses: the free ones in its prefixes
    /// that are not for a pool, and one for each slot that is left, or those of a prefix for each
    /// slot if `as_prefixes`. `None` if the limit is not known.
    pub(crate) fn pods_left(&self, as_prefixes: bool) -> Option<usize> {
        let limit = (self.limit > 0).then_some(self.limit)?;
        let each = if as_prefixes { self.in_next_prefix } else { 1 };
        let later = limit.saturating_sub(self.used).saturating_mul(each);
        Some(self.free_in_prefixes.saturating_add(later).min(MOST_PODS))
    }
}

fn sum(counts: impl Iterator<Item = usize>) -> usize {
    counts.fold(0, usize::saturating_add)
}

fn is_of(prefix: &Prefix, family: Family) -> bool {
    Family::of(prefix.prefix.address()) == family
}

/// How many addresses of a prefix can be handed out; 0 for a closed prefix.
pub(crate) fn free(prefix: &Prefix, entries: &[Entry]) -> usize {
    let inside = entries.iter().filter(|e| prefix.contains(e.address));
    let taken = inside.filter(|e| !prefix.excludes(e.address)).count();
    match is_closed(prefix) {
        true => 0,
        false => prefix.size().saturating_sub(taken),
    }
}

fn is_closed(prefix: &Prefix) -> bool {
    prefix.entry.state != State::Pooled || prefix.entry.is_missing()
}

/// How many addresses of a prefix count as free when it is decided whether EC2 is asked for
/// more. One that is excluded as a whole is as good as others there: EC2 may go on choosing such
/// ones until the ENI is full.
fn free_in_stock(prefix: &Prefix, entries: &[Entry]) -> usize {
    match prefix.size() == 0 && !is_closed(prefix) {
        true => size(prefix.prefix),
        false => free(prefix, entries),
    }
}

/// How many addresses a prefix has.
fn size(prefix: Cidr) -> usize {
    let size = number(prefix.last()) - number(prefix.address()) + 1;
    usize::try_from(size).unwrap_or(usize::MAX)
}

/// How many addresses of a prefix have an entry in the ledger.
pub(crate) fn taken(prefix: &Prefix, entries: &[Entry]) -> usize {
    let inside = entries.iter();
    inside.filter(|e| prefix.contains(e.address)).count()
}

/// How many prefixes of a family have to be assigned so that an ENI has what `level` says while
/// `waiting` attachments wait for an address. IPv6 prefixes are counted as such, because a /80
/// is never used up.
pub(crate) fn missing(
    level: Level,
    prefixes: &[&Prefix],
    entries: &[Entry],
    waiting: usize,
    family: Family,
) -> usize {
    // A prefix that is about to be used counts already.
    let is_coming =
        |prefix: &Prefix| prefix.entry.state == State::Adopted && !prefix.entry.was_seen_twice();
    let coming = prefixes.iter().filter(|p| is_coming(p)).count();
    match family {
        Family::V4 => {
            let free = prefixes.iter().map(|p| free_in_stock(p, entries));
            let free = free.sum::<usize>() + coming * IPV4_SIZE;
            if free >= level.low * IPV4_SIZE + waiting {
                return 0;
            }
            let wanted = level.high * IPV4_SIZE + waiting;
            wanted.saturating_sub(free).div_ceil(IPV4_SIZE)
        }
        Family::V6 => {
            let open = prefixes.iter().filter(|p| free_in_stock(p, entries) > 0);
            let open = open.count();
            match open + coming {
                there if there >= level.low => 0,
                there => level.high - there,
            }
        }
    }
}

/// The prefixes without a used address that `level` does not need, the last ones first.
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
            // As they are counted when EC2 is asked for them, or less.
            let size = |prefix: &Prefix| match prefix.size() {
                0 => IPV4_SIZE,
                size => size,
            };
            let free = pooled.iter().map(|p| size(p).saturating_sub(taken(p)));
            let free: usize = free.sum();
            free.saturating_sub(level.high * IPV4_SIZE) / IPV4_SIZE
        }
        Family::V6 => pooled.len().saturating_sub(level.high),
    };
    let mut empty: Vec<&Prefix> = pooled.into_iter().filter(|p| taken(p) == 0).collect();
    empty.sort_by_key(|prefix| prefix.prefix.address());
    empty.into_iter().rev().take(too_many).collect()
}

/// The first free address of the open prefixes of a family.
pub(crate) fn free_address(
    prefixes: &[Prefix],
    eni: &Eni,
    family: Family,
    now: Timestamp,
    is_taken: impl Fn(IpAddr) -> bool,
) -> Option<IpAddr> {
    let mut open: Vec<&Prefix> = prefixes
        .iter()
        .filter(|p| is_of(p, family) && is_usable(p, eni, now))
        .collect();
    open.sort_by_key(|prefix| prefix.prefix.address());
    open.into_iter().find_map(|prefix| {
        let free = prefix.addresses().filter(|address| !is_taken(*address));
        let mut tried = free.take(TRIED);
        tried.find(|address| eni::require_assignable(eni, *address).is_ok())
    })
}

/// Whether addresses of a prefix may be handed out now.
pub(super) fn is_usable(prefix: &Prefix, eni: &Eni, now: Timestamp) -> bool {
    let is_pooled = prefix.entry.state == State::Pooled && !prefix.entry.is_missing();
    prefix.is_open(now) || is_pooled && is_listed(prefix, eni, now)
}

/// Whether the inventory shows a prefix of the ledger on the ENI. If the ledger has it of the time
/// before the ENI was attached again, or of an earlier boot, the inventory must not be as old.
fn is_listed(prefix: &Prefix, eni: &Eni, now: Timestamp) -> bool {
    eni.prefixes.contains(&prefix.prefix) && prefix.entry.may_be_listed(eni, now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Event, Excluded, now};
    use crate::vpc::eni::tests::eni;

    #[test]
    fn the_first_free_address_is_found_soon_also_where_a_prefix_has_none() {
        let prefixes = ["2001:db8:4:0:1::/80", "2001:db8:5:0:1::/80"];
        let [own, foreign] = prefixes.map(|text| Prefix::assigned(text.parse().unwrap()));
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

    #[test]
    fn a_prefix_that_the_ledger_does_not_know_is_used_only_if_the_metadata_show_it_as_well() {
        let prefix: Cidr = "10.0.4.16/28".parse().unwrap();
        let eni = |may_be_former| Eni {
            prefixes: vec![prefix],
            may_be_former,
            ..eni()
        };
        for (may_be_former, shown, is_trusted) in [
            (false, vec![prefix], true),
            (false, Vec::new(), false),
            (true, vec![prefix], false),
        ] {
            let found = trusted(&[], &eni(may_be_former), &shown, now());
            assert_eq!(
                found.contains(&prefix),
                is_trusted,
                "{may_be_former} {shown:?}"
            );
        }
    }

    #[test]
    fn an_excluded_block_is_not_walked_through() {
        let find = |exclude: &str| {
            let prefix = Prefix::assigned("2001:db8:4:0:1::/80".parse().unwrap()).unwrap();
            let excluded = Excluded::try_from(serde_json::json!([exclude])).unwrap();
            let prefixes = [prefix.without(&excluded)];
            free_address(&prefixes, &eni(), Family::V6, now(), |_| false)
        };
        let second_half = "2001:db8:4:0:1:8000::".parse().unwrap();
        assert_eq!(find("2001:db8:4:0:1::/81"), Some(second_half));
        assert_eq!(find("2001:db8:4:0:1::/80"), None);
    }

    #[test]
    fn pods_can_have_what_the_limit_leaves_and_sixteen_addresses_a_prefix() {
        let slots = |eni: &Eni, entries: &[Entry], family| Slots::of(eni, entries, &[], family);
        let found = |text: &str| Entry::begin(text.parse().unwrap(), &Event::Seen, None).unwrap();
        let own = eni();
        // Of ten slots, one is the primary address's and one the prefix's.
        let free = slots(&own, &[], Family::V4);
        assert_eq!((free.used, free.for_pods()), (2, Some(8 + 16)));
        assert_eq!(free.pods_left(false), Some(8));
        assert_eq!(free.pods_left(true), Some(8 * 16));
        // What is found on the ENI is for no pod; in the prefix it takes no slot.
        let entries = ["10.0.4.20", "10.0.4.21", "10.0.4.130"].map(found);
        let less = slots(&own, &entries, Family::V4);
        assert_eq!(less.present(), 16);
        assert_eq!((less.used, less.for_pods()), (4, Some(6 + 16)));
        assert_eq!(slots(&own, &[], Family::V6).for_pods(), Some(10));
        let large = Eni {
            prefixes: vec!["2001:db8:4:0:1::/80".parse().unwrap()],
            ..eni()
        };
        let large = slots(&large, &[], Family::V6);
        assert_eq!(large.for_pods(), Some(MOST_PODS));
        assert_eq!(large.pods_left(true), Some(MOST_PODS));
        let unknown = Eni {
            ipv4_limit: 0,
            ..eni()
        };
        let unknown = slots(&unknown, &[], Family::V4);
        assert_eq!((unknown.for_pods(), unknown.pods_left(true)), (None, None));
        assert_eq!(unknown.left(), usize::MAX);
    }

    #[test]
    fn what_nobody_gets_is_not_free_and_another_prefix_is_asked_for_in_its_place() {
        let prefix = |text: &str, exclude: &[&str]| {
            let excluded = Excluded::try_from(serde_json::json!(exclude)).unwrap();
            let prefix = Prefix::assigned(text.parse().unwrap()).unwrap();
            prefix.without(&excluded)
        };
        let held = |text: &str| Entry::begin(text.parse().unwrap(), &Event::Seen, None).unwrap();
        let entries = ["10.0.4.33", "10.0.4.40"].map(held);
        let exclude = ["10.0.4.24/29", "10.0.4.32/30", "10.0.4.46/31", "10.0.4.48"];
        let half = prefix("10.0.4.32/28", &exclude);
        // Of its 16 addresses six are excluded, of which a pod has had one before.
        assert_eq!((half.size(), free(&half, &entries)), (10, 9));
        let slots = Slots::of(&eni(), &entries, std::slice::from_ref(&half), Family::V4);
        assert_eq!(slots.pods_left(false), Some(9 + 7));
        assert_eq!(slots.for_pods(), Some(10 + 16 + 7));
        let level = Level { low: 1, high: 1 };
        let missing = |prefixes: &[&Prefix]| missing(level, prefixes, &entries, 0, Family::V4);
        let whole = prefix("10.0.4.48/28", &[]);
        assert_eq!((missing(&[&half]), missing(&[&half, &whole])), (1, 0));
        let surplus = surplus(level, &[&half, &whole], |p| taken(p, &entries), Family::V4);
        assert_eq!(surplus, [&whole; 0]);
        // EC2 may have nothing but such ones.
        let none = prefix("10.0.4.64/28", &["10.0.4.64/28"]);
        assert_eq!((free(&none, &entries), missing(&[&none])), (0, 0));
        let large = prefix("2001:db8:4:0:1::/80", &["2001:db8:4:0:1::/96"]);
        assert_eq!(free(&large, &[]), (1 << 48) - (1 << 32));
    }

    #[test]
    fn a_prefix_of_a_pool_is_room_for_pods_but_not_for_those_of_any_network() {
        let prefix = Prefix::assigned("10.0.4.32/28".parse().unwrap()).unwrap();
        let listed = prefix.listed_in(Some(std::path::Path::new("/run/ranges.json")));
        let slots = Slots::of(&eni(), &[], &[listed], Family::V4);
        assert_eq!(slots.pods_left(false), Some(7));
        assert_eq!(slots.for_pods(), Some(2 * 16 + 7));
    }

    #[test]
    fn what_pods_have_of_a_prefix_in_the_ledger_is_not_left() {
        let prefix = Prefix::assigned("10.0.4.32/28".parse().unwrap()).unwrap();
        let entry = Entry::begin("10.0.4.33".parse().unwrap(), &Event::Seen, None).unwrap();
        let slots = Slots::of(&eni(), &[entry], &[prefix], Family::V4);
        assert_eq!((slots.used, slots.left()), (3, 7));
        assert_eq!(slots.pods_left(false), Some(15 + 7));
        assert_eq!(slots.for_pods(), Some(2 * 16 + 7));
    }
}
