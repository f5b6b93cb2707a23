//! What an attachment asks for, as the plugin hands it to the registrar or sends it to
//! the agent.

use serde::{Deserialize, Serialize};

use crate::ledger::{Owner, Takeover};

/// An attachment that needs addresses.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Request {
    pub(crate) owner: Owner,
    pub(crate) takeover: Takeover,
    pub(crate) best_effort: bool,
}
