//! Links as the kernel describes them, and the changes that the plugins make to them.

mod message;
mod offload;

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use netlink_packet_core::{DefaultNla, Emitable, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoKind, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage, Prop,
};
use nix::libc::EINVAL;
use rtnetlink::LinkUnspec;
use serde::{Deserialize, Serialize};

pub(super) use self::message::to_link;
pub use self::offload::Offload;
use super::{Change, Netlink, text};
use crate::error::{Error, Result};
use crate::ifname::IfName;
use crate::kernel::netns::NetNs;
use crate::random;

/// The attribute with a link's alias.
const IFLA_IFALIAS: u16 = 20;
/// The attribute by which a link is looked up under an alternative name.
const IFLA_ALT_IFNAME: u16 = 53;
/// The attribute with a link's data of each address family, and the attributes in it: the
/// family, and its parameters by number. Source: `linux/if_link.h` and `linux/ip.h`.
const IFLA_AF_SPEC: u16 = 26;
const IFLA_INET_CONF: u16 = 1;
const AF_INET: u16 = 2;
/// The mode in which an ipvlan interface resolves neighbours. Source: `linux/if_link.h`.
const IPVLAN_MODE_L2: u16 = 0;
/// Up to this number, links are deleted one by one.
const SINGLY: usize = 8;
/// The flags that are settings; the others are states, or mean that the link is up.
const SETTABLE: LinkFlags = LinkFlags::Noarp
    .union(LinkFlags::Promisc)
    .union(LinkFlags::Allmulti)
    .union(LinkFlags::Multicast);

/// A network interface as the kernel describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// The interface index, unique within its namespace.
    pub index: u32,
    /// The interface name.
    pub name: String,
    /// Further names under which the kernel finds the interface.
    pub altnames: Vec<String>,
    /// The alias text (`ip link set … alias`); empty when there is none.
    pub alias: String,
    /// The hardware address, in lower case with colons; empty when it has none.
    pub mac: String,
    /// The hardware address that the device was manufactured with, also if `mac` is the same.
    pub permanent_mac: String,
    /// The maximum transmission unit in bytes.
    pub mtu: u32,
    /// Whether the interface is administratively up.
    pub up: bool,
    /// Whether this is the loopback interface.
    pub loopback: bool,
    /// Whether its link layer is Ethernet.
    pub ethernet: bool,
    /// The kind of a virtual interface (`ipvlan`, `veth`, …); empty for hardware.
    pub kind: String,
    /// The kind of the interface this one is a port of (`bridge`, `bond`, …).
    pub port_kind: String,
    /// The index of the interface this one is a port of.
    pub controller: Option<u32>,
    /// The index of the interface below this one, in the namespace `parent_netns_id`.
    pub parent: Option<u32>,
    /// The id (`nsid`) of the parent's namespace, when it is not the interface's own.
    pub parent_netns_id: Option<i32>,
    /// The mode of an ipvlan or ipvtap interface, as the kernel numbers it.
    pub ipvlan_mode: Option<u16>,
    /// The flags of such an interface, as the kernel numbers them.
    pub ipvlan_flags: Option<u16>,
    /// The bus address of the device behind the interface, such as `0000:00:06.0`.
    pub bus_address: String,
    /// Other settings, which a process that may configure the interface can change.
    pub settings: Settings,
    /// What is done with its packets before and behind the stack.
    pub offload: Offload,
    /// Whether the interface has a carrier.
    pub has_carrier: bool,
    /// Whether the operational state is up (`IFF_RUNNING`): frames can be sent.
    pub running: bool,
    /// Its parameters below `/proc/sys/net`.
    pub parameters: Parameters,
}

/// The parameters of one link (`/proc/sys/net/ipv4/conf` and `ipv6/conf`), in the order in
/// which the kernel numbers them from 0. A family that the link does not have has none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameters {
    /// The parameters of IPv4.
    pub ipv4: Vec<i32>,
    /// The parameters of IPv6.
    pub ipv6: Vec<i32>,
}

/// A parameter of IPv4 on one link (`/proc/sys/net/ipv4/conf`), as the kernel numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parameter {
    /// `accept_redirects`.
    AcceptRedirects = 4,
    /// `arp_notify`.
    ArpNotify = 22,
}

/// Settings of a link that it keeps when it moves to another namespace, as the kernel numbers
/// them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// Which of the flags `NOARP`, `PROMISC`, `ALLMULTI` and `MULTICAST` are set, as a bit
    /// mask.
    pub flags: u32,
    /// The length of the transmit queue in packets.
    pub tx_queue_length: u32,
    /// The group.
    pub group: u32,
    /// The mode: 1 keeps it dormant. Records that are older than this key have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_mode: Option<u8>,
}

