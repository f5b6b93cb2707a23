//! The ENIs of this node. EC2 is asked once; the answer is written to /run for later calls and
//! for the other plugins, and EC2 is asked again when the file may be outdated.

mod look;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use common::address::Cidr;
use common::attach::inventory::{DIRECTORY, Eni, Inventory, NO_MANAGE_TAG, PATH, require_staying};
use common::error::{Error, ErrorCode, Result};
use common::files::file::{self, Edition};
use common::files::lock::Lock;
use common::kernel::netlink::Netlink;
use common::say;

pub(crate) use self::look::{Interfaces, Look, compose, look, look_without_limits, subnets};
use self::look::{index_of, interface_of};
use crate::deadline::Deadline;
use crate::vpc::clients::Aws;
use crate::vpc::ec2::Description;
use crate::vpc::eni;
use crate::vpc::imds::{Identity, Imds};

/// How long an inventory is used with which an ADD can succeed. The time is limited so that the
/// removal of a tag takes effect.
const MAX_AGE: Duration = Duration::from_secs(600);
/// How long an inventory is used with which an ADD fails, however many pods try.
const REFUSAL_MAX_AGE: Duration = Duration::from_secs(10);
/// Held while EC2 is asked, so that a burst of pods asks once.
const LOCK: &str = "/run/eni-cni/.enis.lock";
const LOCK_DEADLINE: Duration = Duration::from_secs(90);
/// How long an ADD may take to learn the limits of the instance type and write them down.
const LIMITS_DEADLINE: Duration = Duration::from_secs(3);

/// The node's ENI with this MAC address, and the inventory it is in. If the written inventory
/// does not show it as an ENI for pods, EC2 is asked again; the caller has to check the result.
///
/// # Errors
/// Code 7 when no ENI has the MAC address, 11 when its ENI is being detached or EC2 does not
/// describe it yet; else those of [`current`].
pub(crate) fn find(aws: &Aws, mac: &str) -> Result<(Inventory, Eni)> {
    let is_usable = |inventory: &Inventory| {
        let eni = inventory.by_mac(mac);
        eni.is_some_and(|eni| eni::require_managed(eni).is_ok())
    };
    let inventory = current(aws, is_usable)?;
    if inventory.by_mac(mac).is_none() {
        require_staying(mac, mac)?;
    }
    match inventory.by_mac(mac).cloned() {
        Some(eni) => Ok((inventory, eni)),
        None => Err(unknown(aws, &inventory.instance_id, mac)),
    }
}

/// Why there is no ENI with this MAC address. EC2 describes one that was attached a moment ago
/// later than the metadata show it; while they show one that was detached, there is no harm in
/// another attempt. Metadata that do not answer in time do not say that there is none.
fn unknown(aws: &Aws, instance: &str, mac: &str) -> Error {
    let shown = aws.imds_soon().and_then(Imds::macs);
    let msg = format!("no ENI of {instance} has the MAC address {mac}");
    match shown {
        Ok(shown) if !shown.contains(mac) => Error::config(msg).with_details(
            "the VPC delivers nothing to an interface without the MAC address of an ENI",
        ),
        Ok(_) => Error::new(
            ErrorCode::TRY_AGAIN,
            format!("EC2 does not describe the ENI with the MAC address {mac} yet"),
        )
        .with_details("the instance metadata show it; a later attempt finds it"),
        Err(error) => Error::new(ErrorCode::TRY_AGAIN, msg).with_details(error.to_string()),
    }
}

/// Checks that this node can register addresses, for STATUS.
///
/// # Errors
/// Code 50 saying what is missing: metadata, credentials, or an ENI for pods; else those of
/// [`Aws::imds`].
pub(crate) fn require_usable(aws: &Aws) -> Result<()> {
    let unavailable = |error: Error| error.with_code(ErrorCode::UNAVAILABLE);
    let identity = aws.imds()?.identity().map_err(unavailable)?;
    aws.require_credentials(&identity.region)
        .map_err(unavailable)?;
    let managed = |inventory: &Inventory| {
        let mut enis = inventory.enis.iter();
        enis.any(|eni| eni::require_managed(eni).is_ok())
    };
    let inventory = current(aws, managed).map_err(unavailable)?;
    if managed(&inventory) {
        return Ok(());
    }
    let msg = format!("{} has no ENI for pods", inventory.instance_id);
    let details = format!("none but the primary one is tagged {NO_MANAGE_TAG}=true");
    Err(Error::new(ErrorCode::UNAVAILABLE, msg).with_details(details))
}

