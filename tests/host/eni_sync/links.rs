//! ENIs for pods that are down: the agent sets them up, and changes nothing else.

use std::fs;

use fixtures::scrape::{ADDRESS, Scrape, get};
use harness::vpc::{Agent, DEADLINE, Vpc, VpcNode, eventually};
use serde_json::{Value, json};

use super::doctor::{Diagnosis, examine};

fn link(node: &VpcNode, name: &str) -> Value {
    let link = node.node.netns.link(name);
    link.unwrap_or_else(|| panic!("there is no {name}"))
}

fn is_up(node: &VpcNode, name: &str) -> bool {
    harness::is_up(&link(node, name))
}

fn set(node: &VpcNode, arguments: &[&str]) {
    node.node
        .netns
        .ip(&[&["link", "set", "ens6"][..], arguments].concat());
}

/// The addresses that the kernel has not made by itself, and the routes, of an interface.
fn configured(node: &VpcNode, name: &str) -> (String, String) {
    let show = |arguments: &[&str]| node.node.netns.tool("ip", arguments);
    (
        show(&["-o", "address", "show", "dev", name, "scope", "global"]),
        show(&[
            "route", "show", "table", "all", "dev", name, "scope", "global",
        ]),
    )
}

#[test]
fn an_eni_that_is_down_is_set_up_with_the_mtu_of_the_vpc() {
    let vpc = Vpc::new();
    let node = vpc.node();
    set(&node, &["down"]);
    let (before, configuration) = (link(&node, "ens6"), configured(&node, "ens6"));
    let agent = Agent::start(&node, &json!({}));
    assert!(eventually(|| is_up(&node, "ens6")));
    let after = link(&node, "ens6");
    assert_eq!(
        (&before["mtu"], &after["mtu"]),
        (&json!(1500), &json!(9001))
    );
    for key in ["address", "ifalias", "altnames", "txqlen", "linkinfo"] {
        assert_eq!(before[key], after[key], "{key}");
    }
    assert_eq!(configured(&node, "ens6"), configuration);
    let said = format!("ens6 of {} was down; it is up, with MTU 9001", node.eni);
    assert_eq!(agent.log().matches(&said).count(), 1, "{}", agent.log());
}

#[test]
fn an_eni_is_kept_up_and_an_mtu_that_somebody_chose_stays() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let agent = Agent::start(&node, &json!({}));
    assert!(node.lab.wait_for_call("DescribeInstanceTypes", 1, DEADLINE));
    set(&node, &["mtu", "1400"]);
    set(&node, &["down"]);
    assert!(eventually(|| is_up(&node, "ens6")));
    assert_eq!(link(&node, "ens6")["mtu"], 1400);
    assert!(agent.log().contains("it is up, with MTU 1400"));
}

#[test]
fn an_eni_that_is_plugged_in_is_set_up_and_others_stay_down() {
    let vpc = Vpc::new();
    let node = vpc.node_of_type("m5.4xlarge");
    let _agent = Agent::start(&node, &json!({}));
    let other = node.lab.create_eni(&vpc.pods);
    node.lab.attach_eni(&other, &node.instance, 5);
    let second = node.lab.multus_eni(&node.instance, &vpc.pods);
    for (name, eni) in [("ens7", &other), ("ens8", &second)] {
        let mac = node.lab.mac(eni);
        let peer = format!("peer-{name}");
        node.node.netns.ip(&[
            "link", "add", name, "address", &mac, "type", "veth", "peer", "name", &peer,
        ]);
    }
    assert!(eventually(|| is_up(&node, "ens8")));
    assert_eq!(link(&node, "ens8")["mtu"], 9001);
    // Without the tag, it is the VPC CNI's.
    assert!(!is_up(&node, "ens7"));
    assert!(!is_up(&node, "peer-ens8"));
}

#[test]
fn an_administrator_can_turn_it_off() {
    let vpc = Vpc::new();
    let node = vpc.node();
    set(&node, &["down"]);
    let configuration = json!({ "links": false, "reconcileSeconds": 1 });
    let _agent = Agent::start(&node, &configuration);
    assert!(node.lab.wait_for_call("DescribeInstanceTypes", 5, DEADLINE));
    assert!(!is_up(&node, "ens6"));
}

