//! Answers IPv6 neighbour solicitations in the VPC, for every address and prefix of its ENIs and
//! for the routers of its subnets. The kernel's proxy entries are no replacement: they are for
//! single addresses only, and are deleted when a link is set down.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use nix::sys::socket::{LinkAddr, recvfrom};
use rustix::net::{
    AddressFamily, Protocol, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with,
    sockopt,
};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::id::VpcId;
use super::shared::Shared;
use super::wires::mac_at;
use super::world::World;
use crate::Namespace;

/// IPv6 packets. Source: `linux/if_ether.h`, in the byte order of the network.
const IPV6_PACKETS: u32 = 0x86dd_u16.to_be() as u32;

/// The parts of an IPv6 packet with a neighbour solicitation (RFC 8200, section 3; RFC 4861,
/// section 4.3): next header, source, type of the message, target.
const NEXT_HEADER: usize = 6;
const SOURCE: usize = 8;
const KIND: usize = 40;
const TARGET: usize = 48;

const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// It was solicited, and replaces what is known.
const FLAGS: u8 = 0x60;
/// The option with the link-layer address of the target, of eight bytes.
const TARGET_ADDRESS: [u8; 2] = [2, 1];

/// Receives the neighbour solicitations in a VPC.
#[derive(Debug)]
pub(super) struct Solicitations {
    heard: OwnedFd,
    answers: OwnedFd,
}

impl Solicitations {
    pub(super) fn of(network: &Namespace) -> Self {
        let packets = Protocol::from_raw(NonZeroU32::new(IPV6_PACKETS).expect("it is not 0"));
        network.run(|| {
            let answers = open(AddressFamily::INET6, SocketType::RAW, ipproto::ICMPV6);
            sockopt::set_ipv6_unicast_hops(&answers, Some(255)).expect("it is a socket of IPv6");
            Self {
                heard: open(AddressFamily::PACKET, SocketType::DGRAM, packets),
                answers,
            }
        })
    }

    /// Answers until the task is aborted.
    pub(super) async fn answer(self, shared: Arc<Shared>, vpc: VpcId) {
        // tokio has no type for this socket, and is only used to wait for it.
        let heard = UdpSocket::from_std(self.heard.into()).expect("the lab's runtime has sockets");
        let mut packet = [0; 128];
        loop {
            heard.readable().await.expect("the runtime lives");
            let receive = || Ok(recvfrom::<LinkAddr>(heard.as_raw_fd(), &mut packet)?);
            let Ok((length, Some(from))) = heard.try_io(Interest::READABLE, receive) else {
                continue;
            };
            let index = u32::try_from(from.ifindex()).unwrap_or_default();
            let asked = packet.get(..length).and_then(solicitation);
            let Some(((source, target), mac)) = asked.zip(mac_at(index)) else {
                continue;
            };
            if is_elsewhere(&shared.lock().world, &vpc, source, target) {
                let to = SocketAddr::V6(SocketAddrV6::new(source, 0, 0, index));
                // A solicitation from an address that its ENI does not have gets no answer.
                sendto(
                    &self.answers,
                    &advertisement(target, mac),
                    SendFlags::empty(),
                    &to,
                )
                .ok();
            }
        }
    }
}

/// The source and the target of a solicitation.
fn solicitation(packet: &[u8]) -> Option<(Ipv6Addr, Ipv6Addr)> {
    let address = |at: usize| {
        Some(Ipv6Addr::from(
            <[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?,
        ))
    };
    let is_asked =
        packet.get(NEXT_HEADER) == Some(&ICMPV6) && packet.get(KIND) == Some(&SOLICITATION);
    let (source, target) = (address(SOURCE)?, address(TARGET)?);
    // A solicitation without a source is duplicate address detection.
    (is_asked && !source.is_unspecified()).then_some((source, target))
}

/// Whether the target is an address of another ENI than the sender's, or of a router.
fn is_elsewhere(world: &World, vpc: &VpcId, source: Ipv6Addr, target: Ipv6Addr) -> bool {
    let mut subnets = world.subnets.values().filter(|subnet| subnet.vpc == *vpc);
    let is_router = subnets.any(|s| s.ipv6.iter().any(|cidr| cidr.nth(1) == Some(target)));
    let owner = |address| world.owner(vpc, IpAddr::V6(address)).map(|eni| &eni.id);
    is_router || owner(target).is_some_and(|other| owner(source) != Some(other))
}

/// The advertised link-layer address is that of the VPC's link. The kernel adds the checksum.
fn advertisement(target: Ipv6Addr, mac: [u8; 6]) -> Vec<u8> {
    let head = [ADVERTISEMENT, 0, 0, 0, FLAGS, 0, 0, 0];
    [&head[..], &target.octets(), &TARGET_ADDRESS, &mac].concat()
}

fn open(family: AddressFamily, kind: SocketType, protocol: impl Into<Option<Protocol>>) -> OwnedFd {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    socket_with(family, kind, flags, protocol.into())
        .unwrap_or_else(|errno| panic!("cannot make a raw socket: {errno}; run the tests as root"))
}
