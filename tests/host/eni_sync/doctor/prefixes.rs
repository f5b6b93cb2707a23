//! What the doctor says of prefixes.

use std::fs;

use harness::Pod;
use harness::eni_lab::Limits;
use harness::vpc::{Agent, Vpc, VpcNode, eventually, ip};
use serde_json::{Value, json};

use super::{Diagnosis, examine};
use crate::eni_sync::ipam::{add, call, ipv4, sharing};
use crate::eni_sync::pool::host_local;
use crate::eni_sync::pool_of_prefixes::{listing, of_ipv4};
use crate::eni_sync::prefixes::{kept, one, prefixes};

/// The doctor, where the agent is to keep a prefix.
#[track_caller]
fn examine_keeping(node: &VpcNode) -> Diagnosis {
    examine_with(
        node,
        &json!({ "prefixes": { "ipv4": { "low": 1, "high": 1 } } }),
    )
}

/// The doctor, beside an agent with this configuration.
#[track_caller]
fn examine_with(node: &VpcNode, configuration: &Value) -> Diagnosis {
    let path = node.run_directory().join("agent.json");
    fs::write(path, configuration.to_string()).unwrap();
    examine(node, &["--agent-config", "/run/agent.json"])
}

fn let_enis_have(vpc: &Vpc, ipv4: usize) {
    let limits = Limits {
        interfaces: 8,
        ipv4,
        ipv6: 30,
        cards: 1,
    };
    vpc.lab.rules(|rules| {
        rules.limit_overrides.insert("c5.large".to_owned(), limits);
    });
}

/// EC2 refuses a prefix exactly where the doctor says that none is left.
#[test]
fn a_subnet_whose_free_addresses_are_in_pieces_is_named() {
    let vpc = Vpc::new();
    let_enis_have(&vpc, 300);
    let node = vpc.node();
    let other = vpc.node();
    let spoiled: Vec<_> = (1..15)
        .map(|n| ip(&format!("10.0.4.{}", n * 16 + 8)))
        .collect();
    vpc.lab.assign(&other.eni, &spoiled);
    let diagnosis = examine_keeping(&node);
    // Of 251 addresses, the two ENIs have their own and fourteen more.
    let says = "no IPv4 prefix is left: 235 addresses are free, but no sixteen together";
    diagnosis.has("subnet-prefixes", "warning", says);
    assert!(examine(&node, &[]).of("subnet-prefixes").is_empty());
    vpc.lab.unassign(&other.eni, &spoiled[13..]);
    examine_keeping(&node).is_well("subnet-prefixes");
    drop(kept(&node, &one(), 1));
    assert_eq!(prefixes(&node), ["10.0.4.224/28"]);
    let diagnosis = examine_keeping(&node);
    diagnosis.has("subnet-prefixes", "warning", "no IPv4 prefix is left");
    diagnosis.is_well("prefix-room");
}

#[test]
fn an_eni_without_room_for_a_prefix_is_named() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let full: Vec<_> = (20..29).map(|n| ip(&format!("10.0.4.{n}"))).collect();
    vpc.lab.assign(&node.eni, &full);
    node.command(&["sync", "--once"]);
    // Also for a pool of them.
    for diagnosis in [examine_keeping(&node), examine_with(&node, &of_ipv4(1, 1))] {
        let says = "no room for an IPv4 prefix: 10 of 10 used, and 0 of at least 1 are for pods";
        diagnosis.has("prefix-room", "warning", says);
        diagnosis.is_well("subnet-prefixes");
    }
}

#[test]
fn a_prefix_that_others_have_assigned_is_named() {
    let vpc = Vpc::new();
    let node = vpc.node();
    drop(kept(&node, &one(), 1));
    assert!(examine_keeping(&node).of("foreign-prefix").is_empty());
    node.lab.assign_prefix(&node.eni, "10.0.4.128/28");
    for is_adopted in [false, true] {
        let diagnosis = examine_keeping(&node);
        let says = "the owner of prefix 10.0.4.128/28 is not known";
        diagnosis.has("foreign-prefix", "info", says);
        assert_eq!(diagnosis.of("foreign-prefix").len(), 1, "{is_adopted}");
        node.command(&["sync", "--once"]);
    }
}

/// The next pod of a network without addresses gets one of the prefix.
#[test]
fn a_full_eni_whose_prefixes_have_free_addresses_is_a_warning() {
    let vpc = Vpc::new();
    let_enis_have(&vpc, 2);
    let node = vpc.node();
    drop(kept(&node, &one(), 1));
    add(&node, &sharing(&node, "c1"));
    let says = "2 of 2 IPv4 addresses used, and 15 addresses of its prefixes are free";
    examine(&node, &[]).has("slots", "warning", says);
    add(&node, &sharing(&node, "c2"));
}

/// Networks without addresses get none of a pool's prefix, and the next pod of one fails.
#[test]
fn a_full_eni_whose_prefixes_are_a_pools_names_for_whom_they_are() {
    let vpc = Vpc::new();
    let_enis_have(&vpc, 2);
    let node = vpc.node();
    drop(listing(&node, &of_ipv4(1, 1), 1));
    // host-local alone knows of its pod.
    node.run(&host_local("ADD", &Pod::new("c1"))).ok();
    let diagnosis = examine_with(&node, &of_ipv4(1, 1));
    let says =
        "2 of 2 IPv4 addresses used, and 15 addresses of its prefixes are free for host-local";
    diagnosis.has("slots", "warning", says);
    let (_, _, advice) = diagnosis.of("slots")[0];
    assert!(advice.contains("without a pool of prefixes"), "{advice}");
    let call = call(&node, "ADD", &sharing(&node, "c2"), &ipv4());
    node.run(&call).error();
}

/// A prefix that was found on the ENI may be of the pool whose interface is missing.
#[test]
fn a_prefix_that_no_pod_gets_while_the_interface_of_a_pool_is_missing_is_named() {
    let vpc = Vpc::new();
    let node = vpc.node();
    vpc.lab.assign_prefix(&node.eni, "10.0.4.96/28");
    let mut configuration = one();
    configuration["pools"] = of_ipv4(1, 1)["pools"].clone();
    configuration["pools"][0]["master"] = json!("away");
    let agent = Agent::start(&node, &configuration);
    let says = "10.0.4.96/28 is not used for pods: it may be of pool \"mgmt\", whose interface is \
                not found";
    let is_said = || agent.log().contains(&says.replace('"', "\\\""));
    let is_said = || is_said() || agent.log().contains(says);
    assert!(eventually(is_said), "{}", agent.log());
    drop(agent);
    let diagnosis = examine_with(&node, &configuration);
    let says = "no pod gets an address of it until the interface of pool \"mgmt\" is found";
    diagnosis.has("foreign-prefix", "info", says);
    let found = examine_keeping(&node);
    assert!(!found.of("foreign-prefix")[0].1.contains("until"));
}
