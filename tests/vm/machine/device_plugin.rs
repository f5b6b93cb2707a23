//! Whole ENIs that are real PCI devices, from the kubelet's offer to a pod and back: of two NICs
//! of the node the agent offers the one of its network, Multus hands the id that the kubelet has
//! allocated to host-device, and the kernel says which device the pod has.

use std::fs;
use std::path::PathBuf;

use fixtures::kubelet::multus_call;
use fixtures::kubelet::{DIRECTORY, Kubelet};
use harness::eni_lab::EniId;
use harness::vpc::{Agent, Vpc, VpcNode, eventually};
use harness::{Namespace, Pod, pci, wait_until};
use serde_json::{Value, json};

use crate::machine::{
    Alone, NIC_MAC, NIC_NAME, OTHER_NAME, OTHER_NIC, alone, netdev, pci_device, write,
};

const RESOURCE: &str = "eni-cni.io/user-plane";
const NETWORK: &str = "user-plane";
const OTHER_MAC: &str = "52:54:00:00:00:07";

/// A node with two NICs, each of which is an ENI of another network. The second one is that of
/// the resource.
struct PciNode {
    kubelet: Kubelet,
    agent: Agent,
    node: VpcNode,
    eni: EniId,
    vpc: Vpc,
    _nics: Nics,
}

impl PciNode {
    fn new() -> Self {
        let nics = Nics::take();
        pci::require_machine();
        // A test detaches an ENI that a pod has.
        let vpc = Vpc::new().without_invariants();
        let node = vpc.node_of_type("m5.xlarge");
        let [_, eni] =
            [(NIC_NAME, "control-plane"), (OTHER_NAME, NETWORK)].map(|(nic, network)| {
                let eni = vpc.lab.multus_eni(&node.instance, &vpc.pods);
                vpc.lab.tag_eni(&eni, "eni-cni/network", network);
                plug_in(&node, &eni, nic);
                eni
            });
        let kubelet = Kubelet::start(&node);
        let resource = json!({
            "name": RESOURCE, "eni": { "tag": { "eni-cni/network": NETWORK } }, "kind": "devices",
        });
        let configuration = json!({ "devicePluginPath": DIRECTORY, "resources": [resource] });
        let agent = Agent::start(&node, &configuration);
        Self {
            kubelet,
            agent,
            node,
            eni,
            vpc,
            _nics: nics,
        }
    }

    /// What the kubelet has containers that get the device be told.
    fn allocate(&mut self) -> Value {
        let containers = json!({ "containers": [[OTHER_NIC]] });
        self.kubelet.call("allocate", RESOURCE, &containers)["answer"].clone()
    }

    fn add(&self, pod: &Pod) {
        self.node
            .run(&multus_call(&self.node, "ADD", pod, OTHER_NIC))
            .ok();
    }

    fn del(&self, pod: &Pod) {
        self.node
            .run(&multus_call(&self.node, "DEL", pod, OTHER_NIC))
            .ok();
    }

    #[track_caller]
    fn is_healthy(&self) {
        let said = format!("resource {RESOURCE}: 1 healthy, 0 unhealthy, registered");
        let is_said = || self.node.command(&["status"]).stdout.contains(&said);
        assert!(eventually(is_said), "{}", self.agent.log());
    }
}

/// Makes a NIC of the machine the device of an ENI, on the node.
pub(super) fn plug_in(node: &VpcNode, eni: &EniId, nic: &str) {
    let machine = Namespace::at("/proc/1/ns/net");
    let link = machine.link(nic).expect("the machine has the NIC");
    node.lab
        .set_mac(eni, link["address"].as_str().expect("it has an address"));
    machine.ip(&["link", "set", nic, "netns", &node.node.netns.path()]);
}

/// The NICs as they were, when the test and its node have ended.
pub(super) struct Nics(#[expect(dead_code, reason = "it keeps others away")] Alone);

impl Nics {
    /// Keeps the NICs for this test.
    pub(super) fn take() -> Self {
        Self(alone())
    }
}

impl Drop for Nics {
    fn drop(&mut self) {
        rescan();
        pci::reset();
        let machine = Namespace::at("/proc/1/ns/net");
        for (name, mac) in [(NIC_NAME, NIC_MAC), (OTHER_NAME, OTHER_MAC)] {
            machine.ip(&["link", "set", name, "address", mac]);
        }
    }
}

/// Lets the machine find what was unplugged.
fn rescan() {
    write(PathBuf::from("/sys/bus/pci/rescan"), "1");
    wait_until("the NIC is there", || pci_device(OTHER_NIC).exists());
}

#[test]
fn a_pod_gets_the_nic_of_the_network_that_it_asked_for_and_gives_it_back() {
    let mut site = PciNode::new();
    let list = site.kubelet.await_list(RESOURCE, 1, 0);
    assert_eq!(list["devices"][0]["id"], OTHER_NIC, "{list}");
    let told = site.allocate();
    let variable = "PCIDEVICE_ENI_CNI_IO_USER_PLANE";
    assert_eq!(told[0]["envs"], json!({ variable: OTHER_NIC }));

    let pod = Pod::new("c1");
    site.add(&pod);
    let net1 = pod.netns.link("net1").expect("the NIC is in the pod");
    assert_eq!(net1["parentdev"], OTHER_NIC, "{net1}");
    assert_eq!(net1["address"], site.vpc.lab.mac(&site.eni));
    let info = fs::read(site.node.run_directory().join("devinfo/default-ena-net1"));
    let info: Value = serde_json::from_slice(&info.unwrap()).unwrap();
    assert_eq!(info["pci"]["pci-address"], OTHER_NIC, "{info}");
    assert!(site.node.node.netns.link(NIC_NAME).is_some());
    site.is_healthy();

    site.del(&pod);
    let back = site.node.node.netns.link(OTHER_NAME);
    let back = back.expect("the NIC is back on the node");
    assert_eq!(back["parentdev"], OTHER_NIC, "{back}");
    site.is_healthy();
    assert_eq!(site.allocate(), told);
    site.add(&Pod::new("c2"));
}

#[test]
fn a_nic_that_is_unplugged_while_a_pod_has_it_is_unhealthy_until_del_and_may_come_back() {
    let mut site = PciNode::new();
    site.kubelet.await_list(RESOURCE, 1, 0);
    let told = site.allocate();
    let pod = Pod::new("c1");
    site.add(&pod);
    site.vpc.lab.detach_eni(&site.eni);
    write(pci_device(OTHER_NIC).join("remove"), "1");
    assert!(pod.netns.link("net1").is_none());
    site.node.command(&["sync", "--once"]);
    site.kubelet.await_list(RESOURCE, 0, 1);
    let refused = site.allocate();
    assert_eq!(refused, Value::Null, "{refused}");
    site.del(&pod);
    site.kubelet.await_list(RESOURCE, 0, 0);

    // It is attached again.
    site.vpc.lab.attach_eni(&site.eni, &site.node.instance, 3);
    rescan();
    wait_until("the NIC has an interface", || netdev(OTHER_NIC).is_some());
    plug_in(&site.node, &site.eni, &netdev(OTHER_NIC).unwrap());
    site.node.command(&["sync", "--once"]);
    site.kubelet.await_list(RESOURCE, 1, 0);
    assert_eq!(site.allocate(), told);
    let pod = Pod::new("c2");
    site.add(&pod);
    assert_eq!(pod.netns.link("net1").unwrap()["parentdev"], OTHER_NIC);
}