/// The written inventory if it is recent, else what EC2 says now. An inventory that is not
/// `is_usable` is recent for a shorter time.
///
/// # Errors
/// Those of [`discover`], and code 11 when another process takes too long with it.
pub(crate) fn current(aws: &Aws, is_usable: impl Fn(&Inventory) -> bool) -> Result<Inventory> {
    let written = || {
        let inventory = read_back()?;
        let max_age = if is_usable(&inventory) {
            MAX_AGE
        } else {
            REFUSAL_MAX_AGE
        };
        let is_recent = is_younger_than(max_age) && !is_outdated(&inventory);
        is_recent.then_some(inventory)
    };
    if let Some(inventory) = written() {
        return Ok(inventory);
    }
    let lock = lock(aws.deadline())?;
    if let Some(inventory) = written() {
        return Ok(inventory);
    }
    let identity = aws.imds()?.identity()?;
    let inventory = look::described(aws, identity.clone())?.inventory();
    inventory.write()?;
    drop(lock);
    if look::has_limits(&inventory) {
        return Ok(inventory);
    }
    Ok(with_limits(aws, &identity, inventory))
}

/// Adds the limits of the instance type to an inventory, if EC2 tells them soon: nothing depends on
/// them, so nobody else waits for the answer, and no failure counts.
fn with_limits(aws: &Aws, identity: &Identity, mut inventory: Inventory) -> Inventory {
    if let Err(error) = add_limits(aws, identity, &mut inventory) {
        say!("failed to write down the limits of the instance type: {error}");
    }
    inventory
}

fn add_limits(aws: &Aws, identity: &Identity, inventory: &mut Inventory) -> Result<()> {
    // Both waits share it: that for EC2, and that for who holds the lock.
    let soon = Deadline::after(aws.deadline().left_of(LIMITS_DEADLINE));
    let Some(limits) = look::limits(aws, identity)? else {
        return Ok(());
    };
    look::set_limits(inventory, &limits);
    correct(soon, |written| {
        written.instance_type == identity.instance_type && look::set_limits(written, &limits)
    })
}

/// Only one process writes the inventory at a time. A process that had to wait finds it
/// written.
fn lock(deadline: Deadline) -> Result<Lock> {
    file::create_private_directory(Path::new(DIRECTORY))
        .map_err(|cause| Error::io(format!("failed to create {DIRECTORY}"), &cause))?;
    Lock::take(Path::new(LOCK), deadline.left_of(LOCK_DEADLINE))
}

/// The written inventory. `None` if it cannot be read or an earlier version has written it: it
/// is only a copy of EC2's answers, so EC2 is asked again.
fn read_back() -> Option<Inventory> {
    let inventory = Inventory::read_whole().unwrap_or_else(|error| {
        say!("{error}; asking EC2 instead");
        None
    })?;
    (!inventory.instance_id.is_empty()).then_some(inventory)
}

/// Whether the kernel has another interface for an ENI for pods than it had when EC2 was asked: the
/// ENI has come, or was away meanwhile, and what others did to it then is not in the inventory. An
/// interface that is in a pod says nothing.
pub(crate) fn is_outdated(inventory: &Inventory) -> bool {
    let links = match Netlink::open().and_then(|mut netlink| netlink.links()) {
        Ok(links) => links,
        Err(error) => {
            say!("{error}; asking EC2 for the ENIs again");
            return true;
        }
    };
    let mut enis = inventory.enis.iter();
    enis.any(|eni| {
        let index = index_of(&links, &eni.mac);
        eni::require_managed(eni).is_ok() && index.is_some_and(|index| index != eni.interface_index)
    })
}

/// The attachments of the ENIs for pods: for each the ids of the ENI and of its attachment, and the
/// index of its interface.
pub(crate) fn attachments(inventory: &Inventory) -> BTreeSet<(String, String, u32)> {
    let enis = inventory.enis.iter();
    let enis = enis.filter(|eni| eni::require_managed(eni).is_ok());
    enis.map(|eni| {
        (
            eni.id.clone(),
            eni.attachment_id.clone(),
            eni.interface_index,
        )
    })
    .collect()
}

/// Whether the file was written less than `age` ago. A time in the future does not count.
fn is_younger_than(age: Duration) -> bool {
    written_ago().is_some_and(|elapsed| elapsed < age)
}

/// How old the written inventory is, if there is one.
pub(crate) fn written_ago() -> Option<Duration> {
    let written = fs::metadata(PATH).and_then(|metadata| metadata.modified());
    written.ok().and_then(|time| time.elapsed().ok())
}

/// Removes prefixes of an ENI from the inventory, before EC2 unassigns them.
///
/// # Errors
/// Code 5, 6 or 7 naming the file, 11 when another process takes too long with it.
pub(crate) fn forget_prefixes(eni: &str, prefixes: &[Cidr]) -> Result<()> {
    correct(Deadline::default(), |inventory| {
        let mut is_changed = false;
        for eni in inventory.enis.iter_mut().filter(|found| found.id == eni) {
            let before = eni.prefixes.len();
            eni.prefixes.retain(|known| !prefixes.contains(known));
            is_changed |= eni.prefixes.len() != before;
        }
        is_changed
    })
}

