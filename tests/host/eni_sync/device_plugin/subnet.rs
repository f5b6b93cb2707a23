//! A subnet that has fewer addresses than the ENI has room for.

use std::net::IpAddr;

use fixtures::kubelet::Kubelet;
use harness::vpc::{Agent, Vpc, VpcNode, eventually, ip};
use serde_json::{Value, json};

use super::super::ipam::{add, call, ipv4, sharing};
use super::{ADDRESSES, ROOM};

/// How many addresses the subnet has left for the node.
const LEFT: usize = 3;

/// A subnet of which others have most, and a node with an ENI there.
struct Small {
    node: VpcNode,
    others: VpcNode,
    configuration: Value,
}

impl Small {
    fn new(vpc: &Vpc) -> Self {
        let subnet = vpc.lab.create_subnet(&vpc.id, "10.0.8.0/28", None);
        let (node, others) = (vpc.node_in(&subnet), vpc.node_in(&subnet));
        let mut configuration = super::configuration(vpc);
        configuration["resources"][0]["eni"] = json!({ "subnet": subnet.to_string() });
        let small = Self {
            node,
            others,
            configuration,
        };
        small.take();
        small
    }

    /// Each ENI has one address of the eleven that EC2 gives.
    fn taken() -> Vec<IpAddr> {
        (8..14).map(|last| ip(&format!("10.0.8.{last}"))).collect()
    }

    fn take(&self) {
        self.node.lab.assign(&self.others.eni, &Self::taken());
    }

    fn give_back(&self) {
        self.node.lab.unassign(&self.others.eni, &Self::taken());
    }
}

#[test]
fn no_more_addresses_are_offered_than_the_subnet_has() {
    let vpc = Vpc::new();
    let mut small = Small::new(&vpc);
    small.configuration["reconcileSeconds"] = json!(1);
    let kubelet = Kubelet::start(&small.node);
    let agent = Agent::start(&small.node, &small.configuration);
    kubelet.await_list(ADDRESSES, LEFT, ROOM - LEFT);
    let said = format!("fewer free IPv4 addresses than {} has", small.node.eni);
    assert!(
        eventually(|| agent.log().contains(&said)),
        "{}",
        agent.log()
    );
    // What a pod has counts, and it takes one of those that are free.
    add(&small.node, &sharing(&small.node, "c1"));
    small.give_back();
    kubelet.await_list(ADDRESSES, ROOM, 0);
    small.take();
    kubelet.await_list(ADDRESSES, LEFT, ROOM - LEFT);
}

#[test]
fn a_subnet_that_ec2_finds_exhausted_has_no_addresses_until_it_gives_one() {
    let vpc = Vpc::new();
    let small = Small::new(&vpc);
    let node = &small.node;
    let kubelet = Kubelet::start(node);
    let _agent = Agent::start(node, &small.configuration);
    kubelet.await_list(ADDRESSES, LEFT, ROOM - LEFT);
    // Others take the rest, which the agent does not know.
    let rest = [6, 7, 14].map(|last| ip(&format!("10.0.8.{last}")));
    node.lab.assign(&small.others.eni, &rest);
    let pod = sharing(node, "c1");
    node.run(&call(node, "ADD", &pod, &ipv4())).error_code(11);
    kubelet.await_list(ADDRESSES, 0, ROOM);
    small.give_back();
    add(node, &pod);
    kubelet.await_list(ADDRESSES, ROOM, 0);
}
