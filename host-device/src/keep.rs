//! What a device has of the node's network: recorded before it moves, because the kernel
//! drops all of it then. An ADD that fails gives it back; with `keepAddresses`, it goes
//! with the device into the container, and DEL gives it back.

use common::cni::result::{AddResult, IpConfig, Route, SCOPE_LINK};
use common::error::Result;
use common::kernel::netlink::{KernelRoute, Netlink, NetworkState};

use crate::device::Device;

/// The kernel's number of the main routing table.
pub const MAIN: u32 = 254;
/// The kernel's number of the table in which it keeps a host's own addresses.
pub const LOCAL: u32 = 255;

/// The device with the addresses, routes and neighbours that it has now.
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

/// Adds to the result of the delegate what it does not have already.
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
    for route in own.flat_map(|route| ways_of(&route)) {
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

fn ways_of(route: &KernelRoute) -> Vec<Route> {
    let hops = route.next_hops.iter().map(|(_, gateway)| {
        let scope = match gateway {
            Some(_) => route.scope,
            // IPv6 has no scopes; without one a gateway would be looked for.
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
