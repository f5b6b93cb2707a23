//! Networks that do not chain eni-sync: the agent watches the directories in which
//! host-local keeps their reservations. An address that appears is registered, one
//! that goes is released. What was missed is found by looking again.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use common::error::{Error, Result};
use common::kernel::netlink::Netlink;
use common::say;
use host_local_ipam::reservation::{self, Holder};
use host_local_ipam::survey;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::agent::configuration::Watched;
use crate::agent::shared::Agent;
use crate::ledger::{Entry, Life, Owner};
use crate::registration::node::Node;
use crate::registration::register;
use crate::vpc::inventory;

/// How long until the next try after an error of the watch itself.
const PAUSE: Duration = Duration::from_secs(5);

/// Watches the networks of the configuration for ever.
pub(crate) fn run(agent: &Arc<Agent>) {
    loop {
        if let Err(error) = watch(agent) {
            say!("{error}; looking again in {PAUSE:?}");
        }
        thread::sleep(PAUSE);
    }
}

/// Looks at every network, and again whenever one of the directories changes.
fn watch(agent: &Arc<Agent>) -> Result<()> {
    let flags = InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK;
    let inotify = Inotify::init(flags).map_err(failed)?;
    while agent.await_turn() {
        // Watched first, looked at then: nothing can appear between the two.
        for network in &agent.configuration.networks {
            add_watch(&inotify, &network.directory())?;
        }
        let mut wait = agent.configuration.reconcile_interval();
        for network in &agent.configuration.networks {
            if let Err(error) = look(agent, network) {
                say!("network {}: {error}", network.name);
                wait = PAUSE;
            }
        }
        agent.announce();
        await_change(&inotify, wait)?;
    }
    Ok(())
}

/// Waits for a change, or until it is time to look without one. Which change it was, and
/// how many there were, does not matter: looking finds them all.
fn await_change(inotify: &Inotify, time: Duration) -> Result<()> {
    let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
    let mut descriptors = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
    poll(&mut descriptors, timeout).map_err(failed)?;
    match inotify.read_events() {
        Ok(_) | Err(nix::Error::EAGAIN) => Ok(()),
        Err(errno) => Err(failed(errno)),
    }
}

fn failed(errno: nix::Error) -> Error {
    Error::internal("failed to watch the reservations").because(&errno.into())
}

/// Watches a directory, or the closest one above it that exists, where it will appear.
pub(super) fn add_watch(inotify: &Inotify, directory: &Path) -> Result<()> {
    let changes = AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF;
    for existing in directory.ancestors() {
        match inotify.add_watch(existing, changes) {
            Ok(_) => return Ok(()),
            Err(nix::Error::ENOENT) => {}
            Err(errno) => {
                let msg = format!("failed to watch {existing:?}");
                return Err(Error::internal(msg).because(&errno.into()));
            }
        }
    }
    Ok(())
}

/// Makes the ledger follow the reservations of one network.
fn look(agent: &Agent, network: &Watched) -> Result<()> {
    let found = reservations(network)?;
    register::give_up_entries(&agent.ledger, "its reservation has gone", |entry| {
        is_of(entry, network) && has_ended(entry, found.get(&entry.address))
    })?;
    let named = |(address, owner): (IpAddr, Option<Owner>)| Some((address, owner?));
    let reservations: BTreeMap<IpAddr, Owner> = found.into_iter().filter_map(named).collect();
    if reservations.is_empty() {
        return Ok(());
    }
    let mac = mac_of(&network.master)?;
    agent.clients.run(|aws| {
        let (inventory, eni) = inventory::find(aws, &mac)?;
        let node = Node {
            aws,
            ledger: &agent.ledger,
            inventory: &inventory,
            looks: &agent.looks,
        };
        register::register_reservations(&node, &eni, reservations, network.takeover)
    })
}

/// Whether an entry is of an attachment that this watch has found.
fn is_of(entry: &Entry, network: &Watched) -> bool {
    let owner = entry
        .owner
        .as_ref()
        .filter(|owner| owner.network == network.name);
    owner.is_some_and(|owner| matches!(owner.life, Life::Reservation { .. }))
}

/// Whether the reservation of an entry has gone, or is another container's by now. One that
/// cannot be read may be anybody's.
fn has_ended(entry: &Entry, reserved: Option<&Option<Owner>>) -> bool {
    match reserved {
        None => true,
        Some(None) => false,
        Some(Some(owner)) => !entry.is_for(owner),
    }
}

/// What host-local has reserved in a network, and for whom, as far as that can be read: a file
/// that is being written tells nothing.
fn reservations(network: &Watched) -> Result<BTreeMap<IpAddr, Option<Owner>>> {
    let mut found = BTreeMap::new();
    for reservation in survey::reservations(&network.directory())? {
        let owner = match reservation.holder {
            Holder::Owner(owner) => Some(owned_by(network, owner, reservation.path)),
            Holder::Nobody | Holder::Unknown(_) => None,
        };
        found.insert(reservation.address, owner);
    }
    Ok(found)
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
    }
}

/// The MAC address of an interface of the node.
///
/// # Errors
/// Code 7 when there is no such interface.
pub(crate) fn mac_of(master: &str) -> Result<String> {
    let link = Netlink::open()?.link_by_name(master)?;
    link.map(|link| link.mac)
        .ok_or_else(|| Error::config(format!("there is no interface {master:?}")))
}
