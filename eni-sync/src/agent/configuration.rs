//! The agent's configuration file. Unknown keys are refused: a misspelt key would have no
//! effect without any error.

mod cluster;
mod kept_prefixes;
mod master;
mod networks;
mod pools;
mod resources;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::attach::inventory::Eni;
use common::cni::identifier::is_identifier;
use common::error::{Error, ErrorCode, Result};
use serde::Deserialize;

use self::cluster::Kubernetes;
pub(crate) use self::kept_prefixes::Prefixes;
pub(crate) use self::master::Master;
use self::master::Selector;
pub(crate) use self::networks::Networks;
pub(crate) use self::pools::{Pool, Watermarks};
use self::resources::DEVICE_PLUGIN_PATH;
pub(crate) use self::resources::{Kind, Resource};

use crate::ledger::{Excluded, LONGEST_COOLDOWN, Takeover, default_cooldown_seconds};
use crate::provision::wanted::{self, Wanted};
use crate::random;
use crate::registration::prefixes::kept::Kept;

/// The default time between two comparisons with EC2, in seconds.
const RECONCILE_SECONDS: u64 = 420;
/// The default grace time, in seconds: long enough for the runtime's own DEL.
const GRACE_SECONDS: u64 = 300;
/// The default path of the file, in the container and for the systemd unit.
pub(crate) const PATH: &str = "/etc/eni-sync/agent.json";
/// The default directory of CNI plugins.
pub(crate) const CNI_PATH: &str = "/opt/cni/bin";
/// The longest time in seconds that is accepted: a longer one is a mistake in the unit.
const LONGEST_TIME: u64 = LONGEST_COOLDOWN;
/// The comparisons of many nodes are spread over this fraction of the interval.
const SPREAD: u64 = 4;
/// Where host-local keeps the reservations of all networks.
pub(crate) const DATA_DIR: &str = host_local_ipam::config::DEFAULT_DATA_DIR;

/// The configuration of an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Configuration {
    /// Seconds between two comparisons of the ledger with EC2.
    reconcile_seconds: Option<u64>,
    /// For how many seconds the container of an attachment must have ended before the
    /// attachment is ended.
    pub(crate) grace_seconds: Option<u64>,
    /// The directories of the plugins that end such attachments, separated by `:`.
    pub(crate) cni_path: Option<String>,
    /// Whether plugins that other programs have replaced are put back. The default is true if
    /// `cniPath` is given, which names the directory.
    pub(crate) plugins: Option<bool>,
    /// Whether reservations in watched networks are released when their containers have ended
    /// without a DEL. The default is true.
    pub(crate) reclaim: Option<bool>,
    /// Whether ENIs for pods that are down are set up. The default is true.
    pub(crate) links: Option<bool>,
    /// The address at which metrics and health are served. Health is only served to the node
    /// itself.
    pub(crate) metrics: Option<SocketAddr>,
    /// The networks whose reservations of host-local are registered.
    pub(crate) networks: Networks,
    /// The pools: networks whose addresses are assigned before pods ask.
    pub(crate) pools: Vec<Pool>,
    /// The ENIs that the node creates for itself.
    pub(crate) enis: Vec<Wanted>,
    /// The resources that are offered to the kubelet.
    pub(crate) resources: Vec<Resource>,
    /// The directory of the sockets of the kubelet and of its device plugins.
    pub(crate) device_plugin_path: Option<PathBuf>,
    /// The prefixes that are assigned before pods of networks without ranges ask.
    pub(crate) prefixes: Option<Prefixes>,
    /// The addresses that this node must not assign to pods.
    pub(crate) exclude: Excluded,
    /// The use of the Kubernetes API.
    pub(crate) kubernetes: Kubernetes,
}

