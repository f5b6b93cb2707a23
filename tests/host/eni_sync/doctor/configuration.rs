//! Network configurations: what is in them, and the interface that they name.

use std::fs;

use harness::vpc::{Vpc, VpcNode};
use serde_json::{Value, json};

use super::{Diagnosis, examine, examine_network, network, network_with_ipam};

/// What is said of the good configuration with a key of ipvlan changed.
fn examine_master(node: &VpcNode, key: &str, value: &Value) -> Diagnosis {
    let mut network = network();
    network["plugins"][0]
        .as_object_mut()
        .unwrap()
        .remove("master");
    network["plugins"][0][key] = value.clone();
    examine_network(node, &network)
}

#[test]
fn a_file_that_is_not_a_configuration_is_an_error() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let wrong = json!({ "kind": "NetworkAttachmentDefinition", "metadata": { "name": "a" },
        "spec": { "config": "{" } });
    examine_network(&node, &wrong).has("readable", "error", "spec.config: EOF");
    examine_network(&node, &json!({ "x": 1 })).has("readable", "error", "neither plugins nor type");
}

#[test]
fn a_definition_without_a_configuration_is_in_a_file_of_the_nodes() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let empty = json!({ "kind": "NetworkAttachmentDefinition", "metadata": { "name": "mgmt" } });
    examine_network(&node, &empty).has("readable", "error", "it has no spec.config");
    let directory = node.run_directory().join("net.d");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("mgmt.conflist"), network().to_string()).unwrap();
    let diagnosis = examine(
        &node,
        &["--nad", "/run/net.json", "--cni-conf-dir", "/run/net.d"],
    );
    assert!(diagnosis.of("readable").is_empty(), "{}", diagnosis.output);
    diagnosis.is_well("cni-version");
    examine(&node, &["--cni-conf-dir", "/run/none"]).has("readable", "error", "No such file");
}

#[test]
fn a_network_that_the_agent_watches_needs_no_chain() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let mut network = network();
    network["plugins"].as_array_mut().unwrap().truncate(1);
    examine_network(&node, &network).has("plugin-order", "warning", "not in the chain");
    let agent = node.run_directory().join("agent.json");
    let arguments = [
        "--nad",
        "/run/net.json",
        "--agent-config",
        "/run/agent.json",
    ];
    let watched = json!({ "networks": [{ "name": "mgmt", "master": "ens6" }] });
    fs::write(&agent, watched.to_string()).unwrap();
    let diagnosis = examine(&node, &arguments);
    diagnosis.is_well("plugin-order");
    diagnosis.is_well("agent-configuration");
    fs::write(&agent, "{\"network\": []}").unwrap();
    let diagnosis = examine(&node, &arguments);
    diagnosis.has("agent-configuration", "error", "unknown field");
    diagnosis.has("plugin-order", "warning", "not in the chain");
}

#[test]
fn networks_of_other_plugins_are_not_checked() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let bridge = json!({ "cniVersion": "1.0.0", "name": "x", "type": "bridge" });
    let diagnosis = examine_network(&node, &bridge);
    assert_eq!(diagnosis.of("plugins")[0].0, "info");
    assert!(diagnosis.of("cni-version").is_empty());
}

#[test]
fn a_version_that_is_missing_is_a_warning_and_an_unknown_one_an_error() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let mut network = network();
    network["cniVersion"] = json!("2.0.0");
    examine_network(&node, &network).has("cni-version", "error", "2.0.0");
    network.as_object_mut().unwrap().remove("cniVersion");
    examine_network(&node, &network).has("cni-version", "warning", "missing");
}

#[test]
fn eni_sync_comes_after_the_plugin_that_makes_the_interface() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let mut network = network();
    network["plugins"].as_array_mut().unwrap().reverse();
    examine_network(&node, &network).has("plugin-order", "error", "comes too early");
    network["plugins"].as_array_mut().unwrap().remove(0);
    examine_network(&node, &network).has("plugin-order", "warning", "not in the chain");
    network["plugins"] = json!([{ "type": "eni-sync" }]);
    examine_network(&node, &network).has("plugin-order", "error", "eni-sync");
}

#[test]
fn a_wrong_key_of_eni_sync_is_an_error() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let mut network = network();
    network["plugins"][1]["takeover"] = json!("sometimes");
    examine_network(&node, &network).has("keys", "error", "invalid takeover");
}

#[test]
fn a_key_that_eni_sync_does_not_have_is_a_warning() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let mut network = network();
    network["plugins"][1]["coolDownSeconds"] = json!(0);
    let said = "eni-sync does not know coolDownSeconds";
    examine_network(&node, &network).has("unknown-keys", "warning", said);
}

