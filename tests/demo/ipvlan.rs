//! Pods on ipvlan networks as they are published, whose addresses eni-sync makes
//! routable. In a VPC a link is in one subnet, so networks of different subnets that
//! are published for the same link are shown on nodes of their own.

use harness::{Node, Pod};

use crate::report::{check, heading};
use crate::steps::{attach, detach, nothing_is_left, ping, show_store};
use crate::vpc::{Vpc, routable};

pub fn run() {
    two_pods_in_l3();
    l2_with_a_small_range();
    a_large_subnet();
    an_l3_network_of_another_provider();
}

fn two_pods_in_l3() {
    heading("Two pods on ipvlan-conf-1, one of them also on ipvlan-conf-2");
    let vpc = Vpc::with_node(Node::new(), "10.0.0.0/16", "10.0.1.0/24")
        .with_master("eth1", "10.0.4.0/24")
        .with_master("eth2", "10.0.6.0/24");
    let node = &vpc.at.node;
    let (conf_1, conf_2) = (
        routable("ipvlan-conf-1.yaml"),
        routable("ipvlan-conf-2.yaml"),
    );
    println!("The published network with eni-sync behind it, as all networks below are:");
    println!("{:#}\n", conf_1.list());
    let (first, second) = (Pod::new("pod-1"), Pod::new("pod-2"));
    attach(node, &first, &conf_1, "net1", ("l3", "10.0.4.70/24"));
    vpc.show(&[(&first, "10.0.4.70", "eth1")]);
    attach(node, &first, &conf_2, "net2", ("l3", "10.0.6.70/24"));
    attach(node, &second, &conf_1, "net1", ("l3", "10.0.4.71/24"));
    vpc.show(&[
        (&first, "10.0.4.70", "eth1"),
        (&first, "10.0.6.70", "eth2"),
        (&second, "10.0.4.71", "eth1"),
    ]);
    ping(&first, "10.0.4.71", "net1");
    ping(&second, "10.0.4.70", "net1");
    show_store(node);
    detach(node, &first, &conf_2, "net2");
    detach(node, &first, &conf_1, "net1");
    detach(node, &second, &conf_1, "net1");
    vpc.after_cooldown(&[&conf_1, &conf_2]);
    nothing_is_left(node, &["eth1", "eth2", "lo"]);
}

fn l2_with_a_small_range() {
    heading("An l2 network with a route and a range of two addresses: the third pod is told");
    let vpc = Vpc::with_node(Node::new(), "10.0.0.0/16", "10.0.1.0/24")
        .with_master("eth1", "10.0.100.0/24");
    let node = &vpc.at.node;
    let l2 = routable("ipvlan-conf-l2-routes.yaml");
    let (first, second, third) = (Pod::new("pod-1"), Pod::new("pod-2"), Pod::new("pod-3"));
    attach(node, &first, &l2, "net1", ("l2", "10.0.100.71/24"));
    attach(node, &second, &l2, "net1", ("l2", "10.0.100.72/24"));
    let route = first.netns.ip(&["route", "show", "10.1.2.0/24"]);
    check(
        route.contains("via 10.0.100.1 dev net1"),
        &format!("pod-1 has the route: {}", route.trim()),
    );
    ping(&first, "10.0.100.72", "net1");
    match l2.try_attach(node, &third, "net1") {
        Err(output) => {
            let error = output.error();
            let expected = "no IP addresses available in range set: 10.0.100.71-10.0.100.72";
            check(
                error.msg.contains(expected),
                &format!("pod-3 gets an error: {}", error.msg),
            );
            check(third.netns.links() == ["lo"], "pod-3 has no interface");
        }
        Ok(result) => check(false, &format!("pod-3 must get an error, not {result}")),
    }
    vpc.show(&[
        (&first, "10.0.100.71", "eth1"),
        (&second, "10.0.100.72", "eth1"),
    ]);
    detach(node, &first, &l2, "net1");
    detach(node, &second, &l2, "net1");
    vpc.after_cooldown(&[&l2]);
    nothing_is_left(node, &["eth1", "lo"]);
}

fn a_large_subnet() {
    heading("An l2 network on ens6 in a subnet with 8,192 addresses");
    let vpc = Vpc::with_node(Node::new(), "100.64.0.0/16", "100.64.32.0/24")
        .with_master("ens6", "100.64.0.0/19");
    let node = &vpc.at.node;
    let ens6 = routable("ipvlan-conf-ens6.yaml");
    let pod = Pod::new("pod-1");
    attach(node, &pod, &ens6, "net1", ("l2", "100.64.30.10/19"));
    let shown = pod.netns.ip(&["address", "show", "dev", "net1"]);
    check(
        shown.contains("brd 100.64.31.255"),
        "the broadcast address is that of the /19",
    );
    vpc.show(&[(&pod, "100.64.30.10", "ens6")]);
    detach(node, &pod, &ens6, "net1");
    vpc.after_cooldown(&[&ens6]);
    nothing_is_left(node, &["ens6", "lo"]);
}

fn an_l3_network_of_another_provider() {
    heading("An l3 network in a VPC with the range 192.168.0.0/16");
    let vpc = Vpc::with_node(Node::new(), "192.168.0.0/16", "192.168.0.0/24")
        .with_master("eth1", "192.168.1.0/24");
    let node = &vpc.at.node;
    let ncp = routable("ipvlan-conf-ncp.yaml");
    let pod = Pod::new("pod-1");
    attach(node, &pod, &ncp, "net1", ("l3", "192.168.1.13/24"));
    vpc.show(&[(&pod, "192.168.1.13", "eth1")]);
    detach(node, &pod, &ncp, "net1");
    vpc.after_cooldown(&[&ncp]);
    nothing_is_left(node, &["eth1", "lo"]);
}
