//! Finds out whether an ENI carries pods, by the ledger, the records of the plugins, and the
//! interfaces and addresses in the namespaces of the node.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use common::address::Cidr;
use common::error::Result;
use common::kernel::netlink::Netlink;
use common::kernel::netns::Holders;

use crate::ledger::{Entry, Ledger};
use crate::provision::stacked;
use crate::registration::attached;
use crate::registration::in_use;
use crate::vpc::clients::Aws;
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

/// The reasons why an ENI must not be detached, each once; none when it carries no pod. What is
/// deleted is never undone, so what any source shows counts.
///
/// # Errors
/// Those of reading the records and the kernel's links, and of [`Shown::of`]: without them, the ENI
/// may carry a pod.
pub(super) fn reasons(aws: &Aws, ledger: &Ledger, eni: &Description) -> Result<Vec<String>> {
    let mut reasons = attached(&eni.mac)?;
    reasons.extend(stacked::on_eni(&eni.mac)?);
    reasons.extend(claimed(ledger, &eni.id)?);
    let Shown {
        addresses,
        prefixes,
    } = Shown::of(aws, ledger, eni)?;
    let is_on_eni = |address| {
        let mut prefixes = prefixes.iter();
        addresses.contains(&address) || prefixes.any(|prefix| prefix.contains(address))
    };
    let living = in_use::look_from(ledger, is_on_eni)?;
    for address in &addresses {
        let reason = living.reason_to_keep(*address, None);
        reasons.extend(reason.map(|why| format!("{address}: {why}")));
    }
    for prefix in &prefixes {
        let reason = living.reason_to_keep_all(|address| prefix.contains(address));
        reasons.extend(reason.map(|why| format!("{prefix}: {why}")));
    }
    Ok(reasons.into_iter().collect())
}

/// What may be on an ENI besides its primary addresses. Descriptions and metadata may both be old,
/// each by another time, so what one of them or the ledger shows may be there.
#[derive(Debug)]
struct Shown {
    addresses: BTreeSet<IpAddr>,
    prefixes: HashSet<Cidr>,
}

impl Shown {
    /// By this description, the metadata and the ledger.
    ///
    /// # Errors
    /// Code 11 when the metadata service does not answer, 5 naming the ledger.
    fn of(aws: &Aws, ledger: &Ledger, eni: &Description) -> Result<Self> {
        let (imds, ledger) = (aws.imds()?, ledger.of_eni(&eni.id)?);
        let mut addresses = BTreeSet::from_iter(imds.addresses(&eni.mac)?);
        addresses.extend(&eni.secondary);
        let known = ledger.read()?.into_iter().filter(Entry::is_on_eni);
        addresses.extend(known.map(|entry| entry.address));
        addresses.retain(|address| !eni.primary.contains(address));
        let mut prefixes = HashSet::from_iter(imds.prefixes(&eni.mac)?);
        prefixes.extend(&eni.prefixes);
        let known = ledger.read_prefixes()?.into_iter();
        let known = known.filter(|known| known.entry.is_on_eni());
        prefixes.extend(known.map(|known| known.prefix));
        Ok(Self {
            addresses,
            prefixes,
        })
    }
}
