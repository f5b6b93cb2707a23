//! The README's networks work as they stand there.

use std::fs;

use harness::{Network, Node, Pod};

/// The YAML blocks of the README.
fn networks() -> Vec<Network> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
    let readme = fs::read_to_string(path).unwrap();
    let blocks = readme.split("```yaml\n").skip(1);
    blocks
        .map(|block| Network::from_nad(block.split("```").next().unwrap()))
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

#[test]
fn every_network_of_the_readme_attaches_and_detaches_a_pod() {
    let networks = networks();
    assert!(
        networks.len() >= 3,
        "the README shows a network for each plugin"
    );
    for network in networks {
        let node = match network.plugins[0]["type"].as_str() {
            Some("host-device") => Node::of_machine(),
            _ => node(),
        };
        let pod = Pod::new("c1");
        let result = network.attach(&node, &pod, "net1");
        assert_eq!(pod.netns.links(), ["lo", "net1"], "{}", network.name);
        network
            .check(&node, &pod, "net1", &result)
            .unwrap_or_else(|output| panic!("{output}"));
        network.detach(&node, &pod, "net1", &result);
        assert_eq!(pod.netns.links(), ["lo"], "{}", network.name);
    }
}
