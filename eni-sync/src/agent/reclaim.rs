//! Releases reservations of host-local in watched networks whose container has ended without a
//! DEL. host-local itself finds these, by the namespace that it has recorded; reservations in
//! doubt stay.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::error::{Errors, Result};
use common::text::printable;
use host_local_ipam::abandoned;
use host_local_ipam::reservation::{Holder, Reservation};
use tracing::info;

use crate::agent::configuration::Watched;

/// How many reservations of a network are released at a time, while its pods wait for the
/// lock. The others are released the next time.
const MOST: usize = 64;

/// The reservations without a container, and since when they have been seen, by file and
/// container.
#[derive(Debug, Default)]
pub(crate) struct Reclaim {
    abandoned: HashMap<(PathBuf, String), Instant>,
}

impl Reclaim {
    /// Releases the reservations of `networks` whose container ended at least `grace` ago.
    /// Returns how many.
    ///
    /// # Errors
    /// The failures of any of the networks; the others are done.
    pub(crate) fn run(&mut self, networks: &[Watched], grace: Duration) -> Result<usize> {
        let mut errors = Errors::default();
        let (mut abandoned, mut count) = (HashMap::new(), 0);
        for network in networks {
            let directory = network.directory();
            let found = errors.keep(abandoned::find(&directory));
            let mut due = Vec::new();
            for reservation in found.into_iter().flatten() {
                let key = (reservation.path.clone(), name(&reservation));
                let since = self.abandoned.get(&key);
                let since = since.copied().unwrap_or_else(Instant::now);
                if since.elapsed() >= grace && due.len() < MOST {
                    due.push(reservation.path);
                }
                abandoned.insert(key, since);
            }
            if due.is_empty() {
                continue;
            }
            let released = errors.keep(abandoned::release(&directory, &due));
            for reservation in released.into_iter().flatten() {
                let (container, interface) = names(&reservation);
                info!(
                    address = %reservation.address,
                    network = network.name,
                    container,
                    interface,
                    reason = "its container has gone without a DEL",
                    "released {} of network {}, reserved for {}, which has ended",
                    reservation.address,
                    network.name,
                    name(&reservation)
                );
                count += 1;
            }
        }
        self.abandoned = abandoned;
        errors.into_result().map(|()| count)
    }
}

/// The container and the interface of a reservation, if it names them.
fn names(reservation: &Reservation) -> (Option<&str>, Option<&str>) {
    match &reservation.holder {
        Holder::Owner(owner) => (Some(&owner.container_id), Some(&owner.ifname)),
        Holder::Nobody | Holder::Unknown(_) | Holder::Unreadable(_) => (None, None),
    }
}

fn name(reservation: &Reservation) -> String {
    match &reservation.holder {
        Holder::Owner(owner) => {
            let name = format!(
                "container {}, interface {}",
                owner.container_id, owner.ifname
            );
            printable(&name).into_owned()
        }
        Holder::Nobody | Holder::Unknown(_) | Holder::Unreadable(_) => String::new(),
    }
}
