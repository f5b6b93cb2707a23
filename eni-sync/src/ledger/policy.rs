//! The settings of a network or a pool for the addresses of its attachments.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long an address stays on its ENI after its attachment has ended, unless the
/// configuration says otherwise. It is the VPC CNI's time.
pub(crate) const DEFAULT_COOLDOWN: Duration = Duration::from_secs(30);

/// The default cool-down in seconds, for configurations.
pub(crate) fn default_cooldown_seconds() -> u64 {
    DEFAULT_COOLDOWN.as_secs()
}

/// The longest cool-down in seconds, a day. A longer time is a mistake in the unit.
pub(crate) const LONGEST_COOLDOWN: u64 = 86_400;

/// When an address is taken from another ENI that has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Takeover {
    /// Never.
    Never,
    /// When the ENI is attached to nothing or to an instance that is terminated.
    #[default]
    DeadOwner,
    /// In any case, for addresses that move between running nodes.
    Always,
}