#[test]
fn a_program_that_sets_an_eni_down_again_and_again_wins_and_is_named() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let agent = Agent::start(&node, &json!({}));
    for _ in 0..10 {
        set(&node, &["down"]);
        assert!(eventually(|| is_up(&node, "ens6")));
    }
    set(&node, &["down"]);
    let said = format!("ens6 of {} is down: it was to be set up 10 times", node.eni);
    assert!(eventually(|| agent.log().contains(&said)));
    assert!(!is_up(&node, "ens6"));
}

fn has(diagnosis: &Diagnosis, check: &str, says: &str) {
    diagnosis.has(check, "warning", says);
}

#[test]
fn the_doctor_names_what_the_node_has_on_an_eni_for_pods() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.command(&["sync", "--once"]);
    let clean = examine(&node, &[]);
    for check in ["eni-dhcp", "eni-default-route", "eni-dns"] {
        clean.is_well(check);
    }
    let leased = ["valid_lft", "3600", "preferred_lft", "3600"];
    let address = ["address", "add", "10.0.4.9/24", "dev", "ens6"];
    node.node.netns.ip(&[&address[..], &leased].concat());
    set(&node, &["up"]);
    node.node.netns.ip(&[
        "route", "add", "default", "via", "10.0.4.1", "dev", "ens6", "metric", "512",
    ]);
    let index = link(&node, "ens6")["ifindex"].to_string();
    let directory = node.run_directory().join("systemd/netif/links");
    fs::create_dir_all(&directory).unwrap();
    fs::write(
        directory.join(index),
        "ADMIN_STATE=configured\nDNS=10.0.0.2\n",
    )
    .unwrap();
    let found = examine(&node, &[]);
    has(
        &found,
        "eni-dhcp",
        "ens6 has 10.0.4.9/24 for a limited time",
    );
    has(
        &found,
        "eni-default-route",
        "the node has a default route through ens6",
    );
    has(
        &found,
        "eni-dns",
        "the node asks 10.0.0.2 for names through ens6",
    );
    let shown = node.command(&["status"]).stdout;
    for said in [
        ", the node has 10.0.4.9/24 by DHCP,",
        ", the node has a default route through it,",
        ", the node asks 10.0.0.2 for names through it\n",
    ] {
        assert!(shown.contains(said), "{said}\n{shown}");
    }
}

#[test]
fn status_and_metrics_tell_which_eni_is_down_and_what_the_node_uses_it_for() {
    let vpc = Vpc::new();
    let node = vpc.node();
    set(&node, &["down"]);
    let configuration = json!({ "links": false, "metrics": ADDRESS });
    let _agent = Agent::start(&node, &configuration);
    assert!(eventually(|| get(&node, "/readyz").0 == 200));
    let state = |state: &str| Scrape::of(&node).value(&format!("enis{{state=\"{state}\"}}"));
    let all = || ["down", "dhcp", "default_route"].map(state);
    assert_eq!(all(), [1.0, 0.0, 0.0]);
    let of_eni = || {
        let status: Value = node.command(&["status", "--json"]).ok();
        let enis = status["enis"].as_array().unwrap().clone();
        let eni = enis.into_iter().find(|eni| eni["id"] == node.eni.as_str());
        eni.unwrap()
    };
    assert_eq!(of_eni()["link"], "down");
    assert!(node.command(&["status"]).stdout.contains(", it is down\n"));
    let leased = ["valid_lft", "3600", "preferred_lft", "3600"];
    let address = ["address", "add", "10.0.4.9/24", "dev", "ens6"];
    node.node.netns.ip(&[&address[..], &leased].concat());
    set(&node, &["up"]);
    node.node
        .netns
        .ip(&["route", "add", "default", "via", "10.0.4.1", "dev", "ens6"]);
    assert_eq!(all(), [0.0, 1.0, 1.0]);
    let eni = of_eni();
    let used = json!({"leased": ["10.0.4.9/24"], "defaultRoute": true, "nameServers": ""});
    assert_eq!((&eni["link"], &eni["usedByNode"]), (&json!("up"), &used));
}
