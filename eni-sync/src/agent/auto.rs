//! Networks with `"networks": "auto"`: every attachment of this node that has a record,
//! addresses of host-local and an ENI for pods is registered, whether its network chains
//! eni-sync or not. If it does, the plugin and the agent make the same claim for the same
//! attachment.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use common::error::{Errors, Result};

use crate::agent::found::Found;
use crate::agent::reserved::{GONE, Reserved, has_ended, reservations};
use crate::agent::shared::Agent;
use crate::ledger::{Entry, Life, Owner, Takeover};
use crate::registration::ended;
use crate::registration::register;
use crate::registration::without::Without;
use crate::vpc::clients::Aws;
use crate::vpc::{eni, inventory};

/// When to look again at an interface that no ENI has: the inventory may not have the ENI yet.
const UNKNOWN: Duration = Duration::from_secs(30);

/// The reservations in each directory.
type Directories = BTreeMap<PathBuf, Reserved>;

/// The addresses to register on the ENI with each MAC address.
type Wanted<'a> = BTreeMap<&'a str, BTreeMap<IpAddr, Owner>>;

/// The result of a look.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The attachments whose addresses are not registered in the VPC, and why.
    pub(super) without: Vec<Without>,
    /// When to look again even if nothing changes.
    pub(super) again: Option<Duration>,
}

/// Updates the ledger by the reservations of the networks that were found. Also returns the
/// failures of any network or ENI: the others are done.
pub(super) fn follow(agent: &Agent, found: &Found) -> (Outcome, Result<()>) {
    let mut errors = Errors::default();
    let mut directories = Directories::new();
    for network in &found.networks {
        let reserved = errors.keep(reservations(network));
        directories.extend(reserved.map(|reserved| (network.directory(), reserved)));
    }
    let is_over = |entry: &Entry| is_over(entry, &directories);
    errors.keep(ended::give_up_entries(&agent.ledger, GONE, is_over));
    let mut wanted = Wanted::new();
    let reserved = directories.into_values().flatten();
    for (address, owner) in reserved.filter_map(|(address, owner)| Some((address, owner?))) {
        if let Some(recorded) = found.attachment(&owner) {
            let of_eni = wanted.entry(recorded.mac.as_str()).or_default();
            of_eni.insert(address, found.name(owner));
        }
    }
    let mut outcome = Outcome::default();
    if !wanted.is_empty() {
        let registered = agent
            .clients
            .run(|aws| register_all(agent, aws, wanted, &mut outcome));
        errors.keep(registered);
    }
    (outcome, errors.into_result())
}

/// Whether the reservation of an entry has ended. If no record names its directory any more,
/// the file of the reservation decides.
fn is_over(entry: &Entry, directories: &Directories) -> bool {
    let Some(Life::Reservation { reservation }) = entry.owner.as_ref().map(|owner| &owner.life)
    else {
        return false;
    };
    let directory = reservation.parent();
    match directory.and_then(|directory| directories.get(directory)) {
        Some(reserved) => has_ended(entry, reserved.get(&entry.address)),
        None => !entry.is_reserved(),
    }
}

/// Registers the addresses on the ENIs of this node. An interface that is not an ENI is left
/// out, and an ENI that is not for pods is reported once.
fn register_all(agent: &Agent, aws: &Aws, wanted: Wanted<'_>, outcome: &mut Outcome) -> Result<()> {
    let inventory = inventory::current(aws, |_| true)?;
    let node = agent.node(aws, &inventory);
    let mut errors = Errors::default();
    for (mac, reservations) in wanted {
        let Some(eni) = inventory.by_mac(mac) else {
            outcome.again = Some(UNKNOWN);
            continue;
        };
        if let Err(error) = eni::require_managed(eni) {
            let without = |(address, owner)| Without {
                owner,
                address,
                why: error.clone(),
            };
            outcome
                .without
                .extend(reservations.into_iter().map(without));
            continue;
        }
        let takeover = Takeover::default();
        let registered = register::register_reservations(&node, eni, reservations, takeover);
        outcome
            .without
            .extend(errors.keep(registered).into_iter().flatten());
    }
    errors.into_result()
}
