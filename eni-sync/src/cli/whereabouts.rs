//! `eni-sync whereabouts`: prints the addresses that whereabouts has reserved for pods that
//! still exist, so that its successor, host-local or the agent, does not assign them.
//! whereabouts stores a reservation as its offset from the first address of a pool's range.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use common::address::{Cidr, number, numbered};
use common::error::{Error, ErrorCode, Result};
use common::say;
use serde::Deserialize;
use serde_json::Value;

use crate::cli::{input, output};

/// The options of `eni-sync whereabouts`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// The output of kubectl as JSON; - is stdin
    #[arg(value_name = "FILE")]
    dump: PathBuf,
    /// Print only the addresses of this network
    #[arg(long, value_name = "CIDR")]
    subnet: Option<Cidr>,
}

/// A pool of whereabouts: one for each range, or for each range of a network with a name.
#[derive(Debug, Deserialize)]
struct Pool {
    metadata: Metadata,
    spec: Spec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Metadata {
    namespace: String,
    name: String,
}

#[derive(Debug, Deserialize)]
struct Spec {
    range: Cidr,
    /// By the offset from the address in `range`.
    allocations: BTreeMap<String, Allocation>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Allocation {
    /// Namespace and name of the pod.
    podref: String,
    /// A claim that keeps the address while there is no pod.
    ipamclaimref: String,
}

/// Prints the reservations as a list of addresses.
///
/// # Errors
/// Code 5 for a file that cannot be read, 6 for one with other content than pools and pods as
/// kubectl prints them: an address of a pod might be missing otherwise.
pub(crate) fn run(options: &Options) -> Result<()> {
    let dump = &options.dump;
    let text =
        input::text(dump).map_err(|cause| Error::io(format!("failed to read {dump:?}"), &cause))?;
    let (pools, pods) = read(&text).map_err(|why| not_understood(dump, why))?;
    let is_asked_for = |address: &IpAddr| options.subnet.is_none_or(|net| net.contains(*address));
    let (mut reserved, mut ended) = (BTreeSet::new(), BTreeMap::new());
    for pool in &pools {
        let addresses = pool.reserved().map_err(|why| not_understood(dump, why))?;
        for (address, allocation) in addresses.into_iter().filter(|(a, _)| is_asked_for(a)) {
            match allocation.has_ended(pods.as_ref()) {
                true => _ = ended.insert(address, &allocation.podref),
                false => _ = reserved.insert(address),
            }
        }
    }
    // Named networks may have the same address, each for a pod.
    ended.retain(|address, _| !reserved.contains(address));
    for (address, pod) in ended {
        say!("{address} is left out: pod {pod} has gone");
    }
    output::print_json(&reserved)
}

fn not_understood(dump: &Path, why: String) -> Error {
    Error::new(
        ErrorCode::DECODING,
        format!("failed to read whereabouts' reservations in {dump:?}"),
    )
    .with_details(why)
}

/// The pools of a dump, and the names of its pods if it has any.
fn read(text: &str) -> std::result::Result<(Vec<Pool>, Option<BTreeSet<String>>), String> {
    let document: Value = serde_json::from_str(text).map_err(|cause| cause.to_string())?;
    let items = match document.get("items").and_then(Value::as_array) {
        Some(items) => items.clone(),
        None => vec![document],
    };
    let (mut pools, mut pods) = (Vec::new(), BTreeSet::new());
    for item in items {
        let kind = item["kind"].as_str().unwrap_or_default().to_owned();
        let name = item["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let wrong = |cause: serde_json::Error| format!("{kind} {name:?}: {cause}");
        match kind.as_str() {
            "IPPool" => pools.push(Pool::deserialize(item).map_err(wrong)?),
            "Pod" => {
                let pod = Metadata::deserialize(&item["metadata"]).map_err(wrong)?;
                pods.insert(format!("{}/{}", pod.namespace, pod.name));
            }
            _ => {
                return Err(format!(
                    "it has {kind:?} {name:?}, which is neither an IPPool nor a Pod"
                ));
            }
        }
    }
    match pools.is_empty() {
        // kubectl prints the same for a namespace without pools and for a wrong namespace.
        true => Err("it has no IPPool: use -A".to_owned()),
        false => Ok((pools, Some(pods).filter(|pods| !pods.is_empty()))),
    }
}

impl Pool {
    /// Its reserved addresses, with their allocations.
    fn reserved(&self) -> std::result::Result<Vec<(IpAddr, &Allocation)>, String> {
        let range = self.spec.range;
        let reserved = |(distance, allocation): (&String, _)| {
            let address = address(range, distance).ok_or_else(|| {
                let name = &self.metadata.name;
                format!("IPPool {name:?}: {distance:?} is not a place in {range}")
            })?;
            Ok((address, allocation))
        };
        self.spec.allocations.iter().map(reserved).collect()
    }
}

/// The address at this offset from the address of the range.
fn address(range: Cidr, distance: &str) -> Option<IpAddr> {
    let distance: u128 = distance.parse().ok()?;
    let first = range.address();
    let address = numbered(number(first).checked_add(distance)?, first);
    range.contains(address).then_some(address)
}

impl Allocation {
    /// Whether the pod has ended: it is not among `pods`. A pod with an unknown name may still
    /// exist, and so may all pods of a namespace of which the dump has none, because the dump
    /// may be limited to other namespaces. A claim keeps its address without a pod.
    fn has_ended(&self, pods: Option<&BTreeSet<String>>) -> bool {
        let Some((namespace, _)) = self.podref.split_once('/') else {
            return false;
        };
        let is_in = |pod: &String| pod.split_once('/').is_some_and(|(its, _)| its == namespace);
        let has_ended =
            |pods: &BTreeSet<String>| !pods.contains(&self.podref) && pods.iter().any(is_in);
        self.ipamclaimref.is_empty() && pods.is_some_and(has_ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(range: &str, distance: &str) -> Option<String> {
        let address = address(range.parse().unwrap(), distance);
        address.map(|address| address.to_string())
    }

    #[test]
    fn a_distance_is_counted_from_the_address_that_the_range_begins_with() {
        for (range, distance, expected) in [
            ("10.0.4.0/24", "5", Some("10.0.4.5")),
            ("10.0.0.0/16", "1029", Some("10.0.4.5")),
            (
                "2001:db8::/64",
                "18446744073709551615",
                Some("2001:db8::ffff:ffff:ffff:ffff"),
            ),
            ("10.0.4.0/24", "256", None),
            ("255.255.255.0/24", "256", None),
            ("10.0.4.0/24", "-1", None),
            ("10.0.4.0/24", "x", None),
        ] {
            assert_eq!(
                at(range, distance).as_deref(),
                expected,
                "{range} {distance}"
            );
        }
    }
}
