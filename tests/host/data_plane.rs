//! Pods of several nodes of a VPC reach each other when eni-sync has made their addresses
//! routable, and not before: packets are the judge. Here the pods have whole ENIs; `tests/vm`
//! has those that share one.

use fixtures::data_plane::Vpc;
use harness::eni_lab::Names;
use harness::{Network, Pod};
use serde_json::json;

/// Whole ENIs with an address each of both families. Each node has its own range, as two stores
/// of host-local do not know each other.
fn network(last: &str) -> Network {
    let range = |subnet: &str, address: &str| json!([{ "subnet": subnet, "rangeStart": address, "rangeEnd": address }]);
    let ranges = [
        range("10.0.4.0/24", &format!("10.0.4.{last}")),
        range("2001:db8:4::/64", &format!("2001:db8:4::{last}")),
    ];
    Network::from_conf(&json!({
        "cniVersion": "1.1.0", "name": "whole", "plugins": [
            { "type": "host-device", "device": "eth1", "ipam": { "type": "host-local", "ranges": ranges } },
        ],
    }))
}

#[test]
fn whole_enis_in_pods_of_two_nodes_reach_each_other_with_eni_sync() {
    let vpc = Vpc::new("10.0.0.0/16", "10.0.1.0/24");
    let subnet = vpc.subnet("10.0.4.0/24", Some("2001:db8:4::/64"));
    let nodes = ["230", "231"].map(|last| (vpc.node(Names::Eth, &subnet), network(last)));
    let pods = ["c1", "c2"].map(Pod::new);
    let [addresses, peers] =
        ["230", "231"].map(|l| [format!("10.0.4.{l}"), format!("2001:db8:4::{l}")]);

    for ((node, network), pod) in nodes.iter().zip(&pods) {
        network.attach(&node.node, pod, "net1");
    }
    for peer in &peers {
        assert!(!pods[0].netns.pings(peer, None), "{peer}");
    }
    for ((node, network), pod) in nodes.iter().zip(&pods) {
        network.detach(&node.node, pod, "net1", &json!(null));
        let network = network.clone().chained_with(json!({ "type": "eni-sync" }));
        network.attach(&node.node, pod, "net1");
    }
    for (peer, own) in peers.iter().zip(&addresses) {
        pods[0].netns.await_ping(peer, None);
        pods[1].netns.await_ping(own, None);
    }
    assert_eq!(vpc.lab.invariant_violations(), [""; 0]);
}
