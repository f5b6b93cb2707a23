//! The part of an attachment's record that describes the interface.

use std::hash::{DefaultHasher, Hash, Hasher};

use common::attach::Sides;
use common::cni::args::CmdArgs;
use common::error::Result;
use common::ifname::IfName;
use common::kernel::netlink::Link;
use serde::{Deserialize, Serialize};

use crate::config::{Flag, Mode, NetConf};
use crate::lower_device::LowerDevice;
use crate::master::pci_id;

/// The part of the attachment's record that describes the interface.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// The device that the interface is on.
    #[serde(flatten)]
    pub lower: LowerDevice,
    /// The MAC address of the master at ADD, in lower case with colons.
    pub master_mac: String,
    /// The MAC address by which the VPC knows the master, if that is another one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub master_hardware_mac: String,
    /// The mode.
    pub mode: Mode,
    /// The flag.
    #[serde(default)]
    pub flag: Flag,
    /// The PCI address of the master; empty when it is not a PCI device.
    #[serde(default)]
    pub pci_id: String,
    /// The name that the interface has for a moment on kernels before 6.15; see
    /// [`create`](crate::link::create).
    pub temporary_name: IfName,
}

impl Device {
    /// The record of an interface that is about to be created.
    ///
    /// # Errors
    /// As for [`LowerDevice::of_master`].
    pub fn of(conf: &NetConf, master: &Link, args: &CmdArgs, sides: &mut Sides) -> Result<Self> {
        Ok(Self {
            lower: LowerDevice::of_master(master, conf.link_in_container, sides)?,
            master_mac: master.mac.clone(),
            master_hardware_mac: if master.hardware_mac() == master.mac {
                String::new()
            } else {
                master.hardware_mac().to_owned()
            },
            mode: conf.mode,
            flag: conf.flag,
            pci_id: pci_id(master, conf.link_in_container),
            temporary_name: temporary_name(args)?,
        })
    }
}

impl Device {
    /// The MAC address of the ENI that the master is the interface of.
    pub fn eni_mac(&self) -> &str {
        match self.master_hardware_mac.as_str() {
            "" => &self.master_mac,
            other => other,
        }
    }
}

/// A name that no interface of another attachment has, on the node or in the container.
fn temporary_name(args: &CmdArgs) -> Result<IfName> {
    let mut hasher = DefaultHasher::new();
    (&args.conf.network, &args.container_id, &args.ifname).hash(&mut hasher);
    IfName::new(&format!("ipv{:012x}", hasher.finish() & 0xffff_ffff_ffff))
}
