//! What range sets are made from: ranges as they are written, read and validated.

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;

use common::address::{Cidr, parse_address};
use common::error::{Error, Result};
use common::version::CniVersion;

use crate::exclude::{self, Exclusion};
use crate::range::{RangeSet, RangeSpec};

/// A range as it is written. Addresses are texts here, so that a wrong one is
/// reported with Go's words and not with those of a JSON reader.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct RawRange {
    pub(crate) subnet: Option<String>,
    pub(crate) range_start: String,
    pub(crate) range_end: String,
    pub(crate) gateway: String,
    pub(crate) exclude: Value,
}

impl RawRange {
    /// The same with every text read.
    ///
    /// # Errors
    /// Code 7 with a text of the Go plugin, or one that names the key `exclude`.
    pub(crate) fn spec(&self) -> Result<RangeSpec> {
        let subnet = self.subnet.as_deref().map(str::parse::<Cidr>).transpose();
        Ok(RangeSpec {
            subnet: subnet.map_err(Error::config)?,
            range_start: optional_address(&self.range_start)?,
            range_end: optional_address(&self.range_end)?,
            gateway: optional_address(&self.gateway)?,
            exclude: exclude::parse(&self.exclude).map_err(Error::config)?,
        })
    }
}

fn optional_address(text: &str) -> Result<Option<IpAddr>> {
    if text.is_empty() {
        return Ok(None);
    }
    parse_address(text).map(Some).map_err(Error::config)
}

/// What holds for all sets of a network together.
#[derive(Debug)]
pub(crate) struct Rules {
    /// What no set hands out.
    pub(crate) exclude: Vec<Exclusion>,
    /// The version of the configuration, which limits the number of addresses.
    pub(crate) version: CniVersion,
    /// The version as written.
    pub(crate) version_text: String,
}

impl Rules {
    /// The sets that `specs` describe, validated one by one and then together.
    ///
    /// # Errors
    /// Code 7 with a text of the Go plugin, or one that names the key `exclude`.
    pub(crate) fn range_sets(&self, specs: &[Vec<RangeSpec>]) -> Result<Vec<RangeSet>> {
        if specs.is_empty() {
            return Err(Error::config("no IP ranges specified"));
        }
        let mut sets = Vec::new();
        for (index, specs) in specs.iter().enumerate() {
            let set = RangeSet::new(specs, &self.exclude)
                .map_err(|cause| Error::config(format!("invalid range set {index}: {cause}")))?;
            sets.push(set);
        }
        self.require_room(&sets)?;
        require_disjoint(&sets)?;
        self.require_families(&sets)?;
        Ok(sets)
    }

    /// Whether the result of this version can show an address of every set.
    fn require_room(&self, sets: &[RangeSet]) -> Result<()> {
        let ipv4 = sets.iter().filter(|set| set.is_ipv4()).count();
        if self.version < CniVersion::V0_3_0 && (ipv4 > 1 || sets.len() - ipv4 > 1) {
            return Err(Error::config(format!(
                "CNI version {} does not support more than 1 address per family",
                self.version_text
            )));
        }
        Ok(())
    }

    /// Whether every exclusion is of the family of some set.
    fn require_families(&self, sets: &[RangeSet]) -> Result<()> {
        let foreign = |exclusion: &&Exclusion| {
            let is_ipv4 = exclusion.first.is_ipv4();
            sets.iter().all(|set| set.is_ipv4() != is_ipv4)
        };
        match self.exclude.iter().find(foreign) {
            Some(Exclusion { text, .. }) => Err(Error::config(format!(
                "exclude {text:?} is of another family than every range"
            ))),
            None => Ok(()),
        }
    }
}

fn require_disjoint(sets: &[RangeSet]) -> Result<()> {
    for (index, set) in sets.iter().enumerate() {
        let later = sets.iter().enumerate().skip(index + 1);
        if let Some((other, _)) = later.into_iter().find(|(_, later)| set.overlaps(later)) {
            let msg = format!("range set {index} overlaps with {other}");
            return Err(Error::config(msg));
        }
    }
    Ok(())
}
