//! Gives back the free addresses that no configured pool has any more: the configuration has
//! other ranges now, another interface or no pool. They would keep their slots on the ENI, and
//! no pod would ever get them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use common::attach::inventory::Eni;
use common::error::{Errors, Result};

use crate::agent::configuration::Pool;
use crate::agent::reserved;
use crate::agent::shared::Agent;
use crate::ledger::{DEFAULT_COOLDOWN, EniLedger, Entry, Event, State, now};
use crate::registration::node::TURN_DEADLINE;
use crate::vpc::eni;
use crate::vpc::inventory;

/// A pool, and the MAC address of its interface where the node has that.
type Place<'a> = (&'a Pool, Option<String>);

/// Ends the free addresses that no pool has; they leave their ENI after the cool-down, unless they
/// are in use nevertheless. While the interface of a pool cannot be found, it may be that of any
/// ENI.
///
/// # Errors
/// Those of reading the ledger, the inventory and the reservations, and of writing the files of
/// pools; nothing is given back then. An error about one ENI is returned when the others are done.
pub(super) fn give_back(agent: &Agent) -> Result<()> {
    let with_free = with_free(agent)?;
    if with_free.is_empty() {
        return Ok(());
    }
    let pools = agent.configuration.pools.iter();
    let places: Vec<Place<'_>> = pools.map(|pool| (pool, mac_of(pool))).collect();
    let enis = agent.clients.run(|aws| {
        let inventory = inventory::current(aws, |_| true)?;
        Ok(inventory.enis)
    })?;
    let of_pods = |id: &str| {
        let mut enis = enis.iter().filter(|eni| eni::require_managed(eni).is_ok());
        enis.find(|eni| eni.id == id)
    };
    let mut with_former = Vec::new();
    for ledger in with_free {
        if let Some(eni) = of_pods(ledger.id())
            && ledger.read()?.iter().any(|e| is_former(e, &places, eni))
        {
            with_former.push((eni, ledger));
        }
    }
    if with_former.is_empty() {
        return Ok(());
    }
    unlist(agent, &places, &enis)?;
    let reserved = reserved::settled(&agent.configuration)?;
    let reserved: BTreeSet<IpAddr> = reserved.into_iter().collect();
    let mut errors = Errors::default();
    for (eni, ledger) in with_former {
        let is_over =
            |entry: &Entry| is_former(entry, &places, eni) && !reserved.contains(&entry.address);
        errors.keep(end(&ledger, is_over));
    }
    errors.into_result()
}

/// The ledgers of the ENIs that have free addresses.
fn with_free(agent: &Agent) -> Result<Vec<EniLedger>> {
    let mut found = Vec::new();
    for ledger in agent.ledger.enis()? {
        if ledger.read()?.iter().any(is_free) {
            found.push(ledger);
        }
    }
    Ok(found)
}

/// Writes the files of the pools, so that host-local hands out none of the former addresses any
/// more. What it has reserved before that, or is reserving, is read after this.
fn unlist(agent: &Agent, places: &[Place<'_>], enis: &[Eni]) -> Result<()> {
    for (pool, mac) in places.iter().filter(|(pool, _)| pool.kept().is_none()) {
        if let Some(eni) = enis.iter().find(|eni| Some(&eni.mac) == mac.as_ref()) {
            super::write_ranges(&agent.ledger.of_attached(eni)?, pool, eni)?;
        }
    }
    Ok(())
}

fn end(ledger: &EniLedger, is_over: impl Fn(&Entry) -> bool) -> Result<()> {
    let _turn = ledger.take_turn(TURN_DEADLINE)?;
    let entries = ledger.open()?;
    let after = now().saturating_add(DEFAULT_COOLDOWN.as_secs());
    let mut over = entries.all()?.into_iter().filter(is_over);
    over.try_for_each(|entry| entries.note(entry, &Event::Ended { after }))
}

fn is_former(entry: &Entry, places: &[Place<'_>], eni: &Eni) -> bool {
    is_free(entry) && !is_of_any(places, eni, entry.address)
}

fn is_free(entry: &Entry) -> bool {
    entry.state == State::Pooled
}

fn mac_of(pool: &Pool) -> Option<String> {
    pool.master().and_then(|master| master.mac()).ok()
}

/// Whether a pool that is or may be on this ENI has the address.
fn is_of_any(places: &[Place<'_>], eni: &Eni, address: IpAddr) -> bool {
    places.iter().any(|(pool, mac)| {
        let is_here = mac.as_ref().is_none_or(|mac| *mac == eni.mac);
        is_here && pool.contains(address)
    })
}
