//! The master: finds the interface that the configuration names, verifies that it can have
//! the ipvlan interface, and explains why the kernel refuses it.

use std::io;

use common::error::{Error, Result};
use common::kernel::netlink::{Link, LinkChange, Netlink};
use common::kernel::pci::PciAddress;
use common::say;
use nix::libc::{EBUSY, EOPNOTSUPP};

use crate::config::{Master, NetConf};

/// Finds the master, and makes sure that it can have an interface with this configuration.
///
/// # Errors
/// Code 7 naming the master when it is missing, a loopback interface, not an Ethernet
/// device, down although `masterUp` is false, or has a smaller MTU than the configured one.
pub fn find(conf: &NetConf, netlink: &mut Netlink) -> Result<Link> {
    let master = match &conf.master {
        Master::Named(name) => by_name(name, netlink)?,
        Master::Selected(selector) => selector.find(netlink)?,
        Master::DefaultRoute => by_default_route(netlink)?,
    };
    let name = &master.name;
    let refuse = |why: &str| Err(Error::config(format!("master {name:?} is {why}")));
    if master.loopback {
        return refuse("a loopback interface");
    }
    if !master.ethernet {
        return refuse("not an Ethernet device, and ipvlan needs one");
    }
    if !master.up && !conf.master_up {
        return refuse("down");
    }
    match conf.mtu {
        Some(mtu) if mtu > master.mtu => Err(Error::config(format!(
            "invalid MTU {mtu}, master {name:?} has {}",
            master.mtu
        ))),
        _ => Ok(master),
    }
}

/// Makes sure that the kernel has ipvlan.
///
/// # Errors
/// Code 7 when it does not have it.
pub fn require_ipvlan(netlink: &mut Netlink) -> Result<()> {
    match netlink.has_ipvlan()? {
        true => Ok(()),
        false => Err(no_ipvlan(EOPNOTSUPP)),
    }
}

/// Sets the master up if it is down, and logs that: the operating system may not do so for
/// an ENI that was attached after the boot. DEL does not set it down, because other
/// interfaces may use it.
///
/// # Errors
/// Code 999 with the kernel's answer.
pub fn set_up(master: &Link, netlink: &mut Netlink) -> Result<()> {
    if master.up {
        return Ok(());
    }
    let up = LinkChange {
        up: Some(true),
        ..LinkChange::default()
    };
    let what = || format!("failed to set master {:?} up", master.name);
    netlink.change_link(master.index, up, what)?;
    say!("master {:?} was down and is set up", master.name);
    Ok(())
}

/// The PCI address of the master, for the result; empty when it is not a PCI device. sysfs
/// shows the interfaces of the node, so for a master inside the container only the address
/// from netlink is used.
pub fn pci_id(master: &Link, in_container: bool) -> String {
    let address = match in_container {
        true => PciAddress::new(&master.bus_address),
        false => PciAddress::of_link(master),
    };
    address.map_or(String::new(), |address| address.to_string())
}

/// The interface with this name or alternative name.
///
/// # Errors
/// Code 7 when it is missing.
pub fn by_name(name: &str, netlink: &mut Netlink) -> Result<Link> {
    let found = netlink.link_by_name(name)?;
    found.ok_or_else(|| {
        Error::config(format!("failed to lookup master {name:?}"))
            .with_details("Link not found")
            .not_found()
    })
}

/// The link of the default route in the main table.
fn by_default_route(netlink: &mut Netlink) -> Result<Link> {
    const MAIN: u32 = 254;
    let routes = netlink.routes()?;
    let defaults = routes
        .iter()
        .filter(|route| route.dst.is_default() && route.table == MAIN);
    let index = defaults
        .flat_map(|route| &route.next_hops)
        .map(|(index, _)| *index)
        .next();
    let link = match index {
        Some(index) => netlink.link_by_index(index)?,
        None => None,
    };
    link.ok_or_else(|| Error::config("no default route interface found"))
}

/// Explains why the kernel refuses an ipvlan interface on the master. `macvlans` describes
/// the macvlan interfaces on the master, in case they are the reason for EBUSY.
pub fn explain(error: Error, master: &Link, macvlans: impl FnOnce() -> String) -> Error {
    match error.errno() {
        Some(EOPNOTSUPP) => no_ipvlan(EOPNOTSUPP),
        Some(EBUSY) => {
            let why = match master.port_kind.as_str() {
                "" => macvlans(),
                kind => format!("it is a port of a {kind}"),
            };
            Error::config(format!(
                "master {:?} cannot have ipvlan interfaces: {why}",
                master.name
            ))
            .because(&io::Error::from_raw_os_error(EBUSY))
        }
        _ => error,
    }
}

fn no_ipvlan(errno: i32) -> Error {
    Error::config("the kernel of this node has no ipvlan: its module \"ipvlan\" cannot be loaded")
        .because(&io::Error::from_raw_os_error(errno))
}
