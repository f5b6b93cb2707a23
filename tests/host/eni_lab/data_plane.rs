//! The packets of the simulated VPC: they go where an address is assigned, and nowhere else.

use std::net::UdpSocket;
use std::time::Duration;

use fixtures::lab::{PATIENCE, ip};
use harness::eni_lab::{DataPlane, EniId, InstanceId, Lab, Names, SubnetId};
use harness::{Namespace, uninterrupted};

/// Bytes that a packet of a test can be known by.
const SPOOFED: &[u8] = b"spoofed";
const HONEST: &[u8] = b"honest";

struct Vpc {
    lab: Lab,
    plane: DataPlane,
    nodes: SubnetId,
    pods: SubnetId,
}

/// A node whose `eth1` is an ENI for pods that is up.
struct Node {
    instance: InstanceId,
    netns: Namespace,
    eni: EniId,
}

impl Vpc {
    fn new() -> Self {
        let lab = Lab::new();
        let vpc = lab.create_vpc("10.0.0.0/16");
        let nodes = lab.create_subnet(&vpc, "10.0.1.0/24", None);
        let pods = lab.create_subnet(&vpc, "10.0.4.0/24", Some("2600:1f14:1:4::/64"));
        Self {
            plane: DataPlane::new(&lab, &vpc),
            lab,
            nodes,
            pods,
        }
    }

    fn node(&self) -> Node {
        let instance = self.lab.run_instance("c5.large", &self.nodes);
        let netns = Namespace::new();
        self.plane.connect(&instance, &netns, Names::Eth);
        let eni = self.lab.multus_eni(&instance, &self.pods);
        self.plane.bring_up(&eni);
        Node {
            instance,
            netns,
            eni,
        }
    }

    fn assign(&self, node: &Node, addresses: &[&str]) {
        for address in addresses {
            self.lab.assign(&node.eni, &[ip(address)]);
        }
    }

    /// Two nodes, each with an address of each family, which the VPC knows.
    fn pair(&self) -> [Node; 2] {
        let nodes = [self.node(), self.node()];
        for (node, last) in nodes.iter().zip(["232", "233"]) {
            let addresses = [format!("10.0.4.{last}"), format!("2600:1f14:1:4::{last}")];
            for (address, length) in addresses.iter().zip(["24", "64"]) {
                self.assign(node, &[address]);
                node.has(&format!("{address}/{length}"));
            }
        }
        nodes
    }
}

impl Node {
    /// Gives its `eth1` the address, whether the VPC knows it or not.
    fn has(&self, address: &str) {
        let nodad = if address.contains(':') {
            &["nodad"][..]
        } else {
            &[]
        };
        let add = ["address", "add", address, "dev", "eth1"];
        self.netns.ip(&[&add[..], nodad].concat());
    }
}

#[test]
fn a_packet_goes_where_an_address_is_assigned() {
    let vpc = Vpc::new();
    let [first, second] = [vpc.node(), vpc.node()];
    first.has("10.0.4.232/24");
    first.has("2600:1f14:1:4::232/64");
    second.has("10.0.4.233/24");
    second.has("2600:1f14:1:4::233/64");
    let addresses = ["10.0.4.233", "2600:1f14:1:4::233"];
    let answers = || addresses.map(|to| first.netns.pings(to, None));
    assert_eq!(answers(), [false, false]);
    vpc.assign(&first, &["10.0.4.232", "2600:1f14:1:4::232"]);
    assert_eq!(answers(), [false, false]);
    vpc.assign(&second, &addresses);
    for to in addresses {
        first.netns.await_ping(to, None);
    }
    vpc.lab.unassign(&second.eni, &[ip("10.0.4.233")]);
    assert_eq!(answers(), [false, true]);
    vpc.lab.unassign(&first.eni, &[ip("2600:1f14:1:4::232")]);
    assert_eq!(answers(), [false, false]);
}

#[test]
fn a_reassigned_address_is_reached_where_it_has_moved_to() {
    let vpc = Vpc::new();
    let [client, second] = vpc.pair();
    let third = vpc.node();
    third.has("10.0.4.234/24");
    vpc.assign(&second, &["10.0.4.234"]);
    assert!(!client.netns.pings("10.0.4.234", None));
    vpc.lab
        .rules(|rules| rules.reassign_delay = Duration::from_secs(2));
    vpc.lab.take(&third.eni, &[ip("10.0.4.234")]);
    assert!(!client.netns.pings("10.0.4.234", None));
    // It moves when it is due, although nobody asks the lab.
    client.netns.await_ping("10.0.4.234", None);
}