#[test]
fn a_macvlan_whose_macs_the_vpc_does_not_know_is_an_error() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let mut network = network();
    network["plugins"][0]["type"] = json!("macvlan");
    let said = format!("macvlan in mode bridge on {}", node.eni);
    examine_network(&node, &network).has("macvlan", "error", &said);
    network["plugins"][0]["mode"] = json!("passthru");
    assert!(examine_network(&node, &network).of("macvlan").is_empty());
}

#[test]
fn the_master_exists_and_is_up() {
    let vpc = Vpc::new();
    let node = vpc.node();
    examine_master(&node, "master", &json!("eth1")).has(
        "master",
        "error",
        "failed to lookup master \"eth1\"",
    );
    examine_master(&node, "mode", &json!("l2")).has("master", "error", "no default route");
    node.node.netns.ip(&["link", "set", "ens6", "down"]);
    // It is one cause, and one finding.
    let diagnosis = examine_network(&node, &network());
    diagnosis.has("eni-interface", "warning", "ens6 is down");
    assert!(diagnosis.of("master-up").is_empty(), "{}", diagnosis.output);
    let mut left_down = network();
    left_down["plugins"][0]["masterUp"] = json!(false);
    examine_network(&node, &left_down).has("master", "error", "master \"ens6\" is down");
}

#[test]
fn a_selector_is_resolved_as_ipvlan_does() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let selector = json!({ "eni": node.eni.as_str() });
    let diagnosis = examine_master(&node, "masterSelector", &selector);
    diagnosis.has("master", "error", "enis.json, which eni-sync writes");
    node.command(&["sync", "--once"]);
    for selector in [
        selector,
        json!({ "mac": node.mac }),
        json!({ "deviceIndex": 1 }),
        json!({ "subnet": "10.0.4.0/24" }),
    ] {
        let diagnosis = examine_master(&node, "masterSelector", &selector);
        diagnosis.is_well("master");
        assert!(
            diagnosis.of("master")[0].1.starts_with("ens6 "),
            "{selector}"
        );
    }
    let wrong = examine_master(&node, "masterSelector", &json!({ "deviceIndex": 7 }));
    wrong.has("master", "error", "no interface matches masterSelector");
}

#[test]
fn the_master_is_an_eni_that_is_not_the_primary_and_is_tagged() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let veth = |name: &str, mac: &str, peer: &str| {
        node.node.netns.ip(&[
            "link", "add", name, "address", mac, "up", "type", "veth", "peer", "name", peer,
        ]);
    };
    veth("eth9", "02:00:00:00:99:99", "x9");
    examine_master(&node, "master", &json!("eth9")).has("master-eni", "error", "eth9");
    let primary = node.lab.enis(&node.instance)[0].clone();
    veth("eth0", &node.lab.mac(&primary), "x0");
    let diagnosis = examine_master(&node, "master", &json!("eth0"));
    diagnosis.has("master-primary", "error", primary.as_str());
    node.lab
        .untag_eni(&node.eni, "node.k8s.amazonaws.com/no_manage");
    let diagnosis = examine_network(&node, &network());
    diagnosis.has("no-manage", "error", node.eni.as_str());
}

#[test]
fn a_device_for_host_device_is_found_or_may_be_in_a_pod() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let network = |key: &str, value: &str| {
        json!({ "cniVersion": "1.0.0", "name": "x", "plugins": [
            { "type": "host-device", key: value }, { "type": "eni-sync" } ] })
    };
    examine_network(&node, &network("device", "ens6")).is_well("no-manage");
    examine_network(&node, &network("hwaddr", &node.mac.to_uppercase())).is_well("no-manage");
    let diagnosis = examine_network(&node, &network("device", "ens7"));
    diagnosis.has("master", "warning", "\"ens7\": Link not found");
    let diagnosis = examine_network(&node, &network("pciBusID", "0000:00:06.0"));
    diagnosis.has("master", "warning", "0000:00:06.0");
}

#[test]
fn a_network_whose_addresses_ec2_chooses_needs_no_chain() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let mut network = network_with_ipam(&json!({ "type": "eni-sync" }));
    network["plugins"].as_array_mut().unwrap().truncate(1);
    let diagnosis = examine_network(&node, &network);
    for check in ["plugin-order", "keys", "master", "master-eni", "no-manage"] {
        diagnosis.is_well(check);
    }
    assert!(diagnosis.of("range-subnet").is_empty());
    network["plugins"][0]["ipam"]["range"] = json!("10.0.4.0/24");
    let said = "eni-sync: unknown key \"range\" in ipam";
    examine_network(&node, &network).has("keys", "error", said);
}