/// A watched network: its attachments are known by their reservations only.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Watched {
    /// The network's name.
    pub(crate) name: String,
    /// The interface of the node whose ENI the addresses belong to.
    #[serde(default)]
    master: Option<String>,
    /// How that interface is selected, if its name differs between nodes.
    #[serde(default)]
    master_selector: Option<Selector>,
    /// The `dataDir` of its `ipam` section.
    #[serde(default = "data_dir")]
    pub(crate) data_dir: PathBuf,
    /// From which ENIs an address may be taken.
    #[serde(default)]
    pub(crate) takeover: Takeover,
    /// How long an address stays on its ENI when its reservation has ended.
    #[serde(default = "default_cooldown_seconds")]
    pub(crate) cooldown_seconds: u64,
}

fn data_dir() -> PathBuf {
    PathBuf::from(DATA_DIR)
}

impl Watched {
    /// A network that is not listed in the configuration, with the directory of its
    /// reservations.
    pub(crate) fn found(name: &str, directory: &Path) -> Self {
        Self {
            name: name.to_owned(),
            master: None,
            master_selector: None,
            data_dir: directory.parent().unwrap_or(directory).to_owned(),
            takeover: Takeover::default(),
            cooldown_seconds: default_cooldown_seconds(),
        }
    }

    /// How the configuration selects the interface.
    ///
    /// # Errors
    /// Code 7 when it has neither `master` nor `masterSelector`, or both.
    pub(crate) fn master(&self) -> Result<Master<'_>> {
        Master::one_of(self.master.as_ref(), self.master_selector.as_ref())
            .map_err(|why| Error::config(format!("network {:?} {why}", self.name)))
    }

    /// Where host-local keeps the reservations of the network.
    pub(crate) fn directory(&self) -> PathBuf {
        self.data_dir.join(&self.name)
    }
}

