//! Whether a device is in a namespace that cannot be examined. A container with the
//! permission to create namespaces can move its device into one of them. The kernel moves
//! the device to the host when the last of these has ended, and the record must be kept
//! until then.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use common::error::Result;
use common::kernel::netlink::{Link, Netlink};
use common::kernel::pci::PciAddress;

use crate::device::Device;
use crate::sysfs::list;

/// The directory with the devices of each bus.
const BUSES: &str = "/sys/bus";

/// Whether an interface of the device is in a namespace other than the host's. For a
/// veth, its other end on the host shows that; for other virtual interfaces it is
/// unknown, and the answer is false.
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

/// Whether the device's directory in sysfs has an interface that is not visible on the
/// host.
pub fn is_hardware_elsewhere(device: &Device) -> bool {
    let directories = directories(device).into_iter();
    directories
        .map(|d| d.join("net"))
        .any(|net| hides_any(&net))
}

/// The directories in sysfs that may be the device's.
fn directories(device: &Device) -> Vec<PathBuf> {
    let function = match device.bus_address.as_str() {
        // Records made on kernels before 5.14 have only the address of a PCI function.
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

/// Whether the directory has interfaces that it does not list. It lists those of one
/// namespace, but its link count includes all: one for each directory in it, and two
/// more.
fn hides_any(directory: &Path) -> bool {
    let (Ok(metadata), Ok(shown)) = (fs::metadata(directory), list(directory)) else {
        return false;
    };
    metadata.nlink() > shown.len() as u64 + 2
}
