//! The ranges files by which host-local gives out the addresses of prefixes: a range for each
//! prefix. A prefix leaves its file before it leaves its ENI.

use std::net::IpAddr;
use std::path::Path;

use common::address::{Cidr, step};
use common::attach::inventory::Eni;
use common::error::Result;
use host_local_ipam::ranges_file;
use host_local_ipam::raw_range::RawRange;

use super::occupied;
use super::supply::is_usable;
use crate::ledger::{EniLedger, Prefix, Timestamp, now};
use crate::vpc::ec2::Family;
use crate::vpc::eni;

/// How many addresses of AWS are left out at an end of a prefix: it reserves fewer.
const TRIED: usize = 16;

/// Writes a ranges file: the open prefixes of the ENI that are for it, as far as EC2 has
/// confirmed them.
///
/// # Errors
/// Code 5 naming the file, 5 or 6 naming one of the ledger that cannot be read.
pub(crate) fn write(
    ledger: &EniLedger,
    eni: &Eni,
    file: &Path,
    families: impl Iterator<Item = Family>,
) -> Result<()> {
    let entries = ledger.open()?;
    // Without the list of excluded addresses, the file stays as it is.
    entries.excluded()?;
    let mut prefixes = entries.prefixes()?;
    prefixes.retain(|prefix| prefix.ranges_file.as_deref() == Some(file));
    let apart = match prefixes.is_empty() {
        true => Vec::new(),
        false => occupied::set_apart_in(&entries)?,
    };
    drop(entries);
    let prefixes = prefixes.into_iter();
    let prefixes: Vec<Prefix> = prefixes.map(|p| p.without_those(&apart)).collect();
    ranges_file::write(file, sets(&prefixes, eni, families, now()))
}

/// A set of ranges for each of the families.
fn sets(
    prefixes: &[Prefix],
    eni: &Eni,
    families: impl Iterator<Item = Family>,
    now: Timestamp,
) -> Vec<Vec<RawRange>> {
    let mut open: Vec<&Prefix> = prefixes.iter().filter(|p| is_usable(p, eni, now)).collect();
    open.sort_by_key(|prefix| prefix.prefix.address());
    let of = |family: Family| -> Vec<RawRange> {
        let own = open
            .iter()
            .filter(|p| Family::of(p.prefix.address()) == family);
        own.flat_map(|prefix| ranges(prefix, eni)).collect()
    };
    families.map(of).collect()
}

/// One range, or one for each part of the prefix between addresses that are given to nobody.
fn ranges(prefix: &Prefix, eni: &Eni) -> Vec<RawRange> {
    let mut subnets = eni.subnet_cidrs.iter();
    let Some(subnet) = subnets.find(|cidr| cidr.contains(prefix.prefix.address())) else {
        return Vec::new();
    };
    let blocks = prefix.blocks().into_iter();
    blocks
        .filter_map(|block| range(*subnet, block, eni))
        .collect()
}

/// A range without the addresses of AWS at its ends; `None` if no other is left.
fn range(subnet: Cidr, (first, last): (IpAddr, IpAddr), eni: &Eni) -> Option<RawRange> {
    let end = |from: IpAddr, by: i128| {
        let tried = std::iter::successors(Some(from), |address| Some(step(*address, by)));
        let mut tried = tried.take(TRIED);
        tried.find(|address| eni::require_assignable(eni, *address).is_ok())
    };
    let (first, last) = (end(first, 1)?, end(last, -1)?);
    (first <= last).then(|| RawRange::between(subnet.network(), first, last))
}

/// Takes a prefix out of the ranges file that it is for.
///
/// # Errors
/// Code 5 naming the file.
pub(crate) fn unlist(prefix: &Prefix) -> Result<()> {
    let file = prefix.ranges_file.as_deref();
    file.map_or(Ok(()), |file| {
        ranges_file::remove(file, |first| prefix.contains(first))
    })
}
