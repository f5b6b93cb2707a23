//! What a network, or a pool, decides about the addresses of its attachments.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long an address stays on its ENI after its attachment has ended, unless the
/// configuration says otherwise. It is the VPC CNI's time.
pub(crate) const DEFAULT_COOLDOWN: Duration = Duration::from_secs(30);

/// The same in seconds, for configurations.
pub(crate) fn default_cooldown_seconds() -> u64 {
    DEFAULT_COOLDOWN.as_secs()
}

/// A day. A longer time is a mistake in the unit.
pub(crate) const LONGEST_COOLDOWN: u64 = 86_400;

/// When an address that another ENI has is taken from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Takeover {
    /// Not at all.
    Never,
    /// When the ENI is attached to nothing or to an instance that is terminated.
    #[default]
    DeadOwner,
    /// In any case: the address floats between nodes that all live.
    Always,
}
