//! The addresses that this node must not assign to pods: something else has given them to pods,
//! without EC2 knowing it. The agent's configuration names them; they are also in the ledger,
//! so that a plugin without an agent does not assign them either.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use common::address::Cidr;
use common::error::{Error, Result};
use common::files::file;
use host_local_ipam::exclude::{self, Exclusion};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Ledger, document};

/// The name of the file, beside the directories of the ENIs.
const FILE: &str = "exclude.json";
/// How long, in seconds, an excluded address that EC2 has chosen stays on the ENI while its
/// slot is not needed. EC2 cannot choose it again while it is there.
pub(crate) const PARKED: u64 = 3600;
/// How many addresses and networks may be listed: the file is read for every pod.
const MOST: usize = 10_000;

/// Excluded addresses and networks as they are written, for example `["10.0.4.20",
/// "10.0.4.64/28"]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "Value", into = "Vec<String>")]
pub(crate) struct Excluded {
    texts: Vec<String>,
    /// The first and the last address of each block, sorted; no two blocks overlap.
    blocks: Vec<(IpAddr, IpAddr)>,
}

impl TryFrom<Value> for Excluded {
    type Error = String;

    fn try_from(value: Value) -> std::result::Result<Self, String> {
        let parsed = exclude::parse(&value)?;
        match parsed.len() > MOST {
            true => Err(format!(
                "exclude has more than {MOST} entries: name networks"
            )),
            false => Ok(Self {
                blocks: merged(&parsed),
                texts: parsed.into_iter().map(|one| one.text).collect(),
            }),
        }
    }
}

impl From<Excluded> for Vec<String> {
    fn from(excluded: Excluded) -> Self {
        excluded.texts
    }
}

fn merged(parsed: &[Exclusion]) -> Vec<(IpAddr, IpAddr)> {
    let mut sorted: Vec<(IpAddr, IpAddr)> =
        parsed.iter().map(|one| (one.first, one.last)).collect();
    sorted.sort_unstable();
    let mut blocks: Vec<(IpAddr, IpAddr)> = Vec::new();
    for (first, last) in sorted {
        match blocks.last_mut() {
            Some((_, end)) if first <= *end => *end = last.max(*end),
            _ => blocks.push((first, last)),
        }
    }
    blocks
}

impl Excluded {
    /// Whether an address is excluded.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let after = self.blocks.partition_point(|(first, _)| *first <= address);
        let before = after.checked_sub(1).and_then(|nth| self.blocks.get(nth));
        before.is_some_and(|(_, last)| address <= *last)
    }

    /// The excluded addresses of a network, from the first to the last address of each block.
    pub(super) fn within(&self, network: Cidr) -> Vec<(IpAddr, IpAddr)> {
        let (from, to) = (network.network().address(), network.last());
        let inside = self.blocks.iter();
        let inside = inside.map(|(first, last)| ((*first).max(from), (*last).min(to)));
        inside.filter(|(first, last)| first <= last).collect()
    }

    /// Whether any address of a network is excluded.
    pub(crate) fn touches(&self, network: Cidr) -> bool {
        let (from, to) = (network.network().address(), network.last());
        self.blocks
            .iter()
            .any(|(first, last)| *first <= to && from <= *last)
    }
}

/// The content of the file: an object, so that a version of its format can be added.
#[derive(Default, Deserialize, Serialize)]
struct Document {
    exclude: Excluded,
}

/// The exclusions in the ledger in this directory; none if no agent has written any.
///
/// # Errors
/// Code 5 or 6 naming the file.
pub(super) fn read(root: &Path) -> Result<Excluded> {
    let document = document::read::<Document>(&path(root))?;
    Ok(document.unwrap_or_default().exclude)
}

/// Writes the exclusions, which replace those in the file.
///
/// # Errors
/// Code 5 naming the file, and 6 when it is of a newer format. The old file stays then.
pub(super) fn write(root: &Path, excluded: &Excluded) -> Result<()> {
    let path = path(root);
    if read(root).is_ok_and(|there| there == *excluded) {
        return Ok(());
    }
    let failed = |cause| Error::io(format!("failed to create {root:?}"), &cause);
    file::create_directory(root).map_err(failed)?;
    let exclude = excluded.clone();
    document::write(&path, &Document { exclude })
}

fn path(root: &Path) -> PathBuf {
    root.join(FILE)
}

impl Ledger {
    /// The addresses that this node must not assign to pods.
    ///
    /// # Errors
    /// Code 5 or 6 naming the file.
    pub(crate) fn excluded(&self) -> Result<Excluded> {
        read(&self.root)
    }

    /// Writes down which addresses this node must not assign to pods.
    ///
    /// # Errors
    /// Code 5 naming the file, and 6 when it is of a newer format. The old file stays then.
    pub(crate) fn exclude(&self, excluded: &Excluded) -> Result<()> {
        write(&self.root, excluded)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::ledger::{Event, Prefix};

    #[test]
    fn nobody_gets_an_address_of_a_prefix_while_the_list_cannot_be_read() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger {
            root: directory.path().to_owned(),
            ..Ledger::of_node()
        };
        let eni = ledger.of_eni("eni-1").unwrap();
        let prefix = Prefix::assigned("10.0.4.16/28".parse().unwrap()).unwrap();
        let assigned = Event::Assigned { for_pool: true };
        let entries = eni.open().unwrap();
        entries.change_prefix(None, &prefix, &assigned).unwrap();
        drop(entries);
        let size = || eni.read_prefixes().unwrap()[0].size();
        assert_eq!(size(), 16);
        for text in ["{", r#"{"formatVersion": 9, "exclude": []}"#] {
            std::fs::write(path(&ledger.root), text).unwrap();
            assert_eq!(size(), 0, "{text}");
            assert!(ledger.excluded().is_err(), "{text}");
        }
        let half = Excluded::try_from(json!(["10.0.4.16/29"])).unwrap();
        std::fs::write(path(&ledger.root), r#"{"exclude": ["10.0.4.16/29"]}"#).unwrap();
        assert_eq!(size(), 8);
        assert_eq!(ledger.excluded().unwrap(), half);
    }

    #[test]
    fn every_address_of_each_entry_is_excluded_and_no_other_one() {
        let entries = json!([
            "10.0.4.20",
            "10.0.4.0/28",
            "10.0.4.8/29",
            "2001:db8::4/126",
            "10.0.4.16"
        ]);
        let excluded = Excluded::try_from(entries.clone()).unwrap();
        let found = |address: &str| excluded.contains(address.parse().unwrap());
        for address in [
            "10.0.4.0",
            "10.0.4.15",
            "10.0.4.16",
            "10.0.4.20",
            "2001:db8::7",
        ] {
            assert!(found(address), "{address}");
        }
        for address in [
            "10.0.3.255",
            "10.0.4.17",
            "10.0.4.21",
            "2001:db8::8",
            "::",
            "255.255.255.255",
        ] {
            assert!(!found(address), "{address}");
        }
        let touches = |cidr: &str| excluded.touches(cidr.parse().unwrap());
        assert!(touches("10.0.4.16/28") && touches("10.0.0.0/8") && touches("2001:db8::/64"));
        assert!(!touches("10.0.4.32/27") && !touches("::/64"));
        assert_eq!(serde_json::to_value(&excluded).unwrap(), entries);
        assert!(!Excluded::default().contains("10.0.4.1".parse().unwrap()));
    }
}
