//! What host-local has reserved: before an address leaves its ENI, what it has chosen is reserved,
//! and before an address of a pool is given to a pod, it is reserved for no other one.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::error::{Error, Result};
use common::files::file;
use host_local_ipam::config::DEFAULT_DATA_DIR;
use host_local_ipam::reservation::{self, Reservation};
use host_local_ipam::store;

use crate::ledger::{Entry, Owner};

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

/// Whether host-local has reserved an address for this attachment, in its network: nobody else gets
/// it from there. False where the network has another store than the usual one.
pub(super) fn is_reserved_for(owner: &Owner, address: IpAddr) -> bool {
    let network = Path::new(DEFAULT_DATA_DIR).join(&owner.network);
    let reservation = Reservation::read(&network, &address.to_string());
    reservation.is_some_and(|found| found.may_be_of(&attachment(owner)))
}

/// The reservation of an address for another attachment, in any network of the usual store.
///
/// # Errors
/// Code 5 naming the directory that cannot be listed.
pub(super) fn reserved_for_another(owner: &Owner, address: IpAddr) -> Result<Option<PathBuf>> {
    let failed = |cause| Error::io(format!("failed to list {DEFAULT_DATA_DIR:?}"), &cause);
    let networks = file::list(Path::new(DEFAULT_DATA_DIR)).map_err(failed)?;
    let own = attachment(owner);
    let mut found = networks
        .iter()
        .filter_map(|network| Reservation::read(network, &address.to_string()));
    let other = found.find(|reservation| !reservation.may_be_of(&own));
    Ok(other.map(|reservation| reservation.path))
}

/// The attachment as host-local names it.
fn attachment(owner: &Owner) -> reservation::Owner {
    reservation::Owner {
        container_id: owner.container_id.clone(),
        ifname: owner.ifname.clone(),
    }
}
