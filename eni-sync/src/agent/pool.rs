//! Pools: addresses that are assigned to an ENI before a pod asks, in a file from which this
//! node's host-local takes its ranges. EC2 allocates them for the whole cluster: it assigns an
//! address to one ENI only. The ADD of a pod then needs no call at all.

mod former;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use common::address::{Cidr, step};
use common::attach::inventory::Eni;
use common::error::{Error, ErrorCode, Errors, Result};
use common::files::file;
use host_local_ipam::ranges_file;
use host_local_ipam::raw_range::RawRange;

use crate::agent::configuration::{Configuration, Pool, Watermarks};
use crate::agent::reserved;
use crate::agent::shared::Agent;
use crate::ledger::{
    EniLedger, Entry, Event, Excluded, Ledger, Life, Owner, State, Takeover, Timestamp, now,
};
use crate::random;
use crate::registration::in_use;
use crate::registration::node::{Node, TURN_DEADLINE};
use crate::registration::prefixes::supply::{self, prefix_of};
use crate::registration::register::settle_in_turns;
use crate::registration::release;
use crate::registration::rules;
use crate::vpc::ec2::{Description, Family};
use crate::vpc::eni;
use crate::vpc::inventory;

/// The reason in the log for releasing an address above the high watermark.
const SURPLUS: &str = "the pool has more free addresses than its high water mark";
/// The reason in the log for releasing an excluded address.
const EXCLUDED: &str = "exclude names it";

/// How long after the end of a cool-down its address has left the ENI.
const AFTER_RELEASE: u64 = 2;

/// Keeps every configured pool at its size, and gives back what no pool has any more. Adds to
/// `findings` the addresses that cannot return to a pool and the pools for which there is no
/// room, and why. Returns how long it is until there may be room.
///
/// # Errors
/// The failures of any of the pools; the others are done.
pub(crate) fn keep(agent: &Agent, findings: &mut Vec<String>) -> Result<Option<Duration>> {
    let mut errors = Errors::default();
    // Also those of pools that are not configured any more: nobody else ends them.
    for eni in agent.ledger.enis()? {
        let is_refused = |entry: &Entry| entry.is_for_pool() && entry.is_refused();
        // The ledger is not locked if there is nothing to do.
        if errors.keep(eni.read()).iter().flatten().any(is_refused) {
            errors.keep(end_claims(&eni, is_refused));
        }
    }
    // First, because they take slots that the pools need.
    errors.keep(former::give_back(agent));
    let mut next = None;
    let pools = agent.configuration.pools.iter();
    // Those of prefixes are kept with the prefixes.
    for pool in pools.filter(|pool| pool.kept().is_none()) {
        let until_room = errors.keep(keep_one(agent, pool, findings));
        next = until_room.flatten().into_iter().chain(next).min();
    }
    errors.into_result().map(|()| next)
}

fn keep_one(agent: &Agent, pool: &Pool, kept: &mut Vec<String>) -> Result<Option<Duration>> {
    let mac = pool.master()?.mac()?;
    agent.clients.run(|aws| {
        let (inventory, eni) = inventory::find(aws, &mac)?;
        eni::require_managed(&eni)?;
        let node = agent.node(aws, &inventory);
        let ledger = node.ledger.of_attached(&eni)?;
        let turn = ledger.take_turn(TURN_DEADLINE)?;
        let mut errors = Errors::default();
        let excluded = &agent.configuration.exclude;
        errors.keep(reclaim(&ledger, (pool, excluded), &eni, kept));
        errors.keep(shrink(&ledger, (pool, excluded), &eni));
        let refilled = errors.keep(refill(&node, &eni, &ledger, (pool, &agent.configuration)));
        drop(turn);
        let Refill { is_claimed, lacks } = refilled.unwrap_or_default();
        if is_claimed {
            errors.keep(settle(&node, &eni, &ledger));
            errors.keep(write_ranges(&ledger, pool, &eni));
        }
        let next = match lacks.is_empty() {
            true => None,
            false => errors.keep(until_room(&ledger)).flatten(),
        };
        kept.extend(lacks);
        errors.into_result().map(|()| next)
    })
}

/// How long it is until the next address of an ENI has left it.
fn until_room(ledger: &EniLedger) -> Result<Option<Duration>> {
    let time = rules::release_time(&ledger.open()?.all()?, now());
    let wait = |time: Timestamp| time.saturating_sub(now()).saturating_add(AFTER_RELEASE);
    Ok(time.map(|time| Duration::from_secs(wait(time))))
}

