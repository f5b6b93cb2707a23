//! Which container a reservation was made for: the machine, the boot and the network
//! namespace. It is an extended attribute of the address file, so it comes into being and
//! ends with the file, and the Go plugin neither reads it nor loses anything by it. A file
//! that has none proves nothing.

use std::fs::File;
use std::path::Path;

use common::cni::identifier::ContainerId;
use common::error::Result;
use common::files::{file, format};
use common::ifname::IfName;
use common::kernel::netns::{Holders, NetNs, NetNsId};
use common::records::{Records, boot_id};
use rustix::fs::{XattrFlags, fsetxattr, lgetxattr};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

/// Attributes of this class are root's, and every file system of Linux that has any has
/// them, tmpfs included.
const ATTRIBUTE: &str = "trusted.eni-cni.container";
/// What the attribute can have: far more than a path of a namespace needs.
const LIMIT: usize = 1024;
/// The plugins that keep a record of each attachment.
const RECORDING: [&str; 2] = ["ipvlan", "host-device"];
/// Where systemd keeps the number that a machine has for as long as it exists.
const MACHINE_ID: &str = "/etc/machine-id";

/// The machine that this process runs on, since its start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// The machine; empty where it has no number, and is therefore never recognised.
    machine_id: String,
    /// The boot.
    boot_id: String,
}

impl Machine {
    /// This machine.
    ///
    /// # Errors
    /// Code 5 when the boot id cannot be read.
    pub fn this() -> Result<Self> {
        Ok(Self {
            // Without the number nothing of an earlier boot is recognised, which loses nothing.
            machine_id: file::read_parameter(Path::new(MACHINE_ID)).unwrap_or_default(),
            boot_id: boot_id()?,
        })
    }

    /// The number of the boot.
    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// Whether this is the same machine before its last start. With one directory for
    /// several nodes, another boot is not an earlier one.
    fn is_earlier_boot_of(&self, now: &Self) -> bool {
        let is_same = self.machine_id == now.machine_id && !self.machine_id.is_empty();
        is_same && self.boot_id != now.boot_id
    }
}

/// What is remembered of the container of a reservation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    #[serde(flatten)]
    machine: Machine,
    /// The namespace, where the caller has named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    netns: Option<Namespace>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Namespace {
    path: String,
    id: NetNsId,
}

impl Container {
    /// The container whose namespace is at the path `netns`, on this machine.
    pub fn of(netns: &str, machine: &Machine) -> Self {
        let id = NetNs::open(netns).and_then(|netns| netns.id());
        let path = netns.to_owned();
        Self {
            machine: machine.clone(),
            // An IPAM plugin needs no namespace; one that cannot be opened is not remembered.
            netns: id.ok().map(|id| Namespace { path, id }),
        }
    }

    /// What the record of an attachment says, which is made by the plugin that has executed
    /// host-local.
    pub fn recorded(
        network: &str,
        container_id: &ContainerId,
        ifname: &IfName,
        now: &Machine,
    ) -> Option<Self> {
        let mut records = RECORDING.into_iter().filter_map(|plugin| {
            let record = Records::of(plugin).read_of::<IgnoredAny>(network, container_id, ifname);
            // What cannot be read proves nothing.
            record.ok().flatten()
        });
        let record = records.next()?;
        Some(Self {
            machine: Machine {
                machine_id: now.machine_id.clone(),
                boot_id: record.boot_id,
            },
            netns: Some(Namespace {
                path: record.netns,
                id: record.netns_id,
            }),
        })
    }

    /// What the address file `path` remembers, if anything that can be understood. What a newer
    /// version has noted may be understood in part, and proves nothing.
    pub fn read(path: &Path) -> Option<Self> {
        let mut value = [0; LIMIT];
        let length = lgetxattr(path, ATTRIBUTE, &mut value[..]).ok()?;
        let value = value.get(..length)?;
        match format::newer(value) {
            None => serde_json::from_slice(value).ok(),
            Some(_) => None,
        }
    }

    /// Lets the address file remember it. Where the file system has no such attributes,
    /// or the path is too long, the reservation lives until it is released.
    pub fn remember(&self, file: &File) {
        let value = serde_json::to_vec(self).unwrap_or_default();
        if value.len() <= LIMIT {
            fsetxattr(file, ATTRIBUTE, &value, XattrFlags::CREATE).ok();
        }
    }

    /// Whether the container has certainly ended.
    pub fn has_ended(&self, now: &Machine, holders: &Holders) -> bool {
        // A boot has a number of its own, so it tells the machine as well, also to a container
        // that does not see the machine's.
        if self.machine.boot_id != now.boot_id {
            return self.machine.is_earlier_boot_of(now);
        }
        let netns = self.netns.as_ref();
        netns.is_some_and(|netns| netns.id.presence(&netns.path, holders).has_ended())
    }
}
