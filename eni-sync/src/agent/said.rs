//! What the log says of the agent and its node: which version has started, with which
//! configuration, and which ENIs it finds.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use common::attach::inventory::{Eni, Inventory};
use tracing::{error, info};

use crate::agent::configuration::Configuration;
use crate::ledger::Ledger;
use crate::registration::register;
use crate::vpc::eni;

/// Tells that the agent starts, and how it is configured: each key with its value or default.
pub(crate) fn start(configuration: &Configuration, socket: &Path) {
    let metrics = configuration.metrics.map(|address| address.to_string());
    let pools = configuration.pools.iter().map(|pool| pool.name.as_str());
    let pools: Vec<&str> = pools.collect();
    let prefixes = configuration.prefixes.as_ref().map(ToString::to_string);
    info!(
        version = env!("CARGO_PKG_VERSION"),
        socket = %socket.display(),
        reconcile_seconds = configuration.reconcile_seconds(),
        grace_seconds = configuration.grace().as_secs(),
        cni_path = configuration.cni_path(),
        plugins = configuration.restores_plugins(),
        reclaim = configuration.reclaim != Some(false),
        links = configuration.links != Some(false),
        metrics = metrics.as_deref().unwrap_or("not served"),
        networks = %configuration.networks,
        pools = pools.join(", "),
        prefixes = prefixes.as_deref().unwrap_or("none"),
        "the agent starts"
    );
}

/// What the log has named.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// The ENIs, each as it was then.
    enis: Mutex<Vec<Eni>>,
    /// The addresses that pods run without, and why.
    refused: Mutex<HashSet<String>>,
}

impl Said {
    /// Tells which ENIs are new, changed or gone since the last time.
    pub(crate) fn note(&self, inventory: &Inventory) {
        let mut said = self.enis.lock().unwrap_or_else(PoisonError::into_inner);
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

    /// Tells which pods run without an address in the VPC, each once for each reason.
    pub(crate) fn note_refused(&self, ledger: &Ledger) {
        // Who cannot read the ledger cannot do anything else either, and says so.
        let Ok(refused) = register::refused(ledger) else {
            return;
        };
        let mut said = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let mut now = HashSet::new();
        for (address, owner, why) in refused {
            let finding = format!("{owner} runs without {address} in the VPC: {why}");
            if !said.contains(&finding) {
                error!(
                    address = %address,
                    pod = Some(owner.pod.as_str()).filter(|pod| !pod.is_empty()),
                    network = owner.network,
                    container = owner.container_id,
                    interface = owner.ifname,
                    code = why.code.0,
                    "{finding}"
                );
            }
            now.insert(finding);
        }
        *said = now;
    }
}
