//! Decides which devices a resource has, by the state of the ENIs. Nothing is read or changed
//! here, except two files of the kernel about a device.

use std::collections::BTreeMap;
use std::iter::repeat_n;

use common::attach::inventory::Eni;

use crate::agent::configuration::{Kind, Resource};
use crate::agent::devices::facts::{Facts, is_for_user_space, numa};
use crate::agent::devices::shown::{Device, Shown};
use crate::registration::prefixes::supply::MOST_PODS;
use crate::registration::subnets::Free;
use crate::vpc::ec2::Family;
use crate::vpc::eni;

/// The devices that have been offered, by the id of their ENI: a device is remembered while a
/// pod may have it.
#[derive(Debug, Default)]
pub(crate) struct Offered(BTreeMap<String, Known>);

#[derive(Debug, Clone, Default)]
struct Known {
    resource: String,
    mac: String,
    pci: Option<String>,
}

impl Offered {
    /// The offer of an earlier agent, as it has written it down. Only there is the PCI address
    /// of a device that has been bound to a driver for user space since.
    pub(crate) fn of(shown: &[Shown], facts: &Facts) -> Self {
        let mut offered = BTreeMap::new();
        for one in shown {
            for device in &one.devices {
                let eni = facts.enis.iter().find(|eni| eni.id == device.eni);
                let known = Known {
                    resource: one.name.clone(),
                    mac: eni.map_or_else(String::new, |eni| eni.mac.clone()),
                    pci: Some(device.id.clone()).filter(|id| id.contains(':')),
                };
                offered.insert(device.eni.clone(), known);
            }
        }
        Self(offered)
    }

    /// The devices of each resource now. An ENI belongs to the first resource that selects it.
    pub(crate) fn look(&mut self, resources: &[Resource], facts: &Facts) -> Vec<Shown> {
        let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
        let mut all = Vec::new();
        for resource in resources {
            let mut shown = Shown {
                name: resource.name.clone(),
                family: (resource.kind == Kind::Addresses).then_some(resource.family),
                ..Shown::default()
            };
            let mut enis = Vec::new();
            for eni in facts.enis.iter().filter(|eni| resource.eni.selects(eni)) {
                let is_known = self
                    .0
                    .get(&eni.id)
                    .is_some_and(|k| k.resource == resource.name);
                if eni.is_primary() || !(is_known || eni::require_managed(eni).is_ok()) {
                    continue;
                }
                let owner = *owners.entry(&eni.id).or_insert(&resource.name);
                if owner == resource.name {
                    enis.push(eni);
                } else {
                    let problem = format!("{} belongs to the resource {owner}", eni.id);
                    shown.problems.push(problem);
                }
            }
            match resource.kind {
                Kind::Addresses => self.addresses(resource, &enis, facts, &mut shown),
                Kind::Devices => self.devices(resource, &enis, facts, &mut shown),
            }
            let is_none = shown.devices.is_empty() && shown.problems.is_empty();
            if is_none && facts.is_known {
                let problem = "no ENI for pods of this node is selected, so it has no devices";
                shown.problems.push(problem.to_owned());
            }
            all.push(shown);
        }
        all
    }

    /// A device for each address that pods have on the ENIs or can still get; the unhealthy
    /// ones, which pods cannot get at this time, come last.
    fn addresses(&mut self, resource: &Resource, enis: &[&Eni], facts: &Facts, shown: &mut Shown) {
        let mut slots: Vec<(Option<String>, &Eni)> = Vec::new();
        let mut free = facts.free.clone();
        for eni in enis {
            self.remember(resource, eni, None);
            let family = resource.family;
            let slots_of_eni = facts.slots(eni, family);
            let count = match slots_of_eni.for_pods() {
                Some(count) => count,
                None => {
                    let why = "EC2 has not said how many addresses an ENI of this instance type \
                               can have";
                    shown.problems.push(format!("{}: {why}", eni.id));
                    facts.held(eni, family)
                }
            };
            let why = unusable(eni, facts).or_else(|| facts.refusal.clone());
            let more = count.saturating_sub(slots_of_eni.present());
            let lacking = lacking(eni, family, more, &mut free);
            let missing = (lacking > 0).then(|| exhausted(eni, family));
            let why_not_all = why.clone().or(missing);
            shown.problems.extend(why_not_all.clone());
            slots.extend(repeat_n((why, *eni), count - lacking));
            slots.extend(repeat_n((why_not_all, *eni), lacking));
        }
        slots.sort_by_key(|(why, _)| why.is_some());
        slots.truncate(MOST_PODS);
        let slot = |(number, (unhealthy, eni)): (usize, (Option<String>, &Eni))| Device {
            id: format!("slot-{number}"),
            eni: eni.id.clone(),
            unhealthy,
            numa: None,
        };
        shown
            .devices
            .extend(slots.into_iter().enumerate().map(slot));
    }

