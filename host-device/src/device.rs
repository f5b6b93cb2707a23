//! The plugin's part of the record: the properties of a device on the host before it was
//! attached.

use common::error::{Error, Result};
use common::kernel::netlink::{Link, NetworkState, Offload, Parameters, Settings, parse_mac};
use common::kernel::pci::{self, PciAddress};
use serde::{Deserialize, Serialize};

use crate::config::DeviceSelector;
use crate::sysfs::{driver_of, sysfs_number};

/// How a device is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The network interface is moved into the container.
    #[default]
    Netdev,
    /// The device is bound to a driver for user space and not moved.
    Dpdk,
}

/// The properties of a device on the host before it was attached. This is the plugin's part
/// of the attachment's record; by it the device is recognised and its properties are
/// restored.
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
    /// The hardware address that the device was manufactured with.
    pub permanent_mac: String,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it was up.
    pub up: bool,
    /// Its flags, queue length and group; missing in records of older versions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settings: Option<Settings>,
    /// Its GSO and GRO limits, and its XDP modes; missing in records of older versions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offload: Option<Offload>,
    /// Its parameters below `/proc/sys/net`; empty in records of older versions.
    pub parameters: Parameters,
    /// The kind of a virtual interface; empty for hardware.
    pub kind: String,
    /// The index of the interface below it, or of a veth's other end.
    pub parent: Option<u32>,
    /// Whether that interface is on the host.
    pub has_parent_here: bool,
    /// The name of the device behind the interface on its bus.
    pub bus_address: String,
    /// The inode of a virtual interface in sysfs; see [`sysfs_number`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sysfs_number: Option<u64>,
    /// The PCI address, when it is a PCI function or a virtio device of one.
    pub pci_id: String,
    /// The kernel driver it is bound to.
    pub driver: String,
    /// The driver that ADD binds it to; `None` when ADD does not change the driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub binding: Option<Binding>,
    /// The addresses, routes and neighbours that are restored.
    #[serde(skip_serializing_if = "NetworkState::is_empty")]
    pub network: NetworkState,
    /// The interface that it was a port of, if it was taken although it was in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controller: Option<Controller>,
    /// Whether other interfaces may use it (`allowInUse`): then DEL does not verify that
    /// none does.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub in_use: bool,
    /// The device-info file that ADD writes; empty when it writes none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub device_info_file: String,
    /// Whether it is back on the host, although the attachment has not ended.
    pub returned: bool,
}

/// The change of a function's driver, recorded before it is made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Binding {
    /// The driver for user space that it gets.
    pub driver: String,
    /// Its former `driver_override`; usually empty.
    pub driver_override: String,
}

/// The interface that a device is a port of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Controller {
    /// Its name.
    pub name: String,
    /// Its kind: `bridge`, `bond`, …
    pub kind: String,
}

impl Device {
    /// The device with this interface, which is on the host.
    ///
    /// # Errors
    /// Code 7 for the loopback interface, 5 when sysfs cannot be read.
    pub fn of_link(link: Link) -> Result<Self> {
        if link.loopback {
            let msg = format!("device {:?} is the loopback interface", link.name);
            return Err(Error::config(msg).with_details("it cannot leave its namespace"));
        }
        let is_virtual = !link.kind.is_empty();
        Ok(Self {
            sysfs_number: is_virtual
                .then(|| sysfs_number(&link))
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
            offload: Some(link.offload),
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

    /// The hardware address by which the network outside of the node knows it; see
    /// [`Link::hardware_mac`].
    pub fn hardware_mac(&self) -> &str {
        let is_told = self.kind.is_empty() && !self.permanent_mac.is_empty();
        if is_told {
            &self.permanent_mac
        } else {
            &self.mac
        }
    }

    /// Makes sure that the device has the MAC address that a pod requests, if it requests
    /// one. The device keeps its own, because the network expects that one.
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

    /// Whether it is a hardware device, which the kernel moves to the host at the end of
    /// its namespace.
    pub fn is_hardware(&self) -> bool {
        self.has_interface() && self.kind.is_empty()
    }

    /// Whether the host has an interface of the device while it is not attached.
    pub fn has_interface(&self) -> bool {
        self.mode == Mode::Netdev || self.binding.is_some()
    }

    /// Whether it still has to be given back to the host.
    pub fn is_owed(&self) -> bool {
        self.has_interface() && !self.returned
    }

    /// Whether `selector` selects this device.
    pub fn is_selected_by(&self, selector: &DeviceSelector) -> bool {
        match selector {
            DeviceSelector::Name(name) => self.name == *name || self.altnames.contains(name),
            DeviceSelector::HwAddr(mac) => self.hardware_mac() == *mac,
            DeviceSelector::KernelPath(_) => {
                let address = selector.pci_address();
                address.is_some_and(|address| self.pci_id == address.as_str())
            }
            DeviceSelector::Pci(address) => self.pci_id == address.as_str(),
            DeviceSelector::DeviceId(id) => self.pci_id == *id || self.bus_address == *id,
        }
    }
}
