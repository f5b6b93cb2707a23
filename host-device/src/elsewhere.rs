//! Whether a device is in a namespace that cannot be looked into. A container that may
//! make namespaces can move its device on into one of them; it comes back when the last
//! of these has ended, and must not be forgotten until then.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use common::pci::PciAddress;

use crate::device::{Device, list};

/// Where the kernel lists the devices of every bus.
const BUSES: &str = "/sys/bus";

/// Whether another namespace than the host's has an interface of the device. What has no
/// device below it, such as a veth, ends with its namespace and is not looked for.
pub(crate) fn is_elsewhere(device: &Device) -> bool {
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
