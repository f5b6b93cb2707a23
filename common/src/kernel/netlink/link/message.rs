//! Converts the kernel's message about a link.

use netlink_packet_core::Emitable;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, InfoData, InfoIpVlan, InfoIpVtap, LinkAttribute,
    LinkFlags, LinkInfo, LinkLayerType, Prop,
};

use super::{Link, Parameters, SETTABLE, Settings};

/// The link that a message is about; `None` for any other message.
pub(in crate::kernel::netlink) fn to_link(message: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = message else {
        return None;
    };
    let mut link = Link {
        index: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        loopback: message.header.flags.contains(LinkFlags::Loopback),
        ethernet: message.header.link_layer_type == LinkLayerType::Ether,
        has_carrier: message.header.flags.contains(LinkFlags::LowerUp),
        running: message.header.flags.contains(LinkFlags::Running),
        settings: Settings {
            flags: (message.header.flags & SETTABLE).bits(),
            ..Settings::default()
        },
        ..Link::default()
    };
    for attribute in message.attributes {
        link.take(attribute);
    }
    Some(link)
}

impl Link {
    fn take(&mut self, attribute: LinkAttribute) {
        match attribute {
            LinkAttribute::IfName(name) => self.name = name,
            LinkAttribute::IfAlias(alias) => self.alias = alias,
            LinkAttribute::Address(bytes) => self.mac = format_mac(&bytes),
            LinkAttribute::PermAddress(bytes) => self.permanent_mac = format_mac(&bytes),
            LinkAttribute::Mtu(mtu) => self.mtu = mtu,
            LinkAttribute::TxQueueLen(length) => self.settings.tx_queue_length = length,
            LinkAttribute::Group(group) => self.settings.group = group,
            LinkAttribute::Mode(mode) => self.settings.link_mode = Some(mode.into()),
            LinkAttribute::Link(index) => self.parent = Some(index),
            LinkAttribute::Controller(index) => self.controller = Some(index),
            LinkAttribute::LinkNetNsId(id) => self.parent_netns_id = Some(id),
            LinkAttribute::ParentDevName(name) => self.bus_address = name,
            LinkAttribute::PropList(props) => {
                self.altnames
                    .extend(props.into_iter().filter_map(to_altname));
            }
            LinkAttribute::LinkInfo(infos) => {
                infos.into_iter().for_each(|info| self.take_info(info))
            }
            LinkAttribute::AfSpecUnspec(families) => {
                let parameters = &mut self.parameters;
                families
                    .into_iter()
                    .for_each(|family| parameters.take(family));
            }
            other => self.offload.take(&other),
        }
    }

    fn take_info(&mut self, info: LinkInfo) {
        match info {
            LinkInfo::Kind(kind) => self.kind = kind.to_string(),
            LinkInfo::PortKind(kind) => self.port_kind = kind.to_string(),
            LinkInfo::Data(InfoData::IpVlan(data)) => {
                for item in data {
                    match item {
                        InfoIpVlan::Mode(mode) => self.ipvlan_mode = Some(mode.into()),
                        InfoIpVlan::Flags(flags) => self.ipvlan_flags = Some(flags.bits()),
                        _ => {}
                    }
                }
            }
            LinkInfo::Data(InfoData::IpVtap(data)) => {
                for item in data {
                    match item {
                        InfoIpVtap::Mode(mode) => self.ipvlan_mode = Some(mode.into()),
                        InfoIpVtap::Flags(flags) => self.ipvlan_flags = Some(flags.bits()),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
}

impl Parameters {
    fn take(&mut self, family: AfSpecUnspec) {
        match family {
            AfSpecUnspec::Inet(parts) => {
                self.ipv4.extend(parts.iter().flat_map(|part| match part {
                    AfSpecInet::DevConf(conf) => numbers(conf),
                    _ => Vec::new(),
                }));
            }
            AfSpecUnspec::Inet6(parts) => {
                self.ipv6.extend(parts.iter().flat_map(|part| match part {
                    AfSpecInet6::DevConf(conf) => numbers(conf),
                    _ => Vec::new(),
                }));
            }
            _ => {}
        }
    }
}

/// The numbers of a block of parameters.
fn numbers(conf: &impl Emitable) -> Vec<i32> {
    let mut bytes = vec![0; conf.buffer_len()];
    conf.emit(&mut bytes);
    let (numbers, _) = bytes.as_chunks();
    numbers
        .iter()
        .map(|bytes| i32::from_ne_bytes(*bytes))
        .collect()
}

fn to_altname(prop: Prop) -> Option<String> {
    match prop {
        Prop::AltIfName(name) => Some(name),
        _ => None,
    }
}

/// A hardware address in lower case with colons.
fn format_mac(bytes: &[u8]) -> String {
    let parts: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
    parts.join(":")
}
