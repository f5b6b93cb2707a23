//! `masterSelector` by what EC2 says of an ENI: its tags, its security groups and its place. The
//! plugin, the agent and the doctor find the interface by the same words.

use std::fs;

use harness::eni_lab::EniId;
use harness::vpc::{Agent, Vpc, VpcNode, eventually};
use serde_json::{Value, json};

use super::doctor::{Diagnosis, examine_network};

/// The ENI for pods that every node of these tests has besides, and its interface.
fn second(vpc: &Vpc, node: &VpcNode) -> EniId {
    let eni = node.lab.multus_eni(&node.instance, &vpc.pods);
    node.node.netns.ip(&[
        "link",
        "add",
        "ens7",
        "address",
        &node.lab.mac(&eni),
        "up",
        "type",
        "veth",
        "peer",
        "name",
        "vpc7",
    ]);
    eni
}

/// What the doctor says of a network whose master is selected so.
#[track_caller]
fn selected(node: &VpcNode, selector: &Value) -> Diagnosis {
    let network = json!({
        "cniVersion": "1.0.0", "name": "mgmt", "type": "ipvlan", "masterSelector": selector,
        "ipam": { "type": "eni-sync" },
    });
    examine_network(node, &network)
}

/// What the doctor says of the master, which is no other than `name`.
#[track_caller]
fn is_selected(node: &VpcNode, selector: &Value, name: &str) {
    let diagnosis = selected(node, selector);
    let found = diagnosis.of("master");
    let expected = format!("{name} (");
    assert!(
        found.len() == 1 && found[0].0 == "ok" && found[0].1.starts_with(&expected),
        "{selector}: {found:?}"
    );
    assert!(found[0].1.contains(" by masterSelector "), "{found:?}");
}

#[test]
fn a_tag_a_group_and_a_place_select_together() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let other = second(&vpc, &node);
    let group = node.lab.create_security_group(&vpc.id, "name", "data");
    node.lab.set_groups(&other, &[&group]);
    for eni in [&node.eni, &other] {
        node.lab.tag_eni(eni, "eni-cni/network", "user-plane");
    }
    node.lab.tag_eni(&other, "role", "");
    node.command(&["sync", "--once"]);
    let tag = json!({ "eni-cni/network": "user-plane" });
    let group = group.as_str();
    for (selector, name) in [
        (json!({ "tag": tag, "deviceIndex": 1 }), "ens6"),
        (
            json!({ "tag": tag, "deviceIndex": 2, "networkCard": 0 }),
            "ens7",
        ),
        (
            json!({ "tag": { "eni-cni/network": "user-plane", "role": "" } }),
            "ens7",
        ),
        (json!({ "securityGroup": group }), "ens7"),
        (
            json!({ "securityGroup": group, "subnet": "10.0.4.0/24" }),
            "ens7",
        ),
        (json!({ "tag": tag, "mac": node.mac }), "ens6"),
    ] {
        is_selected(&node, &selector, name);
    }
}

#[test]
fn the_network_card_tells_two_enis_of_one_device_index() {
    let vpc = Vpc::new();
    let node = vpc.node_at("c6in.32xlarge", (1, 1));
    let other = second(&vpc, &node);
    node.command(&["sync", "--once"]);
    is_selected(
        &node,
        &json!({ "deviceIndex": 1, "networkCard": 1 }),
        "ens6",
    );
    is_selected(
        &node,
        &json!({ "deviceIndex": 1, "networkCard": 0 }),
        "ens7",
    );
    is_selected(&node, &json!({ "networkCard": 1 }), "ens6");
    let diagnosis = selected(&node, &json!({ "deviceIndex": 1 }));
    for (eni, card) in [(&node.eni, 1), (&other, 0)] {
        let said = format!("{eni}, networkCard {card}, deviceIndex 1, {}", vpc.pods);
        diagnosis.has("master", "error", &said);
    }
}

#[test]
fn two_enis_that_match_are_named_and_so_is_what_each_has_where_none_does() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let other = second(&vpc, &node);
    for eni in [&node.eni, &other] {
        node.lab.tag_eni(eni, "role", "data");
    }
    node.command(&["sync", "--once"]);
    let diagnosis = selected(&node, &json!({ "tag": { "role": "data" } }));
    for said in [
        "several interfaces match masterSelector tag role=data: candidates: ",
        node.eni.as_str(),
        other.as_str(),
        "add a key to choose one, such as deviceIndex or another tag",
    ] {
        diagnosis.has("master", "error", said);
    }
    let wanted = json!({ "tag": { "role": "mgmt", "team": "x" }, "networkCard": 1 });
    let diagnosis = selected(&node, &wanted);
    let primary = &node.lab.enis(&node.instance)[0];
    for said in [
        "no interface matches masterSelector networkCard 1, tag role=mgmt, tag team=x: ENIs of this node: ".to_owned(),
        format!("{primary} has networkCard 0, no tag role, no tag team"),
        format!("{} (ens6) has networkCard 0, tag role=data, no tag team", node.eni),
        format!("{other} (ens7) has networkCard 0, tag role=data, no tag team"),
    ] {
        diagnosis.has("master", "error", &said);
    }
    let group = node.lab.create_security_group(&vpc.id, "name", "data");
    let diagnosis = selected(&node, &json!({ "securityGroup": group.as_str() }));
    diagnosis.has("master", "error", "(ens7) has securityGroup sg-");
}

