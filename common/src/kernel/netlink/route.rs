//! Routes, with every attribute that a CNI result can carry.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric,
    RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::address::family;
use super::{Change, Netlink};
use crate::address::Cidr;
use crate::error::{Error, Result};

/// The type of a message about a route. Source: `linux/rtnetlink.h`.
const RTM_NEWROUTE: u16 = 24;

/// The unspecified address of each family.
pub(super) const FAMILIES: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    IpAddr::V6(Ipv6Addr::UNSPECIFIED),
];

/// A unicast route as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelRoute {
    /// The destination.
    pub dst: Cidr,
    /// The next hops: the index of the link and, unless the destination is on the link, the
    /// gateway.
    pub next_hops: Vec<(u32, Option<IpAddr>)>,
    /// The routing table.
    pub table: u32,
    /// The metric; 0 when not set.
    pub priority: u32,
    /// The path's MTU in bytes; 0 when not set.
    pub mtu: u32,
    /// The TCP segment size to advertise in bytes; 0 when not set.
    pub advmss: u32,
    /// The scope, as the kernel numbers it: 0 universe, 253 link, 254 host; always 0 for IPv6.
    pub scope: u8,
    /// Whether the kernel has created it by itself, for an address.
    pub from_kernel: bool,
    /// Whether it is from a router advertisement of IPv6.
    pub is_advertised: bool,
}

/// A unicast route to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRoute {
    /// The destination; the kernel refuses host bits.
    pub dst: Cidr,
    /// The next hop; none for a destination on the link itself.
    pub gateway: Option<IpAddr>,
    /// Whether the gateway is on the link although no other route leads to it.
    pub is_gateway_on_link: bool,
    /// The routing table; the main table when not set.
    pub table: Option<u32>,
    /// The metric; 0 means not set.
    pub priority: u32,
    /// The path's MTU in bytes; 0 means not set.
    pub mtu: u32,
    /// The TCP segment size to advertise in bytes; 0 means not set.
    pub advmss: u32,
    /// The scope, as the kernel numbers it; universe when not set.
    pub scope: Option<u8>,
}

impl Change {
    /// Adds `route` through the link with this index. A second route to the same destination
    /// through another gateway is accepted, as with the Go plugins: the request does not have
    /// the flag `NLM_F_EXCL`.
    pub fn add_route(index: u32, route: &NewRoute) -> Self {
        let NewRoute { dst, gateway, .. } = *route;
        let table = table_or_main(route.table);
        let mut message = RouteMessage::default();
        message.header.address_family = family(dst.address());
        message.header.destination_prefix_length = dst.prefix();
        // The header has one byte for the table; a larger number goes into the attribute alone.
        message.header.table = u8::try_from(table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
        message.header.protocol = RouteProtocol::Boot;
        message.header.scope = route.scope.map_or(RouteScope::Universe, RouteScope::from);
        message.header.kind = RouteType::Unicast;
        if gateway.is_some() && route.is_gateway_on_link {
            message.header.flags = RouteFlags::Onlink;
        }
        let attributes = &mut message.attributes;
        attributes.push(RouteAttribute::Destination(dst.address().into()));
        attributes.push(RouteAttribute::Oif(index));
        attributes.push(RouteAttribute::Table(table));
        attributes.extend(gateway.map(|gw| RouteAttribute::Gateway(gw.into())));
        if route.priority != 0 {
            attributes.push(RouteAttribute::Priority(route.priority));
        }
        let metrics: Vec<RouteMetric> = [
            (route.mtu != 0).then_some(RouteMetric::Mtu(route.mtu)),
            (route.advmss != 0).then_some(RouteMetric::Advmss(route.advmss)),
        ]
        .into_iter()
        .flatten()
        .collect();
        if !metrics.is_empty() {
            attributes.push(RouteAttribute::Metrics(metrics));
        }
        let via = gateway.map(|gw| format!(" via {gw}")).unwrap_or_default();
        Self::new(
            RouteNetlinkMessage::NewRoute(message),
            NLM_F_CREATE,
            format!("failed to add route '{dst}{via} table {table}'"),
        )
    }
}

impl Netlink {
    /// All unicast routes of both families, in every table.
    ///
    /// # Errors
    /// Code 999 when the kernel does not answer.
    pub fn routes(&mut self) -> Result<Vec<KernelRoute>> {
        let mut routes = Vec::new();
        for any in FAMILIES {
            let messages = self.dump_routes(any)?;
            routes.extend(messages.iter().filter_map(|m| to_route(m, any)));
        }
        Ok(routes)
    }

