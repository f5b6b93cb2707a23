//! A subnet that is for IPv6 only: its ENIs have no IPv4 address, and neither have their pods.

use harness::vpc::{Agent, Vpc, VpcNode, assert_refused, eventually};
use serde_json::{Value, json};

use super::ipam::{ASSIGN, addresses, call, call_with, calls, intents, sharing, whole};
use super::prefixes::{assert_in_prefix, keeping, kept};

/// A VPC, and a node whose ENI for pods is in such a subnet.
fn ipv6_only() -> (Vpc, VpcNode) {
    let vpc = Vpc::new();
    let subnet = vpc.lab.create_ipv6_subnet(&vpc.id, "2001:db8:6::/64");
    let node = vpc.node_in(&subnet);
    (vpc, node)
}

#[test]
fn a_network_without_addresses_gives_a_pod_an_ipv6_address_alone() {
    let (vpc, node) = ipv6_only();
    let own = node.addresses();
    assert_eq!(own.len(), 1);
    let pod = sharing(&node, "c1");
    let result = node.run(&call(&node, "ADD", &pod, &json!({}))).ok();
    let [address] = &addresses(&result)[..] else {
        panic!("{result}");
    };
    assert_eq!(
        result["ips"],
        json!([{ "address": format!("{address}/64") }])
    );
    assert_ne!(*address, own[0]);
    assert_eq!(vpc.owner(address), Some(node.eni.clone()));
    let mut added = result.clone();
    added["interfaces"] = json!([{ "name": "net1", "mac": node.mac, "sandbox": pod.netns.path() }]);
    added["ips"][0]["interface"] = json!(0);
    let keys = json!({ "prevResult": added });
    node.run(&call_with(&node, "CHECK", &pod, &json!({}), &keys))
        .ok();
    node.run(&call(&node, "DEL", &pod, &json!({}))).ok();
    node.end_cooldown(address);
    node.gc(&[]);
    assert_eq!(node.addresses(), own);
    assert_eq!(calls(&node, ASSIGN), 0);
}

#[test]
fn a_family_that_the_subnet_does_not_have_is_refused_by_name() {
    let (_vpc, node) = ipv6_only();
    let pod = sharing(&node, "c1");
    for ipam in [
        json!({ "families": ["ipv4"] }),
        json!({ "families": ["ipv4", "ipv6"] }),
    ] {
        let said = [
            node.eni.as_str(),
            "has no IPv4 range",
            "name the families that it has",
        ];
        assert_refused(&node, &call(&node, "ADD", &pod, &ipam), 7, &said);
    }
    let named = json!({ "addresses": ["10.0.4.70"] });
    let said = ["10.0.4.70 is not in the subnet of", "2001:db8:6::/64"];
    assert_refused(&node, &call(&node, "ADD", &pod, &named), 7, &said);
    let chained = node.pod_call("ADD", &pod, &["10.0.4.70"]);
    assert_refused(&node, &chained, 7, &said);
    assert!(intents(&node).is_empty(), "{:?}", intents(&node));
}

#[test]
fn a_pod_that_has_the_eni_as_a_whole_has_its_ipv6_address() {
    let (_vpc, node) = ipv6_only();
    let pod = whole(&node, "c1");
    let result = node.run(&call(&node, "ADD", &pod, &json!({}))).ok();
    assert_eq!(addresses(&result), node.addresses());
    let ipam = json!({ "families": ["ipv4"] });
    let said = ["has no IPv4 range"];
    assert_refused(
        &node,
        &call(&node, "ADD", &whole(&node, "c2"), &ipam),
        7,
        &said,
    );
}

#[test]
fn an_agent_keeps_ipv6_prefixes_there_and_says_why_there_are_none_of_ipv4() {
    let (_vpc, node) = ipv6_only();
    let both: Value = json!({ "ipv4": { "low": 1, "high": 1 }, "ipv6": 1 });
    let agent = kept(&node, &keeping(&both), 1);
    assert!(
        eventually(|| agent.log().contains("no IPv4 range")),
        "{}",
        agent.log()
    );
    let pod = sharing(&node, "c1");
    let result = node.run(&call(&node, "ADD", &pod, &json!({}))).ok();
    let [address] = &addresses(&result)[..] else {
        panic!("{result}");
    };
    assert_in_prefix(&node, address);
    assert_eq!(calls(&node, ASSIGN), 0);
}

#[test]
fn an_eni_is_attached_there_whose_primary_address_was_to_be_outside_of_ranges() {
    let (vpc, node) = ipv6_only();
    let subnet = vpc.lab.create_ipv6_subnet(&vpc.id, "2001:db8:7::/64");
    let wanted = json!({
        "name": "user", "subnets": { "ids": [subnet.as_str()] },
        "securityGroups": { "ids": ["sg-0ab00000000000001"] },
        "primary": { "outside": ["10.0.4.64/26"] },
    });
    let configuration = json!({ "links": false, "enis": [wanted] });
    let _agent = Agent::start(&node, &configuration);
    let is_there = |eni: &harness::eni_lab::EniId| {
        let mut all = node.lab.all_enis().into_iter();
        all.any(|shown| shown.id == *eni && shown.subnet == subnet)
    };
    assert!(eventually(|| node
        .lab
        .enis(&node.instance)
        .iter()
        .any(is_there)));
}