/// Changes to a link that the kernel makes with one message.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinkChange<'a> {
    /// Move it to this namespace.
    pub netns: Option<&'a NetNs>,
    /// Give it this name (in the new namespace, if it moves).
    pub name: Option<&'a str>,
    /// Give it this alias; empty removes it.
    pub alias: Option<&'a str>,
    /// Give it this hardware address.
    pub mac: Option<&'a [u8]>,
    /// Give it this MTU in bytes.
    pub mtu: Option<u32>,
    /// Make it a port of the interface with this index.
    pub controller: Option<u32>,
    /// Set it up or down.
    pub up: Option<bool>,
    /// Give it these settings.
    pub settings: Option<Settings>,
    /// Let its packets be as long as this says.
    pub lengths: Option<Offload>,
    /// Take the XDP program of this mode, a flag of [`Offload::xdp_modes`], off it.
    pub no_program: Option<u32>,
}

impl Change {
    /// Changes the link with this index; `failed` is the message of an error.
    pub fn link(index: u32, change: LinkChange<'_>, failed: String) -> Self {
        let mut message = LinkUnspec::new_with_index(index);
        message = match change.up {
            Some(true) => message.up(),
            Some(false) => message.down(),
            None => message,
        };
        if let Some(netns) = change.netns {
            message = message.setns_by_fd(netns.as_fd().as_raw_fd());
        }
        if let Some(name) = change.name {
            message = message.name(name);
        }
        if let Some(mac) = change.mac {
            message = message.address(mac.to_vec());
        }
        if let Some(mtu) = change.mtu {
            message = message.mtu(mtu);
        }
        if let Some(index) = change.controller {
            message = message.controller(index);
        }
        let mut message = message.build();
        let attributes = &mut message.attributes;
        attributes.extend(change.alias.map(|alias| {
            LinkAttribute::Other(DefaultNla::new(IFLA_IFALIAS, text::to_bytes(alias)))
        }));
        if let Some(settings) = change.settings {
            attributes.push(LinkAttribute::TxQueueLen(settings.tx_queue_length));
            attributes.push(LinkAttribute::Group(settings.group));
            let mode = settings.link_mode.map(|mode| mode.into());
            attributes.extend(mode.map(LinkAttribute::Mode));
            message.header.change_mask |= SETTABLE;
            message.header.flags |= LinkFlags::from_bits_retain(settings.flags) & SETTABLE;
        }
        attributes.extend(change.lengths.iter().flat_map(Offload::lengths));
        attributes.extend(change.no_program.map(offload::no_program));
        Self::new(RouteNetlinkMessage::SetLink(message), 0, failed)
    }
}

impl Change {
    /// Sets parameters of IPv4 on a link. Errors are only logged.
    pub fn parameters(link: &Link, parameters: &[(Parameter, u32)]) -> Self {
        let values = parameters.iter().map(|(parameter, value)| {
            DefaultNla::new(*parameter as u16, value.to_ne_bytes().to_vec())
        });
        let conf = nested(IFLA_INET_CONF, &values.collect::<Vec<_>>());
        let family = nested(AF_INET, &[conf]);
        let mut message = LinkUnspec::new_with_index(link.index).build();
        let attribute = LinkAttribute::Other(nested(IFLA_AF_SPEC, &[family]));
        message.attributes.push(attribute);
        let failed = format!("failed to set the IPv4 parameters of {:?}", link.name);
        Self::new(RouteNetlinkMessage::SetLink(message), 0, failed).best_effort()
    }
}

impl Netlink {
    /// The link that has `name` as its name or as an alternative name.
    ///
    /// # Errors
    /// Code 999 when the kernel does not answer; a missing link is none.
    pub fn link_by_name(&mut self, name: &str) -> Result<Option<Link>> {
        let mut message = LinkMessage::default();
        // A text that is not a valid name can still be an alternative name, which may be
        // longer.
        message.attributes.push(if IfName::new(name).is_ok() {
            LinkAttribute::IfName(name.to_owned())
        } else {
            LinkAttribute::Other(altname_attribute(name))
        });
        self.get_link(message, || format!("failed to lookup {name:?}"))
    }

