//! The device that carries ipvlan interfaces. It is the master, unless the master is an
//! ipvlan interface itself: the kernel puts the new interface beside that one, on the device
//! below both. In the kernel, mode and flag belong to this device, and so to all interfaces
//! on it.

use common::attach::Sides;
use common::error::Result;
use common::kernel::netlink::Link;
use common::kernel::netns::NetNs;
use serde::{Deserialize, Serialize};

/// The kind by which the kernel calls ipvlan interfaces.
pub const KIND: &str = "ipvlan";
/// The kinds that share a device, its mode and its flag. Interfaces of these kinds carry none:
/// the kernel puts it beside them.
pub const BESIDE: [&str; 2] = [KIND, "ipvtap"];

/// Where the device is. Indices are counted by namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carrier {
    /// Its index in its namespace.
    #[serde(rename = "masterIndex")]
    pub index: u32,
    /// Whether it is inside the container. Else it is on the node.
    #[serde(rename = "linkInContainer")]
    pub in_container: bool,
    /// When it is in a third namespace: the number by which the container or the node,
    /// whichever has the master, knows that.
    #[serde(rename = "masterNetns")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub third_netns: Option<i32>,
}

impl Carrier {
    /// The device on which the kernel will put an interface of `master`, which is inside
    /// the container or on the node.
    ///
    /// # Errors
    /// As for [`Carrier::below`].
    pub fn of_master(master: &Link, in_container: bool, sides: &mut Sides) -> Result<Self> {
        match BESIDE.contains(&master.kind.as_str()) {
            true => Self::below(master, in_container, sides),
            false => Ok(Self {
                index: master.index,
                in_container,
                third_netns: None,
            }),
        }
    }

    /// The device that the kernel reports below `link`, which is inside the container or
    /// on the node.
    ///
    /// # Errors
    /// Code 8 or 999 when the namespaces cannot be told apart.
    pub fn below(link: &Link, in_container: bool, sides: &mut Sides) -> Result<Self> {
        let mut carrier = Self {
            index: link.parent.unwrap_or(link.index),
            in_container,
            third_netns: None,
        };
        if link.parent_netns_id.is_none() {
            return Ok(carrier);
        }
        let other = match in_container {
            true => sides.sandbox.netlink.namespace_id(&NetNs::own()?)?,
            false => sides.node.namespace_id(&sides.sandbox.netns)?,
        };
        match other == link.parent_netns_id {
            true => carrier.in_container = !in_container,
            false => carrier.third_netns = link.parent_netns_id,
        }
        Ok(carrier)
    }

    /// Whether `link`, which is inside the container, is an ipvlan interface on the device.
    pub fn carries(&self, link: &Link) -> bool {
        let is_beside = self.in_container && self.third_netns.is_none();
        link.kind == KIND
            && link.parent == Some(self.index)
            && link.parent_netns_id.is_none() == is_beside
    }
}
