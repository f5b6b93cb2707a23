//! The simulated account: a VPC with nodes whose ENIs have room for all pods, as slow
//! and as limited as EC2 is assumed to be.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use harness::eni_lab::{Buckets, CHANGE, EniId, Event, InstanceId, LOOK, Lab, SubnetId};

use crate::options::Scenario;

/// 15 ENIs of 49 secondary addresses each.
pub const INSTANCE_TYPE: &str = "m5.24xlarge";
const SECONDARY: usize = 49;
const CHANGES: [&str; 2] = ["AssignPrivateIpAddresses", "UnassignPrivateIpAddresses"];
/// Pods' addresses begin here in each subnet, far from the ENIs' own.
const FIRST: usize = 1024;

/// A pod that is to be made routable.
#[derive(Debug, Clone)]
pub struct Place {
    pub node: usize,
    /// Its number on the node.
    pub number: usize,
    /// Which of the node's ENIs it is on; each is in a subnet of its own.
    pub network: usize,
    pub address: IpAddr,
}

/// A node, before anything runs on it.
#[derive(Debug)]
pub struct Instance {
    pub id: InstanceId,
    /// One for each network.
    pub enis: Vec<EniId>,
}

/// The account.
#[derive(Debug)]
pub struct World {
    pub lab: Lab,
    pub ec2: SocketAddr,
    pub subnets: Vec<SubnetId>,
    pub primary_subnet: SubnetId,
    scenario: Scenario,
}

impl World {
    pub fn new(scenario: &Scenario) -> Self {
        let lab = Lab::new();
        lab.rules(|rules| {
            rules.latency = LOOK;
            rules.latency_of = CHANGES.map(|action| (action.to_owned(), CHANGE)).into();
            rules.token_buckets = Some(Buckets::default());
            // As in an account with few interfaces; else IBM's look would be refused.
            rules.describe_needs_filter = false;
        });
        let vpc = lab.create_vpc("10.0.0.0/16");
        let primary_subnet = lab.create_subnet(&vpc, "10.0.0.0/20", None);
        let subnet = |network| {
            let range = format!("10.0.{}.0/20", 16 * (network + 1));
            lab.create_subnet(&vpc, &range, None)
        };
        let networks = scenario.pods.div_ceil(SECONDARY);
        let subnets = (0..networks).map(subnet).collect();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let ec2 = listener.local_addr().expect("a listener has an address");
        lab.serve_ec2(listener);
        Self {
            lab,
            ec2,
            subnets,
            primary_subnet,
            scenario: *scenario,
        }
    }

    /// A node with an ENI in each subnet for pods.
    pub fn instance(&self) -> Instance {
        let id = self.lab.run_instance(INSTANCE_TYPE, &self.primary_subnet);
        let enis = self.attach_enis(&id);
        Instance { id, enis }
    }

    /// Gives a node an ENI in each subnet for pods.
    pub fn attach_enis(&self, instance: &InstanceId) -> Vec<EniId> {
        let subnets = self.subnets.iter();
        subnets
            .map(|subnet| self.lab.multus_eni(instance, subnet))
            .collect()
    }

    /// The pods of a node, on its networks in turn.
    pub fn places(&self, node: usize) -> Vec<Place> {
        let networks = self.subnets.len();
        let place = |number: usize| {
            let network = number % networks;
            let host = FIRST + node * (SECONDARY + 1) + number / networks;
            let octet = |value: usize| u8::try_from(value).expect("the scenario is small enough");
            let third = octet(16 * (network + 1) + host / 256);
            let address = Ipv4Addr::new(10, 0, third, octet(host % 256));
            Place {
                node,
                number,
                network,
                address: address.into(),
            }
        };
        (0..self.scenario.pods).map(place).collect()
    }

    /// The addresses that are on any ENI and should not be when no pod is left.
    pub fn left_behind(&self, enis: impl Iterator<Item = EniId>) -> usize {
        enis.map(|eni| self.lab.addresses(&eni).len()).sum()
    }

    /// How many requests EC2 has had.
    pub fn all_calls(&self) -> u64 {
        self.lab.calls().values().sum()
    }

    /// How many requests EC2 has had, by action, and how many of them it has refused
    /// because there were too many.
    pub fn calls(&self) -> (BTreeMap<String, u64>, usize) {
        let refused = self.lab.events().into_iter().filter(|event| {
            matches!(event, Event::Called { outcome, .. } if outcome == "RequestLimitExceeded")
        });
        (self.lab.calls(), refused.count())
    }
}
