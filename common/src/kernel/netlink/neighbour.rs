//! What makes the kernel tell the neighbours of a link who has an IPv4 address.

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage};

use super::address::family;
use super::{Change, Link};

impl Change {
    /// Makes the kernel broadcast a gratuitous ARP request for `address`, which `link` has:
    /// it looks for the owner of the address as for that of any other one, and forgets
    /// again that it has. What it cannot send is only shown.
    ///
    /// The kernel does the same by itself (`arp_notify`) only for the addresses that a link
    /// has when it is set up.
    pub fn announce(link: &Link, address: Ipv4Addr) -> [Self; 2] {
        let failed = format!("failed to announce {address} on {:?}", link.name);
        let mut message = NeighbourMessage::default();
        message.header.family = family(IpAddr::V4(address));
        message.header.ifindex = link.index;
        let own = NeighbourAttribute::Destination(address.into());
        message.attributes.push(own);
        let forget = RouteNetlinkMessage::DelNeighbour(message.clone());
        message.header.flags = NeighbourFlags::Use;
        let look = RouteNetlinkMessage::NewNeighbour(message);
        [
            Self::new(look, NLM_F_CREATE, failed.clone()).best_effort(),
            Self::new(forget, 0, failed).best_effort(),
        ]
    }
}
