//! The networks in `examples` work as they stand there. Those of the documents are the same:
//! `documents` compares them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use harness::{Network, Node, Pod, our_plugin};
use serde_json::json;
use tempfile::TempDir;

use crate::documents::examples;
use crate::eni_sync::fixture::{AwsNode, Vpc};
use crate::vm_machine::OTHER_NIC;

/// The node of the examples: its ENI is eth1, with a primary address in 10.0.7.0/24.
fn node() -> Node {
    let node = Node::new();
    node.netns
        .ip(&["link", "add", "eth1", "up", "type", "dummy"]);
    node.netns
        .ip(&["address", "add", "10.0.7.4/24", "dev", "eth1"]);
    node
}

/// The same in a VPC, with the ENI tagged as the documents say.
fn node_in(vpc: &Vpc) -> AwsNode {
    let node = vpc.node();
    node.node.netns.ip(&["link", "set", "ens6", "down"]);
    node.node
        .netns
        .ip(&["link", "set", "ens6", "name", "eth1", "up"]);
    node
}

/// Puts the files with ranges where the networks want them. The VM's root file system is
/// its own.
fn write_ranges() {
    let directory = Path::new("/etc/cni/ranges");
    fs::create_dir_all(directory).unwrap();
    for (path, ranges) in examples("ranges", "json") {
        fs::write(directory.join(path.file_name().unwrap()), ranges).unwrap();
    }
}

/// Whether the network's version has CHECK.
fn has_check(network: &Network) -> bool {
    !["0.1.0", "0.2.0", "0.3.0", "0.3.1"].contains(&network.cni_version.as_str())
}

/// The network with what Multus adds where the definition names a resource, of which the
/// kubelet has allocated this device: its id, and the file to describe it in.
fn with_device(example: &str, description: &Path) -> Network {
    let mut network = Network::from_nad(example);
    if example.contains("k8s.v1.cni.cncf.io/resourceName: ") {
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

/// The plugins under all their names, as an installation has them.
fn installed() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let link = |program: &str, name: &str| {
        symlink(our_plugin(program), directory.path().join(name)).unwrap();
    };
    link("eni-sync", "eni-sync");
    for plugin in ["host-device", "host-local", "ipvlan"] {
        link(plugin, plugin);
        link(plugin, &format!("eni-{plugin}"));
    }
    directory
}

#[test]
fn every_example_attaches_and_detaches_a_pod() {
    let description = tempfile::tempdir().unwrap();
    let description = description.path().join("device.json");
    let networks: Vec<Network> = examples("", "yaml")
        .iter()
        .map(|(_, example)| with_device(example, &description))
        .collect();
    assert!(networks.len() >= 12, "there is a network for each feature");
    write_ranges();
    let plugins = installed();
    let vpc = Vpc::new();
    for mut network in networks {
        let plugin = network.plugins[0].clone();
        let is_routable = network
            .plugins
            .iter()
            .any(|p| p["type"] == "eni-sync" || p["ipam"]["type"] == "eni-sync");
        let in_vpc = is_routable.then(|| node_in(&vpc));
        let own = match plugin["type"].as_str() {
            Some("host-device" | "eni-host-device") => Node::of_machine(),
            _ => node(),
        };
        if let Some(in_vpc) = &in_vpc {
            network.environment = in_vpc.environment();
        }
        let path = plugins.path().display().to_string();
        network.environment.push(("CNI_PATH".to_owned(), path));
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
            let given = result["ips"].as_array().unwrap().iter();
            let given = given.map(|ip| ip["address"].as_str().unwrap().split('/').next());
            let given: Vec<&str> = given.map(Option::unwrap).collect();
            assert_eq!(in_vpc.addresses(), given, "{}", network.name);
        }
        if has_check(&network) {
            network
                .check(node, &pod, "net1", &result)
                .unwrap_or_else(|output| panic!("{output}"));
        }
        network.detach(node, &pod, "net1", &result);
        assert_eq!(pod.netns.links(), ["lo"], "{}", network.name);
        assert_eq!(node.netns.links(), before, "{}", network.name);
        assert!(!description.exists(), "{}", network.name);
    }
}
