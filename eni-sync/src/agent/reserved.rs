//! Reads the reservations of host-local in the networks that the agent serves, and updates the
//! ledger by them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::address::parse_address;
use common::error::{Error, Result};
use common::files::file;
use host_local_ipam::reservation::{self, Holder};
use host_local_ipam::{store, survey};

use crate::agent::configuration::{Configuration, DATA_DIR, Watched};
use crate::agent::found::Found;
use crate::agent::shared::Agent;
use crate::deadline::Deadline;
use crate::ledger::{Entry, Life, Owner};
use crate::registration::ended;
use crate::registration::register;
use crate::registration::without::Without;
use crate::vpc::inventory;

/// The reason in the log for releasing an address.
pub(super) const GONE: &str = "its reservation has gone";

/// How long the ADDs of all networks are waited for. Each has the lock for milliseconds, unless its
/// process is stopped; then nothing is given back until it has ended.
const ADDS_DEADLINE: Duration = Duration::from_secs(5);

/// The reservations of a network, with their owners as far as they can be read.
pub(super) type Reserved = BTreeMap<IpAddr, Option<Owner>>;

/// Updates the ledger by the reservations of a network whose interface is known. Returns the
/// addresses that cannot be registered.
pub(super) fn follow(agent: &Agent, network: &Watched, records: &Found) -> Result<Vec<Without>> {
    let found = reservations(network)?;
    ended::give_up_entries(&agent.ledger, GONE, |entry| {
        is_of(entry, network) && has_ended(entry, found.get(&entry.address))
    })?;
    let named = |(address, owner): (IpAddr, Option<Owner>)| Some((address, records.name(owner?)));
    let reservations: BTreeMap<IpAddr, Owner> = found.into_iter().filter_map(named).collect();
    if reservations.is_empty() {
        return Ok(Vec::new());
    }
    let mac = network.master()?.mac()?;
    agent.clients.run(|aws| {
        let (inventory, eni) = inventory::find(aws, &mac)?;
        let node = agent.node(aws, &inventory);
        register::register_reservations(&node, &eni, reservations, network.takeover)
    })
}

/// Whether an entry is of an attachment of this network that is known by its reservation.
fn is_of(entry: &Entry, network: &Watched) -> bool {
    let owner = entry
        .owner
        .as_ref()
        .filter(|owner| owner.network == network.name);
    owner.is_some_and(|owner| matches!(owner.life, Life::Reservation { .. }))
}

/// Whether the reservation of an entry has ended, or belongs to another container now. A
/// reservation that cannot be read may belong to any container, so it has not ended.
pub(super) fn has_ended(entry: &Entry, reserved: Option<&Option<Owner>>) -> bool {
    match reserved {
        None => true,
        Some(None) => false,
        Some(Some(owner)) => !entry.is_for(owner),
    }
}

/// The reservations of host-local in a network, with their owners as far as they can be read: a
/// file that is being written has none.
pub(super) fn reservations(network: &Watched) -> Result<Reserved> {
    let mut found = Reserved::new();
    for reservation in survey::reservations(&network.directory())? {
        let owner = match reservation.holder {
            Holder::Owner(owner) => Some(owned_by(network, owner, reservation.path)),
            Holder::Nobody | Holder::Unknown(_) | Holder::Unreadable(_) => None,
        };
        found.insert(reservation.address, owner);
    }
    Ok(found)
}

/// Every address that is reserved by host-local on this node, with its file, in all networks
/// whose directories are known.
///
/// # Errors
/// Code 5 naming a directory, and those of reading the records.
pub(crate) fn everywhere(configuration: &Configuration) -> Result<BTreeMap<IpAddr, PathBuf>> {
    let mut reserved = BTreeMap::new();
    for network in directories(configuration)? {
        reserved.extend(names(&network)?.into_iter().filter_map(address_of));
    }
    Ok(reserved)
}

/// The directories of all networks of host-local in all stores that are known.
fn directories(configuration: &Configuration) -> Result<Vec<PathBuf>> {
    let mut stores: BTreeSet<PathBuf> = [PathBuf::from(DATA_DIR)].into();
    stores.extend(configuration.pools.iter().map(|pool| pool.data_dir.clone()));
    let listed = configuration.networks.listed().iter();
    stores.extend(listed.map(|network| network.data_dir.clone()));
    stores.extend(Found::read()?.networks.into_iter().map(|n| n.data_dir));
    let mut directories = Vec::new();
    for store in stores {
        for path in names(&store)? {
            if is_directory(&path)? {
                directories.push(path);
            }
        }
    }
    Ok(directories)
}

fn is_directory(path: &Path) -> Result<bool> {
    match fs::metadata(path) {
        Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(false),
        Err(cause) => Err(Error::io(format!("failed to examine {path:?}"), &cause)),
        Ok(found) => Ok(found.is_dir()),
    }
}

/// Waits until every ADD of host-local has ended that may have read a ranges file as it was before
/// this call: host-local reads it while it has the lock of its network. What such an ADD has
/// reserved is there afterwards.
///
/// # Errors
/// Code 11 when a lock is not free in time, code 5 naming a file.
pub(crate) fn await_adds(configuration: &Configuration) -> Result<()> {
    let deadline = Deadline::after(ADDS_DEADLINE);
    let directories = directories(configuration)?;
    let mut directories = directories.iter();
    directories.try_for_each(|network| store::await_lock(network, deadline.left()))
}

/// The addresses that host-local has reserved, including those of every ADD that may have read a
/// ranges file as it was before this call.
///
/// # Errors
/// As for [`await_adds`] and [`everywhere`].
pub(crate) fn settled(configuration: &Configuration) -> Result<Vec<IpAddr>> {
    await_adds(configuration)?;
    addresses(configuration)
}

/// The same addresses without the files.
///
/// # Errors
/// As for [`everywhere`].
pub(crate) fn addresses(configuration: &Configuration) -> Result<Vec<IpAddr>> {
    Ok(everywhere(configuration)?.into_keys().collect())
}

/// The addresses that host-local has reserved in one network.
///
/// # Errors
/// Code 5 naming the directory.
pub(super) fn of_network(directory: &Path) -> Result<Vec<IpAddr>> {
    let reserved = names(directory)?.into_iter().filter_map(address_of);
    Ok(reserved.map(|(address, _)| address).collect())
}

/// The address that a file in the directory of a network reserves.
fn address_of(file: PathBuf) -> Option<(IpAddr, PathBuf)> {
    let address = parse_address(file.file_name()?.to_str()?).ok()?;
    Some((address, file))
}

/// The paths in a directory; empty if it does not exist.
fn names(directory: &Path) -> Result<Vec<PathBuf>> {
    match file::list(directory) {
        Err(cause) if cause.kind() == ErrorKind::NotADirectory => Ok(Vec::new()),
        found => found.map_err(|cause| Error::io(format!("failed to list {directory:?}"), &cause)),
    }
}

/// The attachment that a reservation names.
fn owned_by(network: &Watched, owner: reservation::Owner, reservation: PathBuf) -> Owner {
    Owner {
        network: network.name.clone(),
        container_id: owner.container_id,
        ifname: owner.ifname,
        pod: String::new(),
        life: Life::Reservation { reservation },
        cooldown_seconds: network.cooldown_seconds,
        takeover: Some(network.takeover),
    }
}
