//! The ENIs that the configuration names and the node creates and attaches by itself: the
//! configuration, the records that are written before EC2 is asked, and the passes that carry
//! them out. A pass can be killed at any moment; the next one completes it.

mod attachment;
mod carried;
mod denied;
pub(crate) mod holder;
pub(crate) mod host;
pub(crate) mod leaked;
pub(crate) mod link;
pub(crate) mod overview;
pub(crate) mod pass;
pub(crate) mod place;
pub(crate) mod plan;
mod record;
pub(crate) mod removal;
pub(crate) mod report;
mod request;
mod stacked;
mod undescribed;
pub(crate) mod wanted;

use common::attach::inventory::Inventory;
use common::error::{Error, Result};

use self::record::Record;
use self::wanted::Wanted;

/// The ENIs that are being created or deleted, by name. A record that cannot be read may be of
/// such an ENI, so its error is in the list.
///
/// # Errors
/// Code 5 naming the directory that cannot be listed.
pub(crate) fn begun() -> Result<Vec<String>> {
    let name = |found: Result<Record>| match found {
        Ok(record) if record.is_attached() || record.is_deleted() => None,
        Ok(record) => {
            let eni = record.eni().unwrap_or("an ENI that EC2 was asked for");
            Some(format!("{eni} of {}", record.network))
        }
        Err(error) => Some(error.to_string()),
    };
    Ok(record::each()?.filter_map(name).collect())
}

/// Why records of ENIs cannot be read. Each may be of an ENI that is being detached: no pod gets
/// such an ENI, and no ENI is created.
pub(crate) fn unreadable() -> Vec<String> {
    let errors = record::damaged();
    let errors: Vec<Error> = errors.unwrap_or_else(|error| vec![error]);
    errors.iter().map(Error::to_string).collect()
}

/// Whether there is nothing to do, as far as the node knows without asking EC2: the inventory
/// has all configured ENIs, and no record is open. A record that is only kept until EC2's
/// descriptions are certain, of an attached or a deleted ENI, counts as done.
///
/// # Errors
/// Code 5 or 6 naming a file that cannot be read.
pub(crate) fn is_complete(inventory: &Inventory, wanted: &[Wanted]) -> Result<bool> {
    let is_there = |wanted: &Wanted| place::missing(&inventory.enis, wanted) == 0;
    let is_known = |id: &str| inventory.enis.iter().any(|eni| eni.id == id);
    let is_certain = |record: &Record| record.is_attached() && !record.has_settled();
    let is_done = |record: &Record| is_certain(record) && record.eni().is_some_and(is_known);
    let is_closed = |record: &Record| is_done(record) || record.is_only_remembered();
    Ok(wanted.iter().all(is_there) && record::all()?.iter().all(is_closed))
}