#[test]
fn an_interface_comes_and_goes_with_its_attachment() {
    let vpc = Vpc::new();
    let ([client, _], other) = (vpc.pair(), vpc.node());
    assert_eq!(other.netns.links(), ["eth0", "eth1", "lo"]);
    let eni = vpc.lab.create_eni(&vpc.pods);
    vpc.assign(&other, &["10.0.4.80"]);
    vpc.lab.attach_eni(&eni, &other.instance, 2);
    let link = other.netns.link("eth2").expect("it is attached");
    assert_eq!(link["address"], vpc.lab.mac(&eni));
    assert_eq!(link["operstate"], "DOWN");
    vpc.plane.lease(&eni);
    let primary = vpc.lab.primary(&eni).to_string();
    client.netns.await_ping(&primary, None);

    vpc.lab.detach_eni(&eni);
    assert_eq!(other.netns.links(), ["eth0", "eth1", "lo"]);
    assert!(!client.netns.pings(&primary, None));
    vpc.lab.attach_eni(&eni, &client.instance, 2);
    assert!(client.netns.link("eth2").is_some());

    vpc.lab.stop_instance(&other.instance);
    assert_eq!(other.netns.links(), ["lo"]);
    vpc.lab.terminate_instance(&client.instance);
    assert_eq!(client.netns.links(), ["lo"]);
}

#[test]
fn a_prefix_leads_to_its_interface_with_all_its_addresses() {
    let vpc = Vpc::new();
    let [client, node] = vpc.pair();
    let addresses = ["10.0.4.143", "2600:1f14:1:4:8000::f00d:7"];
    node.has("10.0.4.143/24");
    node.has("2600:1f14:1:4:8000::f00d:7/64");
    let answers = || addresses.map(|to| client.netns.pings(to, None));
    assert_eq!(answers(), [false, false]);
    vpc.lab.assign_prefix(&node.eni, "10.0.4.128/28");
    vpc.lab.assign_prefix(&node.eni, "2600:1f14:1:4:8000::/80");
    for to in addresses {
        client.netns.await_ping(to, None);
    }
}

#[test]
fn subnets_reach_each_other_through_their_routers() {
    let vpc = Vpc::new();
    let [node, other] = vpc.pair();
    let primary = vpc.lab.enis(&other.instance).remove(0);
    vpc.plane.lease(&primary);
    let router = ["route", "add", "default", "via"];
    node.netns.ip(&[&router[..], &["10.0.4.1"]].concat());
    node.netns.await_ping("10.0.4.1", None);
    let address = vpc.lab.primary(&primary).to_string();
    assert!(!node.netns.pings(&address, None));
    other.netns.ip(&[
        "route",
        "add",
        "10.0.4.232",
        "via",
        "10.0.1.1",
        "dev",
        "eth0",
    ]);
    assert!(node.netns.pings(&address, None));
}

/// A packet with a source that belongs to another ENI, and an honest one behind it: what comes to
/// the second node.
fn heard([first, second]: &[Node; 2], spoofed: &str, (own, to): (&str, &str)) -> Vec<u8> {
    first.netns.await_ping(to, Some(own));
    let bind = |node: &Node, address, port| {
        let bound = node.netns.run(|| UdpSocket::bind((ip(address), port)));
        bound.expect("the node has the address")
    };
    let receiver = bind(second, to, 4000);
    receiver
        .set_read_timeout(Some(PATIENCE))
        .expect("it is a socket");
    for (source, bytes) in [(spoofed, SPOOFED), (own, HONEST)] {
        let sender = bind(first, source, 0);
        sender.send_to(bytes, (ip(to), 4000)).expect("it is sent");
    }
    let mut bytes = [0; 16];
    let length = uninterrupted(|| receiver.recv(&mut bytes)).expect("a packet comes");
    bytes[..length].to_vec()
}

#[test]
fn a_source_that_an_interface_does_not_have_is_dropped() {
    let vpc = Vpc::new();
    let nodes = vpc.pair();
    let families = [
        ("10.0.4.99", "24", ("10.0.4.232", "10.0.4.233")),
        (
            "2600:1f14:1:4::99",
            "64",
            ("2600:1f14:1:4::232", "2600:1f14:1:4::233"),
        ),
    ];
    for (spoofed, length, addresses) in families {
        nodes[0].has(&format!("{spoofed}/{length}"));
        assert_eq!(heard(&nodes, spoofed, addresses), HONEST);
        vpc.lab.source_dest_check(&nodes[0].eni, false);
        assert_eq!(heard(&nodes, spoofed, addresses), SPOOFED);
        vpc.lab.source_dest_check(&nodes[0].eni, true);
        assert_eq!(heard(&nodes, spoofed, addresses), HONEST);
        vpc.assign(&nodes[0], &[spoofed]);
        assert_eq!(heard(&nodes, spoofed, addresses), SPOOFED);
    }
}
