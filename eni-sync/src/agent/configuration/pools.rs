//! A pool in the agent's configuration: its ranges, watermarks and files.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::PathBuf;

use common::address::{number, numbered};
use common::attach::inventory::Eni;
use common::error::{Error, Result};
use serde::Deserialize;

use super::{Master, Selector, data_dir};
use crate::ledger::{Entry, Life, Owner, State, Takeover, default_cooldown_seconds};
use crate::registration::prefixes::kept::{Kept, Marks};
use crate::vpc::ec2::Family;

/// The largest number of addresses in a range; a longer range is a mistake.
const LARGEST_RANGE: u128 = 1 << 16;

/// A network whose addresses are assigned to an ENI before a pod asks for one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Pool {
    /// The network's name.
    pub(crate) name: String,
    /// The interface of the node whose ENI gets the addresses.
    #[serde(default)]
    master: Option<String>,
    /// How that interface is selected, if its name differs between nodes.
    #[serde(default)]
    master_selector: Option<Selector>,
    /// The ranges of the whole cluster. The nodes share them without further configuration.
    #[serde(default)]
    pub(crate) ranges: Vec<PoolRange>,
    /// The prefixes of the ENI whose addresses it has, in place of `ranges`.
    #[serde(default)]
    prefixes: Option<OfPrefixes>,
    /// When there are fewer free addresses than this, more are assigned.
    #[serde(default)]
    low: Option<usize>,
    /// Up to how many free addresses are then assigned.
    #[serde(default)]
    high: Option<usize>,
    /// The file that the `rangesFile` of the network's `ipam` section names.
    pub(crate) ranges_file: PathBuf,
    /// The `dataDir` of its `ipam` section.
    #[serde(default = "data_dir")]
    pub(crate) data_dir: PathBuf,
    /// How long an address that the pool releases stays on the ENI, in seconds.
    #[serde(default = "default_cooldown_seconds")]
    pub(crate) cooldown_seconds: u64,
}

/// How many free prefixes the ENI has for a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct OfPrefixes {
    #[serde(default)]
    ipv4: Option<Marks>,
    #[serde(default)]
    ipv6: usize,
}

/// Addresses from the first to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PoolRange {
    start: IpAddr,
    end: IpAddr,
}

/// The lowest and the highest number of free addresses of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Watermarks {
    pub(crate) low: usize,
    pub(crate) high: usize,
}

/// Checks that no two pools write the same file.
pub(super) fn require_own_files(pools: &[Pool]) -> Result<(), String> {
    let mut files = BTreeSet::new();
    let mut pools = pools.iter();
    match pools.find(|pool| !files.insert(&pool.ranges_file)) {
        None => Ok(()),
        Some(Pool { ranges_file, .. }) => {
            Err(format!("two pools have the rangesFile {ranges_file:?}"))
        }
    }
}

impl Pool {
    /// The watermarks. Without configured ones, a pool takes all addresses that it can get.
    pub(crate) fn watermarks(&self) -> Watermarks {
        let high = self.high.unwrap_or(usize::MAX);
        let low = self.low.unwrap_or(high);
        Watermarks { low, high }
    }

