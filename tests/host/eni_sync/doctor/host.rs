//! The node itself: the agent, its files, the kernel.

use std::fs;

use harness::vpc::{Agent, Vpc};
use serde_json::json;

use super::{examine, examine_network, network};

#[test]
fn a_node_without_an_agent_is_a_warning_and_a_dead_one_an_error() {
    let vpc = Vpc::new();
    let node = vpc.node();
    examine(&node, &[]).has("agent", "warning", "there is no agent");
    let agent = Agent::start(&node, &json!({}));
    examine(&node, &[]).is_well("agent");
    agent.kill();
    examine(&node, &[]).has("agent", "error", "does not answer");
}

#[test]
fn an_inventory_that_is_missing_is_mentioned_and_a_broken_one_an_error() {
    let vpc = Vpc::new();
    let node = vpc.node();
    examine(&node, &[]).has("inventory", "info", "not written yet");
    node.command(&["sync", "--once"]);
    examine(&node, &[]).is_well("inventory");
    fs::write(node.run_directory().join("eni-cni/enis.json"), "{").unwrap();
    examine(&node, &[]).has("inventory", "error", "is not an inventory of ENIs");
    let output = node.command(&["status"]);
    assert_eq!(output.status, Some(0), "{output}");
    assert!(
        output.stderr.contains("is not an inventory of ENIs"),
        "{output}"
    );
}

#[test]
fn l3_needs_a_route_of_the_node_through_the_master() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let mut network = network();
    assert!(examine_network(&node, &network).of("l3-route").is_empty());
    for mode in ["l3", "l3s"] {
        network["plugins"][0]["mode"] = json!(mode);
        let diagnosis = examine_network(&node, &network);
        diagnosis.has(
            "l3-route",
            "error",
            "no route of the node goes through ens6",
        );
    }
    node.node
        .netns
        .ip(&["address", "add", "10.0.4.10/24", "dev", "ens6"]);
    let only_connected = examine_network(&node, &network);
    only_connected.has("l3-route", "error", "ens6");
    node.node.netns.ip(&["link", "set", "vpc", "up"]);
    let route = [
        "route", "add", "default", "via", "10.0.4.1", "dev", "ens6", "table", "10001",
    ];
    node.node.netns.ip(&route);
    examine_network(&node, &network).is_well("l3-route");
}

#[test]
fn an_address_of_the_range_on_the_node_is_an_error() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let primary = format!("{}/24", node.lab.primary(&node.eni));
    node.node
        .netns
        .ip(&["address", "add", &primary, "dev", "ens6"]);
    examine_network(&node, &network()).is_well("host-alias");
    node.node
        .netns
        .ip(&["address", "add", "10.0.4.73/32", "dev", "ens6"]);
    let diagnosis = examine_network(&node, &network());
    diagnosis.has("host-alias", "error", "the node itself has 10.0.4.73");
}
