//! What ADD refuses, before anything is touched.

use std::fs;

use harness::{Call, Pod};
use serde_json::json;

use super::{add, call, conf, node, refused, reservations, with};

/// D2: the Go plugin overwrites the error of the creation and reports "failed to
/// rename ipvlan … Link not found".
#[test]
fn a_master_that_is_missing_inside_the_container_is_named() {
    let (node, pod) = (node(), Pod::new("c1"));
    let conf = with(conf(), json!({"linkInContainer": true}));
    refused(&node, &conf, &pod, 7, "failed to lookup master \"eth1\"");
}

#[test]
fn a_master_that_cannot_serve_is_named_and_nothing_is_made() {
    let (node, pod) = (node(), Pod::new("c1"));
    node.netns.ip(&["link", "add", "eth2", "type", "dummy"]);
    node.netns.ip(&["link", "add", "br0", "type", "bridge"]);
    node.netns.ip(&[
        "link", "add", "eth3", "up", "master", "br0", "type", "dummy",
    ]);
    node.netns
        .ip(&["link", "add", "eth4", "up", "type", "dummy"]);
    node.netns.ip(&[
        "link", "add", "link", "eth4", "name", "mv0", "type", "macvlan",
    ]);
    let master = |name: &str| with(conf(), json!({"master": name}));
    refused(
        &node,
        &master("eth9"),
        &pod,
        7,
        "failed to lookup master \"eth9\": Link not found",
    );
    let left_down = with(master("eth2"), json!({"masterUp": false}));
    refused(&node, &left_down, &pod, 7, "master \"eth2\" is down");
    node.netns.ip(&["tuntap", "add", "tun0", "mode", "tun"]);
    refused(
        &node,
        &master("tun0"),
        &pod,
        7,
        "master \"tun0\" is not an Ethernet device",
    );
    refused(
        &node,
        &master("lo"),
        &pod,
        7,
        "master \"lo\" is a loopback interface",
    );
    refused(
        &node,
        &master("eth3"),
        &pod,
        7,
        "master \"eth3\" cannot have ipvlan interfaces: it is a port of a bridge",
    );
    refused(
        &node,
        &master("eth4"),
        &pod,
        7,
        "master \"eth4\" cannot have ipvlan interfaces: it has macvlan interfaces already: interface \"mv0\" of the node",
    );
    refused(
        &node,
        &with(conf(), json!({"mtu": 9002})),
        &pod,
        7,
        "invalid MTU 9002, master \"eth1\" has 9001",
    );
}

#[test]
fn bad_configurations_are_refused_before_anything_is_touched() {
    let (node, pod) = (node(), Pod::new("c1"));
    let table = [
        (json!({"mode": "l4"}), 7, "unknown ipvlan mode: \"l4\""),
        (
            json!({"flag": "bridged"}),
            7,
            "unknown ipvlan flag: \"bridged\"",
        ),
        (json!({"flag": 7}), 7, "unknown ipvlan flag: 7"),
        (json!({"mtu": -1}), 7, "invalid mtu: -1"),
        (json!({"mtu": 67}), 7, "invalid mtu: 67"),
        (
            json!({"mtu": "1500"}),
            6,
            "failed to load netconf: mtu: invalid type: string",
        ),
        (json!({"mtu": 1500.5}), 6, "failed to load netconf"),
        (json!({"master": 7}), 6, "failed to load netconf"),
        (
            json!({"linkInContainer": "yes"}),
            6,
            "linkInContainer: invalid type",
        ),
        (json!({"ipam": []}), 6, "ipam: invalid type: sequence"),
        (
            json!({"ipam": {"type": "../host-local"}}),
            7,
            "invalid plugin name: ../host-local",
        ),
        (
            json!({"ipam": {"type": "no-such-ipam"}}),
            999,
            "failed to find plugin \"no-such-ipam\"",
        ),
        (
            json!({"ipam": {"type": "host-local"}}),
            7,
            "no IP ranges specified",
        ),
        (
            json!({"prevResult": {"ips": 7}}),
            6,
            "could not parse prevResult",
        ),
        (
            json!({"prevResult": {"cniVersion": "0.2.0"}}),
            6,
            "result type supports [1.0.0 1.1.0]",
        ),
        (
            json!({"runtimeConfig": {"mac": "02:00:00:00:00:01"}}),
            7,
            "cannot set mac 02:00:00:00:00:01",
        ),
        (
            json!({"args": {"cni": {"mac": "02:00:00:00:00:01"}}}),
            7,
            "cannot set mac 02:00:00:00:00:01",
        ),
    ];
    for (changes, code, thing) in table {
        refused(&node, &with(conf(), changes), &pod, code, thing);
    }
    let call = call("ADD", &conf(), &pod).env("CNI_ARGS", "IgnoreUnknown=1;MAC=02:00:00:00:00:01");
    assert!(node.run(&call).error_code(7).msg.contains("cannot set mac"));
}

#[test]
fn a_path_that_is_not_a_namespace_is_refused() {
    let (node, pod) = (node(), Pod::new("c1"));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("netns");
    fs::write(&file, "").unwrap();
    let run = |netns: &str| {
        node.run(&call("ADD", &conf(), &pod).env("CNI_NETNS", netns))
            .error_code(8)
    };
    assert!(
        run("/no/such/netns")
            .msg
            .starts_with("failed to open netns \"/no/such/netns\": failed to Statfs")
    );
    assert!(
        run(file.to_str().unwrap())
            .msg
            .contains("unknown FS magic on")
    );
    assert!(
        run(directory.path().to_str().unwrap())
            .msg
            .contains("unknown FS magic on")
    );
    assert!(
        run("/proc/self/ns/uts")
            .msg
            .contains("failed to enter netns")
    );
    assert_eq!(reservations(&node), [""; 0]);
}

/// D26: the Go plugin finds out after it has done its work, and prints two documents.
#[test]
fn the_nodes_own_namespace_is_refused_before_anything_is_changed() {
    let (node, pod) = (node(), Pod::new("c1"));
    let call = call("ADD", &conf(), &pod).env("CNI_NETNS", &node.netns.path());
    let error = node.run(&call).error_code(8);
    let said = "plugin's netns and netns from CNI_NETNS should not be the same";
    assert_eq!(error.msg, said);
    assert_eq!(node.netns.links(), ["eth1", "lo"]);
    assert_eq!(reservations(&node), [""; 0]);
}

/// The path of a namespace that is gone may lead to the node's: `/proc/PID/ns/net` of
/// a process whose number was given away again.
#[test]
fn del_releases_the_address_and_leaves_the_node_alone_when_the_path_leads_there() {
    let (node, pod) = (node(), Pod::new("c1"));
    let result = add(&node, &conf(), &pod);
    drop(pod);
    node.netns.ip(&[
        "link", "add", "link", "eth1", "name", "net1", "type", "ipvlan",
    ]);
    let mut conf = with(conf(), json!({"prevResult": result}));
    conf["prevResult"]["interfaces"][0]["sandbox"] = node.netns.path().into();
    for record in ["kept", "lost"] {
        if record == "lost" {
            fs::remove_dir_all(node.state().join("eni-cni")).ok();
        }
        let call = Call::ours("ipvlan", "DEL").conf(&conf);
        node.run(&call.attachment("c1", "net1", &node.netns.path()))
            .ok();
        assert_eq!(node.netns.links(), ["eth1", "lo", "net1"]);
        assert_eq!(reservations(&node), [""; 0]);
    }
}
