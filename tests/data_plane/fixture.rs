//! A VPC that carries packets, and its nodes.

use harness::eni_lab::{DataPlane, Lab, Names, SubnetId, VpcId};
use harness::{AwsNode, Network, Node, Pod};
use serde_json::Value;

/// Room for three ENIs with ten addresses each.
const INSTANCE_TYPE: &str = "c5.large";

pub(crate) struct Vpc {
    pub(crate) lab: Lab,
    pub(crate) plane: DataPlane,
    id: VpcId,
    nodes: SubnetId,
}

impl Vpc {
    /// A VPC with this range, whose nodes have their primary ENIs in a subnet of their own.
    pub(crate) fn new(range: &str, nodes: &str) -> Self {
        let lab = Lab::new();
        let id = lab.create_vpc(range);
        let nodes = lab.create_subnet(&id, nodes, None);
        let plane = DataPlane::new(&lab, &id);
        Self {
            lab,
            plane,
            id,
            nodes,
        }
    }

    pub(crate) fn subnet(&self, range: &str, ipv6: Option<&str>) -> SubnetId {
        self.lab.create_subnet(&self.id, range, ipv6)
    }

    /// A node with an ENI for pods beside the primary one, which is up and has its own address.
    pub(crate) fn node(&self, names: Names, subnet: &SubnetId) -> AwsNode {
        let mut at = AwsNode::new(Node::new(), &self.lab, INSTANCE_TYPE, &self.nodes);
        self.plane.connect(&at.instance, &at.node.netns, names);
        let link = match names {
            Names::Eth => "eth1",
            Names::Ens => "ens6",
        };
        at.attach_master(link, subnet);
        self.plane.lease(at.eni(link));
        at
    }
}

/// Attaches a pod as a runtime does: again after a refusal, which is what an address gets that
/// another node has.
pub(crate) fn attach(node: &Node, pod: &Pod, network: &Network) -> Value {
    let mut last = None;
    for _ in 0..3 {
        match network.try_attach(node, pod, "net1") {
            Ok(result) => return result,
            Err(output) => last = Some(output),
        }
    }
    panic!("ADD failed three times: {last:?}");
}
