//! Keeps prefixes on the ENIs for pods, so that pods get addresses without a call: as many as
//! configured, for networks without addresses and for pools. Unused prefixes beyond that are
//! given back.

mod for_pools;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::address::Cidr;
use common::attach::inventory::Eni;
use common::error::{Errors, Result};

use self::for_pools::{OnEni, Pools};
use crate::agent::reserved;
use crate::agent::shared::Agent;
use crate::ledger::{EniLedger, Prefix, State, now};
use crate::registration::node::{Node, TURN_DEADLINE};
use crate::registration::prefixes::ask::Order;
use crate::registration::prefixes::kept::Kept;
use crate::registration::prefixes::stock::Level;
use crate::registration::prefixes::{give_back, listed};
use crate::vpc::ec2::Family;
use crate::vpc::eni;
use crate::vpc::inventory;

/// The level of a family without a setting.
const NONE: Level = Level { low: 0, high: 0 };

/// An ENI for pods, and what is kept on it for networks without addresses; `None` if that cannot
/// be determined.
type Wanted<'a> = (&'a Eni, Option<Kept>);

/// Keeps the prefixes of every ENI for pods: missing ones are requested, and unused ones beyond
/// the level are given back. Adds to `findings` the prefixes that stay, and why prefixes are
/// missing. Returns how long it is until there is more to do.
///
/// # Errors
/// The failures of any of the ENIs; the others are done.
pub(crate) fn keep(agent: &Agent, findings: &mut Vec<String>) -> Result<Option<Duration>> {
    if !agent.configuration.keeps_prefixes() && !has_any(agent)? {
        return Ok(None);
    }
    let mut errors = Errors::default();
    let kept = agent.clients.run(|aws| {
        let inventory = inventory::current(aws, |inventory| {
            inventory
                .enis
                .iter()
                .any(|eni| eni::require_managed(eni).is_ok())
        })?;
        let node = agent.node(aws, &inventory);
        let managed = inventory.enis.iter();
        let managed = managed.filter(|eni| eni::require_managed(eni).is_ok());
        let mut levels = BTreeMap::new();
        let wanted = wanted(agent, managed.clone(), &mut errors);
        for (eni, kept) in &wanted {
            // If the setting of an ENI cannot be determined, its prefixes stay as they are.
            levels.extend(levels_of(agent, eni, *kept));
        }
        agent.shared.stock.set(levels);
        let pools = Pools::find(&node, &agent.configuration, &mut errors);
        for wanted in wanted {
            errors.keep(keep_on(agent, &node, wanted, (&pools, findings)));
        }
        next(agent, managed)
    });
    let refusals = agent.shared.stock.refusals(Instant::now());
    agent.metrics.note_refused_prefixes(refusals.len());
    findings.extend(refusals);
    let next = errors.keep(kept).flatten();
    errors.into_result().map(|()| next)
}

/// How long it is until a prefix of an ENI for pods is due, or EC2 may be asked again. Prefixes
/// of other ENIs are never given back.
fn next<'a>(agent: &Agent, enis: impl Iterator<Item = &'a Eni>) -> Result<Option<Duration>> {
    let mut next = agent.shared.stock.until_next(Instant::now());
    for eni in enis {
        let due = agent.ledger.of_attached(eni)?.read_prefixes()?.into_iter();
        let due = due.filter_map(|prefix| prefix.entry.due(now())).min();
        // The ledger's times are in seconds.
        let wait = due.map(|due| Duration::from_secs(due.saturating_sub(now()).max(1)));
        next = next.into_iter().chain(wait).min();
    }
    Ok(next)
}

/// Whether the ledger has a prefix of any ENI: it may be one that the configuration does not
/// ask for any more.
fn has_any(agent: &Agent) -> Result<bool> {
    for eni in agent.ledger.enis()? {
        if !eni.read_prefixes()?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What is to be kept on each ENI: the setting for its name, else that for all ENIs. `None` for
/// an ENI of which that cannot be determined; `errors` gets the reason.
fn wanted<'a>(
    agent: &Agent,
    enis: impl Iterator<Item = &'a Eni>,
    errors: &mut Errors,
) -> Vec<Wanted<'a>> {
    let configuration = &agent.configuration;
    let of_all = || {
        let Some(prefixes) = &configuration.prefixes else {
            return Ok((Kept::default(), None));
        };
        let only = prefixes.master()?.map(|master| master.mac()).transpose()?;
        Ok((prefixes.kept(), only))
    };
    let of_all = errors.keep(of_all());
    let wanted = enis.map(|eni| match (configuration.prefixes_by_name(eni), &of_all) {
        (Some(kept), _) => (eni, Some(kept)),
        (None, Some((kept, only))) => {
            let none = Kept {
                cooldown_seconds: kept.cooldown_seconds,
                ..Kept::default()
            };
            let is_meant = only.as_ref().is_none_or(|mac| *mac == eni.mac);
            (eni, Some(if is_meant { *kept } else { none }))
        }
        (None, None) => (eni, None),
    });
    wanted.collect()
}

/// The level of each family on an ENI, by its MAC address; if the setting is not known, the
/// level before.
fn levels_of(
    agent: &Agent,
    eni: &Eni,
    wanted: Option<Kept>,
) -> impl Iterator<Item = ((String, Family), Level)> {
    Family::ALL.into_iter().filter_map(move |family| {
        let level = match wanted {
            Some(kept) => kept.level(family),
            None => agent.shared.stock.level(eni, family),
        };
        Some(((eni.mac.clone(), family), level?))
    })
}

