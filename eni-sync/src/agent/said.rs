//! What the log says of the agent and its node: which version has started, with which
//! configuration, and which ENIs it finds.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use common::attach::inventory::{Eni, Inventory};
use tracing::info;

use crate::agent::configuration::Configuration;
use crate::vpc::eni;

/// Tells that the agent starts, and how it is configured.
pub(crate) fn start(configuration: &Configuration, socket: &Path) {
    info!(
        version = env!("CARGO_PKG_VERSION"),
        socket = %socket.display(),
        configuration = ?configuration,
        "the agent starts"
    );
}

/// The ENIs that the log has named, each as it was then.
#[derive(Debug, Default)]
pub(crate) struct Said(Mutex<Vec<Eni>>);

impl Said {
    /// Tells which ENIs are new, changed or gone since the last time.
    pub(crate) fn note(&self, inventory: &Inventory) {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let instance = inventory.instance_id.as_str();
        for eni in inventory.enis.iter().filter(|eni| !said.contains(eni)) {
            let is_for_pods = eni::require_managed(eni).is_ok();
            let interface = Some(eni.interface.as_str()).filter(|name| !name.is_empty());
            info!(
                instance,
                instance_type = inventory.instance_type,
                eni = eni.id,
                interface,
                mac = eni.mac,
                subnet = eni.subnet_id,
                is_for_pods,
                "an ENI of this node"
            );
        }
        let is_gone = |eni: &&Eni| inventory.enis.iter().all(|other| other.id != eni.id);
        for eni in said.iter().filter(is_gone) {
            info!(instance, eni = eni.id, "an ENI has left this node");
        }
        said.clone_from(&inventory.enis);
    }
}
