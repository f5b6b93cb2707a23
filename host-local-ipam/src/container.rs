//! The container that a reservation was made for: its machine, boot and network namespace. They
//! are an extended attribute of the address file, so they are created and removed together with
//! the file, and the Go plugin ignores them. A file without the attribute proves nothing.

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

/// Only root can read and write attributes of this class. Every file system of Linux with
/// extended attributes has it, including tmpfs.
const ATTRIBUTE: &str = "trusted.eni-cni.container";
/// The maximum length of the attribute in bytes, far more than the path of a namespace needs.
const LIMIT: usize = 1024;
/// The plugins that write a record of each attachment.
const RECORDING: [&str; 2] = ["ipvlan", "host-device"];
/// The file in which systemd stores the permanent id of a machine.
const MACHINE_ID: &str = "/etc/machine-id";

/// A machine in one boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// The id of the machine; empty when it has none, and then it is never recognised.
    machine_id: String,
    /// The id of the boot.
    boot_id: String,
}

impl Machine {
    /// This machine in the current boot.
    ///
    /// # Errors
    /// Code 5 when the boot id cannot be read.
    pub fn this() -> Result<Self> {
        Ok(Self {
            // Without the id, reservations of an earlier boot are not recognised, and are kept.
            machine_id: file::read_parameter(Path::new(MACHINE_ID)).unwrap_or_default(),
            boot_id: boot_id()?,
        })
    }

    /// The id of the boot.
    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// Whether this is the same machine in an earlier boot. Several nodes may share a
    /// directory, so another boot may be that of another node.
    fn is_earlier_boot_of(&self, now: &Self) -> bool {
        let is_same = self.machine_id == now.machine_id && !self.machine_id.is_empty();
        is_same && self.boot_id != now.boot_id
    }
}

/// The container of a reservation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    #[serde(flatten)]
    machine: Machine,
    /// The namespace, if the caller has passed one.
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
            // An IPAM plugin does not need the namespace; one that cannot be opened is left
            // out.
            netns: id.ok().map(|id| Namespace { path, id }),
        }
    }

    /// The container in the record of an attachment, which the plugin that delegates to
    /// host-local has written.
    pub fn recorded(
        network: &str,
        container_id: &ContainerId,
        ifname: &IfName,
        now: &Machine,
    ) -> Option<Self> {
        let mut records = RECORDING.into_iter().filter_map(|plugin| {
            let record = Records::of(plugin).read_of::<IgnoredAny>(network, container_id, ifname);
            // A record that cannot be read proves nothing.
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

    /// The container in the attribute of the address file `path`; `None` when it is missing or
    /// cannot be read. An attribute of a newer version proves nothing, because only a part of
    /// it may be known.
    pub fn read(path: &Path) -> Option<Self> {
        let mut value = [0; LIMIT];
        let length = lgetxattr(path, ATTRIBUTE, &mut value[..]).ok()?;
        let value = value.get(..length)?;
        match format::newer(value) {
            None => serde_json::from_slice(value).ok(),
            Some(_) => None,
        }
    }

    /// Writes it to the attribute of an address file. If the file system has no such
    /// attributes, or the path is too long, the reservation is kept until its release.
    pub fn remember(&self, file: &File) {
        let value = serde_json::to_vec(self).unwrap_or_default();
        if value.len() <= LIMIT {
            fsetxattr(file, ATTRIBUTE, &value, XattrFlags::CREATE).ok();
        }
    }

    /// Whether the container has certainly ended.
    pub fn has_ended(&self, now: &Machine, holders: &Holders) -> bool {
        // A boot id is unique, so it also identifies the machine, even for a process in a
        // container that cannot read the machine's id.
        if self.machine.boot_id != now.boot_id {
            return self.machine.is_earlier_boot_of(now);
        }
        let netns = self.netns.as_ref();
        netns.is_some_and(|netns| netns.id.presence(&netns.path, holders).has_ended())
    }
}
