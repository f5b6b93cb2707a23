//! One message of the kernel about an address, a route or a neighbour, as bytes: where it refers
//! to the interface, and which of its values are transient.

use std::fmt::Write;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::kernel::netlink::digest::{Attributes, write};
use crate::kernel::netlink::{Change, parsed};

/// The numbers of the kernel's `linux/rtnetlink.h`.
pub(super) const RTM_NEWADDR: u16 = 20;
pub(super) const RTM_NEWROUTE: u16 = 24;
pub(super) const RTM_NEWNEIGH: u16 = 28;
/// The families of `linux/socket.h`.
pub(super) const AF_INET: u8 = 2;
pub(super) const AF_INET6: u8 = 10;

/// From `linux/if_addr.h`: the length of the header, attributes, and flags.
const ADDRESS_HEADER: usize = 8;
const IFA_LABEL: u16 = 3;
const IFA_CACHEINFO: u16 = 6;
const IFA_FLAGS: u16 = 8;
const IFA_PROTO: u16 = 11;
const IFA_F_TEMPORARY: u32 = 0x01;
pub(super) const IFA_F_NODAD: u32 = 0x02;
/// The flags that are settings and not states: `NODAD`, `OPTIMISTIC`, `HOMEADDRESS`,
/// `MANAGETEMPADDR`, `NOPREFIXROUTE`, `MCAUTOJOIN`.
const ADDRESS_SETTINGS: u32 = 0x02 | 0x04 | 0x10 | 0x100 | 0x200 | 0x400;
/// The origin of an address that the kernel has created: a link-local one.
const IFAPROT_KERNEL_LL: u8 = 3;
/// A lifetime without an end.
pub(super) const FOR_EVER: u32 = u32::MAX;

/// From `linux/rtnetlink.h`.
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
/// The table with the host's own addresses, which the kernel maintains.
const RT_TABLE_LOCAL: u8 = 255;
const RTM_F_CLONED: u32 = 0x200;
const RTNH_F_ONLINK: u8 = 4;
/// The length of the header of one next hop of several, in bytes.
const HOP_HEADER: usize = 8;
/// The ticks per second in which the kernel gives the lifetime of a route (`USER_HZ`).
const TICKS: u32 = 100;

/// From `linux/neighbour.h`.
const NEIGHBOUR_HEADER: usize = 12;
const NDA_CACHEINFO: u16 = 3;
const NDA_PROBES: u16 = 4;
const NUD_PERMANENT: u16 = 0x80;

/// A message of the kernel without its netlink header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bytes(pub(super) Vec<u8>);

/// One of several next hops of a route.
pub(super) struct Hop {
    flags: u8,
    weight: u8,
    pub(super) index: u32,
    attributes: Vec<u8>,
}

impl Bytes {
    pub(super) fn family(&self) -> u8 {
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

    pub(super) fn message(&self, kind: u16) -> Option<RouteNetlinkMessage> {
        parsed(kind, &self.0)
    }

    pub(super) fn address_flags(&self) -> u32 {
        match self.attribute(ADDRESS_HEADER, IFA_FLAGS) {
            Some(flags) => number(flags, 0),
            None => u32::from(self.byte(2)),
        }
    }

    /// Whether it is an address of the interface with this index, and not one that the kernel
    /// creates by itself.
    pub(super) fn is_address_of(&self, index: u32) -> bool {
        let by_kernel = self.attribute(ADDRESS_HEADER, IFA_PROTO) == Some(&[IFAPROT_KERNEL_LL]);
        let is_temporary = self.family() == AF_INET6 && self.address_flags() & IFA_F_TEMPORARY != 0;
        let is_ip = [AF_INET, AF_INET6].contains(&self.family());
        is_ip && number(&self.0, 4) == index && !by_kernel && !is_temporary
    }

    /// Whether it is a route with a next hop through the interface with this index, and not one
    /// that the kernel creates by itself for an address. The protocol alone does not show that:
    /// with `noprefixroute`, a program may have added the route of an address with the protocol
    /// `kernel`.
    pub(super) fn is_route_of(&self, index: u32) -> bool {
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

    /// Whether it is a route to the link-local addresses of IPv6.
    pub(super) fn is_link_local(&self) -> bool {
        let dst = self.attribute(ROUTE_HEADER, 1).unwrap_or_default();
        self.family() == AF_INET6 && dst.starts_with(&[0xFE, 0x80])
    }

    pub(super) fn is_neighbour_of(&self, index: u32) -> bool {
        let state = u16::from_ne_bytes([self.byte(8), self.byte(9)]);
        let is_ip = [AF_INET, AF_INET6].contains(&self.family());
        is_ip && number(&self.0, 4) == index && state & NUD_PERMANENT != 0
    }

    pub(super) fn has_gateway(&self) -> bool {
        let is_gateway = |kind: u16| [RTA_GATEWAY, RTA_VIA].contains(&kind);
        let attributes = self.0.get(ROUTE_HEADER..).unwrap_or_default();
        Attributes(attributes).any(|(kind, _)| is_gateway(kind) || kind == RTA_MULTIPATH)
    }

    /// The next hops of a route that has several.
    pub(super) fn hops(&self) -> Option<Vec<Hop>> {
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

    /// The body of the same route, with the index `new` in place of the interface `old`, and
    /// with `hop` as the only next hop if one is given. `None` when the lifetime of the route
    /// has ended. `age` is how old the message is, in seconds.
    pub(super) fn route(&self, old: u32, new: u32, age: u32, hop: Option<&Hop>) -> Option<Vec<u8>> {
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
                // The message also has the next hops themselves.
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

    /// The change that adds this address of the interface named `old` to another one, with the
    /// flags `more`. `None` when its lifetime has ended. `age` is how old the message is, in
    /// seconds.
    pub(super) fn address(
        &self,
        old: &str,
        (index, name, age): (u32, &str, u32),
        more: u32,
    ) -> Option<Change> {
        let flags = self.address_flags() & ADDRESS_SETTINGS;
        let flags = if self.family() == AF_INET6 {
            flags | more
        } else {
            flags
        };
        let mut body = self.0.get(..ADDRESS_HEADER)?.to_vec();
        set(&mut body, 2, &[flags.to_ne_bytes()[0]]);
        set(&mut body, 4, &index.to_ne_bytes());
        for (kind, value) in Attributes(self.0.get(ADDRESS_HEADER..)?) {
            match kind {
                IFA_FLAGS => write(kind, &flags.to_ne_bytes(), &mut body),
                IFA_LABEL => write(kind, &relabelled(value, old, name), &mut body),
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

    pub(super) fn neighbour(&self, index: u32) -> Change {
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

/// The label of an address begins with the name of its interface, which is replaced.
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
