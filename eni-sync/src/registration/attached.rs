//! The attachments that the plugins of this suite have recorded, and whether a pod may have a
//! whole ENI. Such a pod has all addresses of the ENI, which are then in no ledger, and with a
//! driver for user space on no interface of the kernel.

use common::error::{Errors, Result};
use common::kernel::netlink::{Link, Netlink};
use common::kernel::netns::Holders;
use common::records::{Attachment, Records, boot_id};
use common::text::printable;
use serde::de::DeserializeOwned;

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
    living(&ipvlan::records(), |device: &ipvlan::device::Device| {
        is_of(&device.master_mac, mac)
    })
}

/// The same for host-device.
///
/// # Errors
/// As for [`of_ipvlan`].
pub(crate) fn of_host_device(mac: Option<&str>) -> Result<Vec<String>> {
    let is_meant = |device: &host_device::device::Device| is_of(&device.mac, mac);
    living(&host_device::records(), is_meant)
}

/// Whether none of the node's links is the interface of the ENI with this MAC address.
pub(crate) fn is_elsewhere(links: &[Link], mac: &str) -> bool {
    links.iter().all(|link| link.mac != mac)
}

/// The reason why an unclaimed address of this ENI may be used by a pod, if there is one.
///
/// # Errors
/// Those of the kernel, and as for [`of_ipvlan`]: the answer is unknown then.
pub(crate) fn reason_to_keep(mac: &str) -> Result<Option<String>> {
    let may_have = |why: &str| format!("a pod may have it with the whole ENI: {why}");
    if is_elsewhere(&Netlink::open()?.links()?, mac) {
        return Ok(Some(may_have(ELSEWHERE)));
    }
    let attached = of_host_device(Some(mac))?;
    Ok(attached.first().map(|attachment| may_have(attachment)))
}

fn is_of(own: &str, mac: Option<&str>) -> bool {
    mac.is_none_or(|mac| own.eq_ignore_ascii_case(mac))
}

fn living<D: DeserializeOwned>(
    records: &Records,
    is_meant: impl Fn(&D) -> bool,
) -> Result<Vec<String>> {
    let (boot, holders, mut errors) = (boot_id()?, Holders::default(), Errors::default());
    let mut all = records.all_readable::<D>(&mut errors)?;
    all.retain(|record| is_meant(&record.device) && !record.presence(&boot, &holders).has_ended());
    let unread = errors.into_iter().map(|error| error.to_string());
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
