//! A node with many pods, each with three networks.

use std::fs;

use harness::{Call, Node, Pod};
use serde_json::{Value, json};

use crate::samples::Party;
use crate::store::call;

pub const NETWORKS: usize = 3;

/// What the networks are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A veth for every attachment.
    HostDevice,
    /// A master for every network.
    Ipvlan,
}

/// The node, its pods, and whose plugins it has.
#[derive(Debug)]
pub struct Crowd {
    pub node: Node,
    pub pods: Vec<Pod>,
    kind: Kind,
    party: Party,
}

impl Crowd {
    /// Everything that so many pods need to be attached.
    pub fn new(kind: Kind, party: Party, pods: usize) -> Self {
        let node = Node::new();
        let mut links = String::new();
        for network in 0..NETWORKS {
            match kind {
                Kind::Ipvlan => {
                    links += &format!("link add eth{network} up type dummy\n");
                }
                Kind::HostDevice => (0..pods).for_each(|pod| {
                    let device = device(pod, network);
                    links += &format!("link add {device} type veth peer name p{device}\n");
                }),
            }
        }
        let batch = node.state().join(".links");
        fs::write(&batch, links).expect("the state directory is writable");
        let batch = batch.to_str().expect("the name is text");
        node.netns.ip(&["-batch", batch]);
        Self {
            node,
            pods: (0..pods).map(|n| Pod::new(&format!("pod-{n}"))).collect(),
            kind,
            party,
        }
    }

    /// A call about a pod and one of its networks.
    pub fn call(&self, command: &str, pod: usize, network: usize) -> Call {
        let (plugin, conf) = self.conf(pod, network);
        let ifname = format!("net{network}");
        call(self.party, plugin, command)
            .pod(&self.pods[pod], &ifname)
            .conf(&conf)
    }

    fn conf(&self, pod: usize, network: usize) -> (&'static str, Value) {
        let mut conf = json!({
            "cniVersion": "1.0.0", "name": format!("network-{network}"),
            "ipam": { "type": "host-local", "subnet": format!("10.{network}.0.0/16") },
        });
        let plugin = match self.kind {
            Kind::HostDevice => {
                conf["device"] = json!(device(pod, network));
                "host-device"
            }
            Kind::Ipvlan => {
                conf["master"] = json!(format!("eth{network}"));
                "ipvlan"
            }
        };
        conf["type"] = json!(plugin);
        (plugin, conf)
    }
}

fn device(pod: usize, network: usize) -> String {
    format!("d{pod}n{network}")
}
