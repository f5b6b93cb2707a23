//! An agent that finds the networks itself: what has a record and a reservation on an ENI for
//! pods is registered, whether its network chains eni-sync or not.

use std::fs;
use std::os::unix::fs::MetadataExt;

use fixtures::scrape::{ADDRESS, Scrape, get};
use harness::vpc::{Agent, DEADLINE, Vpc, VpcNode, eventually};
use harness::{Call, Network, Pod};
use serde_json::{Value, json};

/// The network that the AWS containers blog has published.
pub const PUBLISHED: &str = "ipvlan-conf-1.yaml";

fn configuration() -> Value {
    json!({ "networks": "auto", "metrics": ADDRESS })
}

/// The record that ipvlan writes of an attachment whose master has this MAC address, and the
/// reservation that host-local makes of it.
pub fn attach(node: &VpcNode, network: &Network, pod: &Pod, mac: &str) {
    let conf = &network.plugins[0];
    let there = fs::metadata(pod.netns.path()).unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let record = json!({
        "network": network.name, "containerId": pod.id, "ifname": "net1", "cniVersion": "0.3.0",
        "pod": format!("default/{}", pod.id),
        "bootId": boot.trim(), "netns": pod.netns.path(),
        "netnsId": { "device": there.dev(), "inode": there.ino() },
        "ipam": conf["ipam"],
        "device": {
            "masterIndex": 2, "linkInContainer": false, "masterMac": mac, "mode": "l3",
            "temporaryName": "tmp0",
        },
    });
    let directory = node.node.state().join("eni-cni/ipvlan").join(&network.name);
    fs::create_dir_all(&directory).unwrap();
    let file = directory.join(format!("{}:net1.json", pod.id));
    fs::write(file, record.to_string()).unwrap();
    let call = Call::ours("host-local", "ADD").conf(conf);
    node.run(&call.pod(pod, "net1")).ok();
}

fn release(node: &VpcNode, network: &Network, pod: &Pod) {
    let call = Call::ours("host-local", "DEL").conf(&network.plugins[0]);
    node.run(&call.pod(pod, "net1")).ok();
}

#[track_caller]
fn await_addresses(node: &VpcNode, addresses: &[&str]) {
    await_that(node, |found| found == addresses);
}

#[track_caller]
fn await_that(node: &VpcNode, are_there: impl Fn(&[String]) -> bool) {
    let are_there = |_: &_| are_there(&node.addresses());
    assert!(
        node.lab.wait_until(DEADLINE, are_there),
        "{:?}",
        node.addresses()
    );
}

#[test]
fn the_published_network_needs_no_configuration() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let network = Network::published(PUBLISHED);
    let [before, after] = ["before", "after"].map(Pod::new);
    attach(&node, &network, &before, &node.mac);
    let agent = Agent::start(&node, &configuration());
    await_addresses(&node, &["10.0.4.70"]);
    attach(&node, &network, &after, &node.mac);
    await_addresses(&node, &["10.0.4.70", "10.0.4.71"]);
    release(&node, &network, &before);
    let state = |address: &str| node.ledger().get(address).cloned().unwrap_or_default();
    assert!(
        eventually(|| state("10.0.4.70") == "releasing"),
        "{}",
        agent.raw_log()
    );
    assert_eq!(state("10.0.4.71"), "held");
}

#[test]
fn a_directory_of_its_own_is_found() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let mut network = Network::published(PUBLISHED);
    network.plugins[0]["ipam"]["dataDir"] = json!("/run/reservations");
    let _agent = Agent::start(&node, &configuration());
    let pod = Pod::new("c1");
    attach(&node, &network, &pod, &node.mac);
    await_addresses(&node, &["10.0.4.70"]);
}

#[test]
fn what_is_on_no_eni_for_pods_is_left_alone() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let published = Network::published(PUBLISHED);
    let named = |name: &str| {
        let mut network = Network::published(PUBLISHED);
        network.plugins[0]["name"] = json!(name);
        name.clone_into(&mut network.name);
        network
    };
    let (other, primary) = (named("other"), named("primary"));
    let primary_mac = node.lab.mac(&node.lab.enis(&node.instance)[0]);
    let pods = ["c1", "c2", "c3", "c4"].map(Pod::new);
    attach(&node, &other, &pods[0], "02:00:00:00:00:99");
    attach(&node, &primary, &pods[1], &primary_mac);
    // A bridge, say: there is no record of it.
    let call = Call::ours("host-local", "ADD").conf(&named("bridge").plugins[0]);
    node.run(&call.pod(&pods[2], "net1")).ok();
    let agent = Agent::start(&node, &configuration());
    attach(&node, &published, &pods[3], &node.mac);
    await_addresses(&node, &["10.0.4.70"]);
    let said = || {
        agent
            .log()
            .contains("container c2, interface net1, network primary runs without 10.0.4.70")
    };
    assert!(eventually(said), "{}", agent.log());
    let mut events = agent.events().into_iter();
    assert!(events.any(|event| event["pod"] == "default/c2" && event["address"] == "10.0.4.70"));
    assert_eq!(node.ledger().len(), 1);
}

