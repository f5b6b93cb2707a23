//! Which device carries an interface: what the kernel reports, not what the configuration
//! names. An ipvlan interface as the master is on a device itself, and the kernel puts the
//! new interface there.

use std::fs;

use harness::{Call, Node, Pod};
use serde_json::{Value, json};

use super::{add, check, conf, del, node, refused, reservations, with};

/// A node where the master `ipv0` is an ipvlan interface on `eth1`.
fn stacked_node() -> Node {
    let node = node();
    let ipvlan = [
        "link", "add", "link", "eth1", "name", "ipv0", "type", "ipvlan", "mode", "l2",
    ];
    node.netns.ip(&ipvlan);
    node.netns.ip(&["link", "set", "ipv0", "up"]);
    node
}

fn stacked() -> Value {
    with(conf(), json!({"master": "ipv0"}))
}

fn on_other_subnet(changes: Value) -> Value {
    let ipam = json!({"type": "host-local", "subnet": "10.0.5.0/24"});
    with(
        with(conf(), json!({"name": "other", "ipam": ipam})),
        changes,
    )
}

#[test]
fn del_removes_an_interface_whose_master_is_an_ipvlan_interface_itself() {
    let (node, pod) = (stacked_node(), Pod::new("c1"));
    let result = add(&node, &stacked(), &pod);
    let link = pod.netns.link("net1").unwrap();
    assert_eq!(
        link["link_index"],
        node.netns.link("eth1").unwrap()["ifindex"]
    );
    check(&node, &stacked(), &pod, &result).ok();
    del(&node, &stacked(), &pod);
    assert_eq!(
        (pod.netns.links(), reservations(&node)),
        (vec!["lo".to_owned()], vec![])
    );
}

#[test]
fn a_failed_add_leaves_nothing_where_the_master_is_an_ipvlan_interface_itself() {
    let (node, pod) = (stacked_node(), Pod::new("c1"));
    // The kernel refuses a gateway that is a broadcast address.
    let routes = json!([{"dst": "10.9.0.0/16", "gw": "10.0.4.255"}]);
    let ipam = json!({"type": "host-local", "subnet": "10.0.4.0/24", "routes": routes});
    let conf = with(stacked(), json!({"ipam": ipam}));
    refused(&node, &conf, &pod, 999, "failed to add route");
}

#[test]
fn networks_on_an_interface_and_on_the_device_below_it_share_one_mode() {
    for (first, second) in [("ipv0", "eth1"), ("eth1", "ipv0")] {
        let node = stacked_node();
        let (pod, other) = (Pod::new("c1"), Pod::new("c2"));
        add(&node, &with(conf(), json!({"master": first})), &pod);
        let conf = on_other_subnet(json!({"master": second, "mode": "l3"}));
        let thing = format!("master {second:?} is used in mode l2 bridge by network \"net\"");
        refused(&node, &conf, &other, 7, &thing);
        let shown = pod.netns.ip(&["-details", "link", "show", "net1"]);
        assert!(shown.contains("mode l2 bridge"), "{shown}");
    }
}

/// The pod's own interface as the master of a second one: both are on the node's device.
#[test]
fn the_interface_of_an_earlier_attachment_may_be_the_master_inside_the_container() {
    let (node, pod) = (node(), Pod::new("c1"));
    add(&node, &conf(), &pod);
    let inside =
        |mode| on_other_subnet(json!({"master": "net1", "linkInContainer": true, "mode": mode}));
    let call = |command, conf: &Value| Call::ours("ipvlan", command).conf(conf).pod(&pod, "net2");
    let other_mode = node.run(&call("ADD", &inside("l3"))).error_code(7);
    assert!(
        other_mode.msg.contains("by network \"net\""),
        "{other_mode:?}"
    );
    let result = node.run(&call("ADD", &inside("l2"))).ok();
    let eth1 = node.netns.link("eth1").unwrap();
    assert_eq!(
        pod.netns.link("net2").unwrap()["link_index"],
        eth1["ifindex"]
    );
    let checked = with(inside("l2"), json!({"prevResult": result}));
    node.run(&call("CHECK", &checked)).ok();
    node.run(&call("DEL", &inside("l2"))).ok();
    assert_eq!(pod.netns.links(), ["lo", "net1"]);
}

#[test]
fn a_master_whose_mac_changes_is_still_the_same_master() {
    let node = node();
    let (first, second) = (Pod::new("c1"), Pod::new("c2"));
    add(&node, &conf(), &first);
    node.netns
        .ip(&["link", "set", "eth1", "address", "02:00:00:00:00:77"]);
    let other_mode = on_other_subnet(json!({"mode": "l3"}));
    refused(&node, &other_mode, &second, 7, "by network \"net\"");
    add(&node, &on_other_subnet(json!({})), &second);
    del(&node, &conf(), &first);
    assert_eq!(first.netns.links(), ["lo"]);
}

/// Records that the releases before this one have written are read, and they read ours.
#[test]
fn the_record_of_an_interface_on_its_master_has_the_keys_that_it_always_had() {
    let (node, pod) = (node(), Pod::new("c1"));
    add(&node, &conf(), &pod);
    let path = node.state().join("eni-cni/ipvlan/net/c1:net1.json");
    let record: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let device = record["device"].as_object().unwrap();
    let mut keys: Vec<&str> = device.keys().map(String::as_str).collect();
    keys.sort_unstable();
    let always = [
        "flag",
        "linkInContainer",
        "masterIndex",
        "masterMac",
        "mode",
        "pciId",
        "temporaryName",
    ];
    assert_eq!(keys, always);
    assert_eq!(
        device["masterIndex"],
        node.netns.link("eth1").unwrap()["ifindex"]
    );
}
