//! PCI devices, as the kernel shows them below `/sys`.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where every PCI device has a directory with its address as name.
const DEVICES: &str = "/sys/bus/pci/devices";

/// The address of a PCI function, such as `0000:00:06.0`, in lower case. It is safe
/// as a part of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PciAddress(String);

impl PciAddress {
    /// The address that `text` is, or nothing when it is none.
    pub fn new(text: &str) -> Option<Self> {
        let (domain, rest) = text.split_once(':')?;
        let (bus, rest) = rest.split_once(':')?;
        let (device, function) = rest.split_once('.')?;
        let is_hex = |part: &str, lengths: std::ops::RangeInclusive<usize>| {
            lengths.contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit())
        };
        let valid = is_hex(domain, 4..=8)
            && is_hex(bus, 2..=2)
            && is_hex(device, 2..=2)
            && is_hex(function, 1..=1);
        valid.then(|| Self(text.to_ascii_lowercase()))
    }

    /// The device's directory below `/sys`; it need not exist.
    pub fn directory(&self) -> PathBuf {
        Path::new(DEVICES).join(&self.0)
    }

    /// The names of the device's network interfaces that this namespace has. Those of
    /// a virtio device are one level below it.
    ///
    /// # Errors
    /// Those of reading the directory; no such device is one.
    pub fn interfaces(&self) -> io::Result<Vec<String>> {
        let directory = self.directory();
        let mut names = Vec::new();
        for child in list(&directory)? {
            let interfaces = match child.as_str() {
                "net" => list(&directory.join("net"))?,
                virtio if virtio.starts_with("virtio") => {
                    // A virtio device that is no network card has no such directory.
                    list(&directory.join(virtio).join("net")).unwrap_or_default()
                }
                _ => Vec::new(),
            };
            names.extend(interfaces);
        }
        names.sort();
        Ok(names)
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn list(directory: &Path) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(directory)?;
    entries
        .map(|entry| entry.map(|e| e.file_name().to_string_lossy().into_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_cannot_lead_out_of_its_directory() {
        let address = PciAddress::new("0000:0A:06.0");
        assert_eq!(
            address.map(|a| a.to_string()).as_deref(),
            Some("0000:0a:06.0")
        );
        for wrong in [
            "",
            "00:06.0",
            "0000:00:06",
            "0000:00:06.00",
            "0000:00:../x.0",
            "0000:00:06.0/..",
            "g000:00:06.0",
        ] {
            assert_eq!(PciAddress::new(wrong), None, "{wrong}");
        }
    }
}
