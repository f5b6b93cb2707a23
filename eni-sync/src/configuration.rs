//! The agent's configuration file. What it does not know it refuses: a key that is
//! misspelt would silently do nothing.

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::error::{Error, ErrorCode, Result};
use serde::Deserialize;

use crate::config::{DEFAULT_COOLDOWN, Takeover};

/// Between two comparisons with EC2 that nothing has asked for, in seconds.
const RECONCILE_SECONDS: u64 = 420;
/// Comparisons of many nodes spread over this part of the interval.
const SPREAD: u64 = 4;
/// Where host-local keeps the reservations of all networks.
const DATA_DIR: &str = "/var/lib/cni/networks";

/// The configuration of an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Configuration {
    /// Seconds between two comparisons of the ledger with EC2.
    pub(crate) reconcile_seconds: Option<u64>,
    /// Where metrics and health are served; a loopback address.
    pub(crate) metrics: Option<SocketAddr>,
    /// The networks whose reservations of host-local are registered.
    pub(crate) networks: Vec<Watched>,
}

/// A network whose attachments nobody hands over.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Watched {
    /// The network's name.
    pub(crate) name: String,
    /// The interface of the node whose ENI the addresses belong to.
    pub(crate) master: String,
    /// The `dataDir` of its `ipam` section.
    #[serde(default = "data_dir")]
    pub(crate) data_dir: PathBuf,
    /// From whom an address is taken.
    #[serde(default)]
    pub(crate) takeover: Takeover,
    /// How long an address stays on its ENI when its reservation has ended.
    #[serde(default = "cooldown_seconds")]
    pub(crate) cooldown_seconds: u64,
}

fn data_dir() -> PathBuf {
    PathBuf::from(DATA_DIR)
}

fn cooldown_seconds() -> u64 {
    DEFAULT_COOLDOWN.as_secs()
}

impl Watched {
    /// Where host-local keeps the reservations of the network.
    pub(crate) fn directory(&self) -> PathBuf {
        self.data_dir.join(&self.name)
    }
}

impl Configuration {
    /// The configuration in a file.
    ///
    /// # Errors
    /// Code 5 when it cannot be read, 6 when it is no configuration, 7 for a value that
    /// makes no sense; all name the file.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path)
            .map_err(|cause| Error::io(format!("failed to read {path:?}"), &cause))?;
        let configuration: Self = serde_json::from_slice(&text).map_err(|cause| {
            let msg = format!("{path:?} is no configuration of the agent");
            Error::new(ErrorCode::DECODING, msg).with_details(cause.to_string())
        })?;
        configuration.validate(path)?;
        Ok(configuration)
    }

    fn validate(&self, path: &Path) -> Result<()> {
        let wrong = |why: String| Err(Error::config(format!("{path:?}: {why}")));
        if let Some(address) = self.metrics.filter(|address| !address.ip().is_loopback()) {
            return wrong(format!("metrics {address} is no loopback address"));
        }
        if self.reconcile_seconds == Some(0) {
            return wrong("reconcileSeconds is 0".to_owned());
        }
        for network in &self.networks {
            if !common::args::is_identifier(&network.name) {
                return wrong(format!("{:?} is no name of a network", network.name));
            }
            if !network.data_dir.is_absolute() {
                return wrong(format!("dataDir {:?} is not absolute", network.data_dir));
            }
        }
        Ok(())
    }

    /// The time until the next comparison with EC2, a little different each time.
    pub(crate) fn reconcile_interval(&self) -> Duration {
        let seconds = self.reconcile_seconds.unwrap_or(RECONCILE_SECONDS);
        let spread = (seconds / SPREAD).max(1);
        Duration::from_secs(
            seconds - spread / 2 + RandomState::new().build_hasher().finish() % spread,
        )
    }
}
