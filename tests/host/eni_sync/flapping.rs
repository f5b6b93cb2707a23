//! A pod that changes the MAC address of an ENI's interface all the time: its macvlan is in mode
//! passthru. The interfaces here have no permanent address, so the agent takes the changes for ENIs
//! that come and go.

use std::fs;
use std::time::Instant;

use harness::Namespace;
use harness::vpc::{Agent, Vpc, eventually};
use serde_json::json;

const DESCRIBE: &str = "DescribeNetworkInterfaces";
const CHANGES: usize = 400;
/// What the agent may do at once, and after how many seconds once more.
const AT_ONCE: u64 = 8;
const INTERVAL: u64 = 10;

#[test]
fn the_agent_asks_ec2_at_a_limited_rate_and_misses_no_eni() {
    let vpc = Vpc::new();
    let node = vpc.node_of_type("m5.4xlarge");
    let lab = &vpc.lab;
    let add_link = |name: &str, mac: &str| {
        node.node
            .netns
            .ip(&["link", "add", name, "address", mac, "up", "type", "veth"]);
    };
    let second = lab.multus_eni(&node.instance, &vpc.pods);
    let mac = lab.mac(&second);
    add_link("ens7", &mac);
    let _agent = Agent::start(&node, &json!({"reconcileSeconds": 3000}));
    let inventory = node.run_directory().join("eni-cni/enis.json");
    let has = |eni: &str| fs::read_to_string(&inventory).is_ok_and(|text| text.contains(eni));
    assert!(eventually(|| has(second.as_str())));

    let (pod, path) = (Namespace::new(), &node.node.netns);
    path.ip(&[
        "link", "add", "evil", "link", "ens6", "type", "macvlan", "mode", "passthru",
    ]);
    path.ip(&["link", "set", "evil", "netns", &pod.path(), "name", "net1"]);
    pod.ip(&["link", "set", "net1", "up"]);
    let asked = || lab.calls().get(DESCRIBE).copied().unwrap_or_default();
    let (before, start) = (asked(), Instant::now());
    for mac in [&mac, &node.mac].into_iter().cycle().take(CHANGES) {
        pod.ip(&["link", "set", "net1", "address", mac]);
    }
    let (asked, seconds) = (asked() - before, start.elapsed().as_secs());
    // For each time one look for the inventory, and one for the ledger with an ENI at a time.
    let times = 2 * (AT_ONCE + seconds / INTERVAL + 1);
    let enis = 2;
    assert!(asked <= times * (1 + enis), "{asked} in {seconds} s");

    let third = lab.multus_eni(&node.instance, &vpc.pods);
    add_link("ens8", &lab.mac(&third));
    assert!(eventually(|| has(third.as_str())));
}
