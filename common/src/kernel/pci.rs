//! PCI addresses, and the function behind a network interface. Nothing here changes a
//! device.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::kernel::netlink::Link;

/// Where the kernel lists the functions of the PCI bus.
const PCI_DEVICES: &str = "/sys/bus/pci/devices";
/// Where the kernel lists the network interfaces of the namespace.
const NETWORK_INTERFACES: &str = "/sys/class/net";

/// The address of a PCI function, such as `0000:00:06.0`, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PciAddress(String);

impl PciAddress {
    /// The address, if `text` is one: a domain of four or more hexadecimal digits
    /// (that of a VMD controller has five), bus, device and function.
    pub fn new(text: &str) -> Option<Self> {
        let (domain, rest) = text.split_once(':')?;
        let (bus, rest) = rest.split_once(':')?;
        let (device, function) = rest.split_once('.')?;
        let is_hex = |part: &str| part.bytes().all(|b| b.is_ascii_hexdigit());
        let valid = (4..=8).contains(&domain.len())
            && bus.len() == 2
            && device.len() == 2
            && [domain, bus, device].into_iter().all(is_hex)
            && matches!(function.as_bytes(), [b'0'..=b'7']);
        valid.then(|| Self(text.to_ascii_lowercase()))
    }

    /// The PCI function behind `link`, which is in the namespace of the process: its own
    /// device, or that of a virtio device. Kernels before 5.14 show it in sysfs only.
    /// `None` when there is none.
    pub fn of_link(link: &Link) -> Option<Self> {
        if let Some(address) = Self::new(&link.bus_address) {
            return Some(address);
        }
        let directory = device_directory(&link.name);
        let device = directory.read_link().ok()?;
        let name = device.file_name()?.to_string_lossy();
        if name.starts_with("virtio") {
            let device = directory.canonicalize().ok()?;
            let function = device.parent()?.file_name()?;
            return Self::new(&function.to_string_lossy());
        }
        Self::new(&name)
    }

    /// The address as the kernel writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The function's directory in sysfs.
    pub fn directory(&self) -> PathBuf {
        Path::new(PCI_DEVICES).join(&self.0)
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The symbolic link in sysfs to the device behind the interface `name`.
pub fn device_directory(name: &str) -> PathBuf {
    Path::new(NETWORK_INTERFACES).join(name).join("device")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pci_address_has_the_form_of_the_kernel() {
        for right in ["0000:00:06.0", "10000:e1:00.0", "0000:af:1F.7"] {
            assert!(PciAddress::new(right).is_some(), "{right}");
        }
        for wrong in [
            "",
            "00:06.0",
            "0000:00:06",
            "0000:00:06.8",
            "0000:00:06.00",
            "0000:0g:06.0",
            "0000:00:06.0/",
            "../../../0000:00:06.0",
            "000:00:06.0",
            "0000:00:6.0",
            " 0000:00:06.0",
        ] {
            assert_eq!(PciAddress::new(wrong), None, "{wrong}");
        }
    }
}
