//! Finds the attachments of this node by the records of the plugins: on which ENI each is, and
//! in which directory host-local has its addresses. A network that is found in this way needs
//! no entry in the agent's configuration.

use std::collections::HashMap;
use std::path::PathBuf;

use common::cni::args::Delegates;
use common::error::{Errors, Result};
use common::records::{Attachment, Records};
use serde::de::DeserializeOwned;

use crate::agent::configuration::{Configuration, Networks, Watched};
use crate::ledger::Owner;

/// The IPAM plugin whose reservations are read.
const HOST_LOCAL: &str = "host-local";

/// The content of this node's records.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The networks that have reservations of host-local.
    pub(crate) networks: Vec<Watched>,
    /// What a record has of an attachment.
    attachments: HashMap<Key, Recorded>,
}

/// What a record has of an attachment.
#[derive(Debug)]
pub(crate) struct Recorded {
    /// The MAC address of the ENI that it is on.
    pub(crate) mac: String,
    /// `namespace/name` of the pod; empty when the runtime has not said.
    pub(crate) pod: String,
}

/// Network, container and interface.
type Key = (String, String, String);

impl Found {
    /// Reads the records of all plugins.
    ///
    /// # Errors
    /// The errors of records that cannot be read: their attachments are not known.
    pub(crate) fn read() -> Result<Self> {
        let mut found = Self::default();
        let mut errors = Errors::default();
        found.add(
            &ipvlan::records(),
            &mut errors,
            |device: &ipvlan::device::Device| device.eni_mac().to_owned(),
        );
        found.add(
            &host_device::records(),
            &mut errors,
            |device: &host_device::device::Device| device.hardware_mac().to_owned(),
        );
        errors.into_result().map(|()| found)
    }

    fn add<D: DeserializeOwned>(
        &mut self,
        records: &Records,
        errors: &mut Errors,
        mac: impl Fn(&D) -> String,
    ) {
        let all = errors.keep(records.all::<D>());
        for record in all.into_iter().flatten() {
            if record.ipam_plugin() != HOST_LOCAL {
                continue;
            }
            // An ADD with an invalid directory cannot have succeeded.
            let Ok(network) = network(&record) else {
                continue;
            };
            if !self.networks.contains(&network) {
                self.networks.push(network);
            }
            let key = (
                record.network.clone(),
                record.container_id.to_string(),
                record.ifname.to_string(),
            );
            let recorded = Recorded {
                mac: mac(&record.device).to_lowercase(),
                pod: record.pod,
            };
            self.attachments.insert(key, recorded);
        }
    }

    /// The owner with the name of its pod, if a record has it.
    pub(crate) fn name(&self, owner: Owner) -> Owner {
        match self.attachment(&owner) {
            Some(recorded) => Owner {
                pod: recorded.pod.clone(),
                ..owner
            },
            None => owner,
        }
    }

    /// What a record has of the attachment of an owner.
    pub(crate) fn attachment(&self, owner: &Owner) -> Option<&Recorded> {
        let key = (
            owner.network.clone(),
            owner.container_id.clone(),
            owner.ifname.clone(),
        );
        self.attachments.get(&key)
    }
}

/// The networks whose reservations the agent follows.
///
/// # Errors
/// Those of [`Found::read`].
pub(crate) fn watched(configuration: &Configuration) -> Result<Vec<Watched>> {
    match &configuration.networks {
        Networks::Listed(networks) => Ok(networks.clone()),
        Networks::Auto => Found::read().map(|found| found.networks),
    }
}

/// The directories of the records, also those that do not exist yet.
///
/// # Errors
/// Code 5 naming one that cannot be listed.
pub(crate) fn directories() -> Result<Vec<PathBuf>> {
    let mut directories = ipvlan::records().directories()?;
    directories.extend(host_device::records().directories()?);
    Ok(directories)
}

/// The network of a record, with the directory that its configuration names.
fn network<D>(record: &Attachment<D>) -> Result<Watched> {
    let args = record.del_args(&Delegates::default())?;
    let directory = host_local_ipam::config::directory(&args.conf)?;
    Ok(Watched::found(&record.network, &directory))
}