    /// Whether the address is in one of the ranges.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let is_in = |range: &PoolRange| (range.start..=range.end).contains(&address);
        self.ranges.iter().any(is_in)
    }

    /// Whether it has addresses of a family.
    pub(crate) fn has(&self, family: Family) -> bool {
        let is_in_prefixes = self.kept().is_some_and(|kept| kept.level(family).is_some());
        let mut ranges = self.ranges.iter();
        is_in_prefixes || ranges.any(|range| Family::of(range.start) == family)
    }

    /// The families of which each pod of the pool gets an address: those of the pool that the
    /// subnet of its ENI has, too.
    pub(crate) fn families(&self, eni: &Eni) -> impl Iterator<Item = Family> {
        let families = Family::ALL.into_iter();
        families.filter(|family| {
            let mut cidrs = eni.subnet_cidrs.iter();
            self.has(*family) && cidrs.any(|cidr| Family::of(cidr.address()) == *family)
        })
    }

    /// The prefixes that its ENI has for it; `None` for a pool with ranges.
    pub(crate) fn kept(&self) -> Option<Kept> {
        self.prefixes.map(|OfPrefixes { ipv4, ipv6 }| Kept {
            ipv4,
            ipv6,
            cooldown_seconds: self.cooldown_seconds,
        })
    }

    /// Where host-local keeps the reservations of the network.
    pub(crate) fn directory(&self) -> PathBuf {
        self.data_dir.join(&self.name)
    }

    /// Every address of the ranges of a family, in order.
    pub(crate) fn addresses(&self, family: Family) -> impl Iterator<Item = IpAddr> {
        let ranges = self.ranges.iter();
        let ranges = ranges.filter(move |range| Family::of(range.start) == family);
        ranges.flat_map(|range| {
            (number(range.start)..=number(range.end)).map(|one| numbered(one, range.start))
        })
    }

    /// The free addresses of the pool among the entries of an ENI, in order. One that host-local
    /// has handed out is not free, also if nobody has told the ledger.
    ///
    /// # Errors
    /// Code 5 naming a reservation that cannot be looked for.
    pub(crate) fn free(&self, entries: &[Entry], family: Family) -> Result<BTreeSet<IpAddr>> {
        let pooled = entries.iter().filter(|entry| entry.state == State::Pooled);
        let pooled = pooled.map(|entry| entry.address);
        let mut free = BTreeSet::new();
        for address in pooled.filter(|a| self.contains(*a) && Family::of(*a) == family) {
            if !self.is_reserved(address)? {
                free.insert(address);
            }
        }
        Ok(free)
    }

    fn reservation(&self, address: IpAddr) -> PathBuf {
        self.directory().join(address.to_string())
    }

    fn is_reserved(&self, address: IpAddr) -> Result<bool> {
        let path = self.reservation(address);
        match path.try_exists() {
            // Nothing is reserved where the store is a file.
            Err(cause) if cause.kind() == ErrorKind::NotADirectory => Ok(false),
            found => {
                found.map_err(|cause| Error::io(format!("failed to look for {path:?}"), &cause))
            }
        }
    }

    /// The owner of an address of the pool: the attachment that host-local reserves it for.
    pub(crate) fn claimant(&self, address: IpAddr) -> Owner {
        let reservation = self.reservation(address);
        Owner {
            network: self.name.clone(),
            container_id: String::new(),
            ifname: String::new(),
            pod: String::new(),
            life: Life::Reservation { reservation },
            cooldown_seconds: self.cooldown_seconds,
            takeover: Some(Takeover::Never),
        }
    }

    /// How the configuration selects the interface.
    ///
    /// # Errors
    /// Code 7 when it has neither `master` nor `masterSelector`, or both.
    pub(crate) fn master(&self) -> Result<Master<'_>> {
        Master::one_of(self.master.as_ref(), self.master_selector.as_ref())
            .map_err(|why| Error::config(format!("pool {:?} {why}", self.name)))
    }

    pub(super) fn validate(&self) -> Result<(), String> {
        let Watermarks { low, high } = self.watermarks();
        if low > high {
            return Err(format!(
                "pool {:?}: low {low} is above high {high}",
                self.name
            ));
        }
        if !self.ranges_file.is_absolute() {
            return Err(format!("rangesFile {:?} is not absolute", self.ranges_file));
        }
        for range in &self.ranges {
            let PoolRange { start, end } = range;
            let first = number(*start);
            let size = number(*end).checked_sub(first);
            if start.is_ipv4() != end.is_ipv4() || size.is_none_or(|size| size >= LARGEST_RANGE) {
                return Err(format!(
                    "{start} to {end} is not a range of up to {LARGEST_RANGE} addresses"
                ));
            }
        }
        self.validate_prefixes()
            .map_err(|why| format!("pool {:?} {why}", self.name))
    }

    fn validate_prefixes(&self) -> Result<(), String> {
        let has_ranges = !self.ranges.is_empty();
        let Some(kept) = self.kept() else {
            let ranges = has_ranges.then_some(());
            return ranges.ok_or_else(|| "has no ranges and no prefixes".to_owned());
        };
        if has_ranges {
            return Err("has both ranges and prefixes".to_owned());
        }
        if self.low.is_some() || self.high.is_some() {
            return Err("has prefixes: low and high belong into prefixes.ipv4".to_owned());
        }
        if kept.is_none() {
            return Err("has prefixes, but neither ipv4 nor ipv6 says how many".to_owned());
        }
        kept.validate()
            .map_err(|why| format!("has prefixes: {why}"))
    }
}
