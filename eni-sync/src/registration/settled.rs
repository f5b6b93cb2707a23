//! Waits until host-local has reserved what it has chosen, before an address leaves its ENI.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use host_local_ipam::store;

use crate::ledger::Entry;

/// How long the ADDs of a network of host-local are waited for. Each has the lock for milliseconds,
/// unless its process is stopped.
const ADDS: Duration = Duration::from_secs(1);

/// Waits for the ADDs of host-local that may have chosen one of the addresses and not reserved it
/// yet: host-local does both while it has the lock of its network. Returns the reservations of the
/// networks whose lock is not free in time, each with the reason.
pub(super) fn unsettled(entries: &[Entry]) -> HashMap<PathBuf, String> {
    let mut reservations: BTreeMap<&Path, Vec<&Path>> = BTreeMap::new();
    for file in entries.iter().filter_map(Entry::reservation) {
        let network = file.parent().unwrap_or(file);
        reservations.entry(network).or_default().push(file);
    }
    let mut unsettled = HashMap::new();
    for (network, files) in reservations {
        let awaited = store::is_directory(network).and_then(|is_directory| match is_directory {
            true => store::await_lock(network, ADDS),
            false => Ok(()),
        });
        if let Err(why) = awaited {
            let why = format!("host-local may be reserving it: {why}");
            unsettled.extend(files.into_iter().map(|file| (file.to_owned(), why.clone())));
        }
    }
    unsettled
}
