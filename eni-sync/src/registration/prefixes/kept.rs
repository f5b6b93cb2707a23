//! How many prefixes are kept on an ENI, in the agent's configuration.

use std::fmt;

use serde::Deserialize;

use super::stock::Level;
use crate::ledger::default_cooldown_seconds;
use crate::vpc::ec2::Family;

/// The largest number. No ENI has more slots, so a larger number is a mistake.
const MOST: usize = 64;

/// The prefixes of an ENI; by default none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Kept {
    /// The number of free IPv4 prefixes.
    #[serde(default)]
    pub(crate) ipv4: Option<Marks>,
    /// The number of IPv6 prefixes, each of which has more addresses than a node has pods.
    #[serde(default)]
    pub(crate) ipv6: usize,
    /// How long an unneeded prefix stays on the ENI, in seconds.
    #[serde(default = "default_cooldown_seconds")]
    pub(crate) cooldown_seconds: u64,
}

/// Between which numbers of free prefixes an ENI is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Marks {
    /// When there are fewer free addresses than this number of prefixes has, more are assigned.
    pub(crate) low: usize,
    /// Up to how many are then assigned.
    pub(crate) high: usize,
}

impl Kept {
    /// The level of a family; `None` if no prefixes of it are kept.
    pub(crate) fn level(&self, family: Family) -> Option<Level> {
        let level = match (family, self.ipv4) {
            (Family::V4, marks) => marks.map(|Marks { low, high }| Level { low, high })?,
            (Family::V6, _) => Level {
                low: self.ipv6,
                high: self.ipv6,
            },
        };
        Some(level).filter(|level| level.high > 0)
    }

    /// Whether none are kept.
    pub(crate) fn is_none(&self) -> bool {
        Family::ALL
            .iter()
            .all(|family| self.level(*family).is_none())
    }

    /// Checks the numbers.
    ///
    /// # Errors
    /// The number and what is wrong with it.
    pub(crate) fn validate(&self) -> Result<(), String> {
        if let Some(Marks { low, high }) = self.ipv4 {
            if low > high {
                return Err(format!("ipv4: low {low} is above high {high}"));
            }
            if high == 0 || high > MOST {
                return Err(format!("ipv4: high {high} is not from 1 to {MOST}"));
            }
        }
        match self.ipv6 > MOST {
            true => Err(format!("ipv6 {} is above {MOST}", self.ipv6)),
            false => Ok(()),
        }
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_none() {
            return f.write_str("none");
        }
        if let Some(Marks { low, high }) = self.ipv4 {
            write!(f, "{low} to {high} free of IPv4, ")?;
        }
        write!(f, "{} of IPv6", self.ipv6)
    }
}
