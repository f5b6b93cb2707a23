//! Logs the start of the agent with its version and configuration, the ENIs that it finds, and
//! pods without an address in the VPC, each once.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use common::attach::inventory::{Eni, Inventory};
use tracing::info;

use crate::agent::configuration::Configuration;
use crate::agent::news::LastLook;
use crate::registration::without::Without;
use crate::vpc::eni;

/// Logs the start of the agent with its configuration: each key with its value or default.
pub(crate) fn start(configuration: &Configuration, socket: &Path) {
    let metrics = configuration.metrics.map(|address| address.to_string());
    let pools = configuration.pools.iter().map(|pool| pool.name.as_str());
    let pools: Vec<&str> = pools.collect();
    let of_all = configuration.prefixes.as_ref();
    let of_all = of_all.map(|prefixes| prefixes.kept().to_string());
    let of_enis = configuration.enis.iter().filter_map(|wanted| {
        let kept = wanted.prefixes?;
        Some(format!("{}: {kept}", wanted.name))
    });
    let prefixes: Vec<String> = of_all.into_iter().chain(of_enis).collect();
    let prefixes = Some(prefixes.join("; ")).filter(|text| !text.is_empty());
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

/// What has been logged before.
#[derive(Debug, Default)]
pub(crate) struct Logged {
    /// The ENIs, as they were when they were logged.
    enis: Mutex<Vec<Eni>>,
    /// The pods without an address, by the ledger and by the watched networks.
    refused: Mutex<LastLook>,
    unregistered: Mutex<LastLook>,
}

/// The source of the finding that a pod runs without an address.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source {
    /// The ledger, which has the addresses that EC2 refuses.
    Ledger,
    /// The watched networks, with addresses that EC2 is never asked for.
    Watched,
    /// As `Watched`, if some networks could not be read.
    WatchedInPart,
}

impl Logged {
    /// Logs which ENIs are new, changed or gone since the last call.
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

    /// Logs which pods run without an address in the VPC, each once for each reason. Returns
    /// those that are new.
    pub(crate) fn note_without(&self, source: Source, found: Vec<Without>) -> Vec<Without> {
        let looks = match source {
            Source::Ledger => &self.refused,
            Source::Watched | Source::WatchedInPart => &self.unregistered,
        };
        let mut look = looks.lock().unwrap_or_else(PoisonError::into_inner);
        let reasons = found.iter().map(Without::reason).collect();
        let new = match source {
            Source::WatchedInPart => look.add(reasons),
            Source::Ledger | Source::Watched => look.replace(reasons),
        };
        let new = |without: &Without| new.contains(&without.reason());
        let new: Vec<Without> = found.into_iter().filter(new).collect();
        new.iter().for_each(Without::log);
        new
    }
}
