//! The device below ipvlan interfaces. It is the master, unless the master is an ipvlan
//! interface itself: then the kernel puts the new interface on the device below the master. In
//! the kernel, mode and flag belong to this device, and are the same for all interfaces on it.

use common::attach::Sides;
use common::error::Result;
use common::kernel::netlink::Link;
use common::kernel::netns::NetNs;
use serde::{Deserialize, Serialize};

/// The kernel's kind of ipvlan interfaces.
pub const KIND: &str = "ipvlan";
/// The kinds of interfaces that share a device, its mode and its flag. If the master has one
/// of these kinds, the kernel puts the new interface on the device below it.
pub const IPVLAN_KINDS: [&str; 2] = [KIND, "ipvtap"];

/// The device, by its index and its namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LowerDevice {
    /// Its index in its namespace.
    #[serde(rename = "masterIndex")]
    pub index: u32,
    /// Whether it is inside the container; otherwise it is on the node.
    #[serde(rename = "linkInContainer")]
    pub in_container: bool,
    /// Set when it is in a third namespace: the id (`nsid`) of that one in the namespace of
    /// the master.
    #[serde(rename = "masterNetns")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub third_netns: Option<i32>,
}

impl LowerDevice {
    /// The device on which the kernel will put an interface of `master`, which is inside
    /// the container or on the node.
    ///
    /// # Errors
    /// As for [`LowerDevice::below`].
    pub fn of_master(master: &Link, in_container: bool, sides: &mut Sides) -> Result<Self> {
        match IPVLAN_KINDS.contains(&master.kind.as_str()) {
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
    /// Code 8 or 999 when the ids of the namespaces cannot be read.
    pub fn below(link: &Link, in_container: bool, sides: &mut Sides) -> Result<Self> {
        let mut lower = Self {
            index: link.parent.unwrap_or(link.index),
            in_container,
            third_netns: None,
        };
        if link.parent_netns_id.is_none() {
            return Ok(lower);
        }
        let other = match in_container {
            true => sides.sandbox.netlink.namespace_id(&NetNs::own()?)?,
            false => sides.node.namespace_id(&sides.sandbox.netns)?,
        };
        match other == link.parent_netns_id {
            true => lower.in_container = !in_container,
            false => lower.third_netns = link.parent_netns_id,
        }
        Ok(lower)
    }

    /// The mark of a record: the index of a device on the node. host-device computes the same.
    pub fn mark(&self) -> Option<u64> {
        let is_on_node = !self.in_container && self.third_netns.is_none();
        is_on_node.then(|| self.index.into())
    }

    /// Whether it is the device below `link`, an ipvlan interface inside the container.
    pub fn is_below(&self, link: &Link) -> bool {
        let is_same_netns = self.in_container && self.third_netns.is_none();
        link.kind == KIND
            && link.parent == Some(self.index)
            && link.parent_netns_id.is_none() == is_same_netns
    }
}
