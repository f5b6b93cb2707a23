//! eni-sync behind our ipvlan, on a kernel that has it: pods that share an ENI's MAC
//! address, each with an address that the VPC knows.

use harness::vpc::{Agent, DEADLINE, Vpc, VpcNode, eventually};
use harness::{Network, Pod};
use serde_json::json;

fn network(node: &VpcNode, mode: &str) -> Network {
    let range = |subnet: &str, start: &str| json!([{ "subnet": subnet, "rangeStart": start }]);
    let ranges = [
        range("10.0.4.0/24", "10.0.4.20"),
        range("2001:db8:4::/64", "2001:db8:4::20"),
    ];
    let conf = json!({
        "cniVersion": "1.0.0", "name": "mgmt", "plugins": [
            { "type": "ipvlan", "master": "ens6", "mode": mode, "ipam": { "type": "host-local", "ranges": ranges } },
            { "type": "eni-sync", "cooldownSeconds": 0 }
        ],
    });
    let mut network = Network::from_conf(&conf);
    network.environment = node.environment();
    network
}

/// Attaches pods, has them reach each other, and detaches them.
fn share_an_eni(mode: &str) {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.node.netns.ip(&["link", "set", "vpc", "up"]);
    let network = network(&node, mode);
    let pods: Vec<Pod> = (0..3).map(|n| Pod::new(&format!("c{n}"))).collect();
    let results: Vec<_> = pods
        .iter()
        .map(|pod| network.attach(&node.node, pod, "net1"))
        .collect();
    for (number, (pod, result)) in pods.iter().zip(&results).enumerate() {
        let link = pod.netns.link("net1").unwrap();
        assert_eq!(link["address"], node.mac, "{mode}");
        for address in [
            format!("10.0.4.{}", 20 + number),
            format!("2001:db8:4::{}", 20 + number),
        ] {
            assert_eq!(
                vpc.owner(&address),
                Some(node.eni.clone()),
                "{mode}, {address}"
            );
        }
        network.check(&node.node, pod, "net1", result).unwrap();
    }
    pods[0]
        .netns
        .tool("ping", &["-c", "1", "-W", "10", "10.0.4.22"]);
    for (pod, result) in pods.iter().zip(&results) {
        network.detach(&node.node, pod, "net1", result);
    }
    node.gc(&[]);
    assert_eq!(node.addresses(), [""; 0]);
}

#[test]
fn pods_share_an_eni_in_mode_l2() {
    share_an_eni("l2");
}

#[test]
fn pods_share_an_eni_in_mode_l3() {
    share_an_eni("l3");
}

#[test]
fn pods_share_an_eni_in_mode_l3s() {
    share_an_eni("l3s");
}

#[test]
fn an_add_that_is_refused_leaves_no_interface_and_no_reservation() {
    let vpc = Vpc::new();
    let (node, other) = (vpc.node(), vpc.node());
    other.add(&Pod::new("theirs"), &["10.0.4.20"]).ok();
    let network = network(&node, "l2");
    let pod = Pod::new("c1");
    let output = network.try_attach(&node.node, &pod, "net1").unwrap_err();
    output.error_code(11);
    assert_eq!(pod.netns.links(), ["lo"]);
    let result = network.attach(&node.node, &pod, "net1");
    assert_eq!(result["ips"][0]["address"], "10.0.4.21/24");
    network.detach(&node.node, &pod, "net1", &result);
}

/// The published network as it is, and an agent that nobody has told of it.
#[test]
fn a_network_that_does_not_chain_eni_sync_finds_its_way_into_the_vpc() {
    let vpc = Vpc::new();
    let node = vpc.node();
    for arguments in [
        &["link", "set", "ens6", "down"][..],
        &["link", "set", "ens6", "name", "eth1"],
        &["link", "set", "eth1", "up"],
    ] {
        node.node.netns.ip(arguments);
    }
    let agent = Agent::start(&node, &json!({ "networks": "auto" }));
    let network = Network::published("ipvlan-conf-1.yaml");
    let pods: Vec<Pod> = (0..2).map(|n| Pod::new(&format!("c{n}"))).collect();
    let results: Vec<_> = pods
        .iter()
        .map(|pod| network.attach(&node.node, pod, "net1"))
        .collect();
    let expected = ["10.0.4.70", "10.0.4.71"];
    let are_there = |_: &_| node.addresses() == expected;
    assert!(
        node.lab.wait_until(DEADLINE, are_there),
        "{}",
        agent.raw_log()
    );
    for (pod, result) in pods.iter().zip(&results) {
        network.detach(&node.node, pod, "net1", result);
    }
    let are_given_up = || node.ledger().values().all(|state| state == "releasing");
    assert!(eventually(are_given_up), "{:?}", node.ledger());
}