    /// The link with this index.
    ///
    /// # Errors
    /// Code 999 when the kernel does not answer; a missing link is none.
    pub fn link_by_index(&mut self, index: u32) -> Result<Option<Link>> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.get_link(message, || {
            format!("failed to lookup the link with index {index}")
        })
    }

    /// All links of the namespace.
    ///
    /// # Errors
    /// Code 999 when the kernel does not answer.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        self.dump_links(LinkMessage::default())
            .map_err(|cause| Error::internal("failed to list the links").because(&cause))
    }

    /// All links of another namespace, by its id (`nsid`) in the namespace of this socket;
    /// none when it has just ended.
    ///
    /// # Errors
    /// Code 999 when the kernel does not answer.
    pub fn links_of(&mut self, namespace: i32) -> Result<Vec<Link>> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfNetnsId(namespace));
        match self.dump_links(message) {
            // The kernel's error for an unknown id.
            Err(cause) if cause.raw_os_error() == Some(EINVAL) => Ok(Vec::new()),
            outcome => outcome.map_err(|cause| {
                let msg = format!("failed to list the links of namespace {namespace}");
                Error::internal(msg).because(&cause)
            }),
        }
    }

    fn dump_links(&mut self, mut all: LinkMessage) -> io::Result<Vec<Link>> {
        // Without such a mask the kernel leaves out links with long descriptions, for example
        // with many alternative names.
        all.attributes.push(no_statistics());
        let replies = self.dump(&RouteNetlinkMessage::GetLink(all))?;
        Ok(replies.into_iter().filter_map(to_link).collect())
    }

    /// The links of the namespace with this kind, such as `ipvlan`.
    ///
    /// # Errors
    /// As for [`Netlink::links`].
    pub fn links_of_kind(&mut self, kind: &str) -> Result<Vec<Link>> {
        let mut message = LinkMessage::default();
        // With this attribute the kernel leaves the other links out.
        let info = LinkInfo::Kind(InfoKind::Other(kind.to_owned()));
        message.attributes.push(LinkAttribute::LinkInfo(vec![info]));
        let mut links = self
            .dump_links(message)
            .map_err(|cause| Error::internal("failed to list the links").because(&cause))?;
        links.retain(|link| link.kind == kind);
        Ok(links)
    }

    /// Changes the link with this index.
    ///
    /// # Errors
    /// Code 999 with the kernel's answer; `what` is the message.
    pub fn change_link(
        &mut self,
        index: u32,
        change: LinkChange<'_>,
        what: impl Fn() -> String,
    ) -> Result<()> {
        self.apply(&[Change::link(index, change, what())])
    }

    /// Adds alternative names to the link with this index.
    ///
    /// # Errors
    /// Code 999 with the kernel's answer.
    pub fn add_altnames(&mut self, index: u32, names: &[String]) -> Result<()> {
        let Some(message) = altnames_message(index, names) else {
            return Ok(());
        };
        let message = RouteNetlinkMessage::NewLinkProp(message);
        let failed = "failed to restore alternative names".to_owned();
        self.apply(&[Change::new(message, NLM_F_CREATE | NLM_F_EXCL, failed)])
    }

    /// Removes alternative names from the link with this index.
    ///
    /// # Errors
    /// Code 999 with the kernel's answer.
    pub fn delete_altnames(&mut self, index: u32, names: &[String]) -> Result<()> {
        let Some(message) = altnames_message(index, names) else {
            return Ok(());
        };
        let message = RouteNetlinkMessage::DelLinkProp(message);
        let failed = "failed to remove alternative names".to_owned();
        self.apply(&[Change::new(message, 0, failed)])
    }

    /// Deletes the link with this index; a missing link is success.
    ///
    /// # Errors
    /// Code 999 with the kernel's answer.
    pub fn delete_link(&mut self, link: &Link) -> Result<()> {
        self.delete(link, LinkMessage::default())
    }

    /// Deletes all of these links. The kernel waits for all processors at each deletion, so
    /// many links are put into a group, which is deleted at once.
    ///
    /// # Errors
    /// Code 999 with the kernel's answer.
    pub fn delete_links(&mut self, links: &[&Link]) -> Result<()> {
        if links.len() <= SINGLY {
            return links.iter().try_for_each(|link| self.delete_link(link));
        }
        // A random group, which has no other links; not group 0, which the kernel refuses to
        // delete.
        let [_, _, _, _, group @ ..] = (random::number() | 1).to_be_bytes();
        let mut of_group = LinkMessage::default();
        let attributes = &mut of_group.attributes;
        attributes.push(LinkAttribute::Group(u32::from_be_bytes(group)));
        let into_group = |link: &&Link| {
            let mut message = of_group.clone();
            message.header.index = link.index;
            let failed = format!("failed to put {:?} into a group", link.name);
            Change::new(RouteNetlinkMessage::SetLink(message), 0, failed).best_effort()
        };
        let mut changes: Vec<Change> = links.iter().map(into_group).collect();
        let failed = format!("failed to delete {} interfaces", links.len());
        let delete = RouteNetlinkMessage::DelLink(of_group.clone());
        changes.push(Change::new(delete, 0, failed));
        self.apply(&changes)
    }

    /// Deletes a link in another namespace, by that namespace's id (`nsid`) in the namespace
    /// of this socket; a missing link is success.
    ///
    /// # Errors
    /// Code 999 with the kernel's answer.
    pub fn delete_link_of(&mut self, namespace: i32, link: &Link) -> Result<()> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfNetnsId(namespace));
        self.delete(link, message)
    }

    fn delete(&mut self, link: &Link, mut message: LinkMessage) -> Result<()> {
        message.header.index = link.index;
        let message = RouteNetlinkMessage::DelLink(message);
        let failed = format!("failed to delete {:?}", link.name);
        match self.apply(&[Change::new(message, 0, failed)]) {
            Err(error) if error.is_not_found() => Ok(()),
            outcome => outcome,
        }
    }

    fn get_link(
        &mut self,
        mut message: LinkMessage,
        what: impl Fn() -> String,
    ) -> Result<Option<Link>> {
        message.attributes.push(no_statistics());
        let outcome = self
            .request(RouteNetlinkMessage::GetLink(message), 0)
            .map_err(|cause| Error::internal(what()).because(&cause));
        match outcome {
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
            Ok(replies) => Ok(replies.into_iter().find_map(to_link)),
        }
    }
}

