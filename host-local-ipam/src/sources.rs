//! The sources of range sets: the configuration, which is the same on all nodes, and a
//! file of this node. Ranges of both are read and validated in the same way, and
//! together.

use std::path::PathBuf;

use common::cni::version::CniVersion;
use common::error::{Error, Result};

use crate::exclude::Exclusion;
use crate::range::{RangeSet, RangeSpec};
use crate::ranges_file::{self, RANGES_FILE};
use crate::raw_range::NO_RANGES;

/// The sources of a network's range sets.
#[derive(Debug)]
pub struct Sources {
    specs: Vec<Vec<RangeSpec>>,
    configured: Vec<RangeSet>,
    file: Option<PathBuf>,
    rules: Rules,
}

impl Sources {
    /// The sources of a network: the ranges of its configuration, and a file, which is
    /// not read here. There must be at least one of them.
    ///
    /// # Errors
    /// Code 7 with a text of the Go plugin, or one that names the key `exclude`.
    pub fn new(specs: Vec<Vec<RangeSpec>>, file: Option<PathBuf>, rules: Rules) -> Result<Self> {
        if specs.is_empty() && file.is_none() {
            return Err(Error::config(NO_RANGES));
        }
        let configured = rules.range_sets(&specs)?;
        if file.is_none() {
            rules.require_families(&configured)?;
        }
        Ok(Self {
            specs,
            configured,
            file,
            rules,
        })
    }

    /// The sets of the configuration only; can be empty when there is a file.
    pub fn configured(&self) -> &[RangeSet] {
        &self.configured
    }

    /// Whether there is a file with ranges of this node.
    pub fn has_file(&self) -> bool {
        self.file.is_some()
    }

    /// Reads all sets, at least one: those of the configuration, then those of the file.
    /// The order determines the numbers of the `last_reserved_ip` files, so adding a file
    /// to a network does not change the numbers of the configured sets.
    ///
    /// # Errors
    /// Code 7 naming the file, or the key `exclude`.
    pub fn read(&self) -> Result<Vec<RangeSet>> {
        let Some(path) = &self.file else {
            return Ok(self.configured.clone());
        };
        // The configuration alone is valid, so every error is caused by the file.
        let of_file = |error: Error| {
            Error::config(format!("{RANGES_FILE} {path:?}: {}", error.msg))
                .with_details(error.details)
        };
        let mut specs = self.specs.clone();
        specs.extend(ranges_file::read(path).map_err(of_file)?);
        let sets = self.rules.range_sets(&specs).map_err(of_file)?;
        self.rules.require_families(&sets)?;
        Ok(sets)
    }
}

/// The rules for all sets of a network together.
#[derive(Debug)]
pub struct Rules {
    /// The addresses that no set assigns.
    pub exclude: Vec<Exclusion>,
    /// The version of the configuration, which limits the number of addresses.
    pub version: CniVersion,
    /// The version as written.
    pub version_text: String,
}

impl Rules {
    /// The sets that `specs` describe, validated one by one and then together.
    ///
    /// # Errors
    /// Code 7 with a text of the Go plugin, or one that names the key `exclude`.
    fn range_sets(&self, specs: &[Vec<RangeSpec>]) -> Result<Vec<RangeSet>> {
        let mut sets = Vec::new();
        for (index, specs) in specs.iter().enumerate() {
            let set = RangeSet::new(specs, &self.exclude)
                .map_err(|cause| Error::config(format!("invalid range set {index}: {cause}")))?;
            sets.push(set);
        }
        self.require_room(&sets)?;
        require_disjoint(&sets)?;
        Ok(sets)
    }

    /// Makes sure that a result of this version can have an address of every set.
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

    /// Makes sure that every exclusion is of the family of at least one set. Needs all
    /// sets.
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