fn keep_on(
    agent: &Agent,
    node: &Node<'_>,
    (eni, kept): Wanted<'_>,
    (pools, findings): (&Pools<'_>, &mut Vec<String>),
) -> Result<()> {
    let pools = pools.on(eni);
    let stock = &agent.shared.stock;
    let ledger = node.ledger.of_attached(eni)?;
    let is_wanted = pools.are_any() || Family::ALL.iter().any(|f| stock.level(eni, *f).is_some());
    let known = ledger.read_prefixes()?;
    let mut states = known.iter().map(|prefix| &prefix.entry.state);
    let is_left_alone = kept.is_none() && !pools.are_any();
    if is_left_alone || !is_wanted && states.all(|state| *state == State::Adopted) {
        return Ok(());
    }
    let mut errors = Errors::default();
    let is_used = |prefix: &Prefix| {
        let family = family_of(prefix);
        let for_all = stock.level(eni, family).map(|_| None::<PathBuf>);
        for_all.or_else(|| pools.ranges_file(family).map(Some))
    };
    let settled = settle(agent, &ledger, &pools, |prefix| {
        let is_adopted = prefix.entry.state == State::Adopted && is_used(prefix).is_some();
        is_adopted && stock.may_open(&eni.id, prefix.prefix, Instant::now())
    });
    let settled = errors.keep(settled).unwrap_or_default();
    let is_settled = |prefix: &Prefix| settled.contains(&prefix.prefix);
    let _turn = ledger.take_turn(TURN_DEADLINE)?;
    // Only called when a prefix is closed, opened or given back, and then current.
    let reserved = || reserved::addresses(&agent.configuration);
    // A prefix that the ledger has lost may still be in the file of the pool that had it.
    let is_written = errors.keep(pools.write(&ledger)).is_some();
    if let Some(pool) = pools.missing() {
        findings.extend(closed(&ledger, pool, |prefix| is_used(prefix).is_some())?);
    } else if is_written {
        let open = (eni, &ledger);
        let wanted = |prefix: &Prefix| is_used(prefix).filter(|_| is_settled(prefix));
        errors.keep(give_back::open_adopted(
            node, open, wanted, reserved, findings,
        ));
    }
    for family in Family::ALL {
        let order = Order {
            node,
            eni,
            ledger: &ledger,
            family,
            list: None,
        };
        let level = stock.level(eni, family);
        let followed = kept.map(|kept| follow(&order, level, kept.cooldown_seconds, reserved));
        errors.keep(followed.unwrap_or(Ok(())));
        errors.keep(pools.follow(&order, reserved));
    }
    // Where a file cannot be written, no prefix leaves that it names.
    if is_written && errors.keep(pools.write(&ledger)).is_some() {
        let mut kept = Vec::new();
        let which = (is_settled, reserved);
        errors.keep(give_back::give_back(node, eni, &ledger, which, &mut kept));
        let stays = kept.into_iter();
        findings.extend(stays.map(|(prefix, why)| format!("{prefix} stays: {why}")));
    }
    errors.into_result()
}

/// The prefixes that no pod gets an address of while the interface of a pool is not found, as texts.
fn closed(
    ledger: &EniLedger,
    pool: &str,
    is_used: impl Fn(&Prefix) -> bool,
) -> Result<Vec<String>> {
    let mut closed = ledger.read_prefixes()?;
    closed.retain(|prefix| prefix.entry.state == State::Adopted && is_used(prefix));
    let says = |Prefix { prefix, .. }: Prefix| {
        format!(
            "{prefix} is not used for pods: it may be of pool {pool:?}, whose interface is not found"
        )
    };
    Ok(closed.into_iter().map(says).collect())
}

/// Takes the prefixes that are due, or are to be opened, out of the ranges files, and waits for
/// every ADD of host-local that may have read such a file before. Returns the prefixes. The turn is
/// not held while ADDs are waited for: they take as long as their own work does.
///
/// # Errors
/// Code 5 naming a file, 11 when the turn or a lock of host-local is not free in time.
fn settle(
    agent: &Agent,
    ledger: &EniLedger,
    pools: &OnEni<'_>,
    opens: impl Fn(&Prefix) -> bool,
) -> Result<Vec<Cidr>> {
    let moving = || -> Result<Vec<Prefix>> {
        let is_due = |prefix: &Prefix| prefix.entry.due(now()).is_some_and(|due| due <= now());
        let mut moving = ledger.read_prefixes()?;
        moving.retain(|prefix| is_due(prefix) || opens(prefix));
        Ok(moving)
    };
    if moving()?.is_empty() {
        return Ok(Vec::new());
    }
    let moving = {
        let _turn = ledger.take_turn(TURN_DEADLINE)?;
        pools.write(ledger)?;
        let moving = moving()?;
        moving.iter().try_for_each(listed::unlist)?;
        moving
    };
    reserved::await_adds(&agent.configuration)?;
    Ok(moving.iter().map(|prefix| prefix.prefix).collect())
}

/// Closes the prefixes of a family beyond its level, and requests missing ones.
fn follow(
    order: &Order<'_>,
    level: Option<Level>,
    cooldown: u64,
    reserved: impl Fn() -> Result<Vec<IpAddr>>,
) -> Result<()> {
    // Without it, how many free addresses there are is not known.
    order.ledger.open()?.excluded()?;
    let what = (order.ranges_file(), order.family, level.unwrap_or(NONE));
    let mut errors = Errors::default();
    errors.keep(give_back::close(order.ledger, what, cooldown, reserved));
    if let Some(level) = level {
        errors.keep(order.fill(level, 0));
    }
    errors.into_result()
}

fn family_of(prefix: &Prefix) -> Family {
    Family::of(prefix.prefix.address())
}
