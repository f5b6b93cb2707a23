//! The section `prefixes` of the agent's configuration: how many prefixes are kept on ENIs.

use common::error::{Error, Result};
use serde::Deserialize;

use super::master::{Master, Selector};
use crate::ledger::default_cooldown_seconds;
use crate::registration::prefixes::kept::{Kept, Marks};

/// The prefixes for networks without ranges, on ENIs without an own setting in `enis`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Prefixes {
    /// The number of free IPv4 prefixes.
    #[serde(default)]
    ipv4: Option<Marks>,
    /// The number of IPv6 prefixes, each of which has more addresses than a node has pods.
    #[serde(default)]
    ipv6: usize,
    /// The interface of the node whose ENI gets them; without it, every ENI for pods.
    #[serde(default)]
    master: Option<String>,
    /// How that interface is selected, if its name differs between nodes.
    #[serde(default)]
    master_selector: Option<Selector>,
    /// How long an unneeded prefix stays on the ENI, in seconds.
    #[serde(default = "default_cooldown_seconds")]
    cooldown_seconds: u64,
}

impl Prefixes {
    /// The numbers of prefixes to keep.
    pub(crate) fn kept(&self) -> Kept {
        Kept {
            ipv4: self.ipv4,
            ipv6: self.ipv6,
            cooldown_seconds: self.cooldown_seconds,
        }
    }

    /// How the configuration selects the interface, if it does.
    ///
    /// # Errors
    /// Code 7 when it has both `master` and `masterSelector`.
    pub(crate) fn master(&self) -> Result<Option<Master<'_>>> {
        if self.master.is_none() && self.master_selector.is_none() {
            return Ok(None);
        }
        Master::one_of(self.master.as_ref(), self.master_selector.as_ref())
            .map(Some)
            .map_err(|why| Error::config(format!("prefixes {why}")))
    }

    /// Checks the numbers.
    pub(super) fn validate(&self) -> Result<(), String> {
        let kept = self.kept();
        let numbers = kept.validate();
        let numbers = numbers.and_then(|()| match kept.is_none() {
            true => Err("neither ipv4 nor ipv6 says how many".to_owned()),
            false => Ok(()),
        });
        numbers.map_err(|why| format!("prefixes: {why}"))
    }
}
