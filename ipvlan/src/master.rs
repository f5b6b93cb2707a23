//! The master: which interface the configuration means, whether it can carry what is asked
//! for, and why the kernel refuses it.

use std::io;

use common::error::{Error, Result};
use common::kernel::netlink::{Link, LinkChange, Netlink};
use common::kernel::pci::PciAddress;
use common::say;
use nix::libc::{EBUSY, EOPNOTSUPP};

use crate::config::{Master, NetConf};

/// Finds the master and makes sure that it can carry what the configuration asks.
///
/// # Errors
/// Code 7 naming the master when it is missing, a loopback, not an Ethernet device, down and
/// to be left so, or has a smaller MTU than the one asked for.
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
/// Code 7 when it has not.
pub fn require_ipvlan(netlink: &mut Netlink) -> Result<()> {
    match netlink.has_ipvlan()? {
        true => Ok(()),
        false => Err(no_ipvlan(EOPNOTSUPP)),
    }
}

/// Sets the master up where it is not, and says so: nobody else may have done it for an
/// ENI that was attached late. It stays up, because others may use it by then.
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

/// The PCI address of the master, for the result; empty when it is not a PCI device.
/// sysfs shows the node's interfaces, so of a master that is in the container only
/// counts what netlink tells.
pub fn pci_id(master: &Link, in_container: bool) -> String {
    let address = match in_container {
        true => PciAddress::new(&master.bus_address),
        false => PciAddress::of_link(master),
    };
    address.map_or(String::new(), |address| address.to_string())
}

pub fn by_name(name: &str, netlink: &mut Netlink) -> Result<Link> {
    let found = netlink.link_by_name(name)?;
    found.ok_or_else(|| {
        Error::config(format!("failed to lookup master {name:?}"))
            .with_details("Link not found")
            .not_found()
    })
}

/// The link that the main table's default route leaves through.
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

/// Says why the kernel refuses an ipvlan interface on the master. `macvlans` names what it
/// has of these, where that is what keeps it busy.
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
