//! Networks without addresses on a kernel that has ipvlan: our plugins ask eni-sync, and EC2
//! chooses.

use harness::eni_lab::Lab;
use harness::vpc::{Vpc, VpcNode, ip};
use harness::{Network, Node, Pod, pci};
use serde_json::{Value, json};

use crate::machine::{NIC, NIC_NAME, driver};

fn network(node: &VpcNode, plugin: &Value) -> Network {
    let mut conf = plugin.clone();
    conf["cniVersion"] = json!("1.0.0");
    conf["name"] = json!("mgmt");
    conf["ipam"] = json!({ "type": "eni-sync", "cooldownSeconds": 0 });
    let mut network = Network::from_conf(&conf);
    network.environment = node.environment();
    network
}

fn addresses(result: &Value) -> Vec<String> {
    let ips = result["ips"].as_array().unwrap().iter();
    let texts = ips.map(|ip| ip["address"].as_str().unwrap().to_owned());
    texts.collect()
}

fn without_prefix(address: &str) -> &str {
    address.split('/').next().unwrap()
}

/// Attaches pods, has them reach each other, and detaches them.
fn share_an_eni(mode: &str) {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.node.netns.ip(&["link", "set", "vpc", "up"]);
    let plugin = json!({ "type": "ipvlan", "master": "ens6", "mode": mode });
    let network = network(&node, &plugin);
    let pods = ["c1", "c2"].map(Pod::new);
    let results = pods
        .each_ref()
        .map(|pod| network.attach(&node.node, pod, "net1"));
    for (pod, result) in pods.iter().zip(&results) {
        let link = pod.netns.link("net1").unwrap();
        assert_eq!(link["address"], node.mac, "{mode}");
        let given = addresses(result);
        assert_eq!(given.len(), 2, "{result}");
        for address in &given {
            let owner = vpc.owner(without_prefix(address));
            assert_eq!(owner, Some(node.eni.clone()), "{mode}, {address}");
            assert!(pod.netns.addresses("net1").contains(address), "{address}");
        }
        network.check(&node.node, pod, "net1", result).unwrap();
    }
    let other = addresses(&results[1]);
    let arguments = ["-c", "1", "-W", "10", without_prefix(&other[0])];
    pods[0].netns.tool("ping", &arguments);
    for (pod, result) in pods.iter().zip(&results) {
        network.detach(&node.node, pod, "net1", result);
        assert_eq!(pod.netns.links(), ["lo"]);
    }
    node.gc(&[]);
    assert_eq!(node.addresses(), [""; 0]);
}

#[test]
fn pods_of_ipvlan_in_mode_l2_share_an_eni_whose_addresses_ec2_chooses() {
    share_an_eni("l2");
}

#[test]
fn pods_of_ipvlan_in_mode_l3_share_an_eni_whose_addresses_ec2_chooses() {
    share_an_eni("l3");
}

#[test]
fn a_pod_of_host_device_gets_the_addresses_of_its_eni() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.lab.assign(&node.eni, &[ip("10.0.4.30")]);
    let network = network(&node, &json!({ "type": "host-device", "device": "ens6" }));
    let pod = Pod::new("c1");
    let result = network.attach(&node.node, &pod, "net1");
    let primary = node.lab.primary(&node.eni).to_string();
    let expected = [format!("{primary}/24"), "10.0.4.30/24".to_owned()];
    assert_eq!(addresses(&result), expected);
    for address in &expected {
        assert!(pod.netns.addresses("net1").contains(address), "{address}");
    }
    network.check(&node.node, &pod, "net1", &result).unwrap();
    network.detach(&node.node, &pod, "net1", &result);
    assert!(node.node.netns.link("ens6").is_some());
    assert_eq!(node.addresses(), ["10.0.4.30"]);
}

/// Lets the NICs be as they were.
struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        pci::reset();
    }
}

/// No interface is left when eni-sync is asked: it knows the ENI by what host-device has written
/// down before, and EC2 delivers to the device whatever the ENI has.
#[test]
fn a_device_with_a_driver_for_user_space_gets_the_addresses_of_its_eni() {
    let lab = Lab::new();
    let vpc = lab.create_vpc("10.0.0.0/16");
    let nodes = lab.create_subnet(&vpc, "10.0.1.0/24", None);
    let pods = lab.create_subnet(&vpc, "10.0.4.0/24", Some("2001:db8:4::/64"));
    let mut node = harness::AwsNode::new(Node::of_machine(), &lab, "c5.large", &nodes);
    pci::require_machine();
    let _restored = Restored;
    node.adopt_master(NIC_NAME, &pods);
    let eni = node.eni(NIC_NAME).clone();
    lab.assign(&eni, &["10.0.4.30", "2001:db8:4::30"].map(ip));
    let network = Network::from_conf(&json!({
        "cniVersion": "1.0.0", "name": "dpdk", "type": "host-device", "pciBusID": NIC,
        "driver": "vfio-pci", "ipam": { "type": "eni-sync" },
    }));
    let pod = Pod::new("c1");
    let result = network.attach(&node.node, &pod, "net1");
    assert_eq!(
        (driver(NIC).as_str(), pod.netns.links()),
        ("vfio-pci", vec!["lo".to_owned()])
    );
    let interface = json!({ "name": "net1", "pciID": NIC, "sandbox": pod.netns.path() });
    assert_eq!(result["interfaces"], json!([interface]));
    let expected = [
        format!("{}/24", lab.primary(&eni)),
        "10.0.4.30/24".to_owned(),
        "2001:db8:4::30/64".to_owned(),
    ];
    assert_eq!(addresses(&result), expected);
    network.check(&node.node, &pod, "net1", &result).unwrap();
    network.detach(&node.node, &pod, "net1", &result);
    assert_eq!(driver(NIC), "e1000e");
    assert_eq!(lab.addresses(&eni), ["10.0.4.30", "2001:db8:4::30"].map(ip));
    let calls = lab.calls();
    assert!(
        calls.keys().all(|action| action.starts_with("Describe")),
        "{calls:?}"
    );
}

#[test]
fn an_add_that_is_refused_leaves_no_interface_and_no_wish() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.lab.rules(|rules| {
        let actions = ["AssignPrivateIpAddresses", "AssignIpv6Addresses"];
        rules.denied_actions.extend(actions.map(str::to_owned));
    });
    let plugin = json!({ "type": "ipvlan", "master": "ens6", "mode": "l2" });
    let network = network(&node, &plugin);
    let pod = Pod::new("c1");
    let output = network.try_attach(&node.node, &pod, "net1").unwrap_err();
    output.error_code(100);
    assert_eq!(pod.netns.links(), ["lo"]);
    assert!(node.ledger().is_empty(), "{:?}", node.ledger());
}
