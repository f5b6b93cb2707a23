//! The addresses that networks hand out.

use std::fs;

use harness::vpc::{Vpc, VpcNode, ip};
use serde_json::{Value, json};

use super::{Diagnosis, examine_network, network, network_with_ipam};

/// What is said of a range of host-local.
fn examine_range(node: &VpcNode, subnet: &str, start: &str, end: &str) -> Diagnosis {
    let ipam = json!({
        "type": "host-local", "subnet": subnet, "rangeStart": start, "rangeEnd": end, "gateway": "10.0.4.1",
    });
    examine_network(node, &network_with_ipam(&ipam))
}

#[test]
fn a_range_that_cannot_be_read_is_an_error() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let ipam = json!({ "type": "host-local", "subnet": "10.0.4.0" });
    let diagnosis = examine_network(&node, &network_with_ipam(&ipam));
    diagnosis.has("range", "error", "invalid CIDR address: 10.0.4.0");
    let ipam = json!({ "type": "host-local", "rangesFile": "/run/none.json" });
    let diagnosis = examine_network(&node, &network_with_ipam(&ipam));
    diagnosis.has("range", "error", "/run/none.json");
}

#[test]
fn the_range_is_in_the_enis_subnet() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let diagnosis = examine_range(&node, "10.0.5.0/24", "10.0.5.70", "10.0.5.80");
    diagnosis.has(
        "range-subnet",
        "error",
        "10.0.5.70-10.0.5.80/24 is not in subnet-",
    );
    let ipv6 = json!({ "type": "static", "addresses": [{ "address": "2001:db8:4::70/64" }] });
    examine_network(&node, &network_with_ipam(&ipv6)).is_well("range-subnet");
}

#[test]
fn the_mask_is_the_subnets() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let diagnosis = examine_range(&node, "10.0.4.64/28", "10.0.4.70", "10.0.4.72");
    diagnosis.has(
        "range-mask",
        "error",
        "pods get a /28, and the subnet is 10.0.4.0/24",
    );
}

#[test]
fn no_address_of_aws_is_in_the_range() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let whole = json!({ "type": "host-local", "subnet": "10.0.4.0/24" });
    let diagnosis = examine_network(&node, &network_with_ipam(&whole));
    diagnosis.has("range-reserved", "error", "10.0.4.2, 10.0.4.3");
    let diagnosis = examine_range(&node, "10.0.4.0/24", "10.0.4.250", "10.0.4.255");
    diagnosis.has("range-reserved", "error", "10.0.4.255");
    let mut excluding = whole.clone();
    excluding["exclude"] = json!(["10.0.4.0/30"]);
    examine_network(&node, &network_with_ipam(&excluding)).is_well("range-reserved");
}

#[test]
fn the_gateway_is_the_first_address_of_the_subnet() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let mut network = network();
    network["plugins"][0]["ipam"]["gateway"] = json!("10.0.4.254");
    let diagnosis = examine_network(&node, &network);
    diagnosis.has("gateway", "error", "10.0.4.254 is not the router");
    assert!(diagnosis.of("gateway")[0].2.contains("10.0.4.1"));
}

#[test]
fn a_range_that_is_larger_than_the_eni_is_a_warning() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let diagnosis = examine_range(&node, "10.0.4.0/24", "10.0.4.70", "10.0.4.79");
    diagnosis.has(
        "range-slots",
        "warning",
        "10 addresses in the range, 9 slots",
    );
    // What is in use by the range itself is no loss to it.
    node.lab.assign(&node.eni, &[ip("10.0.4.70")]);
    examine_range(&node, "10.0.4.0/24", "10.0.4.70", "10.0.4.78").is_well("range-slots");
}

#[test]
fn a_primary_address_of_another_node_in_the_range_is_an_error() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let other = vpc.node();
    let primary = node.lab.primary(&other.eni).to_string();
    let ipam = json!({ "type": "static", "addresses": [{ "address": format!("{primary}/24") }] });
    let diagnosis = examine_network(&node, &network_with_ipam(&ipam));
    let says = format!(
        "{primary} is a primary address of {} of {}",
        other.eni, other.instance
    );
    diagnosis.has("foreign-owner", "error", &says);
    let own = node.lab.primary(&node.eni).to_string();
    let ipam = json!({ "type": "static", "addresses": [{ "address": format!("{own}/24") }] });
    let diagnosis = examine_network(&node, &network_with_ipam(&ipam));
    diagnosis.has("foreign-owner", "warning", "primary address");
}

#[test]
fn an_address_of_another_node_is_a_conflict_only_where_nodes_do_not_know_of_each_other() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let other = vpc.node();
    node.lab.assign(&other.eni, &[ip("10.0.4.73")]);
    let diagnosis = examine_network(&node, &network());
    diagnosis.has("foreign-owner", "warning", "10.0.4.73 is assigned to eni-");
    let shared = json!({ "type": "whereabouts", "range": "10.0.4.72-10.0.4.75/24" });
    examine_network(&node, &network_with_ipam(&shared)).is_well("foreign-owner");
    let file = json!({ "ranges": [[{ "subnet": "10.0.4.0/24", "rangeStart": "10.0.4.72", "rangeEnd": "10.0.4.75" }]] });
    fs::write(node.run_directory().join("ranges.json"), file.to_string()).unwrap();
    let own: Value = json!({ "type": "host-local", "rangesFile": "/run/ranges.json" });
    examine_network(&node, &network_with_ipam(&own)).is_well("foreign-owner");
}

#[test]
fn a_range_that_ec2_may_use_for_others_is_mentioned() {
    let vpc = Vpc::new();
    let node = vpc.node();
    examine_network(&node, &network()).has("cidr-reservation", "info", "to other ENIs");
    node.lab.reserve_cidr(&vpc.pods, "10.0.4.64/28", "prefix");
    examine_network(&node, &network()).has("cidr-reservation", "info", "to other ENIs");
}

/// Two networks of one node with a range each.
fn examine_two(node: &VpcNode, names: [&str; 2], ranges: [(&str, &str); 2]) -> Diagnosis {
    let networks: Vec<String> = names
        .iter()
        .zip(ranges)
        .map(|(name, (start, end))| {
            let ipam = json!({
                "type": "host-local", "subnet": "10.0.4.0/24", "rangeStart": start, "rangeEnd": end,
            });
            let mut network = network_with_ipam(&ipam);
            network["name"] = json!(name);
            network.to_string()
        })
        .collect();
    fs::write(
        node.run_directory().join("two.yaml"),
        networks.join("\n---\n"),
    )
    .unwrap();
    super::examine(node, &["--nad", "/run/two.yaml"])
}

#[test]
fn two_networks_of_a_node_that_hand_out_one_address_are_an_error() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let ranges = [("10.0.4.70", "10.0.4.75"), ("10.0.4.75", "10.0.4.80")];
    let diagnosis = examine_two(&node, ["a", "b"], ranges);
    let said = "10.0.4.75 is in the ranges of a (/run/two.yaml)";
    diagnosis.has("range-overlap", "error", said);
    // Of one name, they share their reservations.
    let diagnosis = examine_two(&node, ["a", "a"], ranges);
    assert!(
        diagnosis.of("range-overlap").is_empty(),
        "{}",
        diagnosis.output
    );
    let ranges = [("10.0.4.70", "10.0.4.74"), ("10.0.4.75", "10.0.4.80")];
    let diagnosis = examine_two(&node, ["a", "b"], ranges);
    assert!(
        diagnosis.of("range-overlap").is_empty(),
        "{}",
        diagnosis.output
    );
}
