//! How many prefixes the agent keeps on ENIs.

use common::error::{Error, Result};
use serde::Deserialize;

use super::master::{Master, Selector};
use crate::ledger::default_cooldown_seconds;
use crate::registration::prefixes::kept::{Kept, Marks};

/// The prefixes for networks without addresses, on ENIs for which `enis` does not say it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Prefixes {
    /// The IPv4 prefixes, in free ones.
    #[serde(default)]
    ipv4: Option<Marks>,
    /// The IPv6 prefixes, each of which has more addresses than pods are.
    #[serde(default)]
    ipv6: usize,
    /// The interface of the node whose ENI gets them; every ENI for pods without it.
    #[serde(default)]
    master: Option<String>,
    /// What that interface is recognised by, where its name is not the same on all nodes.
    #[serde(default)]
    master_selector: Option<Selector>,
    /// How long a prefix that nobody needs stays on the ENI.
    #[serde(default = "default_cooldown_seconds")]
    cooldown_seconds: u64,
}

impl Prefixes {
    /// What is kept of them.
    pub(crate) fn kept(&self) -> Kept {
        Kept {
            ipv4: self.ipv4,
            ipv6: self.ipv6,
            cooldown_seconds: self.cooldown_seconds,
        }
    }

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
        let kept = self.kept();
        let numbers = kept.validate();
        let numbers = numbers.and_then(|()| match kept.is_none() {
            true => Err("neither ipv4 nor ipv6 says how many".to_owned()),
            false => Ok(()),
        });
        numbers.map_err(|why| format!("prefixes: {why}"))
    }
}