impl Configuration {
    /// The configuration in a file.
    ///
    /// # Errors
    /// Code 5 when it cannot be read, 6 when it is not a configuration, 7 for an invalid value;
    /// all name the file.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path)
            .map_err(|cause| Error::io(format!("failed to read {path:?}"), &cause))?;
        let mut configuration: Self = serde_json::from_slice(&text).map_err(|cause| {
            let msg = format!("{path:?} is not a configuration of the agent");
            Error::new(ErrorCode::DECODING, msg).with_details(cause.to_string())
        })?;
        configuration.validate(path)?;
        for wanted in &mut configuration.enis {
            wanted.excluded.clone_from(&configuration.exclude);
        }
        Ok(configuration)
    }

    fn validate(&self, path: &Path) -> Result<()> {
        let wrong = |why: String| Err(Error::config(format!("{path:?}: {why}")));
        if self.reconcile_seconds == Some(0) {
            return wrong("reconcileSeconds is 0".to_owned());
        }
        if let Some((key, seconds)) = self.times().find(|(_, seconds)| *seconds > LONGEST_TIME) {
            return wrong(format!(
                "{key} {seconds} is more than {LONGEST_TIME} seconds"
            ));
        }
        let listed = self.networks.listed();
        let networks = listed.iter().map(|n| (&n.name, &n.data_dir));
        let pools = self.pools.iter().map(|pool| (&pool.name, &pool.data_dir));
        for (name, data_dir) in networks.chain(pools) {
            if !is_identifier(name) {
                return wrong(format!("{name:?} is not the name of a network"));
            }
            if !data_dir.is_absolute() {
                return wrong(format!("dataDir {data_dir:?} is not absolute"));
            }
        }
        let networks = listed.iter().map(|network| network.master());
        let pools = self.pools.iter().map(|pool| pool.master());
        for master in networks.chain(pools) {
            if let Err(error) = master {
                return wrong(error.msg);
            }
        }
        let resources = || resources::validate(&self.resources, self.device_plugin_path());
        if let Some(prefixes) = &self.prefixes {
            prefixes.validate().or_else(wrong)?;
            if let Err(error) = prefixes.master() {
                return wrong(error.msg);
            }
        }
        let pools = self.pools.iter().try_for_each(Pool::validate);
        pools
            .and_then(|()| pools::require_own_files(&self.pools))
            .and_then(|()| wanted::validate(&self.enis))
            .and_then(|()| resources())
            .or_else(wrong)
    }

    /// All durations in the configuration, in seconds, each with its key.
    fn times(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let own = [
            ("reconcileSeconds", self.reconcile_seconds),
            ("graceSeconds", self.grace_seconds),
        ];
        let own = own.into_iter().filter_map(|(key, time)| Some((key, time?)));
        let networks = self.networks.listed().iter().map(|n| n.cooldown_seconds);
        let cooldowns = networks.chain(self.pools.iter().map(|pool| pool.cooldown_seconds));
        let cooldowns = cooldowns.chain(self.kept().map(|kept| kept.cooldown_seconds));
        own.chain(cooldowns.map(|time| ("cooldownSeconds", time)))
    }

    /// The settings for prefixes, for all ENIs, for single ones and for pools.
    fn kept(&self) -> impl Iterator<Item = Kept> {
        let of_all = self.prefixes.iter().map(Prefixes::kept);
        let of_all = of_all.chain(self.pools.iter().filter_map(Pool::kept));
        of_all.chain(self.enis.iter().filter_map(|wanted| wanted.prefixes))
    }

    /// Whether prefixes are kept on any ENI.
    pub(crate) fn keeps_prefixes(&self) -> bool {
        self.kept().any(|kept| !kept.is_none())
    }

    /// The prefixes that are kept on an ENI by its name in `enis`.
    pub(crate) fn prefixes_by_name(&self, eni: &Eni) -> Option<Kept> {
        let mut enis = self.enis.iter();
        enis.find(|wanted| wanted.name == eni.network)?.prefixes
    }

    /// The average number of seconds between two comparisons with EC2.
    pub(crate) fn reconcile_seconds(&self) -> u64 {
        self.reconcile_seconds.unwrap_or(RECONCILE_SECONDS)
    }

    /// How long the container of an attachment must have ended before the attachment is ended.
    pub(crate) fn grace(&self) -> Duration {
        Duration::from_secs(self.grace_seconds.unwrap_or(GRACE_SECONDS))
    }

    /// The directories of the plugins.
    pub(crate) fn cni_path(&self) -> &str {
        self.cni_path.as_deref().unwrap_or(CNI_PATH)
    }

    /// The directory of the sockets of the kubelet and of its device plugins.
    pub(crate) fn device_plugin_path(&self) -> &Path {
        let path = self.device_plugin_path.as_deref();
        path.unwrap_or(Path::new(DEVICE_PLUGIN_PATH))
    }

    /// The first directory in which a runtime looks for plugins.
    pub(crate) fn plugin_directory(&self) -> &Path {
        let mut directories = self.cni_path().split(':').filter(|d| !d.is_empty());
        Path::new(directories.next().unwrap_or(CNI_PATH))
    }

    /// Whether the agent puts back plugins that other programs have replaced.
    pub(crate) fn restores_plugins(&self) -> bool {
        self.plugins.unwrap_or(self.cni_path.is_some())
    }

    /// The same configuration with metrics at this address.
    pub(crate) fn with_metrics(self, address: SocketAddr) -> Self {
        let metrics = Some(address);
        Self { metrics, ..self }
    }

    /// The longest time between two comparisons with EC2.
    pub(crate) fn longest_interval(&self) -> Duration {
        let seconds = self.reconcile_seconds();
        Duration::from_secs(seconds + (seconds / SPREAD).max(1))
    }

    /// The time until the next comparison with EC2, a little different each time.
    pub(crate) fn reconcile_interval(&self) -> Duration {
        let seconds = self.reconcile_seconds();
        let spread = (seconds / SPREAD).max(1);
        Duration::from_secs(seconds - spread / 2 + random::number() % spread)
    }
}
