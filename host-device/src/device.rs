//! Which device is meant: found on the host by what the configuration says. How it is
//! recognised later is in `identity`. Nothing here changes a device.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use common::error::{Error, Result};
use common::kernel::netlink::{Link, Netlink, NetworkState, Parameters, Settings, parse_mac};
use common::kernel::pci::{self, PciAddress};
use serde::{Deserialize, Serialize};

use crate::config::DeviceSelector;
use crate::driver::Binding;
use crate::identity::{narrow, sysfs_number};
use crate::in_use::Controller;

/// Where the kernel lists auxiliary devices, such as scalable functions.
const AUXILIARY_DEVICES: &str = "/sys/bus/auxiliary/devices";
/// The drivers that hand a device to a program in user space. Such a device has no
/// network interface that could be moved.
pub const DPDK_DRIVERS: [&str; 3] = ["vfio-pci", "uio_pci_generic", "igb_uio"];

/// How a device is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Its network interface is moved into the container.
    #[default]
    Netdev,
    /// It is bound to a driver for user space and stays where it is.
    Dpdk,
}

/// What a device was on the host before it was attached: the plugin's part of the
/// attachment's record, from which it is recognised and given back its properties.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Device {
    /// How it is attached.
    pub mode: Mode,
    /// The interface's index on the host.
    pub index: u32,
    /// The interface's name.
    pub name: String,
    /// Its alternative names.
    pub altnames: Vec<String>,
    /// Its alias text.
    pub alias: String,
    /// Its hardware address.
    pub mac: String,
    /// The hardware address the device was made with.
    pub permanent_mac: String,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it was up.
    pub up: bool,
    /// Its flags, queue and group; records that are older than this key have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settings: Option<Settings>,
    /// Its parameters below `/proc/sys/net`; records that are older than this key have none.
    pub parameters: Parameters,
    /// The kind of a virtual interface; empty for hardware.
    pub kind: String,
    /// The index of the interface below it, or of a veth's other end.
    pub parent: Option<u32>,
    /// Whether that one is on the host.
    pub has_parent_here: bool,
    /// The name of the device behind the interface on its bus.
    pub bus_address: String,
    /// The number of a virtual interface in sysfs; see `identity`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sysfs_number: Option<u64>,
    /// The PCI address, when it is a PCI function or a virtio device of one.
    pub pci_id: String,
    /// The kernel driver it is bound to.
    pub driver: String,
    /// What ADD has bound it to; nothing when it has the driver it had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub binding: Option<Binding>,
    /// The addresses, routes and neighbours that it gets back.
    #[serde(skip_serializing_if = "NetworkState::is_empty")]
    pub network: NetworkState,
    /// What it was a port of, when it was taken although it was in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controller: Option<Controller>,
    /// Whether it may be in use by others: then DEL does not ask whether it is.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub in_use: bool,
    /// The device-info file that ADD has made; empty when it has made none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub device_info_file: String,
    /// Whether the host has it back, although the attachment has not ended.
    pub returned: bool,
}

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

/// Whether the selected device is bound to a driver for user space. For an
/// attachment without a record this is the only way to know its mode.
pub fn is_dpdk(selector: &DeviceSelector) -> bool {
    let address = match selector {
        DeviceSelector::Pci(address) => Some(address.clone()),
        DeviceSelector::DeviceId(id) => PciAddress::new(id),
        _ => None,
    };
    let driver = address.and_then(|a| driver_of(&a.directory()).ok());
    driver.is_some_and(|driver| DPDK_DRIVERS.contains(&driver.as_str()))
}

impl Device {
    pub fn of_link(link: Link) -> Result<Self> {
        if link.loopback {
            let msg = format!("device {:?} is the loopback interface", link.name);
            return Err(Error::config(msg).with_details("it cannot leave its namespace"));
        }
        let is_virtual = !link.kind.is_empty();
        Ok(Self {
            sysfs_number: is_virtual
                .then(|| sysfs_number(&link.name))
                .transpose()?
                .flatten(),
            pci_id: PciAddress::of_link(&link).map_or(String::new(), |a| a.to_string()),
            driver: driver_of(&pci::device_directory(&link.name)).unwrap_or_default(),
            mode: Mode::Netdev,
            index: link.index,
            name: link.name,
            altnames: link.altnames,
            alias: link.alias,
            mac: link.mac,
            permanent_mac: link.permanent_mac,
            mtu: link.mtu,
            up: link.up,
            settings: Some(link.settings),
            parameters: link.parameters,
            kind: link.kind,
            parent: link.parent,
            has_parent_here: link.parent.is_some() && link.parent_netns_id.is_none(),
            bus_address: link.bus_address,
            binding: None,
            network: NetworkState::default(),
            controller: None,
            in_use: false,
            device_info_file: String::new(),
            returned: false,
        })
    }

