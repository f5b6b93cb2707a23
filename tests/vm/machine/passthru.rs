//! A pod whose macvlan is in mode passthru: the kernel gives the MAC address that the pod sets to
//! the NIC below, also if it is that of the node's other NIC. An ENI is recognised nevertheless.

use std::fs;

use harness::eni_lab::EniId;
use harness::vpc::{Agent, Vpc, VpcNode, eventually};
use harness::{Call, Namespace, Pod, pci};
use serde_json::{Value, json};

use super::device_plugin::{Nics, plug_in};
use super::{NIC_MAC, NIC_NAME, OTHER_NAME};

/// The interface of an ENI in the inventory, and whether it may be of another attachment.
fn inventory_of(node: &VpcNode, eni: &EniId) -> Option<(String, bool)> {
    let text = fs::read(node.run_directory().join("eni-cni/enis.json")).ok()?;
    let inventory: Value = serde_json::from_slice(&text).ok()?;
    let mut enis = inventory["enis"].as_array()?.iter();
    let found = enis.find(|found| found["id"] == eni.as_str())?;
    let interface = found["interface"].as_str()?.to_owned();
    Some((interface, found["mayBeFormer"].as_bool()?))
}

/// Gives the NIC the MAC address of the other one, as the pod does.
fn imitate(node: &VpcNode, pod: &Namespace, mac: &str) {
    let netns = pod.path();
    node.node.netns.ip(&[
        "link", "add", "evil", "link", NIC_NAME, "type", "macvlan", "mode", "passthru",
    ]);
    node.node
        .netns
        .ip(&["link", "set", "evil", "netns", &netns, "name", "net1"]);
    pod.ip(&["link", "set", "net1", "up"]);
    pod.ip(&["link", "set", "net1", "address", mac]);
    let nic = node.node.netns.link(NIC_NAME).expect("the node has it");
    assert_eq!(nic["address"], mac);
    assert_eq!(nic["permaddr"], NIC_MAC);
}

#[test]
fn an_eni_is_recognised_whatever_mac_address_a_pod_gives_to_its_interface() {
    let _nics = Nics::take();
    pci::require_machine();
    let vpc = Vpc::new();
    let node = vpc.node_of_type("m5.xlarge");
    let [own, other] = [NIC_NAME, OTHER_NAME].map(|nic| {
        let eni = vpc.lab.multus_eni(&node.instance, &vpc.pods);
        plug_in(&node, &eni, nic);
        eni
    });
    let expected = |eni, nic: &str| inventory_of(&node, eni) == Some((nic.to_owned(), false));
    let agent = Agent::start(&node, &json!({}));
    assert!(eventually(|| expected(&own, NIC_NAME)), "{}", agent.log());
    assert!(expected(&other, OTHER_NAME));
    let (evil, mac) = (Namespace::new(), vpc.lab.mac(&other));
    imitate(&node, &evil, &mac);
    let synced = node.command(&["sync", "--once"]);
    assert_eq!(synced.status, Some(0), "{synced}");
    assert!(expected(&own, NIC_NAME), "{:?}", inventory_of(&node, &own));
    assert!(
        expected(&other, OTHER_NAME),
        "{:?}",
        inventory_of(&node, &other)
    );

    let pod = Pod::new("c1");
    let ipam = json!({"type": "host-local", "subnet": "10.0.4.0/24", "rangeStart": "10.0.4.90"});
    let conf = json!({
        "cniVersion": "1.0.0", "name": "net", "type": "ipvlan",
        "masterSelector": {"mac": mac}, "ipam": ipam,
    });
    let call = |command| {
        let call = Call::ours("ipvlan", command).conf(&conf);
        call.attachment(&pod.id, "net1", &pod.netns.path())
    };
    node.run(&call("ADD")).ok();
    let net1 = pod.netns.link("net1").expect("the pod has it");
    let master = node.node.netns.link(OTHER_NAME).expect("the node has it");
    assert_eq!(net1["link_index"], master["ifindex"]);
    node.run(&call("DEL")).ok();
}
