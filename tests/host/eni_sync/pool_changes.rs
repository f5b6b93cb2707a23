//! Pools whose configuration changes, whose ENI has no room, and whose network does not name
//! eni-sync.

use std::net::IpAddr;

use harness::Pod;
use harness::vpc::{Agent, Vpc, eventually, ip};
use serde_json::{Value, json};

use super::pool::{attach, host_local, listed, pool};

/// The configuration of an agent whose pool has six free addresses of a range.
fn six(first: u8, last: u8) -> Value {
    let range = json!({ "start": format!("10.0.4.{first}"), "end": format!("10.0.4.{last}") });
    pool(&json!({ "low": 6, "high": 6, "ranges": [range] }))
}

/// The ENI has room for nine addresses.
#[test]
fn addresses_outside_of_new_ranges_make_room_for_those_inside() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let agent = Agent::start(&node, &six(64, 79));
    assert!(eventually(|| listed(&node) == 6));
    let pod = Pod::new("c1");
    let kept = attach(&node, &pod).expect("the pool has addresses");
    assert!(eventually(|| listed(&node) == 7));
    agent.stop();
    let agent = Agent::start(&node, &six(80, 95));
    let octet = |address: &String| address.rsplit('.').next().unwrap().parse::<u8>().unwrap();
    let is_new = |address: &String| *address == kept || octet(address) >= 80;
    let is_renewed = || {
        let addresses = node.addresses();
        addresses.len() == 7 && addresses.iter().all(is_new)
    };
    assert!(
        eventually(is_renewed),
        "{:?}\n{}",
        node.ledger(),
        agent.log()
    );
    assert!(eventually(|| listed(&node) == 6));
    assert_eq!(node.ledger()[&kept], "held");
    // Without the pool, nothing stays but what the pod has.
    agent.stop();
    let _agent = Agent::start(&node, &json!({}));
    assert!(
        eventually(|| node.addresses() == [kept.clone()]),
        "{:?}",
        node.ledger()
    );
}

#[test]
fn free_addresses_stay_while_the_interface_of_their_pool_cannot_be_found() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let agent = Agent::start(&node, &six(64, 79));
    assert!(eventually(|| listed(&node) == 6));
    agent.stop();
    let netns = &node.node.netns;
    netns.ip(&["link", "set", "ens6", "down", "name", "away"]);
    let agent = Agent::start(&node, &six(64, 79));
    let is_tried_again = || agent.log().contains("trying again in");
    assert!(eventually(is_tried_again), "{}", agent.log());
    assert!(node.ledger().values().all(|state| state == "pooled"));
}

#[test]
fn a_pool_for_which_its_eni_has_no_room_is_named_once() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let others: Vec<IpAddr> = (200..207).map(|n| ip(&format!("10.0.4.{n}"))).collect();
    node.lab.assign(&node.eni, &others);
    let agent = Agent::start(&node, &six(64, 79));
    let said = || agent.log().matches("than its low water mark").count();
    assert!(eventually(|| said() == 1), "{}", agent.log());
    assert_eq!(listed(&node), 2);
    for id in ["c1", "c2"] {
        node.lab.reset_calls();
        node.del(&Pod::new(id));
        let has_looked = || node.lab.calls().contains_key("DescribeNetworkInterfaces");
        assert!(eventually(has_looked), "{}", agent.log());
    }
    assert_eq!(said(), 1, "{}", agent.log());
}

#[test]
fn a_pool_grows_when_host_local_hands_its_addresses_out_for_a_network_without_eni_sync() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let mut configuration = pool(&json!({ "low": 2, "high": 2 }));
    configuration["reconcileSeconds"] = json!(1);
    configuration["reclaim"] = json!(false);
    let agent = Agent::start(&node, &configuration);
    let pods = ["c1", "c2", "c3", "c4"].map(Pod::new);
    for (pod, count) in pods.iter().zip(2..) {
        assert!(eventually(|| listed(&node) == count), "{}", agent.log());
        node.run(&host_local("ADD", pod)).ok();
    }
    assert!(
        eventually(|| node.addresses().len() == 6),
        "{}",
        agent.log()
    );
}
