//! ipvlan pods of two nodes of a VPC that carries packets: with ipvlan and host-local alone they
//! do not reach each other, as is known of Go's plugins; with eni-sync behind them they do.

use fixtures::data_plane::{Vpc, attach};
use harness::eni_lab::Names;
use harness::{AwsNode, Network, Pod};
use serde_json::{Value, json};

/// A published network, and what it stands on: the ranges of the VPC, of a subnet for primary
/// ENIs, and of its own subnet.
struct Published {
    file: &'static str,
    ranges: [&'static str; 3],
}

/// One in each mode; the other published networks differ in their ranges only.
const PUBLISHED: [Published; 2] = [
    Published {
        file: "ipvlan-conf-1.yaml",
        ranges: ["10.0.0.0/16", "10.0.1.0/24", "10.0.4.0/24"],
    },
    Published {
        file: "ipvlan-conf-l2-routes.yaml",
        ranges: ["10.0.0.0/16", "10.0.1.0/24", "10.0.100.0/24"],
    },
];

/// The address of an attachment.
fn address_of(result: &Value) -> String {
    let address = result["ips"][0]["address"].as_str();
    let address = address.and_then(|address| address.split_once('/'));
    address.expect("the pod has an address").0.to_owned()
}

/// Two nodes with a pod each on the network, whose addresses the VPC does not know.
struct Pair {
    vpc: Vpc,
    nodes: [AwsNode; 2],
    pods: [Pod; 2],
    results: [Value; 2],
}

impl Pair {
    fn new(published: &Published, network: &Network) -> Self {
        let [range, primary, own] = published.ranges;
        let vpc = Vpc::new(range, primary);
        let subnet = vpc.subnet(own, None);
        let nodes = [(); 2].map(|()| vpc.node(Names::Eth, &subnet));
        // Both nodes give the first address of the range away, so the second one's has gone.
        let gone = Pod::new("gone");
        network.attach(&nodes[1].node, &gone, "net1");
        network.detach(&nodes[1].node, &gone, "net1", &Value::Null);
        let pods = ["c1", "c2"].map(Pod::new);
        let attach = |number: usize| network.attach(&nodes[number].node, &pods[number], "net1");
        let results = [attach(0), attach(1)];
        assert_ne!(address_of(&results[0]), address_of(&results[1]));
        Self {
            vpc,
            nodes,
            pods,
            results,
        }
    }

    #[track_caller]
    fn assert_unreachable(&self) {
        let peer = address_of(&self.results[1]);
        assert!(!self.pods[0].netns.pings(&peer, None), "{peer} answers");
    }

    #[track_caller]
    fn await_ping(&self) {
        let peer = address_of(&self.results[1]);
        self.pods[0].netns.await_ping(&peer, None);
    }
}

#[test]
fn pods_on_published_networks_reach_another_node_when_eni_sync_was_called() {
    for published in &PUBLISHED {
        let network = Network::published(published.file);
        let pair = Pair::new(published, &network);
        pair.assert_unreachable();
        let version = network.cni_version.clone();
        let mut chained = network.chained_with(json!({ "type": "eni-sync" }));
        chained.cni_version = version;
        for number in 0..2 {
            let call = chained.call(&chained.plugins[1], "ADD", &pair.results[number]);
            let call = call.pod(&pair.pods[number], "net1");
            pair.nodes[number].node.run(&call).ok();
        }
        pair.await_ping();
        assert_eq!(pair.vpc.lab.invariant_violations(), [""; 0]);
    }
}

#[test]
fn pods_of_go_plugins_do_not_reach_another_node() {
    for published in &PUBLISHED {
        let pair = Pair::new(published, &Network::published(published.file).of_go());
        pair.assert_unreachable();
        // That the VPC knows nothing of them is all that was missing.
        for (node, result) in pair.nodes.iter().zip(&pair.results) {
            let address = address_of(result).parse().expect("it is an address");
            pair.vpc.lab.assign(node.eni("eth1"), &[address]);
        }
        pair.await_ping();
    }
}

const ADDRESSES: [&str; 2] = ["10.0.4.70", "2001:db8:4::70"];

/// A network of one address of each family, that any node may give to its pod.
fn of_one_pod(mode: &str, last: &str) -> Network {
    let range = |subnet: &str, address: String| json!([{ "subnet": subnet, "rangeStart": address, "rangeEnd": address }]);
    let ranges = [
        range("10.0.4.0/24", format!("10.0.4.{last}")),
        range("2001:db8:4::/64", format!("2001:db8:4::{last}")),
    ];
    Network::from_conf(&json!({
        "cniVersion": "1.1.0", "name": "one", "plugins": [
            { "type": "ipvlan", "master": "eth1", "mode": mode, "ipam": { "type": "host-local", "ranges": ranges } },
            { "type": "eni-sync" },
        ],
    }))
}

/// Both families between two nodes, then again when the node of one has ended and the other one
/// has taken its addresses; and nothing from an address that a pod was not given.
fn follow_addresses(mode: &str) {
    let vpc = Vpc::new("10.0.0.0/16", "10.0.1.0/24");
    let subnet = vpc.subnet("10.0.4.0/24", Some("2001:db8:4::/64"));
    let [client, first, second] = [(); 3].map(|()| vpc.node(Names::Eth, &subnet));
    let pods = ["client", "c1", "c2"].map(Pod::new);
    let network = of_one_pod(mode, "70");
    attach(&client.node, &pods[0], &of_one_pod(mode, "71"));
    attach(&first.node, &pods[1], &network);
    for address in ADDRESSES {
        pods[0].netns.await_ping(address, None);
    }

    for spoofed in ["10.0.4.99", "2001:db8:4::99"] {
        let length = if spoofed.contains(':') { "128" } else { "32" };
        let address = format!("{spoofed}/{length}");
        let add = ["address", "add", &address, "dev", "net1"];
        let nodad = if spoofed.contains(':') {
            &["nodad"][..]
        } else {
            &[]
        };
        pods[0].netns.ip(&[&add[..], nodad].concat());
        let to = if spoofed.contains(':') {
            ADDRESSES[1]
        } else {
            ADDRESSES[0]
        };
        let spoofed_address = spoofed.parse().expect("it is an address");
        assert!(!pods[0].netns.pings(to, Some(spoofed)), "{mode}: {spoofed}");
        vpc.lab.assign(client.eni("eth1"), &[spoofed_address]);
        pods[0].netns.await_ping(to, Some(spoofed));
    }

    vpc.lab.delete_on_termination(first.eni("eth1"), false);
    vpc.lab.terminate_instance(&first.instance);
    let own = ["10.0.4.71", "2001:db8:4::71"];
    for (address, own) in ADDRESSES.iter().zip(own) {
        assert!(
            !pods[0].netns.pings(address, Some(own)),
            "{mode}: {address}"
        );
    }
    attach(&second.node, &pods[2], &network);
    for (address, own) in ADDRESSES.iter().zip(own) {
        pods[0].netns.await_ping(address, Some(own));
    }
    assert_eq!(vpc.lab.invariant_violations(), [""; 0]);
}

#[test]
fn a_ping_follows_an_address_to_another_node_in_mode_l2() {
    follow_addresses("l2");
}

#[test]
fn a_ping_follows_an_address_to_another_node_in_mode_l3() {
    follow_addresses("l3");
}
