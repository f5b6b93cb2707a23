//! The addresses, routes and permanent neighbours of an interface, stored as the kernel's
//! own messages. So no attribute is lost, even one that this module does not know. When they
//! are restored, only the references to the interface and transient values, such as
//! lifetimes, are changed.

mod bytes;

use std::fs;
use std::io;

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage};
use netlink_packet_route::route::{RouteAttribute, RouteMessage};
use serde::{Deserialize, Serialize};

use self::bytes::{
    AF_INET, AF_INET6, Bytes, FOR_EVER, IFA_F_NODAD, RTM_NEWADDR, RTM_NEWNEIGH, RTM_NEWROUTE,
};
use super::{Change, KernelAddress, KernelRoute, Netlink};
use super::{address::to_address, route::to_route_of_bytes};
use crate::error::{Error, Result};

/// The addresses, routes and permanent neighbours of an interface in one namespace, at one
/// moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NetworkState {
    /// The interface's index and name.
    index: u32,
    name: String,
    /// The uptime of the machine at that moment, in seconds.
    seconds: u64,
    addresses: Vec<Bytes>,
    routes: Vec<Bytes>,
    neighbours: Vec<Bytes>,
}

impl Netlink {
    /// The present state of the interface with this index and name; `up` is whether it is
    /// up. Objects that the kernel creates by itself when an interface is set up are left
    /// out.
    ///
    /// # Errors
    /// Code 999 when the kernel does not answer.
    pub fn network_state(&mut self, index: u32, name: &str, up: bool) -> Result<NetworkState> {
        let failed = |cause: io::Error| {
            Error::internal(format!("failed to list what {name:?} has")).because(&cause)
        };
        // Without this option, and before Linux 4.20, the kernel lists the objects of all
        // interfaces.
        self.socket.set_netlink_get_strict_chk(true).ok();
        let mut state = NetworkState {
            index,
            name: name.to_owned(),
            seconds: uptime(),
            ..NetworkState::default()
        };
        let mut message = AddressMessage::default();
        message.header.index = index;
        let request = RouteNetlinkMessage::GetAddress(message);
        state.addresses = self
            .kept(&request, RTM_NEWADDR, |b| b.is_address_of(index))
            .map_err(failed)?;
        if !up {
            // An interface that is down has no routes and neighbours.
            return Ok(state);
        }
        let mut message = RouteMessage::default();
        message.attributes.push(RouteAttribute::Oif(index));
        let request = RouteNetlinkMessage::GetRoute(message);
        state.routes = self
            .kept(&request, RTM_NEWROUTE, |b| b.is_route_of(index))
            .map_err(failed)?;
        let mut message = NeighbourMessage::default();
        message.attributes.push(NeighbourAttribute::IfIndex(index));
        let request = RouteNetlinkMessage::GetNeighbour(message);
        state.neighbours = self
            .kept(&request, RTM_NEWNEIGH, |b| b.is_neighbour_of(index))
            .map_err(failed)?;
        Ok(state)
    }

    fn kept(
        &mut self,
        request: &RouteNetlinkMessage,
        kind: u16,
        is_kept: impl Fn(&Bytes) -> bool,
    ) -> io::Result<Vec<Bytes>> {
        let all = self.dump_bytes(request, kind)?.into_iter().map(Bytes);
        Ok(all.filter(is_kept).collect())
    }
}

