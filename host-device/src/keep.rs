//! `keepAddresses`: the addresses and routes that a device has on the host go with it
//! into the container, and back. The kernel drops them whenever a device moves.

use common::address::Cidr;
use common::error::{Error, Result};
use common::netlink::{Dad, KernelRoute, Link, Netlink};
use common::result::{AddResult, IpConfig, Route, SCOPE_LINK};
use serde::{Deserialize, Serialize};

use crate::device::{Device, Mode};

/// The kernel's number of the main routing table.
pub(crate) const MAIN: u32 = 254;
/// The kernel's number of the table in which it keeps a host's own addresses.
pub(crate) const LOCAL: u32 = 255;

/// What a device had on the host, recorded before it moves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Kept {
    /// Its addresses of global scope, in the order in which the kernel has them.
    pub(crate) addresses: Vec<Cidr>,
    /// The routes through it that the kernel has not made by itself; those without a
    /// gateway come first, because the others may lead over them.
    pub(crate) routes: Vec<Route>,
}

/// The device with the addresses and routes that it has now.
///
/// # Errors
/// Code 999 when the kernel does not answer.
pub(crate) fn plan(netlink: &mut Netlink, device: Device) -> Result<Device> {
    if device.mode == Mode::Dpdk && device.binding.is_none() {
        return Ok(device);
    }
    let present = netlink.addresses(device.index)?;
    let global = present.iter().filter(|address| address.is_global);
    let addresses = global.map(|address| address.cidr).collect();
    let all = netlink.routes()?;
    let own = all.iter().filter(|r| !r.from_kernel && r.table != LOCAL);
    let mut routes: Vec<Route> = own.flat_map(|r| routes_through(r, device.index)).collect();
    routes.sort_by_key(|route| route.gw.is_some());
    Ok(Device {
        kept: Kept { addresses, routes },
        ..device
    })
}

/// The ways of `route`, when all of them are through the link with this index.
fn routes_through(route: &KernelRoute, index: u32) -> Vec<Route> {
    if route.next_hops.iter().any(|(hop, _)| *hop != index) {
        return Vec::new();
    }
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

impl Kept {
    /// Whether there is nothing.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds to the result of the delegate what it does not have already.
    pub(crate) fn add_to(&self, result: &mut AddResult) {
        for address in &self.addresses {
            if !result.ips.iter().any(|ip| ip.address == *address) {
                result.ips.push(IpConfig {
                    address: *address,
                    gateway: None,
                    interface: None,
                });
            }
        }
        for route in &self.routes {
            let is_same = |other: &Route| {
                other.dst.network() == route.dst
                    && other.next_hop(&result.ips) == route.gw
                    && other.table.unwrap_or(MAIN) == route.table.unwrap_or(MAIN)
                    && other.priority == route.priority
            };
            if !result.routes.iter().any(is_same) {
                result.routes.push(route.clone());
            }
        }
    }

    /// Gives the link `name` on the host what it lacks of this. What the kernel
    /// refuses is only reported, as with every other property of a device.
    pub(crate) fn restore(&self, netlink: &mut Netlink, index: u32, name: &str) {
        if self.is_empty() {
            return;
        }
        if let Err(error) = self.try_restore(netlink, index, name) {
            eprintln!("restoring the addresses of {name:?}: {error}");
        }
    }

    fn try_restore(&self, netlink: &mut Netlink, index: u32, name: &str) -> Result<()> {
        let link = Link {
            index,
            name: name.to_owned(),
            ..Link::default()
        };
        let present: Vec<Cidr> = netlink.addresses(index)?.iter().map(|a| a.cidr).collect();
        for address in self.addresses.iter().filter(|a| !present.contains(a)) {
            report(netlink.add_address(&link, *address, Dad::Off));
        }
        let present: Vec<Route> = netlink
            .routes()?
            .iter()
            .flat_map(|route| routes_through(route, index))
            .collect();
        for route in self.routes.iter().filter(|r| !present.contains(r)) {
            report(netlink.add_route(index, route, route.gw));
        }
        Ok(())
    }
}

/// Reports an error that does not keep the host from having the device.
fn report(outcome: Result<(), Error>) {
    if let Err(error) = outcome {
        eprintln!("{error}");
    }
}