/// Removes an ENI from the inventory, before it is detached.
///
/// # Errors
/// Code 5, 6 or 7 naming the file, 11 when another process takes too long with it.
pub(crate) fn forget(eni: &str) -> Result<()> {
    correct(Deadline::default(), |inventory| {
        let before = inventory.enis.len();
        inventory.enis.retain(|known| known.id != eni);
        inventory.enis.len() != before
    })
}

/// Corrects the names of the interfaces in the inventory.
///
/// # Errors
/// Code 5, 6 or 7 naming the file, 11 when another process takes too long with it, 999 when the
/// kernel does not list its links.
pub(crate) fn rename(deadline: Deadline) -> Result<()> {
    let links = Netlink::open()?.links()?;
    correct(deadline, |inventory| {
        let mut is_changed = false;
        for eni in &mut inventory.enis {
            let name = interface_of(&links, &eni.mac);
            is_changed |= name != eni.interface;
            eni.interface = name;
        }
        is_changed
    })
}

/// Changes the inventory by `change`, which returns whether it has changed anything. The time
/// of the file stays, because EC2's answers do not get younger.
fn correct(deadline: Deadline, change: impl FnOnce(&mut Inventory) -> bool) -> Result<()> {
    let _lock = lock(deadline)?;
    // A file of an earlier version lacks fields. To write them as empty would look as if EC2
    // had said so.
    let Some(mut inventory) = Inventory::read_whole()? else {
        return Ok(());
    };
    match change(&mut inventory) {
        true => rewrite(&inventory),
        false => Ok(()),
    }
}

/// Writes the inventory and keeps the modification time of the file.
fn rewrite(inventory: &Inventory) -> Result<()> {
    let failed = |cause| Error::io(format!("failed to write {PATH}"), &cause);
    let written = fs::metadata(PATH).and_then(|metadata| metadata.modified());
    inventory.write()?;
    let file = File::options().write(true).open(PATH).map_err(failed)?;
    file.set_modified(written.map_err(failed)?).map_err(failed)
}

/// Asks EC2 for the ENIs of this node and writes them down.
///
/// # Errors
/// Those of [`ask`], and code 5 when the inventory cannot be written.
pub(crate) fn discover(aws: &Aws) -> Result<Inventory> {
    discover_all(aws).map(|(inventory, _)| inventory)
}

/// The same, with how many free IPv4 addresses each subnet has.
///
/// # Errors
/// As for [`discover`].
pub(crate) fn discover_all(aws: &Aws) -> Result<(Inventory, BTreeMap<String, usize>)> {
    let identity = aws.imds()?.identity()?;
    // Whoever waits for the lock does not wait for the limits.
    let limits = look::limits(aws, &identity)?;
    let _lock = lock(aws.deadline())?;
    let look = look::described(aws, identity)?.with(limits);
    let inventory = look.inventory();
    inventory.write()?;
    Ok((inventory, look.free))
}

/// Writes the inventory of a look at EC2 that includes the ENIs which have been attached since.
/// If another process has written the inventory since the look, only the ENIs in `attached` are
/// added to it.
///
/// # Errors
/// Code 5 when the inventory cannot be written, 11 when another process takes too long
/// with it.
pub(crate) fn note(look: &Look, attached: &[Description], deadline: Deadline) -> Result<Inventory> {
    let _lock = lock(deadline)?;
    let inventory = look.inventory();
    let newer = read_back().filter(|newer| newer.instance_id == inventory.instance_id);
    let Some(mut newer) = newer.filter(|_| edition() != look.edition) else {
        inventory.write()?;
        return Ok(inventory);
    };
    for eni in inventory.enis {
        let is_new = attached.iter().any(|attached| attached.id == eni.id);
        if is_new && newer.enis.iter().all(|known| known.id != eni.id) {
            newer.enis.push(eni);
        }
    }
    rewrite(&newer)?;
    Ok(newer)
}

/// The edition of the inventory file, which changes whenever the file is written. `None`
/// without a file.
fn edition() -> Option<Edition> {
    Edition::of(Path::new(PATH))
}

/// Asks EC2 for the ENIs of this node. Also returns EC2's descriptions of them.
///
/// # Errors
/// Those of [`discover`], except for the file.
pub(crate) fn ask(aws: &Aws) -> Result<(Inventory, Vec<Description>)> {
    let identity = aws.imds()?.identity()?;
    let limits = look::limits(aws, &identity)?;
    let look = look::described(aws, identity)?.with(limits);
    Ok((look.inventory(), look.enis))
}
