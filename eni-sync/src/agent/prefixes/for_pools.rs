//! Prefixes for pools: host-local gives out their addresses, by a ranges file that has one range
//! for each prefix.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use common::attach::inventory::Eni;
use common::error::{Error, Errors, Result};

use super::follow;
use crate::agent::configuration::{Configuration, Pool};
use crate::agent::reserved;
use crate::ledger::{EniLedger, Prefix, default_cooldown_seconds};
use crate::registration::node::Node;
use crate::registration::prefixes::ask::{List, Order};
use crate::registration::prefixes::listed;
use crate::vpc::ec2::Family;
use crate::vpc::eni;
use crate::vpc::inventory;

/// The pools of prefixes of the configuration.
pub(super) struct Pools<'a> {
    /// Each with the MAC address of its ENI.
    found: Vec<(&'a Pool, String)>,
    /// The names of those whose interface cannot be found, by their ranges files, which stay as
    /// they are.
    unknown: BTreeMap<&'a Path, &'a str>,
}

/// Those of one ENI.
pub(super) struct OnEni<'a> {
    eni: &'a Eni,
    pools: Vec<&'a Pool>,
    unknown: &'a BTreeMap<&'a Path, &'a str>,
}

impl<'a> Pools<'a> {
    /// The pools, with their ENIs as far as they are found. `errors` gets why one is not found
    /// or not for pods.
    pub(super) fn find(
        node: &Node<'_>,
        configuration: &'a Configuration,
        errors: &mut Errors,
    ) -> Self {
        let (mut found, mut unknown) = (Vec::new(), BTreeMap::new());
        for pool in configuration.pools.iter().filter(|p| p.kept().is_some()) {
            let mac = pool.master().and_then(|master| master.mac());
            let mac = mac.and_then(|mac| require_managed(node, &mac).map(|()| mac));
            match errors.keep(mac.map_err(|error| named(pool, error))) {
                Some(mac) => found.push((pool, mac)),
                None => {
                    unknown.insert(pool.ranges_file.as_path(), pool.name.as_str());
                }
            }
        }
        Self { found, unknown }
    }

    /// The pools of an ENI.
    pub(super) fn on(&'a self, eni: &'a Eni) -> OnEni<'a> {
        let own = self.found.iter().filter(|(_, mac)| *mac == eni.mac);
        OnEni {
            eni,
            pools: own.map(|(pool, _)| *pool).collect(),
            unknown: &self.unknown,
        }
    }
}

/// Checks that an interface is an ENI for pods. One that is new is in the next inventory.
fn require_managed(node: &Node<'_>, mac: &str) -> Result<()> {
    match node.inventory.by_mac(mac) {
        Some(eni) => eni::require_managed(eni),
        None => inventory::find(node.aws, mac).and_then(|(_, eni)| eni::require_managed(&eni)),
    }
}

fn named(pool: &Pool, error: Error) -> Error {
    let msg = format!("pool {:?}: {}", pool.name, error.msg);
    Error::new(error.code, msg).with_details(error.details)
}

impl OnEni<'_> {
    /// Whether there are any.
    pub(super) fn are_any(&self) -> bool {
        !self.pools.is_empty()
    }

    /// A pool of the node whose interface was not found: its file may have any prefix of this ENI.
    pub(super) fn missing(&self) -> Option<&str> {
        self.unknown.values().next().copied()
    }

    /// The ranges file that gets a prefix of a family that was found on the ENI.
    pub(super) fn ranges_file(&self, family: Family) -> Option<PathBuf> {
        let mut pools = self.pools.iter();
        let pool = pools.find(|pool| pool.has(family))?;
        Some(pool.ranges_file.clone())
    }

    /// Requests the prefixes that each pool lacks in the family of `order`, and closes those
    /// that it does not need. Those of a pool that is not here any more are all closed.
    ///
    /// # Errors
    /// The failures of any of the pools; the others are done.
    pub(super) fn follow(
        &self,
        order: &Order<'_>,
        reserved: impl Fn() -> Result<Vec<IpAddr>> + Copy,
    ) -> Result<()> {
        let mut errors = Errors::default();
        for pool in &self.pools {
            let followed = reserved::of_network(&pool.directory()).and_then(|own| {
                let list = List {
                    file: &pool.ranges_file,
                    reserved: &own,
                };
                let order = order.listed_in(list);
                let level = pool.kept().and_then(|kept| kept.level(order.family));
                follow(&order, level, pool.cooldown_seconds, reserved)
            });
            errors.keep(followed);
        }
        for file in self.left(order.ledger)? {
            let list = List {
                file: &file,
                reserved: &[],
            };
            let order = order.listed_in(list);
            errors.keep(follow(&order, None, default_cooldown_seconds(), reserved));
        }
        errors.into_result()
    }

    /// Writes the ranges files: what may be handed out of the prefixes of each pool, and nothing
    /// of those of a pool that is not here any more.
    ///
    /// # Errors
    /// Code 5 naming a file; the others are written.
    pub(super) fn write(&self, ledger: &EniLedger) -> Result<()> {
        let mut errors = Errors::default();
        for pool in &self.pools {
            let families = pool.families(self.eni);
            errors.keep(listed::write(ledger, self.eni, &pool.ranges_file, families));
        }
        let left = self.left(ledger)?;
        let is_left = |prefix: &&Prefix| {
            let file = prefix.ranges_file.as_ref();
            file.is_some_and(|file| left.contains(file))
        };
        for prefix in ledger.read_prefixes()?.iter().filter(is_left) {
            errors.keep(listed::unlist(prefix));
        }
        errors.into_result()
    }

    /// The ranges files of prefixes of the ENI that no pool has here any more.
    fn left(&self, ledger: &EniLedger) -> Result<BTreeSet<PathBuf>> {
        let known = ledger.read_prefixes()?.into_iter();
        let mut files: BTreeSet<PathBuf> = known.filter_map(|p| p.ranges_file).collect();
        files.retain(|file| {
            let is_here = self.pools.iter().any(|pool| pool.ranges_file == *file);
            !is_here && !self.unknown.contains_key(file.as_path())
        });
        Ok(files)
    }
}
