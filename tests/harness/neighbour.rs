//! Packets that a neighbour on a link can send to a pod and receive from it.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketType, ipproto, recv, sendto, socket,
    sockopt,
};

use crate::Namespace;

/// All nodes on a link.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// A router advertisement for a default route with a lifetime of half an hour and the
/// prefix 2001:db8:bad::/64 for autoconfiguration (RFC 4861, sections 4.2 and 4.6.2).
const ROUTER_ADVERTISEMENT: [u8; 48] = [
    134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0, 3, 4, 64, 0xc0, 0, 0, 0x0e, 0x10, 0,
    0, 0x07, 0x08, 0, 0, 0, 0, 0x20, 0x01, 0x0d, 0xb8, 0x0b, 0xad, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];
/// The start of the addresses in that prefix.
pub const ADVERTISED: &str = "2001:db8:bad:";
/// The type of a neighbour advertisement, and the offset of its target.
const NEIGHBOUR_ADVERTISEMENT: (u8, usize) = (136, 8);

impl Namespace {
    /// Sends a router advertisement to all nodes on `link`.
    pub fn advertise_router(&self, link: &str) {
        let index = self.index(link);
        self.run(|| {
            let socket = raw(AddressFamily::INET6, ipproto::ICMPV6);
            sockopt::set_ipv6_multicast_hops(&socket, 255).expect("it is a socket of IPv6");
            let to = SocketAddr::V6(SocketAddrV6::new(ALL_NODES, 0, 0, index));
            sendto(&socket, &ROUTER_ADVERTISEMENT, SendFlags::empty(), &to)
                .expect("the link is up");
        });
    }

    /// Sends an ICMP redirect to `victim`: it should send packets for `destination` to
    /// `gateway`.
    pub fn redirect(&self, victim: Ipv4Addr, destination: Ipv4Addr, gateway: Ipv4Addr) {
        // The packet of the victim that the redirect refers to, an answer to a ping. Only
        // its addresses matter.
        let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 1, 0, 0];
        packet.extend([victim.octets(), destination.octets()].concat());
        packet.extend([0; 8]);
        let mut message = vec![5, 1, 0, 0];
        message.extend(gateway.octets());
        message.extend(packet);
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        self.run(|| {
            let socket = raw(AddressFamily::INET, ipproto::ICMP);
            let to = SocketAddr::V4(SocketAddrV4::new(victim, 0));
            sendto(&socket, &message, SendFlags::empty(), &to).expect("the victim is reachable");
        });
    }

    fn index(&self, link: &str) -> u32 {
        let link = self.link(link).expect("the link is there");
        let index = link["ifindex"].as_u64().expect("it has an index");
        u32::try_from(index).expect("the kernel has 31 bits for it")
    }
}

/// Receives the packets of a protocol that enter a namespace since this value was
/// created.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
}

impl Listener {
    /// Receives ICMPv6.
    pub fn icmpv6(namespace: &Namespace) -> Self {
        Self::of(namespace, AddressFamily::INET6, ipproto::ICMPV6)
    }

    /// Receives UDP over IPv4; a packet begins with the IPv4 header.
    pub fn udp(namespace: &Namespace) -> Self {
        Self::of(namespace, AddressFamily::INET, ipproto::UDP)
    }

    fn of(namespace: &Namespace, family: AddressFamily, protocol: Protocol) -> Self {
        let socket = namespace.run(|| raw(family, protocol));
        Self { socket }
    }

    /// Waits for an unsolicited neighbour advertisement for `address`.
    pub fn await_advertisement(&self, address: Ipv6Addr) {
        let (kind, target) = NEIGHBOUR_ADVERTISEMENT;
        self.wait_for("the advertisement comes", |packet| {
            let found = packet.get(target..target + 16);
            packet.first() == Some(&kind) && found == Some(&address.octets())
        });
    }

    /// Waits for the first packet for which `wanted` is true.
    #[track_caller]
    pub fn wait_for(&self, what: &str, wanted: impl Fn(&[u8]) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let tick = Some(Duration::from_millis(100));
        sockopt::set_socket_timeout(&self.socket, sockopt::Timeout::Recv, tick)
            .expect("it is a socket");
        let mut buffer = [0; 2048];
        while Instant::now() < deadline {
            match recv(&self.socket, &mut buffer, RecvFlags::empty()) {
                Ok((_, length)) if wanted(&buffer[..length]) => return,
                Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno) => panic!("cannot receive: {errno}"),
            }
        }
        panic!("timed out waiting until {what}");
    }
}

fn raw(family: AddressFamily, protocol: Protocol) -> OwnedFd {
    socket(family, SocketType::RAW, Some(protocol))
        .unwrap_or_else(|errno| panic!("cannot make a raw socket: {errno}; run the tests as root"))
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|word| {
        let low = word.get(1).copied().unwrap_or_default();
        u32::from(u16::from_be_bytes([word[0], low]))
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("it was folded")
}
