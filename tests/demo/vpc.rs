//! The simulated VPCs of the demo and the nodes in them.

use std::thread::sleep;
use std::time::{Duration, Instant};

use harness::eni_lab::{Lab, SubnetId, VpcId};
use harness::{AwsNode, Network, Node, Pod};
use serde_json::json;

use crate::report::{Reached, check, show_in_vpc};

/// Two ENIs for pods beside the primary one, with room for 14 addresses each.
const INSTANCE_TYPE: &str = "m5.xlarge";
/// How long the release of addresses may take once their cool-down is over.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// The network of a published definition, with eni-sync chained behind its plugin. The
/// cool-down is that of a demo, not that of a cluster.
pub fn routable(file: &str) -> Network {
    let sync = json!({ "type": "eni-sync", "cooldownSeconds": 1 });
    Network::published(file).chained_with(sync)
}

/// A VPC with one node.
pub struct Vpc {
    id: VpcId,
    pub at: AwsNode,
    subnets: Vec<(String, SubnetId)>,
}

impl Vpc {
    /// A VPC with this range, and `node` in it, whose primary ENI is in a subnet of its
    /// own.
    pub fn with_node(node: Node, range: &str, primary_subnet: &str) -> Self {
        let lab = Lab::new();
        // The rights are those of the published policy: tagged ENIs only.
        lab.rules(|rules| rules.tag_condition = true);
        let id = lab.create_vpc(range);
        let subnet = lab.create_subnet(&id, primary_subnet, None);
        let at = AwsNode::new(node, &lab, INSTANCE_TYPE, &subnet);
        Self {
            id,
            at,
            subnets: Vec::new(),
        }
    }

    /// A subnet, which is made where it is missing.
    pub fn subnet(&mut self, range: &str) -> SubnetId {
        if let Some((_, subnet)) = self.subnets.iter().find(|(known, _)| known == range) {
            return subnet.clone();
        }
        let subnet = self.at.lab.create_subnet(&self.id, range, None);
        self.subnets.push((range.to_owned(), subnet.clone()));
        subnet
    }

    /// Gives the node another ENI, in this subnet, as a link of this name.
    pub fn with_master(mut self, link: &str, range: &str) -> Self {
        let subnet = self.subnet(range);
        self.at.add_master(link, "dummy", &subnet);
        self
    }

    /// Shows which addresses the VPC delivers where; it must be these and no other.
    #[track_caller]
    pub fn show(&self, reached: &[(&Pod, &str, &str)]) {
        let reached: Vec<Reached<'_>> = reached
            .iter()
            .map(|(pod, address, link)| Reached { pod, address, link })
            .collect();
        show_in_vpc(&self.at, &self.id, &reached);
    }

    /// Lets the runtime collect garbage until the cool-down of all addresses is over.
    /// The ENIs must then be as before, and AWS must have been asked nothing wrong.
    #[track_caller]
    pub fn after_cooldown(&self, networks: &[&Network]) {
        println!("GC of the runtime, with no attachment left, until the cool-down is over");
        let deadline = Instant::now() + PATIENCE;
        loop {
            for network in networks {
                network.gc(&self.at.node, &[]);
            }
            if self.at.addresses().is_empty() || Instant::now() >= deadline {
                break;
            }
            sleep(LOOK_AGAIN);
        }
        let left = self.at.addresses();
        assert!(
            left.is_empty(),
            "NOT SO: the ENIs are as before, but have {left:?}"
        );
        println!("  ok: the ENIs have no address but their own again");
        let calls = self.at.lab.calls();
        let calls: Vec<String> = calls
            .iter()
            .map(|(name, n)| format!("{n} {name}"))
            .collect();
        println!("EC2 calls of this node: {}", calls.join(", "));
        let wrong = self.at.lab.invariant_violations();
        check(
            wrong.is_empty(),
            "no ENI but the pods' own was touched, and no address of anybody else",
        );
    }
}
