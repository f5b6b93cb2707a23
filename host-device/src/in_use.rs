//! Whether the node or other interfaces use a device: it has a default route or routes in
//! other tables, is a port of a bridge or a bond, or has an interface on top of it, such as
//! those of an ipvlan network's pods. Such a device is refused before anything is changed,
//! in every mode and for every key that selects it, unless `allowInUse` is true.

use std::path::{Path, PathBuf};

use common::error::{Error, Errors, Result};
use common::files::file::read_parameter;
use common::kernel::netlink::{KernelRoute, Link, Netlink};
use common::records::{Attachment, Records};
use serde::Deserialize;

use crate::device::{Controller, Device};
use crate::keep::{LOCAL, MAIN};
use crate::sysfs::list;

/// The directory with the interfaces of the node.
const INTERFACES: &str = "/sys/class/net";
/// The start of the name by which the directory of an interface lists those on top of it.
const UPPER: &str = "upper_";

/// A use of a device: the message and the details of the error.
struct Use {
    what: String,
    details: String,
}

/// The part of an ipvlan attachment's record that says on which device the interface is.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct IpvlanDevice {
    master_index: u32,
    link_in_container: bool,
    /// Set when the index is one of a namespace that is neither the node's nor the
    /// container's.
    master_netns: Option<i32>,
}

impl IpvlanDevice {
    /// The mark of a record, as ipvlan computes it: the index of a device on the node.
    fn mark(&self) -> Option<u64> {
        let is_on_node = !self.link_in_container && self.master_netns.is_none();
        is_on_node.then(|| self.master_index.into())
    }
}

/// Makes sure that neither the node nor another interface uses the device. `refusal` is the
/// start of the message.
///
/// # Errors
/// Code 7 naming the use, 999 or 5 when that cannot be determined.
pub fn require_spare(netlink: &mut Netlink, device: &Device, refusal: &str) -> Result<()> {
    let mut found = upper(netlink, device)?;
    if found.is_none() {
        found = route(&netlink.routes()?, device);
    }
    if found.is_none() {
        found = attachment(device)?;
    }
    match found {
        None => Ok(()),
        Some(Use { what, details }) => Err(Error::config(format!("{refusal}: {what}"))
            .with_details(format!(
                "{details}; \"allowInUse\": true takes it all the same"
            ))),
    }
}

/// The interface that the device is a port of.
///
/// # Errors
/// Code 999 when the kernel does not answer.
pub fn controller(netlink: &mut Netlink, device: &Device) -> Result<Option<Controller>> {
    let Some(link) = netlink.link_by_index(device.index)? else {
        return Ok(None);
    };
    let Some(index) = link.controller else {
        return Ok(None);
    };
    let controller = netlink.link_by_index(index)?;
    Ok(controller.map(|Link { name, kind, .. }| Controller { name, kind }))
}

/// An interface on top of the device: its child, or the one that it is a port of.
fn upper(netlink: &mut Netlink, device: &Device) -> Result<Option<Use>> {
    let name = &device.name;
    Ok(uppers(netlink, device)?
        .into_iter()
        .next()
        .map(|upper| Use {
            what: format!("interface {upper:?} is built on {name:?}"),
            details: format!("{upper:?} is above {name:?} on this node"),
        }))
}

/// The interfaces on top of the device, on the node. sysfs lists those of one device. If it
/// shows another namespace, all links are examined.
fn uppers(netlink: &mut Netlink, device: &Device) -> Result<Vec<String>> {
    if let Some(directory) = directory(device) {
        let entries = list(&directory)
            .map_err(|cause| Error::io(format!("failed to list {directory:?}"), &cause))?;
        let uppers = entries.iter().filter_map(|entry| entry.strip_prefix(UPPER));
        return Ok(uppers.map(str::to_owned).collect());
    }
    let links = netlink.links()?;
    let own = links.iter().find(|link| link.index == device.index);
    let controller = own.and_then(|link| link.controller);
    let is_above = |link: &&Link| {
        // A veth's parent is its other end, not an interface below it.
        let is_child = link.parent == Some(device.index) && link.kind != "veth";
        is_child && link.parent_netns_id.is_none() || controller == Some(link.index)
    };
    Ok(links
        .iter()
        .filter(is_above)
        .map(|link| link.name.clone())
        .collect())
}

/// The directory of the device, if sysfs shows its namespace.
fn directory(device: &Device) -> Option<PathBuf> {
    let directory = Path::new(INTERFACES).join(&device.name);
    let index = read_parameter(&directory.join("ifindex")).ok()?;
    (index == device.index.to_string()).then_some(directory)
}

/// A route through the device that the node needs: a default route in any table, or any
/// route in a table other than `main` and `local`.
fn route(routes: &[KernelRoute], device: &Device) -> Option<Use> {
    let name = &device.name;
    let is_through = |route: &&KernelRoute| {
        let mut hops = route.next_hops.iter();
        !route.from_kernel && hops.any(|(index, _)| *index == device.index)
    };
    let is_needed = |route: &&KernelRoute| match route.dst.is_default() {
        true => !is_spare_router(routes, route, device.index),
        false => route.table != MAIN && route.table != LOCAL,
    };
    let route = routes.iter().filter(is_through).find(is_needed)?;
    let what = match route.dst.is_default() {
        true => format!("{name:?} carries a default route of this node"),
        false => format!("{name:?} carries a route of table {}", route.table),
    };
    let hop = route
        .next_hops
        .iter()
        .find(|(index, _)| *index == device.index);
    let via = hop.and_then(|(_, gateway)| *gateway);
    let via = via
        .map(|gateway| format!(" via {gateway}"))
        .unwrap_or_default();
    let details = format!("{}{via} in table {}", route.dst, route.table);
    Some(Use { what, details })
}

/// Whether this default route is from a router advertisement and the node has another
/// default route. Then the node does not need it, and the kernel learns it again when the
/// device is back.
fn is_spare_router(routes: &[KernelRoute], route: &KernelRoute, index: u32) -> bool {
    let is_other_way = |other: &KernelRoute| {
        let is_default = other.dst == route.dst && other.table == route.table;
        is_default && other.next_hops.iter().any(|(hop, _)| *hop != index)
    };
    route.is_advertised && routes.iter().any(is_other_way)
}

/// An ipvlan attachment on the device. sysfs does not show interfaces on top of the device
/// in other namespaces; the records of our ipvlan plugin do. An unreadable record is an
/// error, because it may be about this device.
fn attachment(device: &Device) -> Result<Option<Use>> {
    let mut unreadable = Errors::default();
    let own = Some(u64::from(device.index));
    let mark = |record: &Attachment<IpvlanDevice>| record.device.mark();
    let is_use = |record: &Attachment<IpvlanDevice>| {
        let upper = &record.device;
        Ok(upper.mark() == own && record.is_alive()?)
    };
    let found = Records::of("ipvlan").find_marked((mark, own), is_use, &mut unreadable)?;
    let Some(record) = found else {
        return unreadable.into_result().map(|()| None);
    };
    let (container, name) = (&record.container_id, &device.name);
    let (ifname, network) = (record.ifname.as_str(), &record.network);
    Ok(Some(Use {
        what: format!("container {container} has an ipvlan interface on {name:?}"),
        details: format!("{ifname:?} of network {network:?}"),
    }))
}
