//! Finds out whether an ENI carries pods, by the ledger, the records of the plugins and the
//! namespaces of the node.

use std::collections::BTreeSet;

use common::error::Result;
use common::kernel::netlink::Netlink;
use common::kernel::netns::Holders;

use crate::ledger::Ledger;
use crate::registration::attached;
use crate::registration::in_use;
use crate::vpc::ec2::Description;

/// The attachments on an ENI by the records of the plugins, and a text if its interface is not
/// on the node.
///
/// # Errors
/// Those of reading the records and the kernel's links: without them, the ENI may carry a pod.
pub(super) fn attached(mac: &str) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    if attached::is_elsewhere(&Netlink::open()?.links()?, mac) {
        found.insert(attached::ELSEWHERE.to_owned());
    }
    found.extend(attached::of_ipvlan(Some(mac))?);
    found.extend(attached::of_host_device(Some(mac))?);
    Ok(found)
}

/// The attachments that have an address of an ENI by the ledger, or are getting one.
///
/// # Errors
/// Code 5 naming a file of the ledger.
pub(super) fn claimed(ledger: &Ledger, eni: &str) -> Result<BTreeSet<String>> {
    let (holders, mut found) = (Holders::default(), BTreeSet::new());
    for entry in ledger.of_eni(eni)?.read()? {
        if entry.is_in_use() && entry.may_have_living_owner(&holders) {
            let owner = entry.owner.as_ref().map(ToString::to_string);
            let owner = owner.unwrap_or_default();
            found.insert(format!("{owner} has {}", entry.address));
        }
    }
    Ok(found)
}

/// The reasons why an ENI must not be detached, each once; none when it carries no pod.
///
/// # Errors
/// Those of reading the records and the kernel's links: without them, the ENI may carry a pod.
pub(super) fn reasons(ledger: &Ledger, eni: &Description) -> Result<Vec<String>> {
    let mut reasons = attached(&eni.mac)?;
    reasons.extend(claimed(ledger, &eni.id)?);
    let is_on_eni = |address| {
        let mut prefixes = eni.prefixes.iter();
        eni.secondary.contains(&address) || prefixes.any(|prefix| prefix.contains(address))
    };
    let living = in_use::look_from(ledger, is_on_eni)?;
    for address in &eni.secondary {
        let reason = living.reason_to_keep(*address, None);
        reasons.extend(reason.map(|why| format!("{address}: {why}")));
    }
    for prefix in &eni.prefixes {
        let reason = living.reason_to_keep_all(|address| prefix.contains(address));
        reasons.extend(reason.map(|why| format!("{prefix}: {why}")));
    }
    Ok(reasons.into_iter().collect())
}
