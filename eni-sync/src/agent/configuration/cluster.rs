//! The section `kubernetes` of the agent's configuration. Without it, the agent does not use
//! the Kubernetes API.

use serde::Deserialize;

/// What the agent does in the Kubernetes API, with the token of its service account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Kubernetes {
    /// Whether a pod that runs without an address in the VPC gets an Event.
    pub(crate) events: bool,
    /// Whether the taint is removed that keeps pods away until the node is ready.
    pub(crate) startup_taint: bool,
}
