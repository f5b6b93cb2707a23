//! The README's networks work as they stand there.

use std::fs;
use std::path::Path;

use harness::{Network, Node, Pod};
use serde_json::json;

use crate::eni_sync::fixture::{AwsNode, Vpc};
use crate::vm_machine::OTHER_NIC;

/// The README's blocks of this language.
fn blocks(language: &str) -> Vec<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
    let readme = fs::read_to_string(path).unwrap();
    let start = format!("```{language}\n");
    let blocks = readme.split(&start).skip(1);
    blocks
        .map(|block| block.split("```").next().unwrap().to_owned())
        .collect()
}

/// The node of the README: its ENI is eth1, with a primary address in 10.0.7.0/24.
fn node() -> Node {
    let node = Node::new();
    node.netns
        .ip(&["link", "add", "eth1", "up", "type", "dummy"]);
    node.netns
        .ip(&["address", "add", "10.0.7.4/24", "dev", "eth1"]);
    node
}

/// The same in a VPC, with the ENI tagged as the README says.
fn node_in(vpc: &Vpc) -> AwsNode {
    let node = vpc.node();
    node.node.netns.ip(&["link", "set", "ens6", "down"]);
    node.node
        .netns
        .ip(&["link", "set", "ens6", "name", "eth1", "up"]);
    node
}

/// Puts the README's file with ranges where its network wants it. The VM's root file
/// system is its own.
fn write_ranges() {
    let ranges = blocks("json");
    assert_eq!(ranges.len(), 1, "the README shows one file");
    fs::create_dir_all("/etc/cni/ranges").unwrap();
    fs::write("/etc/cni/ranges/per-node.json", &ranges[0]).unwrap();
}

/// The network with what Multus adds where the definition names a resource, of which the
/// kubelet has allocated this device: its id, and the file to describe it in.
fn with_device(block: &str, description: &Path) -> Network {
    let mut network = Network::from_nad(block);
    if block.contains("k8s.v1.cni.cncf.io/resourceName: ") {
        let plugin = &mut network.plugins[0];
        let mut runtime = json!({"deviceID": OTHER_NIC, "CNIDeviceInfoFile": description});
        let declared = plugin["capabilities"].clone();
        let keys = runtime.as_object_mut().unwrap();
        keys.retain(|key, _| declared[key] == true);
        plugin["runtimeConfig"] = runtime;
        plugin["deviceID"] = json!(OTHER_NIC);
        plugin["pciBusID"] = json!(OTHER_NIC);
    }
    network
}

#[test]
fn every_network_of_the_readme_attaches_and_detaches_a_pod() {
    let description = tempfile::tempdir().unwrap();
    let description = description.path().join("device.json");
    let networks: Vec<Network> = blocks("yaml")
        .iter()
        .map(|block| with_device(block, &description))
        .collect();
    assert!(
        networks.len() >= 7,
        "the README shows a network for each feature"
    );
    write_ranges();
    let vpc = Vpc::new();
    for mut network in networks {
        let plugin = network.plugins[0].clone();
        let is_routable = network.plugins.iter().any(|p| p["type"] == "eni-sync");
        let in_vpc = is_routable.then(|| node_in(&vpc));
        let own = match plugin["type"].as_str() {
            Some("host-device") => Node::of_machine(),
            _ => node(),
        };
        if let Some(in_vpc) = &in_vpc {
            network.environment = in_vpc.environment();
        }
        let node = in_vpc.as_ref().map_or(&own, |in_vpc| &in_vpc.node);
        let before = node.netns.links();
        let pod = Pod::new("c1");
        let result = network.attach(node, &pod, "net1");
        let is_described = plugin["runtimeConfig"]["CNIDeviceInfoFile"].is_string();
        assert_eq!(description.exists(), is_described, "{}", network.name);
        // A device for user space stays where it is.
        let expected = if plugin["driver"].is_null() {
            vec!["lo", "net1"]
        } else {
            vec!["lo"]
        };
        assert_eq!(pod.netns.links(), expected, "{}", network.name);
        if let Some(in_vpc) = &in_vpc {
            assert_eq!(in_vpc.addresses(), ["10.0.4.70"]);
        }
        network
            .check(node, &pod, "net1", &result)
            .unwrap_or_else(|output| panic!("{output}"));
        network.detach(node, &pod, "net1", &result);
        assert_eq!(pod.netns.links(), ["lo"], "{}", network.name);
        assert_eq!(node.netns.links(), before, "{}", network.name);
        assert!(!description.exists(), "{}", network.name);
    }
}