    /// The tables that have a route of any kind, in either family.
    ///
    /// # Errors
    /// Code 999 when the kernel does not answer.
    pub fn route_tables(&mut self) -> Result<BTreeSet<u32>> {
        let mut tables = BTreeSet::new();
        for any in FAMILIES {
            tables.extend(self.dump_routes(any)?.iter().map(table_of));
        }
        Ok(tables)
    }

    fn dump_routes(&mut self, any: IpAddr) -> Result<Vec<RouteMessage>> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(any);
        let replies = self
            .dump(&RouteNetlinkMessage::GetRoute(message))
            .map_err(|cause| Error::internal("failed to list the routes").because(&cause))?;
        let route = |reply| match reply {
            RouteNetlinkMessage::NewRoute(message) => Some(message),
            _ => None,
        };
        Ok(replies.into_iter().filter_map(route).collect())
    }
}

fn table_of(message: &RouteMessage) -> u32 {
    let attribute = message.attributes.iter().find_map(|a| match a {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    attribute.unwrap_or(u32::from(message.header.table))
}

/// The unicast route of a message, from the bytes behind its header.
pub(super) fn to_route_of_bytes(bytes: &[u8]) -> Option<KernelRoute> {
    let RouteNetlinkMessage::NewRoute(message) = super::parsed(RTM_NEWROUTE, bytes)? else {
        return None;
    };
    let [v4, v6] = FAMILIES;
    let any = match message.header.address_family {
        AddressFamily::Inet6 => v6,
        _ => v4,
    };
    to_route(&message, any)
}

pub(super) fn to_route(message: &RouteMessage, any: IpAddr) -> Option<KernelRoute> {
    if message.header.kind != RouteType::Unicast {
        return None;
    }
    let mut dst = any;
    let (mut oif, mut gateway) = (None, None);
    let mut route = KernelRoute {
        dst: Cidr::host(any),
        next_hops: Vec::new(),
        table: table_of(message),
        priority: 0,
        mtu: 0,
        advmss: 0,
        scope: message.header.scope.into(),
        from_kernel: message.header.protocol == RouteProtocol::Kernel,
        is_advertised: message.header.protocol == RouteProtocol::Ra,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => dst = to_ip(address)?,
            RouteAttribute::Oif(index) => oif = Some(*index),
            RouteAttribute::Gateway(address) => gateway = to_ip(address),
            RouteAttribute::Priority(priority) => route.priority = *priority,
            RouteAttribute::Metrics(metrics) => route.take_metrics(metrics),
            RouteAttribute::MultiPath(hops) => route.next_hops.extend(hops.iter().map(|hop| {
                let gateway = hop.attributes.iter().find_map(|a| match a {
                    RouteAttribute::Gateway(address) => to_ip(address),
                    _ => None,
                });
                (hop.interface_index, gateway)
            })),
            _ => {}
        }
    }
    route.next_hops.extend(oif.map(|index| (index, gateway)));
    route.dst = Cidr::new(dst, message.header.destination_prefix_length)?;
    Some(route)
}

impl KernelRoute {
    fn take_metrics(&mut self, metrics: &[RouteMetric]) {
        for metric in metrics {
            match metric {
                RouteMetric::Mtu(mtu) => self.mtu = *mtu,
                RouteMetric::Advmss(advmss) => self.advmss = *advmss,
                _ => {}
            }
        }
    }
}

/// The number of `table`; that of the main table when not set.
pub fn table_or_main(table: Option<u32>) -> u32 {
    table.unwrap_or(u32::from(RouteHeader::RT_TABLE_MAIN))
}

fn to_ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}
