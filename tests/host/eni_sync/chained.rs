//! eni-sync where it works: the last of a chain, behind Go's macvlan and behind our
//! host-device, with host-local for the addresses.

use std::collections::BTreeMap;

use harness::eni_lab::Fault;
use harness::vpc::{Vpc, VpcNode};
use harness::{Network, Pod};
use serde_json::{Value, json};

const V4: &str = "10.0.4.0/24";
const V6: &str = "2001:db8:4::/64";

/// A network whose first plugin is `plugin`, with addresses of both families from `first` on. An
/// address that an interface has leaves the ENI in no other test, so each has others.
fn network(node: &VpcNode, mut plugin: Value, first: u8) -> Network {
    // Without a carrier Go's macvlan waits for IPv6 addresses in vain.
    node.node.netns.ip(&["link", "set", "vpc", "up"]);
    let range = |subnet: &str, start: &str| json!([{ "subnet": subnet, "rangeStart": start }]);
    plugin["ipam"] = json!({
        "type": "host-local", "ranges": [
            range(V4, &format!("10.0.4.{first}")), range(V6, &format!("2001:db8:4::{first}")),
        ],
    });
    let conf = json!({
        "cniVersion": "1.0.0", "name": "mgmt", "plugins": [plugin, { "type": "eni-sync", "cooldownSeconds": 0 }],
    });
    let mut network = Network::from_conf(&conf);
    network.environment = node.environment();
    network
}

/// The two ways to give a pod an interface with the ENI's MAC address that need no
/// ipvlan in the kernel.
fn first_plugins() -> [Value; 2] {
    [
        json!({ "type": "macvlan", "master": "ens6", "mode": "passthru" }),
        json!({ "type": "host-device", "device": "ens6" }),
    ]
}

/// GC of the network, for which no attachment is valid.
fn gc(node: &VpcNode) {
    node.gc(&[]);
}

#[test]
fn a_pod_is_attached_registered_checked_and_detached() {
    for plugin in first_plugins() {
        let vpc = Vpc::new();
        let node = vpc.node();
        let network = network(&node, plugin, 221);
        let links = node.node.netns.links();
        let pod = Pod::new("c1");
        let result = network.attach(&node.node, &pod, "net1");
        assert_eq!(
            result["interfaces"].as_array().unwrap().last().unwrap()["mac"],
            node.mac
        );
        assert_eq!(
            pod.netns.addresses("net1"),
            ["10.0.4.221/24", "2001:db8:4::221/64"]
        );
        assert_eq!(node.addresses(), ["10.0.4.221", "2001:db8:4::221"]);
        network.check(&node.node, &pod, "net1", &result).unwrap();
        network.detach(&node.node, &pod, "net1", &result);
        assert_eq!(node.node.netns.links(), links);
        gc(&node);
        assert_eq!(
            (node.addresses(), node.ledger()),
            (Vec::new(), BTreeMap::new())
        );
    }
}

#[test]
fn the_result_is_that_of_the_plugins_before() {
    for plugin in first_plugins() {
        let vpc = Vpc::new();
        let node = vpc.node();
        let network = network(&node, plugin, 224);
        let pod = Pod::new("c1");
        let first = network.call(&network.plugins[0], "ADD", &Value::Null);
        let mut given = node.node.run(&first.pod(&pod, "net1")).ok();
        let second = network.call(&network.plugins[1], "ADD", &given);
        let passed_on = node.node.run(&second.pod(&pod, "net1")).ok();
        // Go's plugins print an empty one, too.
        given.as_object_mut().unwrap().remove("dns");
        assert_eq!(passed_on, given);
        network.detach(&node.node, &pod, "net1", &passed_on);
    }
}

#[test]
fn an_add_that_eni_sync_refuses_leaves_nothing() {
    for plugin in first_plugins() {
        let vpc = Vpc::new();
        let (node, other) = (vpc.node(), vpc.node());
        other.add(&Pod::new("theirs"), &["10.0.4.227"]).ok();
        let network = network(&node, plugin, 227);
        let links = node.node.netns.links();
        let pod = Pod::new("c1");
        let output = network.try_attach(&node.node, &pod, "net1").unwrap_err();
        let error = output.error_code(11);
        assert!(error.msg.contains("10.0.4.227"), "{error:?}");
        assert_eq!(
            (node.node.netns.links(), pod.netns.links()),
            (links, vec!["lo".to_owned()])
        );
        // What was only wanted is looked for twice before it is forgotten.
        for _ in 0..2 {
            node.let_time_pass(120);
            gc(&node);
        }
        assert_eq!(
            (node.addresses(), node.ledger()),
            (Vec::new(), BTreeMap::new())
        );
        // What is left is host-local's note of the last address, which it goes on from.
        let next = network.attach(&node.node, &pod, "net1");
        assert_eq!(next["ips"][0]["address"], "10.0.4.228/24");
        network.detach(&node.node, &pod, "net1", &next);
    }
}

#[test]
fn an_add_is_undone_when_a_plugin_behind_eni_sync_fails() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let mut network = network(&node, first_plugins()[1].clone(), 231);
    network
        .plugins
        .push(json!({ "type": "tuning", "sysctl": { "net.ipv4.conf.net1.no_such": "1" } }));
    let pod = Pod::new("c1");
    network.try_attach(&node.node, &pod, "net1").unwrap_err();
    assert!(
        node.ledger().values().all(|state| state == "releasing"),
        "{:?}",
        node.ledger()
    );
    gc(&node);
    assert_eq!(node.addresses(), [""; 0]);
}

#[test]
fn a_pod_that_is_attached_while_aws_does_not_answer_is_attached_when_it_does() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let network = network(&node, first_plugins()[0].clone(), 234);
    let pod = Pod::new("c1");
    let denied = Fault::Error {
        status: 403,
        code: "UnauthorizedOperation".to_owned(),
        message: "no".to_owned(),
    };
    node.lab.fail_next("AssignPrivateIpAddresses", 1, denied);
    network.try_attach(&node.node, &pod, "net1").unwrap_err();
    let result = network.attach(&node.node, &pod, "net1");
    let address = result["ips"][0]["address"].as_str().unwrap();
    let address = address.split('/').next().unwrap();
    assert_eq!(vpc.owner(address), Some(node.eni.clone()));
    network.detach(&node.node, &pod, "net1", &result);
}
