//! What an interface has of its network: addresses, routes and permanent neighbours, kept
//! as the kernel's own messages. Nobody here knows every attribute of them, and one that
//! is left out changes what a node does. When they are given back, only what names the
//! interface and what is a state of the moment is different.

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

/// What an interface had in one namespace, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NetworkState {
    /// The interface's index and name.
    index: u32,
    name: String,
    /// The seconds that the machine had been up for.
    seconds: u64,
    addresses: Vec<Bytes>,
    routes: Vec<Bytes>,
    neighbours: Vec<Bytes>,
}

impl Netlink {
    /// What the interface with this index and name has now. The kernel makes some of it by
    /// itself wherever the interface is up: that is left out.
    ///
    /// # Errors
    /// Code 999 when the kernel does not answer.
    pub fn network_state(&mut self, index: u32, name: &str, up: bool) -> Result<NetworkState> {
        let failed = |cause: io::Error| {
            Error::internal(format!("failed to list what {name:?} has")).because(&cause)
        };
        // Without this the kernel, or one before 4.20, tells of every interface.
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
            // Routes and neighbours need an interface that is up.
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
        let told = self.dump_bytes(request, kind)?.into_iter().map(Bytes);
        Ok(told.filter(is_kept).collect())
    }
}

impl NetworkState {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.routes.is_empty() && self.neighbours.is_empty()
    }

    /// The addresses, in the order in which the kernel has them.
    pub fn addresses(&self) -> Vec<KernelAddress> {
        let parse = |bytes: &Bytes| to_address(bytes.message(RTM_NEWADDR)?);
        self.addresses.iter().filter_map(parse).collect()
    }

    /// The unicast routes of which every way is through the interface. Those without a
    /// gateway come first, because the others may lead over them.
    pub fn routes(&self) -> Vec<KernelRoute> {
        let own = self.ordered_routes();
        own.iter()
            .filter_map(|bytes| self.own_route(bytes))
            .collect()
    }

    /// The same for a namespace in which only some of the routes are wanted, and no others
    /// than those of the interface alone.
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

    /// Gives all of it to the interface with this index and name, which is up if it had
    /// routes. What is there already stays. An address of IPv6 is usable at once.
    ///
    /// # Errors
    /// Code 999 with the kernel's answer, one for each thing that it refused.
    pub fn restore(&self, netlink: &mut Netlink, index: u32, name: &str) -> Vec<Error> {
        let age = match self.seconds {
            0 => 0,
            then => u32::try_from(uptime().saturating_sub(then)).unwrap_or(FOR_EVER),
        };
        let mut errors = Vec::new();
        // The kernel puts a new address of IPv6 before the others.
        let is_v4 = |bytes: &&Bytes| bytes.family() == AF_INET;
        let v4 = self.addresses.iter().filter(is_v4);
        let v6 = self.addresses.iter().rev().filter(|bytes| !is_v4(bytes));
        let addresses = Vec::from_iter(v4.chain(v6));
        let place = (index, name, age);
        let add = |bytes: &&Bytes| bytes.address(&self.name, place, IFA_F_NODAD);
        errors.extend(each(netlink, addresses.iter().filter_map(add)));
        let routes = self.ordered_routes().into_iter();
        let routes = routes.flat_map(|bytes| self.route(bytes, index, age));
        errors.extend(until_none_is_left(netlink, routes.collect()));
        let neighbours = self.neighbours.iter();
        errors.extend(each(
            netlink,
            neighbours.map(|bytes| bytes.neighbour(index)),
        ));
        // They are usable, and from now on what they were.
        let is_detected = |bytes: &&&Bytes| {
            bytes.family() == AF_INET6 && bytes.address_flags() & IFA_F_NODAD == 0
        };
        let settle = |bytes: &&Bytes| bytes.address(&self.name, place, 0);
        let detected = addresses.iter().filter(is_detected);
        errors.extend(each(netlink, detected.filter_map(settle)));
        errors
    }

    /// The changes that add a route. Of one of IPv6 with several ways, the others stay when
    /// an interface goes, so each of the interface's is one of its own.
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

/// Makes each change; what is there already is not an error.
fn each(netlink: &mut Netlink, changes: impl Iterator<Item = Change>) -> Vec<Error> {
    let refused = changes.filter_map(|change| netlink.apply(&[change]).err());
    refused.filter(|error| !error.is_exists()).collect()
}

/// Makes the changes in an order in which they can be made: a route may lead over another.
fn until_none_is_left(netlink: &mut Netlink, mut changes: Vec<Change>) -> Vec<Error> {
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

/// The seconds that the machine has been up for, which nobody sets; 0 when that is not told.
fn uptime() -> u64 {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = text.split('.').next().unwrap_or_default();
    seconds.parse().unwrap_or_default()
}
