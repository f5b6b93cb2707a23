//! What an interface has of its network: addresses, routes and permanent neighbours, kept
//! as the kernel's own messages. Nobody here knows every attribute of them, and one that
//! is left out changes what a node does. When they are given back, only what names the
//! interface and what is a state of the moment is different.

use std::fmt::Write;
use std::fs;
use std::io;

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage};
use netlink_packet_route::route::{RouteAttribute, RouteMessage};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::digest::{Attributes, write};
use super::{Change, KernelAddress, KernelRoute, Netlink};
use super::{address::to_address, route::to_route_of_bytes};
use crate::error::{Error, Result};

/// The numbers of the kernel's `linux/rtnetlink.h`.
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_NEWNEIGH: u16 = 28;
/// Those of `linux/socket.h`.
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Of `linux/if_addr.h`: attributes, and the flags that are settings.
const ADDRESS_HEADER: usize = 8;
const IFA_LABEL: u16 = 3;
const IFA_CACHEINFO: u16 = 6;
const IFA_FLAGS: u16 = 8;
const IFA_PROTO: u16 = 11;
const IFA_F_TEMPORARY: u32 = 0x01;
const IFA_F_NODAD: u32 = 0x02;
/// `NODAD`, `OPTIMISTIC`, `HOMEADDRESS`, `MANAGETEMPADDR`, `NOPREFIXROUTE`, `MCAUTOJOIN`.
const ADDRESS_SETTINGS: u32 = 0x02 | 0x04 | 0x10 | 0x100 | 0x200 | 0x400;
/// Who has made an address: the kernel, for the link alone.
const IFAPROT_KERNEL_LL: u8 = 3;
/// A lifetime without an end.
const FOR_EVER: u32 = u32::MAX;

/// Of `linux/rtnetlink.h`.
const ROUTE_HEADER: usize = 12;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_MULTIPATH: u16 = 9;
const RTA_CACHEINFO: u16 = 12;
const RTA_VIA: u16 = 18;
const RTA_EXPIRES: u16 = 23;
const RTA_NH_ID: u16 = 30;
const RTPROT_KERNEL: u8 = 2;
const RTN_UNICAST: u8 = 1;
/// The table of a host's own addresses, which the kernel keeps.
const RT_TABLE_LOCAL: u8 = 255;
const RTM_F_CLONED: u32 = 0x200;
const RTNH_F_ONLINK: u8 = 4;
/// Bytes before the attributes of one of several ways.
const HOP_HEADER: usize = 8;
/// The parts of a second in which the kernel counts the life of a route (`USER_HZ`).
const TICKS: u32 = 100;

/// Of `linux/neighbour.h`.
const NEIGHBOUR_HEADER: usize = 12;
const NDA_CACHEINFO: u16 = 3;
const NDA_PROBES: u16 = 4;
const NUD_PERMANENT: u16 = 0x80;

