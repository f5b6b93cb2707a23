//! A whole ENI in a pod and back. The published network gives it no address, so there
//! is nothing to register; with the ENI's own address there would not be either.

use harness::{Node, Pod};

use crate::report::{check, heading, quote};
use crate::steps::nothing_is_left;
use crate::vpc::{Vpc, routable};

/// Where the PCI device of the published host-device network is.
const NIC: &str = "/sys/bus/pci/devices/0000:00:06.0/net";

pub fn run() {
    heading("A whole network card, by its PCI address, in a pod and back");
    let before = nic_of_machine().unwrap_or_else(|| panic!("no network device is at {NIC}"));
    println!("$ ls {NIC}\n{before}");
    let mut vpc = Vpc::with_node(Node::of_machine(), "10.0.0.0/16", "10.0.1.0/24");
    let subnet = vpc.subnet("10.0.4.0/24");
    vpc.at.adopt_master(&before, &subnet);
    let node = &vpc.at.node;
    let links = node.netns.links();
    let network = routable("hostcni-conf.yaml");
    let pod = Pod::new("pod-1");
    let result = network.attach(node, &pod, "net1");
    println!("pod-1 $ ip -brief link show dev net1");
    quote(&pod.netns.ip(&["-brief", "link", "show", "dev", "net1"]));
    check(
        result["interfaces"][0]["name"] == "net1",
        "the result names the interface net1",
    );
    check(
        pod.netns.links() == ["lo", "net1"],
        "pod-1 has the card as net1",
    );
    check(nic_of_machine().is_none(), "the node has it no more");
    check(
        vpc.at.lab.calls().is_empty() && vpc.at.addresses().is_empty(),
        "it has no address but the ENI's own, so AWS was asked nothing",
    );
    network.detach(node, &pod, "net1", &result);
    check(
        nic_of_machine().as_ref() == Some(&before),
        &format!("the node has it back as {before}"),
    );
    check(pod.netns.links() == ["lo"], "pod-1 has no interface left");
    let links: Vec<&str> = links.iter().map(String::as_str).collect();
    nothing_is_left(node, &links);
}

/// The name of the machine's network device at the published PCI address.
fn nic_of_machine() -> Option<String> {
    let entry = std::fs::read_dir(NIC).ok()?.next()?.ok()?;
    Some(entry.file_name().to_string_lossy().into_owned())
}
