//! What a device was on the host before it was attached: the plugin's part of the record.

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
    /// What was done with its packets; records that are older than this key do not say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offload: Option<Offload>,
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

/// What ADD changes of a function, recorded before it does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Binding {
    /// The driver for user space that it gets.
    pub driver: String,
    /// The `driver_override` it had; usually empty.
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
