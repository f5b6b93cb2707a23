//! Finds the device that the configuration selects on the host. Module `identity`
//! recognises it later. Nothing here changes a device.

use std::path::{Path, PathBuf};

use common::error::{Error, Result};
use common::kernel::netlink::{Link, Netlink};
use common::kernel::pci::PciAddress;

use crate::config::DeviceSelector;
use crate::device::{Device, Mode};
use crate::identity::narrow;
use crate::options::DPDK_DRIVERS;
use crate::sysfs::{driver_of, interfaces_in, missing, not_one};

/// The directory of auxiliary devices, such as scalable functions.
const AUXILIARY_DEVICES: &str = "/sys/bus/auxiliary/devices";

/// Finds the device on the host.
pub fn find(netlink: &mut Netlink, selector: &DeviceSelector) -> Result<Device> {
    match selector {
        DeviceSelector::Name(name) => netlink
            .link_by_name(name)?
            .ok_or_else(|| missing(&format!("{name:?}: Link not found")))
            .and_then(Device::of_link),
        DeviceSelector::HwAddr(mac) => {
            let links = netlink.links()?;
            by_hwaddr(&links, mac).cloned().and_then(Device::of_link)
        }
        DeviceSelector::KernelPath(path) => by_directory(netlink, Path::new(path)),
        DeviceSelector::Pci(address) => by_pci_address(netlink, address),
        DeviceSelector::DeviceId(id) => match device_of_id(id)? {
            BusDevice::Pci(address) => by_pci_address(netlink, &address),
            BusDevice::Auxiliary(path) => by_directory(netlink, &path),
        },
    }
}

/// Whether the selected device is bound to a driver for user space. This is the only way
/// to determine the mode of an attachment without a record.
pub fn is_dpdk(selector: &DeviceSelector) -> bool {
    let address = match selector {
        DeviceSelector::Pci(address) => Some(address.clone()),
        DeviceSelector::DeviceId(id) => PciAddress::new(id),
        _ => None,
    };
    let driver = address.and_then(|a| driver_of(&a.directory()).ok());
    driver.is_some_and(|driver| DPDK_DRIVERS.contains(&driver.as_str()))
}

/// The device of a `deviceID`.
enum BusDevice {
    Pci(PciAddress),
    Auxiliary(PathBuf),
}

fn device_of_id(id: &str) -> Result<BusDevice> {
    if let Some(address) = PciAddress::new(id)
        && address.directory().exists()
    {
        return Ok(BusDevice::Pci(address));
    }
    let auxiliary = Path::new(AUXILIARY_DEVICES).join(id);
    if auxiliary.exists() {
        return Ok(BusDevice::Auxiliary(auxiliary));
    }
    Err(Error::internal(format!(
        "runtime config DeviceID {id} not found or unsupported"
    ))
    .not_found())
}

fn by_pci_address(netlink: &mut Netlink, address: &PciAddress) -> Result<Device> {
    let directory = address.directory();
    let driver = driver_of(&directory).map_err(|cause| {
        let link = directory.join("driver");
        Error::internal(format!("error with host device: lstat {}", link.display())).because(&cause)
    })?;
    let device = if DPDK_DRIVERS.contains(&driver.as_str()) {
        Device {
            mode: Mode::Dpdk,
            ..Device::default()
        }
    } else {
        by_directory(netlink, &directory)?
    };
    Ok(Device {
        pci_id: address.to_string(),
        driver,
        ..device
    })
}

/// The device whose interface is listed in `directory`; the first one of several, as in
/// the Go plugin. The interface of a virtio device is one level below.
fn by_directory(netlink: &mut Netlink, directory: &Path) -> Result<Device> {
    let names = interfaces_in(directory)?;
    for name in &names {
        if let Some(link) = netlink.link_by_name(name)? {
            return Device::of_link(link);
        }
    }
    let path = directory.display();
    Err(missing(&format!(
        "failed to find network device in path {path:?}"
    )))
}

/// The link with this hardware address; see [`Link::hardware_mac`]. Interfaces on top of a device
/// (vlan, ipvlan, bond) have the same address.
fn by_hwaddr<'a>(links: &'a [Link], mac: &str) -> Result<&'a Link> {
    let mut same: Vec<&Link> = links
        .iter()
        .filter(|l| l.hardware_mac() == mac && !l.loopback)
        .collect();
    narrow(&mut same, &|l| {
        l.kind.is_empty() || !l.bus_address.is_empty()
    });
    match same[..] {
        [one] => Ok(one),
        [] => Err(missing(&format!(
            "no interface has the hardware address {mac}"
        ))),
        _ => {
            let names: Vec<&str> = same.iter().map(|l| l.name.as_str()).collect();
            let names = names.join(", ");
            Err(not_one(&format!("hardware address {mac} is ambiguous")).with_details(names))
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn link(name: &str, kind: &str, bus_address: &str, permanent_mac: &str) -> Link {
        Link {
            name: name.into(),
            kind: kind.into(),
            mac: "02:00:00:00:00:01".into(),
            bus_address: bus_address.into(),
            permanent_mac: permanent_mac.into(),
            ..Link::default()
        }
    }

    fn name_by_hwaddr(links: &[Link]) -> Result<String> {
        by_hwaddr(links, "02:00:00:00:00:01").map(|l| l.name.clone())
    }

    #[test]
    fn a_hardware_address_selects_the_device_and_not_interfaces_on_top_of_it() {
        let links = [
            link("eth1.7", "vlan", "", ""),
            link("eth1", "", "0000:00:06.0", ""),
            link("ipvl0", "ipvlan", "", ""),
        ];
        assert_eq!(name_by_hwaddr(&links).unwrap(), "eth1");
        assert_eq!(name_by_hwaddr(&links[..1]).unwrap(), "eth1.7");
        let ports = [
            link("bond0", "bond", "", ""),
            link("eth1", "", "0000:00:06.0", "02:00:00:00:00:02"),
            link("eth2", "", "0000:00:07.0", "02:00:00:00:00:01"),
        ];
        assert_eq!(name_by_hwaddr(&ports).unwrap(), "eth2");
    }

    /// A macvlan of a pod in mode passthru gives the interface below it any address.
    #[test]
    fn a_device_that_was_made_with_another_address_is_not_selected() {
        let links = [link("eth1", "", "0000:00:06.0", "02:00:00:00:00:02")];
        let error = name_by_hwaddr(&links).unwrap_err();
        assert!(error.is_not_found(), "{error:?}");
        let own = by_hwaddr(&links, "02:00:00:00:00:02");
        assert_eq!(own.unwrap().name, "eth1");
        let recorded = Device::of_link(links[0].clone()).unwrap();
        for (mac, is_selected) in [(1, false), (2, true)] {
            let selector = DeviceSelector::HwAddr(format!("02:00:00:00:00:0{mac}"));
            assert_eq!(recorded.is_selected_by(&selector), is_selected, "{mac}");
        }
    }

    #[test]
    fn an_ambiguous_hardware_address_is_an_error_that_names_the_candidates() {
        let links = [link("veth1", "veth", "", ""), link("veth2", "veth", "", "")];
        let error = name_by_hwaddr(&links).unwrap_err();
        assert_eq!(error.details, "veth1, veth2");
    }
}
