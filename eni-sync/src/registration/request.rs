//! What an attachment requests: the plugin uses it itself or sends it to the agent.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::ledger::{Owner, Takeover};
use crate::vpc::ec2::Family;

/// An attachment that needs addresses.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Request {
    pub(crate) owner: Owner,
    pub(crate) takeover: Takeover,
    pub(crate) best_effort: bool,
}

/// Which addresses an attachment needs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Choice {
    /// The MAC address of its ENI.
    pub(crate) mac: String,
    /// The families of which it gets addresses; if none are named, those of the subnet.
    pub(crate) families: Option<Vec<Family>>,
    /// The addresses that it requests.
    pub(crate) addresses: Vec<IpAddr>,
    /// Whether it has the whole ENI. Then the ENI's primary addresses are its own too, and EC2
    /// chooses none.
    pub(crate) is_whole: bool,
}
