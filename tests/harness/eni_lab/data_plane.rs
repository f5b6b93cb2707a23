//! Carries the packets of a simulated VPC. A network namespace is the VPC: each ENI that is
//! attached to a connected node is a veth whose other end is in that namespace, and a packet to
//! an address goes to the ENI that has it in the lab at that moment. So a ping between two nodes
//! works when EC2 would deliver it.
//!
//! Not simulated: security groups, network ACLs, DHCP, router advertisements and the internet.

use std::sync::Arc;

use super::id::{EniId, InstanceId, VpcId};
use super::lab::Lab;
use super::wires::Wires;
use super::world::{Eni, Place};
use crate::Namespace;

/// The largest MTU of an ENI in a VPC.
const JUMBO: &str = "9001";

/// How a node names its network interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// By the device index: the primary one is `eth0`.
    Eth,
    /// By the PCI slot, as on Nitro instances with one network card: the primary one is `ens5`.
    Ens,
}

impl Names {
    pub(super) fn of(self, (card, index): Place) -> String {
        let index = 10 * card + index;
        match self {
            Self::Eth => format!("eth{index}"),
            Self::Ens => format!("ens{}", 5 + index),
        }
    }
}

/// The network of a VPC of the lab. It exists as long as the lab.
#[derive(Debug)]
pub struct DataPlane {
    lab: Lab,
    network: Arc<Namespace>,
}

impl DataPlane {
    /// Starts to carry packets in this VPC. A lab has one data plane.
    pub fn new(lab: &Lab, vpc: &VpcId) -> Self {
        let network = Arc::new(Namespace::new());
        let wires = Wires::new(vpc, &network);
        lab.shared.update(|state| {
            assert!(state.wires.is_none(), "the lab has a data plane");
            state.wires = Some(wires);
            state.rewire();
        });
        lab.run_data_plane(vpc, &network);
        Self {
            lab: lab.clone(),
            network,
        }
    }

    /// Makes this namespace the instance: from now on its ENIs are links there. A link is added
    /// when the ENI is attached, and deleted when it is detached or the instance does not run. As
    /// on AWS, a new link is down and has no address.
    pub fn connect(&self, instance: &InstanceId, node: &Namespace, names: Names) {
        self.lab.shared.update(|state| {
            let wires = state.wires.as_mut().expect("the lab has a data plane");
            wires.connect(instance, Namespace::at(node.path()), names);
            state.rewire();
        });
    }

    /// The namespace that is the VPC.
    pub fn network(&self) -> &Namespace {
        &self.network
    }

    /// Sets the link of an ENI up, with the MTU of the VPC.
    #[track_caller]
    pub fn bring_up(&self, eni: &EniId) {
        self.on_node(eni, |node, link, _| {
            node.ip(&["link", "set", link, "mtu", JUMBO, "up"]);
        });
    }

    /// Sets the link of an ENI up with what DHCP and router advertisements would configure: the
    /// primary address, and a route to the IPv6 range of the subnet. ipvlan in mode L3 needs it.
    #[track_caller]
    pub fn lease(&self, eni: &EniId) {
        self.bring_up(eni);
        let subnet = {
            let state = self.lab.shared.lock();
            let found = state.world.eni(eni.as_str());
            let found = found.and_then(|eni| state.world.subnet(eni.subnet.as_str()));
            found.expect("the ENI is in a subnet").clone()
        };
        self.on_node(eni, |node, link, eni| {
            if let (Some(primary), Some(cidr)) = (eni.primary, subnet.cidr) {
                let address = format!("{primary}/{}", cidr.prefix());
                node.ip(&["address", "replace", &address, "dev", link]);
            }
            for cidr in &subnet.ipv6 {
                node.ip(&["-6", "route", "replace", &cidr.to_string(), "dev", link]);
            }
        });
    }

    /// Calls the function with the node, the name of the link there, and the ENI.
    #[track_caller]
    fn on_node(&self, eni: &EniId, work: impl FnOnce(&Namespace, &str, &Eni)) {
        let state = self.lab.shared.lock();
        let wires = state.wires.as_ref().expect("the lab has a data plane");
        let eni = state.world.eni(eni.as_str());
        let eni = eni.unwrap_or_else(|error| panic!("{error}"));
        let (node, link) = wires
            .link(eni)
            .unwrap_or_else(|| panic!("{} is at no connected node", eni.id));
        work(node, &link, eni);
    }
}
