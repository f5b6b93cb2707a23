//! Checks of prefixes: whether the subnet and the ENI have room for the prefixes that the agent
//! keeps, and which prefixes on an ENI are unknown.

use std::collections::{BTreeMap, BTreeSet};

use common::address::{Cidr, number};
use common::attach::inventory::Eni;

use crate::cli::doctor::facts::Facts;
use crate::cli::doctor::finding::Finding;
use crate::ledger::{Prefix, State};
use crate::registration::prefixes::stock::Level;
use crate::registration::prefixes::supply::Slots;
use crate::vpc::ec2::{Description, Family};
use crate::vpc::eni;

/// The number of bits for the addresses within one IPv4 prefix, a /28.
const BITS: u8 = 4;

pub(crate) fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut subnets = BTreeMap::new();
    for eni in facts.enis() {
        if eni::require_managed(eni).is_err() {
            continue;
        }
        let own = facts.own(&eni.id);
        findings.extend(own.into_iter().flat_map(|own| unknown(facts, own)));
        if let Some(level) = facts.level(eni) {
            findings.extend(room(facts, eni, level));
            subnets.insert(eni.subnet_id.as_str(), eni);
        }
    }
    findings.extend(subnets.into_values().filter_map(|eni| subnet(facts, eni)));
    findings
}

/// Prefixes on an ENI that eni-sync has not assigned, as far as it knows.
fn unknown(facts: &Facts, own: &Description) -> Vec<Finding> {
    let known = prefixes_of(facts, &own.id);
    let is_known = |found: &Cidr| {
        let mut known = known.iter();
        known.any(|known| known.prefix == *found && known.entry.state != State::Adopted)
    };
    let unknown = own.prefixes.iter().filter(|found| !is_known(found));
    let missing = facts.missing_pool();
    let finding = |found: &Cidr| {
        let why = missing.map(|pool| {
            format!("; no pod gets an address of it until the interface of pool {pool:?} is found")
        });
        let why = why.unwrap_or_default();
        let says = format!("the owner of prefix {found} is not known{why}");
        Finding::info("foreign-prefix", &own.id, says).advise(format!(
            "no pod gets one of its addresses by name; if no program uses it, \
             `eni-sync release --prefix {found} --force`"
        ))
    };
    unknown.map(finding).collect()
}

/// Whether an ENI has, or has room for, a prefix that is to be kept on it.
fn room(facts: &Facts, eni: &Eni, level: Level) -> Option<Finding> {
    const CHECK: &str = "prefix-room";
    let entries = facts.ledger.as_ref().ok()?;
    let entries = entries.get(&eni.id).map_or(&[][..], Vec::as_slice);
    let prefixes = prefixes_of(facts, &eni.id);
    let open = prefixes.iter().filter(|prefix| {
        let is_of_family = Family::of(prefix.prefix.address()) == Family::V4;
        is_of_family && prefix.is_there() && prefix.entry.state == State::Pooled
    });
    let open = open.count();
    let slots = Slots::of(eni, entries, prefixes, Family::V4);
    if slots.left() > 0 || open >= level.low.max(1) {
        return Some(Finding::ok(CHECK, &eni.id, format!("{open} for pods")));
    }
    let (used, limit) = (slots.used, slots.limit);
    let says = format!(
        "no room for an IPv4 prefix: {used} of {limit} used, and {open} of at least {} are for pods",
        level.low
    );
    Some(Finding::warning(CHECK, &eni.id, says).advise(
        "release addresses that no pod needs, use a larger instance type, or another ENI; pods \
         get what there is until then",
    ))
}

/// Whether the subnet of an ENI has a free IPv4 prefix. EC2 takes it from a reservation for
/// prefixes, or from unreserved addresses.
fn subnet(facts: &Facts, eni: &Eni) -> Option<Finding> {
    const CHECK: &str = "subnet-prefixes";
    let used = used(facts, &eni.subnet_id)?;
    let (free, pieces) = free(facts, eni, &used);
    let subnet = &eni.subnet_id;
    if free > 0 {
        let says = format!("{free} IPv4 prefixes left");
        return Some(Finding::ok(CHECK, subnet, says));
    }
    let says = match pieces {
        0 => "no IPv4 prefix is left, nor any address".to_owned(),
        _ => {
            format!("no IPv4 prefix is left: {pieces} addresses are free, but no sixteen together")
        }
    };
    Some(Finding::warning(CHECK, subnet, says).advise(format!(
        "pods get single addresses; reserve a part of the subnet that gets empty: aws ec2 \
         create-subnet-cidr-reservation --subnet-id {subnet} --reservation-type prefix --cidr …, \
         or use another subnet"
    )))
}

/// How many free IPv4 prefixes a subnet has, and how many single addresses.
fn free(facts: &Facts, eni: &Eni, used: &Used) -> (usize, u128) {
    let (mut free, mut pieces) = (0, 0);
    for cidr in eni.subnet_cidrs.iter().filter(|cidr| cidr.is_ipv4()) {
        let (first, last) = (number(cidr.network().address()), number(cidr.last()));
        for block in first >> BITS..=last >> BITS {
            // AWS reserves the first four addresses of a subnet and the last one.
            let addresses = (block << BITS)..((block + 1) << BITS);
            let is_own = |address: &u128| *address < first + 4 || *address >= last;
            let taken = addresses.clone().filter(|a| is_own(a) || used.has(*a));
            let taken = u128::try_from(taken.count()).unwrap_or(1);
            match taken == 0 && !is_reserved(facts, eni, block << BITS) {
                true => free += 1,
                false => pieces += (1 << BITS) - taken,
            }
        }
    }
    (free, pieces)
}

/// Whether an address is in an explicit reservation of the subnet, from which EC2 chooses no
/// prefix.
fn is_reserved(facts: &Facts, eni: &Eni, address: u128) -> bool {
    let reservations = facts.reservations.get(&eni.subnet_id);
    let mut explicit = reservations.into_iter().flatten().filter(|r| r.is_explicit);
    explicit.any(|reservation| {
        let cidr = reservation.cidr;
        (number(cidr.network().address())..=number(cidr.last())).contains(&address)
    })
}

/// The addresses and prefixes of a subnet that are on ENIs, as numbers.
struct Used {
    addresses: BTreeSet<u128>,
    /// The numbers of IPv4 prefixes, without the lowest bits.
    prefixes: BTreeSet<u128>,
}

impl Used {
    fn has(&self, address: u128) -> bool {
        self.addresses.contains(&address) || self.prefixes.contains(&(address >> BITS))
    }
}

/// The addresses and prefixes in use of a subnet; `None` if they are not known.
fn used(facts: &Facts, subnet: &str) -> Option<Used> {
    let inside = || {
        facts
            .neighbours
            .iter()
            .filter(|eni| eni.subnet_id == subnet)
    };
    inside().next()?;
    let addresses = inside().flat_map(|eni| eni.primary.iter().chain(&eni.secondary));
    let prefixes = inside().flat_map(|eni| &eni.prefixes);
    let ipv4 = prefixes.filter(|prefix| prefix.is_ipv4());
    Some(Used {
        addresses: addresses.map(|address| number(*address)).collect(),
        prefixes: ipv4
            .map(|prefix| number(prefix.address()) >> BITS)
            .collect(),
    })
}

fn prefixes_of<'a>(facts: &'a Facts, eni: &str) -> &'a [Prefix] {
    facts.prefixes.get(eni).map_or(&[], Vec::as_slice)
}