/// Returns addresses to the pool instead of releasing them: those whose cool-down is over, and
/// those that were found on the ENI and that no pod has. EC2 has confirmed both.
fn reclaim(
    ledger: &EniLedger,
    (pool, excluded): (&Pool, &Excluded),
    eni: &Eni,
    kept: &mut Vec<String>,
) -> Result<()> {
    let entries = ledger.open()?.all()?;
    let reclaimable = rules::reclaimable(&entries, now()).into_iter();
    let is_for_pool = |address| pool.contains(address) && !excluded.contains(address);
    let reclaimable = reclaimable.filter(|entry| is_for_pool(entry.address));
    let reclaimable: Vec<&Entry> = reclaimable.collect();
    if reclaimable.is_empty() {
        return Ok(());
    }
    for family in Family::ALL {
        let free = pool.free(&entries, family)?.len();
        let room = pool.watermarks().high.saturating_sub(free);
        let mut back: Vec<Entry> = Vec::new();
        for entry in &reclaimable {
            let is_of_family = Family::of(entry.address) == family;
            if is_of_family && back.len() < room && !is_reserved(pool, entry)? {
                back.push((*entry).clone());
            }
        }
        let back = release::without_living(ledger, back, kept)?;
        for entry in release::without_whole(ledger, &eni.mac, back, kept)? {
            release::change(ledger, entry, &Event::Pooled)?;
        }
    }
    Ok(())
}