#[test]
fn an_eni_that_matches_and_is_not_on_the_node_is_named() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.lab.tag_eni(&node.eni, "role", "data");
    node.command(&["sync", "--once"]);
    node.node.netns.ip(&["link", "delete", "ens6"]);
    let diagnosis = selected(&node, &json!({ "tag": { "role": "data" } }));
    let said = format!("{} matches, but its interface is not on the node", node.eni);
    diagnosis.has("master", "error", &said);
}

/// As an agent does whose version wrote none of these keys.
fn make_older(node: &VpcNode, key: &str) {
    let path = node.run_directory().join("eni-cni/enis.json");
    let mut inventory: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for eni in inventory["enis"].as_array_mut().unwrap() {
        eni.as_object_mut().unwrap().remove(key);
    }
    fs::write(path, inventory.to_string()).unwrap();
}

#[test]
fn an_inventory_of_an_earlier_version_selects_nothing_by_what_it_does_not_tell() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.lab.tag_eni(&node.eni, "role", "data");
    for (key, selector) in [
        ("tags", json!({ "tag": { "role": "data" } })),
        (
            "securityGroups",
            json!({ "securityGroup": "sg-0ab00000000000001" }),
        ),
        // Both ENIs would be on card 0, of which one has device index 1.
        (
            "networkCardIndex",
            json!({ "networkCard": 0, "deviceIndex": 1 }),
        ),
    ] {
        node.command(&["sync", "--once"]);
        make_older(&node, key);
        let diagnosis = selected(&node, &selector);
        let said = format!(
            "enis.json of an earlier version has no {key} of ENIs: the agent of this version \
             writes it again"
        );
        diagnosis.has("master", "error", &said);
        // What it tells is used as ever.
        is_selected(&node, &json!({ "deviceIndex": 1 }), "ens6");
    }
    // Whoever of this version needs the inventory asks EC2 and writes it anew.
    let pod = harness::Pod::new("c1");
    node.add(&pod, &["10.0.4.70"]).ok();
    is_selected(
        &node,
        &json!({ "networkCard": 0, "deviceIndex": 1 }),
        "ens6",
    );
}

#[test]
fn an_agent_sees_a_tag_and_a_group_with_its_next_comparison() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let group = node.lab.create_security_group(&vpc.id, "name", "data");
    let watched = json!({ "name": "conf-1", "masterSelector": { "tag": { "role": "data" } } });
    let pool = json!({
        "name": "pool", "masterSelector": { "securityGroup": group.as_str() }, "high": 1,
        "rangesFile": "/run/ranges.json",
        "ranges": [{ "start": "10.0.4.200", "end": "10.0.4.201" }],
    });
    let configuration = json!({ "networks": [watched], "pools": [pool] });
    let directory = node.node.state().join("networks/conf-1");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("10.0.4.70"), "c1\r\nnet1").unwrap();
    let agent = Agent::start(&node, &configuration);
    let says = |text: &str| eventually(|| agent.log().contains(text));
    let no_tag = format!("{} (ens6) has no tag role", node.eni);
    assert!(says(&no_tag), "{}", agent.log());
    assert!(
        says("no interface matches masterSelector securityGroup sg-"),
        "{}",
        agent.log()
    );
    assert!(node.addresses().is_empty());
    node.lab.tag_eni(&node.eni, "role", "data");
    node.lab.set_groups(&node.eni, &[&group]);
    fs::write(
        node.run_directory().join("agent.json"),
        configuration.to_string(),
    )
    .unwrap();
    let diagnosis = super::doctor::examine(&node, &["--agent-config", "/run/agent.json"]);
    let changed = format!("the tags and the security groups of {}", node.eni);
    diagnosis.has("inventory", "warning", &changed);
    diagnosis.has("agent-configuration", "error", &no_tag);
    node.command(&["sync", "--once"]);
    let are_there = || {
        let found = node.addresses();
        found.len() == 2 && found.contains(&"10.0.4.70".to_owned())
    };
    assert!(
        eventually(are_there),
        "{:?}: {}",
        node.addresses(),
        agent.log()
    );
    let diagnosis = super::doctor::examine(&node, &["--agent-config", "/run/agent.json"]);
    diagnosis.is_well("inventory");
    diagnosis.is_well("agent-configuration");
}
