//! What an ENI carries: pods, for all that the ledger, the records of the plugins and the
//! namespaces of the node show.

use std::collections::BTreeSet;

use common::error::Result;
use common::kernel::netlink::Link;
use common::kernel::netns::Holders;
use common::records::{Attachment, Records};
use serde::de::DeserializeOwned;

use crate::ledger::Ledger;
use crate::registration::in_use::{self, Reach};
use crate::vpc::ec2::Description;

/// Why an ENI must not be detached, each reason once; nothing when it carries no pod.
///
/// # Errors
/// What cannot be read: it may be about a pod.
pub(super) fn reasons(ledger: &Ledger, eni: &Description, links: &[Link]) -> Result<Vec<String>> {
    let mut reasons = BTreeSet::new();
    if links.iter().all(|link| link.mac != eni.mac) {
        let says = "its interface is not on the node: a pod or a driver for user space has it";
        reasons.insert(says.to_owned());
    }
    let holders = Holders::default();
    for entry in ledger.of_eni(&eni.id)?.read()? {
        if !entry.is_in_use() || !entry.may_have_living_owner(&holders) {
            continue;
        }
        let owner = entry.owner.as_ref().map(ToString::to_string);
        reasons.insert(format!(
            "{} has {}",
            owner.unwrap_or_default(),
            entry.address
        ));
    }
    let of_ipvlan = |device: &ipvlan::device::Device| device.master_mac.clone();
    reasons.extend(attachments(&ipvlan::records(), &eni.mac, of_ipvlan)?);
    let of_host_device = |device: &host_device::device::Device| device.mac.clone();
    reasons.extend(attachments(
        &host_device::records(),
        &eni.mac,
        of_host_device,
    )?);
    let living = in_use::look_from(ledger, Reach::Processes)?;
    for address in &eni.secondary {
        let reason = living.reason_to_keep(*address, None);
        reasons.extend(reason.map(|why| format!("{address}: {why}")));
    }
    Ok(reasons.into_iter().collect())
}

/// The attachments on the ENI with this MAC address that have not ended.
fn attachments<D: DeserializeOwned>(
    records: &Records,
    mac: &str,
    of: impl Fn(&D) -> String,
) -> Result<Vec<String>> {
    let boot = common::records::boot_id()?;
    let holders = Holders::default();
    let is_here = |record: &&Attachment<D>| {
        let presence = record.presence(&boot, &holders);
        of(&record.device).eq_ignore_ascii_case(mac) && !presence.has_ended()
    };
    let all = records.all::<D>()?;
    let name = |record: &Attachment<D>| {
        format!(
            "container {} has {} of network {}",
            record.container_id, record.ifname, record.network
        )
    };
    Ok(all.iter().filter(is_here).map(name).collect())
}
