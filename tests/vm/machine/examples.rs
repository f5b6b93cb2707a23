//! The networks in `examples` work as they stand there. Those of the documents are the same:
//! `documents` compares them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use fixtures::documents::examples;
use harness::vpc::{Vpc, VpcNode};
use harness::{Network, Node, Pod, our_plugin};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::machine::OTHER_NIC;

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
fn node_in(vpc: &Vpc) -> VpcNode {
    let node = vpc.node();
    node.node.netns.ip(&["link", "set", "ens6", "down"]);
    node.node
        .netns
        .ip(&["link", "set", "ens6", "name", "eth1", "up"]);
    node
}

/// Puts the file with ranges of a network where the network wants it, if it wants one. The VM's
/// root file system is its own.
fn write_ranges(plugin: &Value, run: Option<&Path>) {
    let Some(wanted) = plugin["ipam"]["rangesFile"].as_str().map(Path::new) else {
        return;
    };
    let files = examples("ranges", "json").into_iter();
    let mut named = files.filter(|(path, _)| path.file_name() == wanted.file_name());
    let (_, ranges) = named.next().expect("there is an example of the file");
    // A node in a VPC has a /run of its own.
    let own = run.and_then(|run| Some(run.join(wanted.strip_prefix("/run").ok()?)));
    let path = own.unwrap_or_else(|| wanted.to_owned());
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, ranges).unwrap();
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

/// The networks that a pod names, in this order; those of a resource have the device that the
/// kubelet has allocated because the pod asks for the resource.
fn networks_of(pod: &Value, description: &Path) -> Vec<Network> {
    let limits = pod["spec"]["containers"][0]["resources"]["limits"].as_object();
    let asked: Vec<&String> = limits.into_iter().flatten().map(|(name, _)| name).collect();
    let names = pod["metadata"]["annotations"]["k8s.v1.cni.cncf.io/networks"].as_str();
    let names = names.unwrap().split(',').map(str::trim);
    let network = |name: &str| {
        let file = format!("{name}.yaml");
        let (_, nad) = examples("", "yaml")
            .into_iter()
            .find(|(path, _)| path.ends_with(&file))
            .unwrap_or_else(|| panic!("no example is the network {name}"));
        let resource = nad.split("k8s.v1.cni.cncf.io/resourceName: ").nth(1);
        if let Some(resource) = resource.and_then(|rest| rest.lines().next()) {
            assert!(asked.iter().any(|name| *name == resource), "{resource}");
        }
        with_device(&nad, description)
    };
    names.map(network).collect()
}

#[test]
fn every_pod_of_the_examples_is_attached_to_its_networks() {
    let description = tempfile::tempdir().unwrap();
    let description = description.path().join("device.json");
    let plugins = installed();
    let vpc = Vpc::new();
    for (file, text) in examples("pods", "yaml") {
        let manifest: Value = serde_yaml_ng::from_str(&text).unwrap();
        let mut networks = networks_of(&manifest, &description);
        let is_device = networks[0].plugins[0]["runtimeConfig"].is_object();
        let (in_vpc, machine) = match is_device {
            true => (None, Some(Node::of_machine())),
            false => (Some(node_in(&vpc)), None),
        };
        let node = in_vpc
            .as_ref()
            .map_or_else(|| machine.as_ref().unwrap(), |at| &at.node);
        for network in &mut networks {
            network.environment = in_vpc.as_ref().map_or(Vec::new(), |at| at.environment());
            let path = plugins.path().display().to_string();
            network.environment.push(("CNI_PATH".to_owned(), path));
        }
        let pod = Pod::new("c1");
        let attached: Vec<(String, Value)> = (1..)
            .zip(&networks)
            .map(|(number, network)| {
                let ifname = format!("net{number}");
                let result = network.attach(node, &pod, &ifname);
                (ifname, result)
            })
            .collect();
        let is_bound = !networks[0].plugins[0]["driver"].is_null();
        let names = attached.iter().map(|(ifname, _)| ifname.as_str());
        let mut expected: Vec<&str> = names.filter(|_| !is_bound).collect();
        expected.insert(0, "lo");
        assert_eq!(pod.netns.links(), expected, "{file:?}");
        for (network, (ifname, result)) in networks.iter().zip(&attached).rev() {
            network.detach(node, &pod, ifname, result);
        }
        assert_eq!(pod.netns.links(), ["lo"], "{file:?}");
    }
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
        write_ranges(&plugin, in_vpc.as_ref().map(|at| at.run_directory()));
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
