//! How many prefixes the agent keeps on ENIs.

use std::fmt;

use common::error::{Error, Result};
use serde::Deserialize;

use super::cooldown_seconds;
use super::master::{Master, Selector};

/// No ENI has as many slots; a larger number is a mistake.
const MOST: usize = 64;

/// The prefixes for networks without addresses.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Prefixes {
    /// The IPv4 prefixes, in free ones.
    #[serde(default)]
    pub(crate) ipv4: Option<Marks>,
    /// The IPv6 prefixes, each of which has more addresses than pods are.
    #[serde(default)]
    pub(crate) ipv6: usize,
    /// The interface of the node whose ENI gets them; every ENI for pods without it.
    #[serde(default)]
    master: Option<String>,
    /// What that interface is recognised by, where its name is not the same on all nodes.
    #[serde(default)]
    master_selector: Option<Selector>,
    /// How long a prefix that nobody needs stays on the ENI.
    #[serde(default = "cooldown_seconds")]
    pub(crate) cooldown_seconds: u64,
}

/// Between which numbers of free prefixes an ENI is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Marks {
    /// With fewer free addresses than this many prefixes have, more are assigned.
    pub(crate) low: usize,
    /// How many there are then.
    pub(crate) high: usize,
}

impl Prefixes {
    /// Where the interface is named, if it is.
    ///
    /// # Errors
    /// Code 7 when it is named twice.
    pub(crate) fn master(&self) -> Result<Option<Master<'_>>> {
        if self.master.is_none() && self.master_selector.is_none() {
            return Ok(None);
        }
        Master::one_of(self.master.as_ref(), self.master_selector.as_ref())
            .map(Some)
            .map_err(|why| Error::config(format!("prefixes {why}")))
    }

    /// What is wrong with the numbers.
    pub(super) fn validate(&self) -> Result<(), String> {
        let wrong = |why: String| Err(format!("prefixes: {why}"));
        if let Some(Marks { low, high }) = self.ipv4 {
            if low > high {
                return wrong(format!("ipv4: low {low} is above high {high}"));
            }
            if high == 0 || high > MOST {
                return wrong(format!("ipv4: high {high} is not from 1 to {MOST}"));
            }
        }
        if self.ipv6 > MOST {
            return wrong(format!("ipv6 {} is above {MOST}", self.ipv6));
        }
        match self.ipv4.is_none() && self.ipv6 == 0 {
            true => wrong("neither ipv4 nor ipv6 says how many".to_owned()),
            false => Ok(()),
        }
    }
}

impl fmt::Display for Prefixes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Marks { low, high }) = self.ipv4 {
            write!(f, "{low} to {high} free of IPv4, ")?;
        }
        write!(f, "{} of IPv6", self.ipv6)
    }
}
