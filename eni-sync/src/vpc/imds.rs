//! The instance metadata of this node (IMDSv2), in our own types. It lags behind EC2:
//! what it shows may be gone, and what it does not show yet may be there. It therefore
//! only ever confirms that an address is present.

use std::cell::Cell;
use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_config::imds::Client;
use aws_config::imds::client::error::ImdsError;
use aws_config::provider_config::ProviderConfig;
use common::address::Cidr;
use common::error::{Error, ErrorCode, Result};
use serde::Deserialize;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::deadline::Deadline;
use crate::vpc::failure;

const IDENTITY: &str = "/latest/dynamic/instance-identity/document";
const MACS: &str = "/latest/meta-data/network/interfaces/macs";

/// How long it may take to reach the service, which is on the node's own machine.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// How long one attempt may take. The service answers in a millisecond; on a busy node
/// it is the node that takes long.
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(10);
/// How long all attempts may take together.
const DEADLINE: Duration = Duration::from_secs(20);

/// Which instance this node is. Source: Amazon EC2 User Guide, "Instance identity
/// documents".
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Identity {
    /// The region, such as `eu-west-1`.
    pub(crate) region: String,
    /// The id of the instance.
    pub(crate) instance_id: String,
    /// The type of the instance.
    pub(crate) instance_type: String,
    /// Its availability zone, such as `eu-west-1a`.
    #[serde(default)]
    pub(crate) availability_zone: String,
}

/// The metadata service.
pub(crate) struct Imds {
    runtime: Arc<Runtime>,
    client: Client,
    deadline: Cell<Deadline>,
}

impl Imds {
    pub(crate) fn new(runtime: Arc<Runtime>, provider: &ProviderConfig) -> Self {
        Self {
            runtime,
            client: Client::builder()
                .configure(provider)
                .connect_timeout(CONNECT_DEADLINE)
                .read_timeout(ATTEMPT_DEADLINE)
                .operation_attempt_timeout(ATTEMPT_DEADLINE)
                .operation_timeout(DEADLINE)
                .build(),
            deadline: Cell::default(),
        }
    }

    /// Sets the deadline of the requests that follow.
    pub(crate) fn set_deadline(&self, deadline: Deadline) {
        self.deadline.set(deadline);
    }

    /// The client, for credentials from the same service.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Which instance this node is.
    ///
    /// # Errors
    /// Code 11 when the service does not answer, 6 when it answers something else.
    pub(crate) fn identity(&self) -> Result<Identity> {
        let text = self
            .get(IDENTITY)?
            .ok_or_else(|| unavailable("the instance metadata service has no identity document"))?;
        serde_json::from_str(&text).map_err(|cause| {
            let msg = "the instance metadata service has not answered with an identity document";
            Error::new(ErrorCode::DECODING, msg).with_details(cause.to_string())
        })
    }

    /// The addresses that the service shows for the ENI with this MAC address. An address that
    /// is not among them may nevertheless be assigned.
    ///
    /// # Errors
    /// Code 11 when the service does not answer.
    pub(crate) fn addresses(&self, mac: &str) -> Result<HashSet<IpAddr>> {
        let mut addresses = HashSet::new();
        for list in ["local-ipv4s", "ipv6s"] {
            let text = self.get(&format!("{MACS}/{mac}/{list}"))?;
            let lines = text.iter().flat_map(|text| text.lines());
            addresses.extend(lines.filter_map(|line| line.trim().parse::<IpAddr>().ok()));
        }
        Ok(addresses)
    }

    /// The prefixes that the service shows for the ENI with this MAC address.
    ///
    /// # Errors
    /// Code 11 when the service does not answer.
    pub(crate) fn prefixes(&self, mac: &str) -> Result<Vec<Cidr>> {
        let mut prefixes = Vec::new();
        for list in ["ipv4-prefix", "ipv6-prefix"] {
            let text = self.get(&format!("{MACS}/{mac}/{list}"))?;
            let lines = text.iter().flat_map(|text| text.lines());
            prefixes.extend(lines.filter_map(|line| line.trim().parse::<Cidr>().ok()));
        }
        Ok(prefixes)
    }

    /// The MAC addresses of the ENIs that the service shows.
    ///
    /// # Errors
    /// Code 11 when the service does not answer.
    pub(crate) fn macs(&self) -> Result<BTreeSet<String>> {
        let text = self.get(&format!("{MACS}/"))?.unwrap_or_default();
        let lines = text.lines().map(|line| line.trim_end_matches('/'));
        Ok(lines.map(str::to_lowercase).collect())
    }

    /// The text at `path`, or `None` if the service answers with status 404.
    fn get(&self, path: &str) -> Result<Option<String>> {
        let left = self.deadline.get().left();
        let get = async { timeout(left, self.client.get(path)).await };
        let Ok(answer) = self.runtime.block_on(get) else {
            return Err(Deadline::missed("the instance metadata service"));
        };
        match answer {
            Ok(text) => Ok(Some(text.into())),
            Err(ImdsError::ErrorResponse(answer)) if answer.response().status().as_u16() == 404 => {
                Ok(None)
            }
            // The text of an answer is not repeated: it may be a credential.
            Err(ImdsError::ErrorResponse(answer)) => {
                let status = answer.response().status().as_u16();
                Err(unavailable("the instance metadata service refuses")
                    .with_details(format!("GET {path}: HTTP {status}")))
            }
            Err(error @ ImdsError::FailedToLoadToken(_)) => {
                let msg = "the instance metadata service gives no IMDSv2 token";
                Err(unavailable(msg).with_details(failure::chain(&error)))
            }
            Err(error) => {
                let details = format!("GET {path}: {}", failure::chain(&error));
                let msg = "the instance metadata service does not answer";
                Err(unavailable(msg).with_details(details))
            }
        }
    }
}

fn unavailable(msg: &str) -> Error {
    Error::new(ErrorCode::TRY_AGAIN, msg)
}