#[test]
fn a_network_that_cannot_be_read_hides_no_pod_of_another_one() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let mut broken = Network::published(PUBLISHED);
    broken.plugins[0]["name"] = json!("broken");
    "broken".clone_into(&mut broken.name);
    let primary_mac = node.lab.mac(&node.lab.enis(&node.instance)[0]);
    let pods = ["c1", "c2"].map(Pod::new);
    attach(&node, &broken, &pods[0], &node.mac);
    attach(
        &node,
        &Network::published(PUBLISHED),
        &pods[1],
        &primary_mac,
    );
    let directory = node.node.state().join("networks/broken");
    fs::remove_dir_all(&directory).unwrap();
    fs::write(&directory, "").unwrap();
    let agent = Agent::start(&node, &configuration());
    let said = |text: &str| eventually(|| agent.log().contains(text));
    assert!(said("networks of this node: "), "{}", agent.log());
    assert!(said(
        "container c2, interface net1, network ipvlan-conf-1 runs without 10.0.4.70"
    ));
}

#[test]
fn a_network_that_chains_eni_sync_is_registered_by_its_plugin() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let network = Network::published(PUBLISHED);
    let _agent = Agent::start(&node, &configuration());
    let pod = Pod::new("c1");
    // The agent sees the reservation before the plugin is executed. Its first comparison with
    // EC2 would ask for what is claimed meanwhile.
    attach(&node, &network, &pod, &node.mac);
    let is_held = || {
        node.ledger()
            .get("10.0.4.70")
            .is_some_and(|state| state == "held")
    };
    assert!(eventually(|| is_held() && get(&node, "/readyz").0 == 200));
    let keys = json!({ "name": "ipvlan-conf-1", "cooldownSeconds": 7 });
    let call = |command: &str| node.conf_call(command, &pod, &["10.0.4.70"], &keys);
    node.run(&call("ADD")).ok();
    let entry = || -> Value {
        let text = fs::read(node.ledger_path().join("10.0.4.70")).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    };
    let owner = entry()["owner"].clone();
    assert_eq!(
        (&owner["cooldownSeconds"], owner["netns"].is_string()),
        (&json!(7), true)
    );
    assert_eq!(node.lab.calls()["AssignPrivateIpAddresses"], 1);
    // What the plugin gives up the agent does not take back, though it is reserved still.
    node.run(&call("DEL")).ok();
    let other = Pod::new("c2");
    attach(&node, &network, &other, &node.mac);
    await_addresses(&node, &["10.0.4.70", "10.0.4.71"]);
    assert_eq!(entry()["state"], "releasing", "{}", entry());
}

/// Twenty-one reservations, and room for fourteen.
#[test]
fn pods_without_an_address_in_the_vpc_are_an_error_and_a_metric_and_a_reason() {
    let vpc = Vpc::new();
    let node = vpc.node_of_type("m5.xlarge");
    let mut network = Network::published(PUBLISHED);
    network.plugins[0]["ipam"]["rangeEnd"] = json!("10.0.4.99");
    let pods: Vec<Pod> = (0..21).map(|n| Pod::new(&format!("c{n:02}"))).collect();
    for pod in &pods {
        attach(&node, &network, pod, &node.mac);
    }
    let agent = Agent::start(&node, &configuration());
    let errors = || {
        let events = agent.events();
        let errors = events.iter().filter(|event| event["level"] == "error");
        errors
            .filter(|e| {
                e["message"]
                    .as_str()
                    .is_some_and(|m| m.contains("runs without"))
            })
            .count()
    };
    assert!(eventually(|| errors() == 7), "{}", agent.raw_log());
    assert_eq!(node.addresses().len(), 14);
    let (status, text) = get(&node, "/readyz");
    assert_eq!(status, 200, "{text}");
    assert_eq!(text.matches("runs without").count(), 7, "{text}");
    assert!(
        text.contains("14 of 15") || text.contains("15 of 15"),
        "{text}"
    );
    let scrape = Scrape::of(&node);
    let name = format!("eni_sync_refused_addresses{{eni=\"{}\"}}", node.eni);
    assert_eq!(scrape.samples[&name], 7.0);
    // It is said once, however often the agent looks.
    node.command(&["sync", "--once"]);
    assert_eq!(errors(), 7);
}

#[test]
fn a_network_names_its_eni_by_what_all_nodes_have() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let watched = json!({
        "name": "conf-1", "masterSelector": { "eni": node.eni.as_str() }, "cooldownSeconds": 0
    });
    let pool = json!({
        "name": "pool", "masterSelector": { "mac": node.mac }, "high": 1,
        "rangesFile": "/run/ranges.json", "ranges": [{ "start": "10.0.4.200", "end": "10.0.4.201" }],
    });
    let _agent = Agent::start(&node, &json!({ "networks": [watched], "pools": [pool] }));
    let directory = node.node.state().join("networks/conf-1");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("10.0.4.70"), "c1\r\nnet1").unwrap();
    await_that(&node, |found| found.len() == 2 && found[0] == "10.0.4.70");
}

#[test]
fn a_network_on_two_enis_or_none_is_refused() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let selector = json!({ "mac": node.mac });
    for (network, said) in [
        (
            json!({ "name": "n" }),
            "network \"n\" needs master or masterSelector",
        ),
        (
            json!({ "name": "n", "master": "ens6", "masterSelector": selector }),
            "network \"n\" has both master and masterSelector",
        ),
    ] {
        let (status, errors) = Agent::spawn(&node, &json!({ "networks": [network] })).wait();
        assert_eq!(status, Some(1));
        assert!(errors.contains(said), "{errors}");
    }
    let (status, errors) = Agent::spawn(&node, &json!({ "networks": "all" })).wait();
    assert_eq!(status, Some(1));
    assert!(
        errors.contains("expected \"auto\" or a list of networks"),
        "{errors}"
    );
}
