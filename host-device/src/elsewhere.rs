//! Whether a device is in a namespace that cannot be looked into. A container that may
//! make namespaces can move its device on into one of them; it comes back when the last
//! of these has ended, and must not be forgotten until then.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use common::error::Result;
use common::kernel::netlink::{Link, Netlink};
use common::kernel::pci::PciAddress;

use crate::device::Device;
use crate::sysfs::list;

/// Where the kernel lists the devices of every bus.
const BUSES: &str = "/sys/bus";

/// Whether another namespace than the host's has an interface of the device. A veth
/// whose other end is on the host is seen from there; of other virtual interfaces
/// nothing is known.
///
/// # Errors
/// Code 999 when the kernel does not answer.
pub fn is_elsewhere(netlink: &mut Netlink, device: &Device) -> Result<bool> {
    if device.is_hardware() {
        return Ok(is_hardware_elsewhere(device));
    }
    let Some(peer) = device.peer_on_host() else {
        return Ok(false);
    };
    let peer = netlink.link_by_index(peer)?;
    let leads_away = |peer: Link| peer.parent_netns_id.is_some();
    Ok(peer
        .filter(|p| p.kind == device.kind)
        .is_some_and(leads_away))
}

/// Whether the device's directory in sysfs has an interface that it does not show.
pub fn is_hardware_elsewhere(device: &Device) -> bool {
    let directories = directories(device).into_iter();
    directories
        .map(|d| d.join("net"))
        .any(|net| hides_any(&net))
}

/// Where the device may be in sysfs.
fn directories(device: &Device) -> Vec<PathBuf> {
    let function = match device.bus_address.as_str() {
        // A kernel before 5.14 has only told the address of a PCI function.
        "" => &device.pci_id,
        address => address,
    };
    if let Some(address) = PciAddress::new(function) {
        return vec![address.directory()];
    }
    let of_bus = |bus: &String| {
        let devices = Path::new(BUSES).join(bus).join("devices");
        devices.join(&device.bus_address)
    };
    let buses = list(Path::new(BUSES)).unwrap_or_default();
    buses.iter().map(of_bus).collect()
}

/// Whether the directory has interfaces that it does not show. It shows those of one
/// namespace and counts all: a link for each directory in it, and two more.
fn hides_any(directory: &Path) -> bool {
    let (Ok(metadata), Ok(shown)) = (fs::metadata(directory), list(directory)) else {
        return false;
    };
    metadata.nlink() > shown.len() as u64 + 2
}