    /// A device for each of the ENIs, and for each ENI that was detached while a pod has it.
    fn devices(&mut self, resource: &Resource, enis: &[&Eni], facts: &Facts, shown: &mut Shown) {
        for eni in enis {
            let Some(pci) = self.pci(eni, facts) else {
                let why = "the PCI address of its device is not known: it has had no interface \
                           since the node has started";
                shown.problems.push(format!("{}: {why}", eni.id));
                continue;
            };
            let is_away = facts.attached.contains_key(&eni.mac) || is_for_user_space(&pci);
            let unhealthy = if is_away {
                unmanaged(eni)
            } else {
                unusable(eni, facts)
            };
            shown.devices.push(device(pci.clone(), &eni.id, unhealthy));
            self.remember(resource, eni, Some(pci));
        }
        let is_gone = |id: &String| facts.enis.iter().all(|eni| eni.id != *id);
        // An agent that starts after the ENI was detached knows only the PCI address, which
        // another ENI may have got.
        let others: Vec<String> = shown.devices.iter().map(|one| one.id.clone()).collect();
        let has = |known: &Known| {
            let is_attached = |pci: &String| facts.attached.values().any(|other| other == pci);
            let is_other = known.pci.as_ref().is_some_and(|pci| others.contains(pci));
            let by_mac = facts.attached.contains_key(&known.mac);
            !is_other && (by_mac || known.pci.as_ref().is_some_and(is_attached))
        };
        self.0
            .retain(|id, known| known.resource != resource.name || !is_gone(id) || has(known));
        let of_resource = self.0.iter();
        let gone = of_resource.filter(|(id, known)| known.resource == resource.name && is_gone(id));
        for (id, known) in gone {
            let why = format!("{id} is not attached to the node any more");
            let device = |pci: &String| device(pci.clone(), id, Some(why));
            shown.devices.extend(known.pci.as_ref().map(device));
        }
        shown.devices.sort_by(|one, other| one.id.cmp(&other.id));
        let unhealthy = shown.devices.iter();
        let unhealthy = unhealthy.filter_map(|device| device.unhealthy.clone());
        shown.problems.extend(unhealthy);
    }

    /// The PCI address of an ENI's device: by its interface; if that is in a pod, by the
    /// record; for a device without an interface, by the earlier offer.
    fn pci(&self, eni: &Eni, facts: &Facts) -> Option<String> {
        let link = facts.links.get(&eni.mac).and_then(|link| link.pci.as_ref());
        let known = || self.0.get(&eni.id).and_then(|known| known.pci.as_ref());
        let found = link.or_else(|| facts.attached.get(&eni.mac));
        found.or_else(known).cloned()
    }

    fn remember(&mut self, resource: &Resource, eni: &Eni, pci: Option<String>) {
        let known = Known {
            resource: resource.name.clone(),
            mac: eni.mac.clone(),
            pci,
        };
        self.0.insert(eni.id.clone(), known);
    }
}

/// How many of `more` further addresses of an ENI its subnet does not have. Subtracts the
/// others from the free ones.
fn lacking(eni: &Eni, family: Family, more: usize, free: &mut Free) -> usize {
    match free.get_mut(&(eni.subnet_id.clone(), family)) {
        Some(free) => {
            let lacking = more.saturating_sub(*free);
            *free -= more - lacking;
            lacking
        }
        // The number of free addresses is not known.
        None => 0,
    }
}

fn exhausted(eni: &Eni, family: Family) -> String {
    let (subnet, family) = (&eni.subnet_id, family.name());
    format!(
        "{subnet} has fewer free {family} addresses than {} has room for",
        eni.id
    )
}

fn device(id: String, eni: &str, unhealthy: Option<String>) -> Device {
    Device {
        numa: numa(&id),
        id,
        eni: eni.to_owned(),
        unhealthy,
    }
}

/// The reason why a pod cannot use an ENI, if there is one.
fn unusable(eni: &Eni, facts: &Facts) -> Option<String> {
    let away = || match facts.links.get(&eni.mac) {
        Some(link) if link.is_up => None,
        Some(link) => Some(format!("{} of {} is down", link.name, eni.id)),
        None => Some(format!("the interface of {} is not on the node", eni.id)),
    };
    unmanaged(eni).or_else(away)
}

/// The reason why an ENI is not for pods, if there is one.
fn unmanaged(eni: &Eni) -> Option<String> {
    eni::require_managed(eni)
        .err()
        .map(|error| error.to_string())
}
