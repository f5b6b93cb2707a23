//! The part of a record that is about source routing.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The source routing of one attachment, as its record keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// The attachment's own table, for both families.
    pub table: u32,
    /// The priority of the rules, unless the kernel chooses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// The addresses with a rule; none before the attachment has its addresses.
    #[serde(default)]
    pub sources: Vec<IpAddr>,
}
