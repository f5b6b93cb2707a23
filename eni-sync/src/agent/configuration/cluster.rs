//! What the agent asks of Kubernetes, which is nothing unless it is configured.

use serde::Deserialize;

/// What the agent does with the token of its service account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Kubernetes {
    /// Whether a pod that runs without an address in the VPC gets an Event.
    pub(crate) events: bool,
    /// Whether the taint is removed that keeps pods away until the node is ready for them.
    pub(crate) startup_taint: bool,
}