    /// Makes sure that the device has the MAC that a pod asks for, if it asks for one. It
    /// keeps its own, by which the network that it leads to knows it.
    pub fn require_mac(&self, requested: Option<String>) -> Result<()> {
        let own = parse_mac(&self.mac);
        match requested {
            Some(mac) if own.is_none() || parse_mac(&mac) != own => {
                let msg = format!("cannot set mac {mac}: a host device keeps its own");
                Err(Error::config(msg).with_details(format!("{:?} has {:?}", self.name, self.mac)))
            }
            _ => Ok(()),
        }
    }

    /// Whether it is a device of its own, which outlives the namespace it is in.
    pub fn is_hardware(&self) -> bool {
        self.has_interface() && self.kind.is_empty()
    }

    /// Whether the host has an interface of it when it is not attached.
    pub fn has_interface(&self) -> bool {
        self.mode == Mode::Netdev || self.binding.is_some()
    }

    /// Whether the host has to get it back.
    pub fn is_owed(&self) -> bool {
        self.has_interface() && !self.returned
    }

    /// Whether this is the device that `selector` means.
    pub fn is_selected_by(&self, selector: &DeviceSelector) -> bool {
        match selector {
            DeviceSelector::Name(name) => self.name == *name || self.altnames.contains(name),
            DeviceSelector::HwAddr(mac) => self.mac == *mac,
            DeviceSelector::KernelPath(_) => {
                let address = selector.pci_address();
                address.is_some_and(|address| self.pci_id == address.as_str())
            }
            DeviceSelector::Pci(address) => self.pci_id == address.as_str(),
            DeviceSelector::DeviceId(id) => self.pci_id == *id || self.bus_address == *id,
        }
    }
}

/// What a device id turned out to be.
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
    )))
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

/// The device whose interface is listed in `directory`, as the first one if there
/// are several, like the Go plugin. That of a virtio device is one level below.
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

/// The interfaces of the device in `directory`, or of the virtio device below it.
pub fn interfaces_in(directory: &Path) -> Result<Vec<String>> {
    let unreadable = |path: &Path, cause: &io::Error| {
        missing(&format!(
            "failed to read directory {:?}",
            path.display().to_string()
        ))
        .because(cause)
    };
    let net = directory.join("net");
    match list(&net) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
        outcome => return outcome.map_err(|cause| unreadable(&net, &cause)),
    }
    let children = list(directory).map_err(|cause| unreadable(directory, &cause))?;
    let mut virtio = children.iter().filter(|name| name.starts_with("virtio"));
    let net = virtio.find_map(|name| list(&directory.join(name).join("net")).ok());
    net.ok_or_else(|| {
        let path = directory.display().to_string();
        missing(&format!("no net directory under device {path:?}"))
    })
}

/// The names in `directory`, sorted.
pub fn list(directory: &Path) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(directory)?;
    let names = entries.map(|e| e.map(|e| e.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<io::Result<Vec<String>>>()?;
    names.sort();
    Ok(names)
}

/// The link with this hardware address. The interfaces above a device (vlan,
/// ipvlan, bond) have the same one, and a bond's ports have each other's.
fn by_hwaddr<'a>(links: &'a [Link], mac: &str) -> Result<&'a Link> {
    let mut same: Vec<&Link> = links
        .iter()
        .filter(|l| l.mac == mac && !l.loopback)
        .collect();
    narrow(&mut same, &|l| {
        l.kind.is_empty() || !l.bus_address.is_empty()
    });
    narrow(&mut same, &|l| l.permanent_mac == mac);
    match same[..] {
        [one] => Ok(one),
        [] => Err(missing(&format!(
            "no interface has the hardware address {mac}"
        ))),
        _ => {
            let names: Vec<&str> = same.iter().map(|l| l.name.as_str()).collect();
            let names = names.join(", ");
            Err(missing(&format!("hardware address {mac} is ambiguous")).with_details(names))
        }
    }
}

/// The error of the Go plugin for a device that is not there.
fn missing(why: &str) -> Error {
    Error::internal(format!("failed to find host device: {why}"))
}

/// The name of the driver that the device in `directory` is bound to.
pub fn driver_of(directory: &Path) -> io::Result<String> {
    let target = fs::read_link(directory.join("driver"))?;
    let name = target.file_name().unwrap_or_default();
    Ok(name.to_string_lossy().into_owned())
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
    fn a_hardware_address_means_the_device_and_not_what_is_above_it() {
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

    #[test]
    fn an_ambiguous_hardware_address_is_an_error_that_names_the_candidates() {
        let links = [link("veth1", "veth", "", ""), link("veth2", "veth", "", "")];
        let error = name_by_hwaddr(&links).unwrap_err();
        assert_eq!(error.details, "veth1, veth2");
    }
}