/// Whether an address that was found on the ENI is reserved in a network of this node's
/// host-local.
fn is_reserved(pool: &Pool, entry: &Entry) -> Result<bool> {
    if entry.state != State::Adopted {
        return Ok(false);
    }
    let directory = &pool.data_dir;
    let failed = |cause| Error::io(format!("failed to list {directory:?}"), &cause);
    for network in file::list(directory).map_err(failed)? {
        let file = network.join(entry.address.to_string());
        if file.try_exists().unwrap_or(true) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Writes the file of the pool, and releases free addresses that are excluded or above the high
/// watermark: they leave the file first. If host-local hands one of these out at this moment, its
/// reservation keeps it on the ENI, because its release waits for the ADDs that go on.
fn shrink(ledger: &EniLedger, (pool, excluded): (&Pool, &Excluded), eni: &Eni) -> Result<()> {
    let all = ledger.open()?.all()?;
    let mut leaving: BTreeMap<IpAddr, &str> = BTreeMap::new();
    for family in Family::ALL {
        let free = pool.free(&all, family)?.into_iter();
        let (out, free): (Vec<_>, Vec<_>) = free.partition(|address| excluded.contains(*address));
        leaving.extend(out.into_iter().map(|address| (address, EXCLUDED)));
        let surplus = free.into_iter().skip(pool.watermarks().high);
        leaving.extend(surplus.map(|address| (address, SURPLUS)));
    }
    write_ranges_without(ledger, pool, eni, |address| leaving.contains_key(&address))?;
    let entries = ledger.open()?;
    for (address, why) in leaving {
        let entry = entries.get(address)?.filter(|e| e.state == State::Pooled);
        let entry = entry.map(|entry| entry.owned_by(pool.claimant(address)));
        entry.map_or(Ok(()), |entry| entries.end(entry, why))?;
    }
    Ok(())
}

/// What became of a pool that has too few free addresses.
#[derive(Default)]
struct Refill {
    /// Whether addresses are claimed for it.
    is_claimed: bool,
    /// Why it will have too few nevertheless, where the ENI has no room.
    lacks: Vec<String>,
}

/// Claims addresses when there are too few.
fn refill(
    node: &Node<'_>,
    eni: &Eni,
    ledger: &EniLedger,
    (pool, configuration): (&Pool, &Configuration),
) -> Result<Refill> {
    let excluded = &configuration.exclude;
    let (entries, known, there) = {
        let ledger = ledger.open()?;
        let there = supply::there(&ledger.prefixes()?, &eni.prefixes);
        (ledger.all()?, ledger.addresses()?, there)
    };
    let Watermarks { low, high } = pool.watermarks();
    let number = |family| Ok((family, pool.free(&entries, family)?.len()));
    let numbers: Vec<(Family, usize)> =
        Family::ALL.into_iter().map(number).collect::<Result<_>>()?;
    let free = |family| {
        let of_family = numbers.iter().find(|(of, _)| *of == family);
        of_family.map_or(0, |(_, number)| *number)
    };
    let missing = |family| {
        let free = free(family);
        let is_wanted = free < low && pool.has(family);
        if is_wanted {
            high.saturating_sub(free)
        } else {
            0
        }
    };
    if Family::ALL.into_iter().all(|family| missing(family) == 0) {
        return Ok(Refill::default());
    }
    let ec2 = node.aws.ec2(&node.inventory.region)?;
    let others = ec2.enis_of_subnet(&eni.subnet_id);
    let others = others.map_err(|failure| failure.error(&format!("look at {}", eni.subnet_id)))?;
    let reserved = reserved::addresses(configuration)?;
    let reserved: HashSet<IpAddr> = reserved.into_iter().collect();
    let (mut candidates_of, mut lacks) = (Vec::new(), Vec::new());
    for family in Family::ALL {
        let room = room(eni, &others, family);
        // Without a number, the pool has what fits.
        let is_short = free(family).saturating_add(room) < low && low != usize::MAX;
        if missing(family) > 0 && is_short {
            lacks.push(lack(pool, (eni, &node.inventory.instance_type), family));
        }
        let is_free = |address| {
            let is_taken = known.contains(&address) || reserved.contains(&address);
            !is_taken && !excluded.contains(address) && prefix_of(&there, address).is_none()
        };
        if missing(family) > 0 {
            let found = candidates(pool, eni, is_free, &others, family);
            candidates_of.push((found, missing(family).min(room)));
        }
    }
    let chosen = unused(node.ledger, candidates_of)?;
    let is_claimed = !chosen.is_empty() && claim(ledger, pool, &chosen)?;
    Ok(Refill { is_claimed, lacks })
}

/// Of each list as many as it says, of those that nobody on the node is seen to have: a pod of a
/// network without eni-sync may have one although EC2 does not know.
fn unused(node: &Ledger, lists: Vec<(Vec<IpAddr>, usize)>) -> Result<Vec<IpAddr>> {
    let asked: HashSet<IpAddr> = lists.iter().flat_map(|(all, _)| all).copied().collect();
    let living = in_use::look_if_permitted(node, |address| asked.contains(&address))?;
    let mut unused = Vec::new();
    for (all, count) in lists {
        let free = all.into_iter().filter(|address| !living.has(*address));
        unused.extend(free.take(count));
    }
    Ok(unused)
}

/// The text about a pool whose ENI has no room, the same for as long as that is so.
fn lack(pool: &Pool, (eni, instance_type): (&Eni, &str), family: Family) -> String {
    let (name, limit) = (&pool.name, family.limit(eni));
    format!(
        "pool {name:?} has fewer free {} addresses than its low water mark, and {} has no room for \
         as many more: it can have {limit} addresses ({instance_type})",
        family.name(),
        eni.id
    )
}

/// Claims the addresses of `chosen` that have no entry in the ledger: an attachment may have
/// claimed one while EC2 was asked. Returns whether any was claimed.
fn claim(ledger: &EniLedger, pool: &Pool, chosen: &[IpAddr]) -> Result<bool> {
    let entries = ledger.open()?;
    let known = entries.addresses()?;
    let mut is_any = false;
    let event = Event::Claimed {
        takeover: Takeover::Never,
        best_effort: false,
    };
    for address in chosen.iter().filter(|address| !known.contains(address)) {
        let owner = Owner {
            life: Life::Pool {
                pool: pool.name.clone(),
            },
            ..pool.claimant(*address)
        };
        if let Some(entry) = Entry::begin(*address, &event, Some(owner)) {
            entries.change(None, &entry, &event)?;
            is_any = true;
        }
    }
    Ok(is_any)
}

/// Has AWS assign the claimed addresses. An address that another node has got is released at
/// once.
fn settle(node: &Node<'_>, eni: &Eni, ledger: &EniLedger) -> Result<()> {
    settle_in_turns(node, eni, ledger)?;
    let is_claimed = |entry: &Entry| matches!(entry.state, State::Claiming { .. });
    end_claims(ledger, |entry| entry.is_for_pool() && is_claimed(entry))
}

/// Ends claims of pools: such an address is looked for on the ENI later, and goes back to the
/// pool or leaves.
///
/// # Errors
/// A refusal that is not temporary, and code 5 naming a file of the ledger.
fn end_claims(ledger: &EniLedger, is_over: impl Fn(&Entry) -> bool) -> Result<()> {
    let entries = ledger.open()?;
    let mut outcome = Ok(());
    for entry in entries.all()?.into_iter().filter(is_over) {
        if let State::Claiming {
            refusal: Some(refusal),
            ..
        } = &entry.state
            && refusal.code != ErrorCode::TRY_AGAIN.0
        {
            outcome = Err(refusal.error());
        }
        entries.end(entry, "EC2 has not assigned it")?;
    }
    outcome
}

/// How many addresses of a family the ENI can still have.
fn room(eni: &Eni, found: &[Description], family: Family) -> usize {
    let used = found.iter().find(|found| found.id == eni.id);
    let used = used.map_or(0, |own| own.used(family));
    match family.limit(eni) {
        // The limit is not known; EC2 refuses what is too much.
        0 => usize::MAX,
        limit => limit.saturating_sub(used),
    }
}

/// The addresses of the pool's ranges that seem to be free, starting at a random one so that
/// nodes that start together do not ask for the same ones. About this node's own prefixes, the
/// ledger may know more than a description shows.
fn candidates(
    pool: &Pool,
    eni: &Eni,
    is_free: impl Fn(IpAddr) -> bool,
    others: &[Description],
    family: Family,
) -> Vec<IpAddr> {
    let mut free: Vec<IpAddr> = pool
        .addresses(family)
        .filter(|address| is_free(*address))
        .filter(|address| !others.iter().any(|other| other.covers(*address)))
        .filter(|address| eni::require_assignable(eni, *address).is_ok())
        .collect();
    let length = u64::try_from(free.len()).unwrap_or(u64::MAX);
    let start = random::number().checked_rem(length);
    free.rotate_left(start.and_then(|n| usize::try_from(n).ok()).unwrap_or(0));
    free
}

/// Writes the file of addresses that host-local may hand out, including those that it has
/// handed out: only addresses that EC2 has confirmed on the ENI.
fn write_ranges(ledger: &EniLedger, pool: &Pool, eni: &Eni) -> Result<()> {
    write_ranges_without(ledger, pool, eni, |_| false)
}

/// The same without the addresses that are leaving.
fn write_ranges_without(
    ledger: &EniLedger,
    pool: &Pool,
    eni: &Eni,
    is_leaving: impl Fn(IpAddr) -> bool,
) -> Result<()> {
    let entries = ledger.open()?.all()?;
    let mut sets = Vec::new();
    for family in pool.families(eni) {
        let listed = entries.iter().filter(|entry| {
            let is_own = pool.contains(entry.address) && Family::of(entry.address) == family;
            is_own && is_listed(pool, entry) && !is_leaving(entry.address)
        });
        let listed: BTreeSet<IpAddr> = listed.map(|entry| entry.address).collect();
        sets.push(ranges(&listed, eni));
    }
    ranges_file::write(&pool.ranges_file, sets)
}

/// Whether host-local may hand an address of the pool out, or has done so. What a pod of another
/// network has, it would hand out again. An address that the last look at EC2 did not show may be
/// gone, and so may one of before the ENI was away or the node was down.
fn is_listed(pool: &Pool, entry: &Entry) -> bool {
    let is_for_pool = match entry.state {
        State::Pooled => true,
        State::Held => {
            let owner = entry.owner.as_ref();
            owner.is_none_or(|owner| owner.network == pool.name)
        }
        _ => false,
    };
    is_for_pool && !entry.is_missing() && !entry.is_of_earlier_attachment()
}

/// The addresses as the longest possible ranges.
fn ranges(addresses: &BTreeSet<IpAddr>, eni: &Eni) -> Vec<RawRange> {
    let mut ranges: Vec<(Cidr, IpAddr, IpAddr)> = Vec::new();
    for address in addresses {
        let subnet = eni.subnet_cidrs.iter().find(|cidr| cidr.contains(*address));
        let Some(subnet) = subnet else {
            continue;
        };
        match ranges.last_mut() {
            Some((_, _, last)) if step(*last, 1) == *address => *last = *address,
            _ => ranges.push((subnet.network(), *address, *address)),
        }
    }
    let written = ranges.into_iter();
    written
        .map(|(subnet, first, last)| RawRange::between(subnet, first, last))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_in_a_row_are_one_range() {
        let addresses = ["10.0.4.9", "10.0.4.10", "10.0.4.12"];
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        let eni = eni::tests::eni();
        let ranges = ranges(&addresses, &eni);
        let text = serde_json::to_string(&ranges).unwrap();
        assert_eq!(
            text,
            r#"[{"subnet":"10.0.4.0/24","rangeStart":"10.0.4.9","rangeEnd":"10.0.4.10"},{"subnet":"10.0.4.0/24","rangeStart":"10.0.4.12","rangeEnd":"10.0.4.12"}]"#
        );
    }
}
