//! Checks of the resources that the agent offers to the kubelet, by the file that it writes.

use std::net::IpAddr;

use common::attach::inventory::Eni;

use crate::agent::devices::shown::{PATH, Shown};
use crate::cli::doctor::facts::Facts;
use crate::cli::doctor::finding::Finding;
use crate::ledger::{Entry, Event, State};
use crate::registration::prefixes::supply::{MOST_PODS, Slots};
use crate::vpc::ec2::Family;

const CHECK: &str = "resource";

/// The file of an agent that has ended is outdated.
pub(crate) fn check(facts: &Facts) -> Vec<Finding> {
    if !matches!(facts.agent, Ok(Some(()))) {
        return Vec::new();
    }
    match &facts.resources {
        Ok(resources) => {
            let all = resources.iter();
            let compared = all.clone().flat_map(|resource| compare(resource, facts));
            all.map(of_one).chain(compared).collect()
        }
        Err(error) => vec![
            Finding::warning(CHECK, PATH, error.to_string())
                .advise("remove the file and restart the agent, which writes a new one"),
        ],
    }
}

fn of_one(resource: &Shown) -> Finding {
    let (healthy, unhealthy) = resource.counts();
    let says = format!("{healthy} healthy devices, {unhealthy} unhealthy");
    let name = resource.name.as_str();
    let problems = resource.problems.join("; ");
    match (problems.as_str(), resource.registered) {
        ("", true) => Finding::ok(CHECK, name, says),
        ("", false) => {
            Finding::warning(CHECK, name, format!("{says}; the kubelet does not listen")).advise(
                "see the log of the kubelet: it has taken the resource and not asked for it",
            )
        }
        (why, _) => Finding::warning(CHECK, name, format!("{says}; {why}"))
            .advise("docs/device-plugin.md says what to do about each of these"),
    }
}

/// Compares the offer to the kubelet with EC2's current descriptions of the ENIs of a resource.
fn compare(resource: &Shown, facts: &Facts) -> Vec<Finding> {
    let enis = match &facts.inventory {
        // Without an answer of EC2, other checks report that.
        Some(inventory) if !facts.own.is_empty() => &inventory.enis,
        _ => return Vec::new(),
    };
    let differs = |(id, (all, healthy)): (&str, (usize, usize))| {
        let says = match enis.iter().find(|eni| eni.id == id) {
            None if healthy == 0 => return None,
            None => format!("{healthy} devices of {id}, which is not attached to this node"),
            Some(eni) => {
                let room = room(eni, resource.family?, facts)?;
                let is_so = room == all || resource.devices.len() >= MOST_PODS;
                let says = format!("{all} addresses of {id}, which has room for {room}");
                (!is_so).then_some(says)?
            }
        };
        let says = format!("the kubelet is offered {says}");
        let advice = "the agent compares with EC2 again soon; if this stays, its log says why";
        Some(Finding::warning(CHECK, &resource.name, says).advise(advice))
    };
    resource.by_eni().into_iter().filter_map(differs).collect()
}

/// How many addresses for pods an ENI has room for, by EC2's current description; addresses
/// without a known owner are subtracted.
fn room(eni: &Eni, family: Family, facts: &Facts) -> Option<usize> {
    let own = facts.own.iter().find(|own| own.id == eni.id)?;
    let entries = facts.ledger.as_ref().ok()?.get(&eni.id);
    let entries = entries.into_iter().flatten();
    let mut entries: Vec<Entry> = entries
        .filter(|entry| entry.state != State::Adopted)
        .cloned()
        .collect();
    let is_known = |address: &&IpAddr| entries.iter().any(|entry| entry.address == **address);
    let others = own.secondary.iter().filter(|address| !is_known(address));
    let others = others.filter_map(|address| Entry::begin(*address, &Event::Seen, None));
    let others: Vec<Entry> = others.collect();
    entries.extend(others);
    Slots::of(eni, &entries, &[], family).for_pods()
}
