//! The network configuration of host-device, parsed once into validated types. It does
//! not examine the node: module `selection` finds the device.

use common::cni::args::ConfArgs;
use common::cni::config::Document;
use common::error::{Error, Result};
use common::kernel::pci::PciAddress;
use serde::Deserialize;

use crate::options::Options;

/// The directory of the kernel's devices, with which `kernelpath` must begin.
const KERNEL_DEVICES: &str = "/sys/devices/";
/// The longest alternative name in bytes (the kernel's `ALTIFNAMSIZ` without the NUL).
const ALTNAME_MAX: usize = 127;
/// The lengths of a hardware address in bytes that Go accepts: Ethernet, EUI-64,
/// and IP over InfiniBand.
const HWADDR_LENGTHS: [usize; 3] = [6, 8, 20];

/// The keys of this plugin, validated.
#[derive(Debug)]
pub struct Config {
    /// Which device to attach.
    pub selector: DeviceSelector,
    /// The keys that the Go plugin does not have.
    pub options: Options,
}

/// How a configuration selects the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceSelector {
    /// `device`: a name or an alternative name.
    Name(String),
    /// `hwaddr`, in lower case with colons.
    HwAddr(String),
    /// `kernelpath`: the device's directory below `/sys/devices`.
    KernelPath(String),
    /// `pciBusID`.
    Pci(PciAddress),
    /// `runtimeConfig.deviceID`: a PCI address or the name of an auxiliary device.
    DeviceId(String),
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Keys {
    device: String,
    hwaddr: String,
    kernelpath: String,
    #[serde(rename = "pciBusID")]
    pci_bus_id: String,
    runtime_config: RuntimeConfig,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RuntimeConfig {
    #[serde(rename = "deviceID")]
    device_id: String,
}

impl Config {
    /// Reads the keys.
    ///
    /// # Errors
    /// Code 6 for a key that cannot be read, 7 for an invalid value.
    pub fn parse(conf: &ConfArgs) -> Result<Self> {
        Ok(Self {
            selector: DeviceSelector::required(&conf.document)?,
            options: Options::parse(&conf.document)?,
        })
    }
}

impl DeviceSelector {
    /// The device that the configuration selects, with the precedence of the Go plugin;
    /// `None` when it selects none. Only the key that is used is validated: Multus writes
    /// the name of an auxiliary device to `pciBusID`, too.
    pub fn from_document(document: &Document) -> Result<Option<Self>> {
        let keys: Keys = document.read("failed to load netconf")?;
        if !keys.device.is_empty() {
            return device_name(keys.device).map(Some);
        }
        if !keys.hwaddr.is_empty() {
            return hwaddr(&keys.hwaddr).map(Some);
        }
        if !keys.kernelpath.is_empty() {
            return kernelpath(keys.kernelpath).map(Some);
        }
        if !keys.runtime_config.device_id.is_empty() {
            return device_id(keys.runtime_config.device_id).map(Some);
        }
        if !keys.pci_bus_id.is_empty() {
            let address = PciAddress::new(&keys.pci_bus_id).ok_or_else(|| {
                invalid(
                    "pciBusID",
                    &keys.pci_bus_id,
                    "a PCI address is dddd:bb:dd.f",
                )
            })?;
            return Ok(Some(Self::Pci(address)));
        }
        Ok(None)
    }

    /// Whether this selects the device with `bus_address`; false for selectors that have
    /// no bus address.
    pub fn is_bus_address(&self, bus_address: &str) -> bool {
        match self {
            Self::Pci(address) => address.as_str() == bus_address,
            Self::DeviceId(id) => id.eq_ignore_ascii_case(bus_address),
            Self::Name(_) | Self::HwAddr(_) | Self::KernelPath(_) => false,
        }
    }

    /// The PCI function that it selects; `None` when the text does not have a PCI
    /// address.
    pub fn pci_address(&self) -> Option<PciAddress> {
        match self {
            Self::Pci(address) => Some(address.clone()),
            Self::DeviceId(id) => PciAddress::new(id),
            Self::KernelPath(path) => {
                PciAddress::new(path.trim_end_matches('/').rsplit('/').next()?)
            }
            Self::Name(_) | Self::HwAddr(_) => None,
        }
    }

    /// As [`Self::from_document`]; a configuration that selects no device is an error of
    /// code 7.
    pub fn required(document: &Document) -> Result<Self> {
        Self::from_document(document)?.ok_or_else(|| {
            Error::config("specify either \"device\", \"hwaddr\", \"kernelpath\" or \"pciBusID\"")
        })
    }
}

/// Whether the runtime passes a device for each container, so that a configuration
/// without one is complete.
pub fn is_device_per_container(document: &Document) -> bool {
    let declared = document.get("capabilities").and_then(|c| c.get("deviceID"));
    declared.and_then(|d| d.as_bool()).unwrap_or_default()
}

fn invalid(key: &str, value: &str, rule: &str) -> Error {
    Error::config(format!("invalid {key} {value:?}")).with_details(rule)
}

fn device_name(name: String) -> Result<DeviceSelector> {
    let is_wrong = |c: char| c == '/' || c.is_whitespace() || c.is_control();
    if name.len() > ALTNAME_MAX || name.contains(is_wrong) || name == "." || name == ".." {
        return Err(invalid(
            "device",
            &name,
            "it is not the name of an interface",
        ));
    }
    Ok(DeviceSelector::Name(name))
}

fn hwaddr(text: &str) -> Result<DeviceSelector> {
    match normalize_hwaddr(text) {
        Some(mac) => Ok(DeviceSelector::HwAddr(mac)),
        None => Err(
            Error::config(format!("failed to parse MAC address {text:?}"))
                .with_details("invalid hwaddr"),
        ),
    }
}

/// A hardware address in lower case with colons, from any form that Go's
/// `net.ParseMAC` reads: pairs of digits with colons or hyphens, fours with dots.
fn normalize_hwaddr(text: &str) -> Option<String> {
    let separator = text.chars().find(|c| matches!(c, ':' | '-' | '.'))?;
    let width = if separator == '.' { 4 } else { 2 };
    let is_group = |g: &str| g.len() == width && g.bytes().all(|b| b.is_ascii_hexdigit());
    if !text.split(separator).all(is_group) {
        return None;
    }
    let digits: Vec<char> = text.chars().filter(|c| *c != separator).collect();
    let bytes: Vec<String> = digits.chunks(2).map(|pair| pair.iter().collect()).collect();
    let known = HWADDR_LENGTHS.contains(&bytes.len());
    known.then(|| bytes.join(":").to_ascii_lowercase())
}

fn kernelpath(path: String) -> Result<DeviceSelector> {
    if !path.starts_with(KERNEL_DEVICES) {
        return Err(Error::config(format!(
            "kernel device path {path:?} must be absolute and begin with {KERNEL_DEVICES}"
        ))
        .with_details("invalid kernelpath"));
    }
    if path.contains('\0') || path.split('/').any(|part| part == "..") {
        return Err(invalid(
            "kernelpath",
            &path,
            "it leads out of its directory",
        ));
    }
    Ok(DeviceSelector::KernelPath(path))
}

fn device_id(id: String) -> Result<DeviceSelector> {
    if id.contains(['/', '\0']) || id == "." || id == ".." {
        let rule = "it is not the name of a device on a bus";
        return Err(invalid("runtimeConfig.deviceID", &id, rule));
    }
    Ok(DeviceSelector::DeviceId(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(conf: &str) -> Result<Option<DeviceSelector>> {
        DeviceSelector::from_document(&Document::parse(conf.as_bytes()).unwrap())
    }

    #[test]
    fn the_first_key_in_the_order_of_the_go_plugin_counts() {
        let all = [
            r#""device":"eth1""#,
            r#""hwaddr":"02-00-00-00-00-0A""#,
            r#""kernelpath":"/sys/devices/x""#,
            r#""runtimeConfig":{"deviceID":"mlx5_core.sf.4"}"#,
            r#""pciBusID":"0000:00:06.0""#,
        ];
        let expected = [
            DeviceSelector::Name("eth1".into()),
            DeviceSelector::HwAddr("02:00:00:00:00:0a".into()),
            DeviceSelector::KernelPath("/sys/devices/x".into()),
            DeviceSelector::DeviceId("mlx5_core.sf.4".into()),
            DeviceSelector::Pci(PciAddress::new("0000:00:06.0").unwrap()),
        ];
        for (first, expected) in expected.into_iter().enumerate() {
            let conf = format!("{{{}}}", all[first..].join(","));
            assert_eq!(selector(&conf).unwrap(), Some(expected), "{conf}");
        }
        let unset = r#"{"device":"","hwaddr":null,"runtimeConfig":{"deviceID":""}}"#;
        assert_eq!(selector(unset).unwrap(), None);
    }

    #[test]
    fn a_hardware_address_is_read_in_every_form_of_go() {
        for right in ["02:00:5E:10:00:01", "02-00-5e-10-00-01", "0200.5e10.0001"] {
            assert_eq!(
                normalize_hwaddr(right).as_deref(),
                Some("02:00:5e:10:00:01")
            );
        }
        for wrong in [
            "",
            "02005e100001",
            "02:00:5e:10:00",
            "02:00-5e:10:00:01",
            "zz",
        ] {
            assert_eq!(normalize_hwaddr(wrong), None, "{wrong}");
        }
    }
}
