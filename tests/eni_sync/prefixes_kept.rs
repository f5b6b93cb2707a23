//! What agents keep of prefixes when something else goes wrong: an interface that has gone, an
//! ENI that has left, files that cannot be read, calls that are not answered.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::fixture::Vpc;

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
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
