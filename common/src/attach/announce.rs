//! Announces the addresses of an interface to its neighbours, so that they replace their
//! older entries: a gratuitous ARP request for each IPv4 address (RFC 5944, section 4.6) and
//! an unsolicited neighbour advertisement for each one of IPv6 (RFC 4861, section 7.2.6). All
//! of it is best effort: neighbours that miss it resolve the address again when their entry
//! has expired.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket, sockopt};

use super::sandbox::Sandbox;
use crate::address::Cidr;
use crate::error::Result;
use crate::kernel::netlink::{Change, Events, Link, Subject, parse_mac};
use crate::say;

/// How long a network card may take to get its carrier after it was set up.
const CARRIER: Duration = Duration::from_secs(3);
/// All nodes on the link.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// The hop limit of an advertisement. Receivers ignore one with any other value, because a
/// router has forwarded it (RFC 4861, section 7.1.2).
const HOP_LIMIT: u32 = 255;
/// The start of an advertisement: type, code, checksum (which the kernel computes), and the
/// flag `override`, by which it replaces the entries of the neighbours.
const ADVERTISEMENT: [u8; 8] = [136, 0, 0, 0, 0x20, 0, 0, 0];
/// The option with the target's hardware address: its type, and its length in units of 8
/// bytes.
const TARGET_HARDWARE_ADDRESS: [u8; 2] = [2, 1];

/// Announces the addresses of one interface.
#[derive(Debug)]
pub(super) struct Announcer {
    link: Link,
    ipv4: Vec<Ipv4Addr>,
    ipv6: Vec<Ipv6Addr>,
    /// Whether the link had a carrier before it got its addresses.
    had_carrier: bool,
}

impl Announcer {
    /// For the addresses `all`, which `link` is about to get. `None` when the link has no
    /// neighbours that resolve addresses.
    ///
    /// # Errors
    /// Code 999 when the kernel does not answer.
    pub(super) fn new(sandbox: &mut Sandbox, link: &Link, all: &[Cidr]) -> Result<Option<Self>> {
        let is_ethernet = parse_mac(&link.mac).is_some();
        if all.is_empty() || !is_ethernet || !link.has_neighbours() {
            return Ok(None);
        }
        let mut announcer = Self {
            link: link.clone(),
            ipv4: Vec::new(),
            ipv6: Vec::new(),
            had_carrier: is_ready(sandbox, link, |link| link.has_carrier)?,
        };
        for address in all {
            match address.address() {
                IpAddr::V4(address) => announcer.ipv4.push(address),
                IpAddr::V6(address) => announcer.ipv6.push(address),
            }
        }
        Ok(Some(announcer))
    }

    /// The changes that announce the IPv4 addresses, to be applied together with those that
    /// add the addresses. None when the link had no carrier.
    pub(super) fn changes(&self) -> Vec<Change> {
        match self.had_carrier {
            true => self.ipv4_changes(),
            false => Vec::new(),
        }
    }

    fn ipv4_changes(&self) -> Vec<Change> {
        let announce = |address: &Ipv4Addr| Change::announce(&self.link, *address);
        self.ipv4.iter().flat_map(announce).collect()
    }

    /// Announces the IPv6 addresses, and also those of IPv4 if the link had no carrier
    /// before. A network card has no carrier until it has negotiated with its switch, and
    /// frames that are sent before that are lost.
    pub(super) fn finish(&self, sandbox: &mut Sandbox) -> Result<()> {
        if !self.had_carrier {
            if !self.await_carrier(sandbox)? {
                return Ok(());
            }
            sandbox.netlink.apply(&self.ipv4_changes())?;
        }
        if self.ipv6.is_empty() {
            return Ok(());
        }
        let sent = sandbox.netns.run(|| Ok(self.advertise()))?;
        if let Err(cause) = sent {
            say!(
                "could not announce the IPv6 addresses of {:?}: {cause}",
                self.link.name
            );
        }
        Ok(())
    }

    /// Waits for the carrier of the link; false when there is none at the deadline.
    fn await_carrier(&self, sandbox: &mut Sandbox) -> Result<bool> {
        // Opened before the next look at the link, so that no change is missed.
        let changes = sandbox.netns.run(|| Events::open(Subject::Links))?;
        let deadline = Instant::now() + CARRIER;
        while !is_ready(sandbox, &self.link, |link| link.has_carrier && link.running)? {
            if !changes.wait(deadline)? {
                say!(
                    "{:?} has no carrier after {} s: its addresses are not announced",
                    self.link.name,
                    CARRIER.as_secs()
                );
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Sends the advertisements; to be called inside the namespace.
    fn advertise(&self) -> io::Result<()> {
        let socket = socket(AddressFamily::INET6, SocketType::RAW, Some(ipproto::ICMPV6))?;
        sockopt::set_ipv6_multicast_hops(&socket, HOP_LIMIT)?;
        let all_nodes = SocketAddrV6::new(ALL_NODES, 0, 0, self.link.index);
        self.ipv6
            .iter()
            .try_for_each(|address| send(&socket, &self.advertisement(*address), &all_nodes))
    }

    fn advertisement(&self, address: Ipv6Addr) -> Vec<u8> {
        let mac = parse_mac(&self.link.mac).unwrap_or_default();
        let parts: [&[u8]; 4] = [
            &ADVERTISEMENT,
            &address.octets(),
            &TARGET_HARDWARE_ADDRESS,
            &mac,
        ];
        parts.concat()
    }
}

/// Whether the link has a carrier, or is one for whose carrier it is useless to wait: a veth,
/// which has a carrier only when another process sets its other end up.
fn is_ready(
    sandbox: &mut Sandbox,
    link: &Link,
    has_carrier: impl Fn(&Link) -> bool,
) -> Result<bool> {
    if link.kind == "veth" {
        return Ok(true);
    }
    let link = sandbox.netlink.link_by_index(link.index)?;
    Ok(link.is_none_or(|link| has_carrier(&link)))
}

fn send(socket: &OwnedFd, message: &[u8], to: &SocketAddrV6) -> io::Result<()> {
    sendto(socket, message, SendFlags::empty(), to)?;
    Ok(())
}
