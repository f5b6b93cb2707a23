//! The attachments that the plugins of this suite have recorded, and which pods may have an ENI
//! as a whole. Such a pod has the ENI's primary addresses and those that nobody has claimed. No
//! entry of the ledger says so, and with a driver for user space no interface of the kernel shows
//! them: what such a pod gets, and what is kept for it, is decided here.

use common::error::{Errors, Result};
use common::kernel::netlink::{Link, Netlink};
use common::kernel::netns::Holders;
use common::records::{Attachment, Records, boot_id};
use common::text::printable;
use host_device::device::Device;
use serde::de::DeserializeOwned;

use crate::ledger::{Entry, Owner, State};

/// The reason why an ENI without an interface on the node may be used by a pod.
pub(crate) const ELSEWHERE: &str =
    "its interface is not on the node: a pod or a driver for user space has it";

/// The attachments of ipvlan that have not ended, as text: those on the ENI with this MAC
/// address, or all. A record that cannot be read may be one of them, so its error is in the
/// list.
///
/// # Errors
/// Code 5 naming a directory that cannot be listed.
pub(crate) fn of_ipvlan(mac: Option<&str>) -> Result<Vec<String>> {
    names(living(
        &ipvlan::records(),
        |device: &ipvlan::device::Device| is_of(device.eni_mac(), mac),
    ))
}

/// The same for host-device.
///
/// # Errors
/// As for [`of_ipvlan`].
pub(crate) fn of_host_device(mac: Option<&str>) -> Result<Vec<String>> {
    let is_meant = |device: &Device| is_of(device.hardware_mac(), mac);
    names(living(&host_device::records(), is_meant))
}

/// Whether none of the node's links is the interface of the ENI with this MAC address.
pub(crate) fn is_elsewhere(links: &[Link], mac: &str) -> bool {
    Link::of_hardware(links, mac).is_none()
}

/// Whether a pod that gets an ENI as a whole gets this secondary address with it; `entry` is what
/// the ledger has of it. What anybody has claimed, or a pool has, is for others, also while it is
/// on its way out.
pub(crate) fn is_part(entry: Option<&Entry>) -> bool {
    entry.is_none_or(|entry| entry.state == State::Adopted && entry.is_unclaimed())
}

/// The pods that may have an ENI as a whole.
#[derive(Debug)]
pub(crate) struct Whole {
    /// Whether the interface of the ENI is not on the node: an unknown pod may have it.
    is_elsewhere: bool,
    /// The attachments of host-device that have not ended and whose device is not back.
    attachments: Vec<Attachment<Device>>,
    /// Why records cannot be read: each may be of such an attachment.
    unread: Vec<String>,
}

impl Whole {
    /// Those of the ENI with this MAC address.
    ///
    /// # Errors
    /// Those of the kernel, and as for [`of_ipvlan`]: the answer is unknown then.
    pub(crate) fn of(mac: &str) -> Result<Self> {
        let is_meant =
            |device: &Device| is_of(device.hardware_mac(), Some(mac)) && !device.returned;
        let (attachments, unread) = living(&host_device::records(), is_meant)?;
        Ok(Self {
            is_elsewhere: is_elsewhere(&Netlink::open()?.links()?, mac),
            attachments,
            unread,
        })
    }

    /// The reason why an address must stay on the ENI and with its pod, if there is one. `entry`
    /// is what the ledger has of it. An address that was claimed is kept only for the attachment
    /// that has claimed it: no other pod has got it with the ENI.
    pub(crate) fn reason_to_keep(&self, entry: Option<&Entry>) -> Option<String> {
        let claimed = entry.filter(|entry| !entry.is_unclaimed());
        let mut attachments = self.attachments.iter();
        if let Some(entry) = claimed {
            let owner = entry.owner.as_ref()?;
            let is_own = |record: &&Attachment<Device>| {
                owner.is_interface(record.container_id.as_str(), record.ifname.as_str())
            };
            let own = attachments.find(is_own)?;
            return Some(may_have(&name(own)));
        }
        if self.is_elsewhere {
            return Some(may_have(ELSEWHERE));
        }
        let first = attachments.next().map(name);
        first
            .or_else(|| self.unread.first().cloned())
            .map(|why| may_have(&why))
    }

    /// The reason why `owner` must not get an address of the ENI, if there is one: another
    /// container may have got it with the whole ENI.
    pub(crate) fn reason_to_refuse(&self, entry: Option<&Entry>, owner: &Owner) -> Option<String> {
        if !is_part(entry) {
            return None;
        }
        let mut others = self.attachments.iter();
        let other = others.find(|record| record.container_id.as_str() != owner.container_id);
        let other = other.map(name).or_else(|| self.unread.first().cloned());
        other.map(|why| may_have(&why))
    }
}

fn may_have(why: &str) -> String {
    format!("a pod may have it with the whole ENI: {why}")
}

/// The reason why an unclaimed address of this ENI may be used by a pod, if there is one.
///
/// # Errors
/// As for [`Whole::of`].
pub(crate) fn reason_to_keep(mac: &str) -> Result<Option<String>> {
    Ok(Whole::of(mac)?.reason_to_keep(None))
}

fn is_of(own: &str, mac: Option<&str>) -> bool {
    mac.is_none_or(|mac| own.eq_ignore_ascii_case(mac))
}

/// The attachments that have not ended, and why records cannot be read.
fn living<D: DeserializeOwned>(
    records: &Records,
    is_meant: impl Fn(&D) -> bool,
) -> Result<(Vec<Attachment<D>>, Vec<String>)> {
    let (boot, holders, mut errors) = (boot_id()?, Holders::default(), Errors::default());
    let mut all = records.all_readable::<D>(&mut errors)?;
    all.retain(|record| is_meant(&record.device) && !record.presence(&boot, &holders).has_ended());
    let unread = errors.into_iter().map(|error| error.to_string());
    Ok((all, unread.collect()))
}

fn names<D>(found: Result<(Vec<Attachment<D>>, Vec<String>)>) -> Result<Vec<String>> {
    let (all, unread) = found?;
    Ok(all.iter().map(name).chain(unread).collect())
}

/// How messages name the attachment of a record.
pub(crate) fn name<D>(record: &Attachment<D>) -> String {
    let name = format!(
        "container {}, interface {}, network {}",
        record.container_id, record.ifname, record.network
    );
    printable(&name).into_owned()
}
