//! The interfaces of ENIs in the kernel of the node, and what the node itself uses them for
//! although they are for pods: a program that configures every interface by DHCP may have found
//! them at boot.

use std::fs;
use std::path::Path;

use common::address::Cidr;
use common::error::Result;
use common::kernel::netlink::{KernelAddress, KernelRoute, Link, Netlink};
use serde::Serialize;

/// The kernel's number of the main routing table.
const MAIN: u32 = 254;
/// Where systemd-networkd writes the state of each interface.
const NETWORKD: &str = "/run/systemd/netif/links";

/// The links, addresses and routes of the node.
#[derive(Debug, Default)]
pub(crate) struct Host {
    pub(crate) links: Vec<Link>,
    pub(crate) addresses: Vec<KernelAddress>,
    pub(crate) routes: Vec<KernelRoute>,
}

/// The state of the interface of an ENI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    Up,
    Down,
    /// It is not on the node: a pod has it, or a driver for user space.
    Absent,
}

/// What the node uses an interface for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Uses {
    /// Its addresses with a limited lifetime, as DHCP gives them.
    pub(crate) leased: Vec<Cidr>,
    /// Whether a default route of the node leads through it.
    pub(crate) default_route: bool,
    /// The name servers that systemd-networkd has for it.
    pub(crate) name_servers: String,
}

impl Host {
    /// Reads them from the kernel.
    ///
    /// # Errors
    /// Code 999 when the kernel does not answer.
    pub(crate) fn read() -> Result<Self> {
        let mut netlink = Netlink::open()?;
        Ok(Self {
            links: netlink.links()?,
            addresses: netlink.all_addresses()?,
            routes: netlink.routes()?,
        })
    }

    /// The interface with this MAC address.
    pub(crate) fn link(&self, mac: &str) -> Option<&Link> {
        Link::of_hardware(&self.links, mac)
    }

    /// The state of the interface with this MAC address.
    pub(crate) fn state(&self, mac: &str) -> State {
        match self.link(mac) {
            None => State::Absent,
            Some(link) if link.up => State::Up,
            Some(_) => State::Down,
        }
    }

    /// What the node uses an interface for.
    pub(crate) fn uses(&self, link: &Link) -> Uses {
        let addresses = self.addresses.iter();
        let leased = addresses.filter(|a| a.link == link.index && a.is_global && a.is_leased);
        let is_default = |route: &&KernelRoute| route.dst.prefix() == 0 && route.table == MAIN;
        let is_through =
            |route: &KernelRoute| route.next_hops.iter().any(|hop| hop.0 == link.index);
        Uses {
            leased: leased.map(|address| address.cidr).collect(),
            default_route: self.routes.iter().filter(is_default).any(is_through),
            name_servers: name_servers(link.index),
        }
    }
}

impl Uses {
    /// Each use as a text; empty if there is none.
    pub(crate) fn texts(&self) -> Vec<String> {
        let mut texts = Vec::new();
        if !self.leased.is_empty() {
            let leased: Vec<String> = self.leased.iter().map(Cidr::to_string).collect();
            texts.push(format!("the node has {} by DHCP", leased.join(" ")));
        }
        if self.default_route {
            texts.push("the node has a default route through it".to_owned());
        }
        if !self.name_servers.is_empty() {
            texts.push(format!(
                "the node asks {} for names through it",
                self.name_servers
            ));
        }
        texts
    }
}

/// The name servers that systemd-networkd has for an interface; empty if it has none or does
/// not run.
fn name_servers(index: u32) -> String {
    let text = fs::read_to_string(Path::new(NETWORKD).join(index.to_string()));
    let text = text.unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("DNS="));
    line.unwrap_or_default().trim().to_owned()
}