/// A message of the kernel behind its header.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Bytes(Vec<u8>);

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
        let add = |bytes: &&Bytes| self.address(bytes, place, IFA_F_NODAD);
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
        let settle = |bytes: &&Bytes| self.address(bytes, place, 0);
        let detected = addresses.iter().filter(is_detected);
        errors.extend(each(netlink, detected.filter_map(settle)));
        errors
    }

    /// The change that adds an address; none when its life has ended.
    fn address(
        &self,
        bytes: &Bytes,
        (index, name, age): (u32, &str, u32),
        more: u32,
    ) -> Option<Change> {
        let flags = bytes.address_flags() & ADDRESS_SETTINGS;
        let flags = if bytes.family() == AF_INET6 {
            flags | more
        } else {
            flags
        };
        let mut body = bytes.0.get(..ADDRESS_HEADER)?.to_vec();
        set(&mut body, 2, &[flags.to_ne_bytes()[0]]);
        set(&mut body, 4, &index.to_ne_bytes());
        for (kind, value) in Attributes(bytes.0.get(ADDRESS_HEADER..)?) {
            match kind {
                IFA_FLAGS => write(kind, &flags.to_ne_bytes(), &mut body),
                IFA_LABEL => write(kind, &relabelled(value, &self.name, name), &mut body),
                IFA_CACHEINFO => {
                    let [preferred, valid] = [0, 4].map(|at| number(value, at));
                    if valid != FOR_EVER && valid <= age {
                        return None;
                    }
                    let mut lives = value.to_vec();
                    for (at, life) in [(0, preferred), (4, valid)] {
                        let left = if life == FOR_EVER {
                            life
                        } else {
                            life.saturating_sub(age)
                        };
                        set(&mut lives, at, &left.to_ne_bytes());
                    }
                    write(kind, &lives, &mut body);
                }
                _ => write(kind, value, &mut body),
            }
        }
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        let failed = format!("failed to restore an address of {name:?}");
        Some(Change::of_bytes(RTM_NEWADDR, body, flags, failed))
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

/// One of several ways of a route.
struct Hop {
    flags: u8,
    weight: u8,
    index: u32,
    attributes: Vec<u8>,
}

impl Bytes {
    fn family(&self) -> u8 {
        self.0.first().copied().unwrap_or_default()
    }

    fn byte(&self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or_default()
    }

    fn attribute(&self, header: usize, wanted: u16) -> Option<&[u8]> {
        let attributes = self.0.get(header..)?;
        let mut found = Attributes(attributes).filter(|(kind, _)| *kind == wanted);
        found.next().map(|(_, value)| value)
    }

    fn message(&self, kind: u16) -> Option<RouteNetlinkMessage> {
        super::parsed(kind, &self.0)
    }

    fn address_flags(&self) -> u32 {
        match self.attribute(ADDRESS_HEADER, IFA_FLAGS) {
            Some(flags) => number(flags, 0),
            None => u32::from(self.byte(2)),
        }
    }

    /// Whether it is an address of the interface, and not one that the kernel makes.
    fn is_address_of(&self, index: u32) -> bool {
        let by_kernel = self.attribute(ADDRESS_HEADER, IFA_PROTO) == Some(&[IFAPROT_KERNEL_LL]);
        let is_temporary = self.family() == AF_INET6 && self.address_flags() & IFA_F_TEMPORARY != 0;
        let is_ip = [AF_INET, AF_INET6].contains(&self.family());
        is_ip && number(&self.0, 4) == index && !by_kernel && !is_temporary
    }

    /// Whether it is a route of which a way is through the interface. The kernel makes
    /// those of addresses when it gets them; who leaves that to others (`noprefixroute`)
    /// may have said that they are the kernel's all the same.
    fn is_route_of(&self, index: u32) -> bool {
        let is_ip = [AF_INET, AF_INET6].contains(&self.family());
        let [table, protocol, kind] = [4, 5, 7].map(|at| self.byte(at));
        let by_kernel = protocol == RTPROT_KERNEL;
        let is_of_address = table == RT_TABLE_LOCAL || kind != RTN_UNICAST || self.is_link_local();
        let is_cloned = number(&self.0, 8) & RTM_F_CLONED != 0;
        let is_through = match self.hops() {
            Some(hops) => hops.iter().any(|hop| hop.index == index),
            None => self.attribute(ROUTE_HEADER, RTA_OIF).map(|b| number(b, 0)) == Some(index),
        };
        is_ip && is_through && !is_cloned && !(by_kernel && is_of_address)
    }

    /// Whether it leads to the link-local addresses of IPv6.
    fn is_link_local(&self) -> bool {
        let dst = self.attribute(ROUTE_HEADER, 1).unwrap_or_default();
        self.family() == AF_INET6 && dst.starts_with(&[0xFE, 0x80])
    }

    fn is_neighbour_of(&self, index: u32) -> bool {
        let state = u16::from_ne_bytes([self.byte(8), self.byte(9)]);
        let is_ip = [AF_INET, AF_INET6].contains(&self.family());
        is_ip && number(&self.0, 4) == index && state & NUD_PERMANENT != 0
    }

    fn has_gateway(&self) -> bool {
        let is_gateway = |kind: u16| [RTA_GATEWAY, RTA_VIA].contains(&kind);
        let attributes = self.0.get(ROUTE_HEADER..).unwrap_or_default();
        Attributes(attributes).any(|(kind, _)| is_gateway(kind) || kind == RTA_MULTIPATH)
    }

    /// The ways of a route that has several.
    fn hops(&self) -> Option<Vec<Hop>> {
        let mut rest = self.attribute(ROUTE_HEADER, RTA_MULTIPATH)?;
        let mut hops = Vec::new();
        while let Some(length) = rest
            .first_chunk()
            .map(|b| usize::from(u16::from_ne_bytes(*b)))
        {
            let hop = rest.get(..length).filter(|hop| hop.len() >= HOP_HEADER)?;
            hops.push(Hop {
                flags: hop.get(2).copied()?,
                weight: hop.get(3).copied()?,
                index: number(hop, 4),
                attributes: hop.get(HOP_HEADER..)?.to_vec(),
            });
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Some(hops)
    }

    /// The same route where the interface `old` has the index `new`, by `hop` alone if one
    /// is given; nothing when its life has ended.
    fn route(&self, old: u32, new: u32, age: u32, hop: Option<&Hop>) -> Option<Vec<u8>> {
        let mut body = self.0.get(..ROUTE_HEADER)?.to_vec();
        let flags = self.byte(8) | hop.map_or(0, |hop| hop.flags);
        set(
            &mut body,
            8,
            &u32::from(flags & RTNH_F_ONLINK).to_ne_bytes(),
        );
        for (kind, value) in Attributes(self.0.get(ROUTE_HEADER..)?) {
            match kind {
                RTA_OIF => write(kind, &new.to_ne_bytes(), &mut body),
                // It says of itself what it leads over, too.
                RTA_NH_ID => {}
                RTA_CACHEINFO => {
                    let left = number(value, 8) / TICKS;
                    if left != 0 {
                        let left = left.checked_sub(age).filter(|left| *left > 0)?;
                        write(RTA_EXPIRES, &left.to_ne_bytes(), &mut body);
                    }
                }
                RTA_MULTIPATH if hop.is_some() => {}
                RTA_MULTIPATH => write(kind, &hops_to_bytes(&self.hops()?, old, new), &mut body),
                _ => write(kind, value, &mut body),
            }
        }
        if let Some(hop) = hop {
            write(RTA_OIF, &new.to_ne_bytes(), &mut body);
            body.extend(&hop.attributes);
        }
        Some(body)
    }

    fn neighbour(&self, index: u32) -> Change {
        let mut body = self.0.get(..NEIGHBOUR_HEADER).unwrap_or_default().to_vec();
        set(&mut body, 4, &index.to_ne_bytes());
        for (kind, value) in Attributes(self.0.get(NEIGHBOUR_HEADER..).unwrap_or_default()) {
            if ![NDA_CACHEINFO, NDA_PROBES].contains(&kind) {
                write(kind, value, &mut body);
            }
        }
        let failed = "failed to restore a neighbour".to_owned();
        Change::of_bytes(RTM_NEWNEIGH, body, NLM_F_CREATE | NLM_F_REPLACE, failed)
    }
}

fn hops_to_bytes(hops: &[Hop], old: u32, new: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    for hop in hops {
        let length = u16::try_from(HOP_HEADER + hop.attributes.len()).unwrap_or(u16::MAX);
        bytes.extend(length.to_ne_bytes());
        bytes.extend([hop.flags & RTNH_F_ONLINK, hop.weight]);
        let index = if hop.index == old { new } else { hop.index };
        bytes.extend(index.to_ne_bytes());
        bytes.extend(&hop.attributes);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

/// A label begins with the name of its interface.
fn relabelled(label: &[u8], old: &str, new: &str) -> Vec<u8> {
    match label.strip_prefix(old.as_bytes()) {
        Some(rest) => [new.as_bytes(), rest].concat(),
        None => label.to_vec(),
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    let value = bytes.get(at..).and_then(<[u8]>::first_chunk);
    value.map_or(0, |value| u32::from_ne_bytes(*value))
}

fn set(bytes: &mut [u8], at: usize, value: &[u8]) {
    let places = bytes.iter_mut().skip(at);
    places.zip(value).for_each(|(place, byte)| *place = *byte);
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

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(2 * self.0.len());
        for byte in &self.0 {
            write!(text, "{byte:02x}").map_err(serde::ser::Error::custom)?;
        }
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = text.as_bytes().chunks(2);
        let byte = |pair: &[u8]| {
            let pair = std::str::from_utf8(pair).ok()?;
            u8::from_str_radix(pair, 16).ok()
        };
        let bytes = digits.map(byte).collect::<Option<Vec<u8>>>();
        bytes
            .map(Self)
            .ok_or_else(|| serde::de::Error::custom("not hexadecimal digits"))
    }
}
