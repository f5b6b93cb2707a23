//! What agents keep of prefixes when something else goes wrong: an interface that has gone, an
//! ENI that has left, files that cannot be read, calls that are not answered.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::fixture::{Agent, Vpc, eventually};
use super::ipam::{add, sharing};
use super::prefixes::{keeping, kept, known, prefixes};

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

#[test]
fn prefixes_stay_while_the_master_cannot_be_found() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let configuration = keeping(&json!({ "ipv4": { "low": 2, "high": 2 }, "master": "ens6" }));
    let agent = kept(&node, &configuration, 2);
    let before = known(&node);
    node.node
        .netns
        .ip(&["link", "set", "ens6", "down", "name", "away"]);
    let _address = add(&node, &sharing(&node, "c1"));
    let is_tried_again = || agent.log().contains("trying again in");
    assert!(eventually(is_tried_again), "{}", agent.log());
    assert_eq!(known(&node), before);
    drop(agent);
    // An agent that has never found it knows no better.
    let agent = Agent::start(&node, &configuration);
    let is_tried_again = || agent.log().contains("trying again in");
    assert!(eventually(is_tried_again), "{}", agent.log());
    assert_eq!(known(&node), before);
    assert_eq!(prefixes(&node).len(), 2);
}

#[test]
fn an_address_that_a_pool_has_claimed_and_a_prefix_has_is_the_pools() {
    let vpc = Vpc::new();
    let node = vpc.node();
    assert_eq!(node.command(&["sync", "--once"]).status, Some(0));
    let address = "10.0.4.100";
    node.lab.assign_prefix(&node.eni, "10.0.4.96/28");
    // What a pool has claimed before it was known that the ENI has got the prefix.
    let entry = json!({
        "address": address, "state": "claiming", "takeover": "never", "bestEffort": false,
        "since": now(), "owner": {
            "network": "mgmt", "containerId": "", "ifname": "", "pool": "mgmt",
            "cooldownSeconds": 0,
        },
    });
    fs::write(node.ledger_path().join(address), entry.to_string()).unwrap();
    assert_eq!(node.command(&["sync", "--once"]).status, Some(0));
    assert_eq!(node.ledger()[address], "pooled");
    assert!(node.addresses().is_empty(), "{:?}", node.addresses());
}
