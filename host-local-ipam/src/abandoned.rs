//! Releases reservations of containers that have ended, for a process that cleans up a node
//! without a list of the existing containers. An ADD does the same for a few addresses.

use std::path::{Path, PathBuf};

use common::error::Result;
use common::kernel::netns::Holders;

use crate::container::Machine;
use crate::reservation::{Holder, Reservation};
use crate::store::Store;
use crate::survey::{self, Survey};

/// The reservations in `directory` whose containers have certainly ended. Takes no lock and
/// writes nothing.
///
/// # Errors
/// Code 5 naming the file that cannot be read.
pub fn find(directory: &Path) -> Result<Vec<Reservation>> {
    let (machine, holders) = (Machine::this()?, Holders::default());
    let mut found = survey::reservations(directory)?;
    found.retain(|reservation| is_abandoned(reservation, &machine, &holders));
    Ok(found)
}

/// Releases those of the files `wanted` whose containers have certainly ended, and returns
/// them. That is verified again, because another container may have got such an address
/// meanwhile.
///
/// # Errors
/// Those of opening the store; code 5 naming the files that cannot be removed.
pub fn release(directory: &Path, wanted: &[PathBuf]) -> Result<Vec<Reservation>> {
    let Some(store) = Store::open(directory)? else {
        return Ok(Vec::new());
    };
    let (machine, holders) = (Machine::this()?, Holders::default());
    let mut survey = Survey::of_files(&store, |reservation| {
        wanted.contains(&reservation.path) && is_abandoned(reservation, &machine, &holders)
    })?;
    survey.unreadable.retain(|(path, _)| wanted.contains(path));
    let released = survey.relevant.clone();
    survey.release(&store).map(|()| released)
}

fn is_abandoned(reservation: &Reservation, machine: &Machine, holders: &Holders) -> bool {
    let is_owned = matches!(reservation.holder, Holder::Owner(_));
    // What cannot be read now is looked at again the next time.
    let container = reservation.container(machine).ok().flatten();
    is_owned && container.is_some_and(|container| container.has_ended(machine, holders))
}
