//! Makes the kernel announce an IPv4 address to the neighbours of a link.

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage};

use super::address::family;
use super::{Change, Link};

impl Change {
    /// Makes the kernel broadcast a gratuitous ARP request for `address`, which `link` has.
    /// A neighbour entry for the address makes the kernel resolve it; the second change
    /// deletes the entry. Errors are only logged.
    ///
    /// The kernel announces addresses by itself (`arp_notify`) only if a link has them when
    /// it is set up.
    pub fn announce(link: &Link, address: Ipv4Addr) -> [Self; 2] {
        let failed = format!("failed to announce {address} on {:?}", link.name);
        let mut message = NeighbourMessage::default();
        message.header.family = family(IpAddr::V4(address));
        message.header.ifindex = link.index;
        let own = NeighbourAttribute::Destination(address.into());
        message.attributes.push(own);
        let delete = RouteNetlinkMessage::DelNeighbour(message.clone());
        message.header.flags = NeighbourFlags::Use;
        let resolve = RouteNetlinkMessage::NewNeighbour(message);
        [
            Self::new(resolve, NLM_F_CREATE, failed.clone()).best_effort(),
            Self::new(delete, 0, failed).best_effort(),
        ]
    }
}