impl NetworkState {
    /// Whether there are no addresses, routes and neighbours.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.routes.is_empty() && self.neighbours.is_empty()
    }

    /// The addresses, in the order in which the kernel has them.
    pub fn addresses(&self) -> Vec<KernelAddress> {
        let parse = |bytes: &Bytes| to_address(bytes.message(RTM_NEWADDR)?);
        self.addresses.iter().filter_map(parse).collect()
    }

    /// The unicast routes all of whose next hops are through the interface. Those without a
    /// gateway come first, because the gateways of the others may be reachable by them.
    pub fn routes(&self) -> Vec<KernelRoute> {
        let own = self.ordered_routes();
        own.iter()
            .filter_map(|bytes| self.own_route(bytes))
            .collect()
    }

    /// The same state with those routes of [`Self::routes`] for which `is_wanted` is true,
    /// and no others.
    pub fn with_routes(&self, is_wanted: impl Fn(&KernelRoute) -> bool) -> Self {
        let mut state = self.clone();
        let is_kept = |bytes: &Bytes| self.own_route(bytes).is_some_and(|route| is_wanted(&route));
        state.routes.retain(is_kept);
        state
    }

    fn own_route(&self, bytes: &Bytes) -> Option<KernelRoute> {
        let route = to_route_of_bytes(&bytes.0)?;
        let is_own = route
            .next_hops
            .iter()
            .all(|(index, _)| *index == self.index);
        is_own.then_some(route)
    }

    fn ordered_routes(&self) -> Vec<&Bytes> {
        let mut routes = Vec::from_iter(&self.routes);
        routes.sort_by_key(|bytes| bytes.has_gateway());
        routes
    }

    /// Adds all objects to the interface with this index and name, which must be up if it
    /// had routes. Objects that exist already are not an error. IPv6 addresses are usable at
    /// once.
    ///
    /// # Errors
    /// Code 999 with the kernel's answer, one for each refused object.
    pub fn restore(&self, netlink: &mut Netlink, index: u32, name: &str) -> Vec<Error> {
        let age = match self.seconds {
            0 => 0,
            then => u32::try_from(uptime().saturating_sub(then)).unwrap_or(FOR_EVER),
        };
        let mut errors = Vec::new();
        // The kernel inserts a new IPv6 address before the others.
        let is_v4 = |bytes: &&Bytes| bytes.family() == AF_INET;
        let v4 = self.addresses.iter().filter(is_v4);
        let v6 = self.addresses.iter().rev().filter(|bytes| !is_v4(bytes));
        let addresses = Vec::from_iter(v4.chain(v6));
        let place = (index, name, age);
        let add = |bytes: &&Bytes| bytes.address(&self.name, place, IFA_F_NODAD);
        errors.extend(each(netlink, addresses.iter().filter_map(add)));
        let routes = self.ordered_routes().into_iter();
        let routes = routes.flat_map(|bytes| self.route(bytes, index, age));
        errors.extend(apply_in_any_order(netlink, routes.collect()));
        let neighbours = self.neighbours.iter();
        errors.extend(each(
            netlink,
            neighbours.map(|bytes| bytes.neighbour(index)),
        ));
        // The addresses are usable. Now they get their original flags.
        let is_detected = |bytes: &&&Bytes| {
            bytes.family() == AF_INET6 && bytes.address_flags() & IFA_F_NODAD == 0
        };
        let settle = |bytes: &&Bytes| bytes.address(&self.name, place, 0);
        let detected = addresses.iter().filter(is_detected);
        errors.extend(each(netlink, detected.filter_map(settle)));
        errors
    }

    /// The changes that add a route. When an interface is removed, an IPv6 route with
    /// several next hops keeps those through other interfaces. So each next hop through this
    /// interface is added as a separate route.
    fn route(&self, bytes: &Bytes, index: u32, age: u32) -> Vec<Change> {
        let split = bytes.hops().filter(|_| bytes.family() == AF_INET6);
        let bodies = match split {
            Some(hops) => hops
                .into_iter()
                .filter(|hop| hop.index == self.index)
                .filter_map(|hop| bytes.route(self.index, index, age, Some(&hop)))
                .collect(),
            None => Vec::from_iter(bytes.route(self.index, index, age, None)),
        };
        let change = |body: Vec<u8>| {
            let failed = match to_route_of_bytes(&body) {
                Some(route) => format!("failed to restore route '{}'", route.dst),
                None => "failed to restore a route".to_owned(),
            };
            Change::of_bytes(RTM_NEWROUTE, body, NLM_F_CREATE | NLM_F_APPEND, failed)
        };
        bodies.into_iter().map(change).collect()
    }
}

/// Makes each change. An object that exists already is not an error.
fn each(netlink: &mut Netlink, changes: impl Iterator<Item = Change>) -> Vec<Error> {
    let refused = changes.filter_map(|change| netlink.apply(&[change]).err());
    refused.filter(|error| !error.is_exists()).collect()
}

/// Makes the changes in an order that the kernel accepts: the gateway of a route may be
/// reachable only by another one. Returns the errors of those that it refuses in any order.
fn apply_in_any_order(netlink: &mut Netlink, mut changes: Vec<Change>) -> Vec<Error> {
    loop {
        let count = changes.len();
        let mut errors = Vec::new();
        changes.retain(|change| match netlink.apply(std::slice::from_ref(change)) {
            Err(error) if !error.is_exists() => {
                errors.push(error);
                true
            }
            _ => false,
        });
        if changes.is_empty() || changes.len() == count {
            return errors;
        }
    }
}

/// The uptime of the machine in seconds, which does not depend on the system clock; 0 when
/// it cannot be read.
fn uptime() -> u64 {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = text.split('.').next().unwrap_or_default();
    seconds.parse().unwrap_or_default()
}
