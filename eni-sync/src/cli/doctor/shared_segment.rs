//! Checks of conflicts between networks on one segment: two that hand out the same addresses,
//! and interfaces with MAC addresses that the VPC does not know.

use std::net::IpAddr;

use serde_json::Value;

use crate::cli::doctor::facts::Facts;
use crate::cli::doctor::finding::Finding;
use crate::cli::doctor::network::{Network, type_of};
use crate::cli::doctor::range::Range;
use crate::vpc::eni;

pub(crate) fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, network) in facts.networks.iter().enumerate() {
        let earlier = facts.networks.iter().take(number);
        findings.extend(earlier.filter_map(|other| overlap(facts, network, other)));
        findings.extend(network.plugins.iter().filter_map(|plugin| {
            let mac = macvlan_master(facts, plugin)?;
            unknown_macs(facts, network, plugin, &mac)
        }));
    }
    findings
}

/// Two networks of one subnet that both hand out an address. Networks of the same name share
/// their reservations, and whereabouts shares its reservations in the cluster.
fn overlap(facts: &Facts, network: &Network, other: &Network) -> Option<Finding> {
    if network.name == other.name || [network, other].map(is_whereabouts) == [true, true] {
        return None;
    }
    let (own_eni, other_eni) = (facts.eni_of(network)?, facts.eni_of(other)?);
    if own_eni.subnet_id != other_eni.subnet_id {
        return None;
    }
    let (own, others) = (network.ranges.as_ref().ok()?, other.ranges.as_ref().ok()?);
    let mut pairs = own
        .iter()
        .flat_map(|range| others.iter().map(move |o| (range, o)));
    let address = pairs.find_map(|(range, other): (&Range, &Range)| range.common(other))?;
    Some(shared(network, other, address))
}

fn shared(network: &Network, other: &Network, address: IpAddr) -> Finding {
    let says = format!("{address} is in the ranges of {}, too", other.subject);
    Finding::error("range-overlap", &network.subject, says)
        .advise("two pods of this node can get one address: give each network a range of its own")
}

fn is_whereabouts(network: &Network) -> bool {
    let mut ipams = network
        .plugins
        .iter()
        .map(|plugin| type_of(&plugin["ipam"]));
    ipams.any(|ipam| ipam == "whereabouts")
}

/// The MAC address of the master of a macvlan plugin, if the node has the interface.
fn macvlan_master(facts: &Facts, plugin: &Value) -> Option<String> {
    if type_of(plugin) != "macvlan" || plugin["mode"] == "passthru" {
        return None;
    }
    let master = plugin["master"].as_str()?;
    let link = facts.host.links.iter().find(|link| link.name == master)?;
    Some(link.hardware_mac().to_owned())
}

fn unknown_macs(facts: &Facts, network: &Network, plugin: &Value, mac: &str) -> Option<Finding> {
    let eni = facts.inventory.as_ref()?.by_mac(mac)?;
    eni::require_managed(eni).ok()?;
    let mode = plugin["mode"].as_str().unwrap_or("bridge");
    let says = format!(
        "macvlan in mode {mode} on {}: each pod has its own MAC address",
        eni.id
    );
    let advice = "the VPC drops frames from MAC addresses that it does not know: use ipvlan";
    Some(Finding::error("macvlan", &network.subject, says).advise(advice))
}
