//! The container that a reservation was made for: its machine, boot and network namespace. They
//! are an extended attribute of the address file, so they are created and removed together with
//! the file, and the Go plugin ignores them. A file without the attribute proves nothing.

use std::fs::File;
use std::path::Path;

use common::cni::args::CmdArgs;
use common::cni::identifier::ContainerId;
use common::error::{Error, Result};
use common::files::file::{self, is_of_the_moment};
use common::files::format;
use common::ifname::IfName;
use common::kernel::netns::{Holders, NetNsId};
use common::records::{boot_id, netns_id, recorded};
use rustix::fs::{XattrFlags, fsetxattr, lgetxattr};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// Only root can read and write attributes of this class. Every file system of Linux with
/// extended attributes has it, including tmpfs.
const ATTRIBUTE: &str = "trusted.eni-cni.container";
/// The maximum length of the attribute in bytes, far more than the path of a namespace needs.
const LIMIT: usize = 1024;
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
    /// Code 5 when the boot id cannot be read, or the machine's id at this moment.
    pub fn this() -> Result<Self> {
        let machine_id = match file::read_parameter(Path::new(MACHINE_ID)) {
            Err(cause) if is_of_the_moment(cause.raw_os_error()) => {
                return Err(Error::io(format!("failed to read {MACHINE_ID}"), &cause));
            }
            // Without the id, reservations of an earlier boot are not recognised, and are kept.
            machine_id => machine_id.unwrap_or_default(),
        };
        Ok(Self {
            machine_id,
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
    /// The container of an ADD on this machine.
    ///
    /// # Errors
    /// Code 8 when the namespace cannot be examined at this moment: without it, nothing would
    /// ever tell that the container has ended.
    pub fn of(args: &CmdArgs, machine: &Machine) -> Result<Self> {
        match netns_id(args, machine.boot_id()) {
            Err(error) if is_of_the_moment(error.errno()) => Err(error),
            Err(_) => Ok(Self::unseen(machine)),
            Ok(id) => Ok(Self {
                netns: Some(Namespace {
                    path: args.netns.clone(),
                    id,
                }),
                ..Self::unseen(machine)
            }),
        }
    }

    /// A container on this machine whose namespace this process does not see: an IPAM plugin does
    /// not need it.
    pub fn unseen(machine: &Machine) -> Self {
        Self {
            machine: machine.clone(),
            netns: None,
        }
    }

    /// The container in the record of an attachment, which the plugin that delegates to
    /// host-local has written.
    ///
    /// # Errors
    /// As for [`recorded`].
    pub fn recorded(
        network: &str,
        container_id: &ContainerId,
        ifname: &IfName,
        now: &Machine,
    ) -> Result<Option<Self>> {
        let record = recorded(network, container_id, ifname)?;
        Ok(record.map(|record| Self {
            machine: Machine {
                machine_id: now.machine_id.clone(),
                boot_id: record.boot_id,
            },
            netns: Some(Namespace {
                path: record.netns,
                id: record.netns_id,
            }),
        }))
    }

    /// The container in the attribute of the address file `path`; `None` when it is missing or
    /// not valid. An attribute of a newer version proves nothing, because only a part of it may
    /// be known.
    ///
    /// # Errors
    /// Code 5 naming the file, when the system fails to read the attribute.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let mut value = [0; LIMIT];
        let length = match lgetxattr(path, ATTRIBUTE, &mut value[..]) {
            Ok(length) => length,
            // Neither is one of ours: there is none, there can be none, or it is too long.
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOENT | Errno::RANGE) => return Ok(None),
            Err(errno) => {
                let msg = format!("failed to read the attribute of {path:?}");
                return Err(Error::io(msg, &errno.into()));
            }
        };
        let value = value.get(..length).unwrap_or_default();
        Ok(match format::newer(value) {
            None => serde_json::from_slice(value).ok(),
            Some(_) => None,
        })
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
