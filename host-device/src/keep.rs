//! The addresses, routes and neighbours of a device, recorded before it moves, because
//! the kernel removes them then. An ADD that fails restores them. With `keepAddresses`
//! the device gets them in the container, too, and DEL restores them.

use common::cni::result::{AddResult, IpConfig, Route, SCOPE_LINK};
use common::error::Result;
use common::kernel::netlink::{KernelRoute, Netlink, NetworkState};

use crate::device::Device;

/// The kernel's number of the main routing table.
pub const MAIN: u32 = 254;
/// The kernel's number of the table with a host's own addresses.
pub const LOCAL: u32 = 255;

/// The device with its present addresses, routes and neighbours.
///
/// # Errors
/// Code 999 when the kernel does not answer.
pub fn plan(netlink: &mut Netlink, device: Device) -> Result<Device> {
    if !device.is_owed() {
        return Ok(device);
    }
    let network = netlink.network_state(device.index, &device.name, device.up)?;
    Ok(Device { network, ..device })
}

/// Adds the addresses and routes of `network` to the result of the delegate, except those
/// that it has already.
pub fn add_to(network: &NetworkState, result: &mut AddResult) {
    let global = network.addresses().into_iter().filter(|a| a.is_global);
    for address in global.map(|address| address.cidr) {
        if !result.ips.iter().any(|ip| ip.address == address) {
            result.ips.push(IpConfig {
                address,
                gateway: None,
                interface: None,
            });
        }
    }
    let own = network.routes().into_iter();
    let own = own.filter(|r| !r.from_kernel && r.table != LOCAL);
    for route in own.flat_map(|route| routes_by_hop(&route)) {
        let is_same = |other: &Route| {
            other.dst.network() == route.dst
                && other.next_hop(&result.ips) == route.gw
                && other.table.unwrap_or(MAIN) == route.table.unwrap_or(MAIN)
                && other.priority == route.priority
        };
        if !result.routes.iter().any(is_same) {
            result.routes.push(route);
        }
    }
}

fn routes_by_hop(route: &KernelRoute) -> Vec<Route> {
    let hops = route.next_hops.iter().map(|(_, gateway)| {
        let scope = match gateway {
            Some(_) => route.scope,
            // IPv6 has no scopes. Without one, the result would mean the default gateway.
            None => route.scope.max(SCOPE_LINK),
        };
        Route {
            dst: route.dst,
            gw: *gateway,
            mtu: route.mtu,
            advmss: route.advmss,
            priority: route.priority,
            table: (route.table != MAIN).then_some(route.table),
            scope: (scope != 0).then_some(scope),
        }
    });
    hops.collect()
}