/// The attribute that keeps the kernel from reading the device's counters, which are not
/// used.
fn no_statistics() -> LinkAttribute {
    LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])
}

impl Link {
    /// The hardware address by which the network outside of the node knows the interface: the one
    /// that it was manufactured with, if the driver tells that. The present one can be changed, also
    /// by a pod: a macvlan in mode passthru gives its own to the interface below it.
    pub fn hardware_mac(&self) -> &str {
        // What is virtual has the permanent address of what it was made on.
        let is_told = self.kind.is_empty() && !self.permanent_mac.is_empty();
        if is_told {
            &self.permanent_mac
        } else {
            &self.mac
        }
    }

    /// The interface among `links` by which the node has the device with this hardware address.
    /// What lies on top of an interface of the node is never it, although it may have the address:
    /// a VLAN has that of the interface below. One that tells the address it was made with is
    /// preferred, then hardware.
    pub fn of_hardware<'a>(links: &'a [Self], mac: &str) -> Option<&'a Self> {
        let same = links
            .iter()
            .filter(|link| link.hardware_mac() == mac && !link.is_upper())
            // A bridge or a bond has the address of a port.
            .filter(|link| links.iter().all(|port| port.controller != Some(link.index)));
        same.min_by_key(|link| {
            let is_virtual = !link.kind.is_empty();
            (is_virtual, link.permanent_mac.is_empty(), link.index)
        })
    }

    /// Whether it lies on top of another interface of its namespace, as a VLAN does.
    pub fn is_upper(&self) -> bool {
        self.parent.is_some() && self.parent_netns_id.is_none() && self.kind != "veth"
    }

    /// Whether it resolves the hardware addresses of neighbours, and answers their requests.
    /// The mode of an ipvlan interface is examined too, because it gets the flag `NOARP` only
    /// when it is set up.
    pub fn has_neighbours(&self) -> bool {
        let flags = LinkFlags::from_bits_retain(self.settings.flags);
        let is_routed = self.ipvlan_mode.is_some_and(|mode| mode != IPVLAN_MODE_L2);
        !flags.contains(LinkFlags::Noarp) && !is_routed
    }
}

/// An attribute that consists of others.
fn nested(kind: u16, attributes: &[DefaultNla]) -> DefaultNla {
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    DefaultNla::new(kind, bytes)
}

/// The message about these alternative names of a link; `None` when there are none.
fn altnames_message(index: u32, names: &[String]) -> Option<LinkMessage> {
    if names.is_empty() {
        return None;
    }
    let mut message = LinkMessage::default();
    message.header.index = index;
    let names = names
        .iter()
        .map(|name| Prop::Other(altname_attribute(name)))
        .collect();
    message.attributes.push(LinkAttribute::PropList(names));
    Some(message)
}

fn altname_attribute(name: &str) -> DefaultNla {
    let mut bytes = text::to_bytes(name);
    bytes.push(0);
    DefaultNla::new(IFLA_ALT_IFNAME, bytes)
}

/// The bytes of an Ethernet address written with colons or hyphens.
pub fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut bytes {
        let part = parts.next().filter(|p| p.len() == 2)?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(bytes)
}
