//! What the agent does about containers that have ended without a DEL and whose plugin keeps
//! no record, and what it says of pods whose ENI has been taken from the instance.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use fixtures::scrape::{ADDRESS, Scrape};
use harness::vpc::{Agent, DEADLINE, Vpc, VpcNode, eventually};
use harness::{Call, Network, Pod};
use serde_json::{Value, json};

use super::auto::{PUBLISHED, attach};

fn watching(keys: &Value) -> Value {
    let watched = json!({ "name": "conf-1", "master": "ens6", "cooldownSeconds": 0 });
    let mut configuration = json!({
        "networks": [watched], "reconcileSeconds": 1, "graceSeconds": 0, "metrics": ADDRESS,
    });
    for (key, value) in keys.as_object().unwrap() {
        configuration[key] = value.clone();
    }
    configuration
}

/// The name that a runtime has given the namespace of a pod.
fn name(node: &VpcNode, pod: &Pod) -> PathBuf {
    node.run_directory().join("netns").join(&pod.id)
}

/// A pod that has an address of host-local only, as under a plugin of somebody else.
fn reserve(node: &VpcNode, pod: &Pod) {
    let name = name(node, pod);
    fs::create_dir_all(name.parent().unwrap()).unwrap();
    symlink(pod.netns.path(), &name).unwrap();
    let conf = json!({
        "cniVersion": "1.0.0", "name": "conf-1", "type": "ptp",
        "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.0.4.0/24", "rangeStart": "10.0.4.70" }]] },
    });
    let call = Call::ours("host-local", "ADD").conf(&conf);
    let call = call.attachment(&pod.id, "net1", &format!("/run/netns/{}", pod.id));
    node.run(&call).ok();
}

fn is_reserved(node: &VpcNode, address: &str) -> bool {
    let directory = node.node.state().join("networks/conf-1");
    directory.join(address).exists()
}

/// Waits until the agent has looked twice from now on.
fn await_looks(node: &VpcNode) {
    let calls = node.lab.calls();
    let looks = calls
        .get("DescribeInstanceTypes")
        .copied()
        .unwrap_or_default();
    let has_looked = node
        .lab
        .wait_for_call("DescribeInstanceTypes", looks + 3, DEADLINE);
    assert!(has_looked);
}

#[test]
fn what_a_container_has_reserved_that_ended_without_a_del_is_released() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let [gone, living] = ["gone", "living"].map(Pod::new);
    reserve(&node, &gone);
    reserve(&node, &living);
    let agent = Agent::start(&node, &watching(&json!({})));
    assert!(
        node.lab
            .wait_until(DEADLINE, |_| node.addresses() == ["10.0.4.70", "10.0.4.71"])
    );
    fs::remove_file(name(&node, &gone)).unwrap();
    drop(gone);
    assert!(eventually(|| !is_reserved(&node, "10.0.4.70")));
    assert!(
        node.lab
            .wait_until(DEADLINE, |_| node.addresses() == ["10.0.4.71"])
    );
    let text = "released 10.0.4.70 of network conf-1, reserved for container gone, interface net1";
    assert!(eventually(|| agent.log().contains(text)), "{}", agent.log());
    let is_counted = || Scrape::of(&node).value("reclaimed_reservations_total") == 1.0;
    assert!(eventually(is_counted));
    assert!(is_reserved(&node, "10.0.4.71"));
}

#[test]
fn what_may_belong_to_a_running_container_stays_reserved() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let [living, hidden] = ["living", "hidden"].map(Pod::new);
    reserve(&node, &living);
    reserve(&node, &hidden);
    // No mount is visible at its name.
    fs::remove_file(name(&node, &hidden)).unwrap();
    fs::write(name(&node, &hidden), "").unwrap();
    let _agent = Agent::start(&node, &watching(&json!({})));
    await_looks(&node);
    assert!(is_reserved(&node, "10.0.4.70"), "its container lives");
    assert!(
        is_reserved(&node, "10.0.4.71"),
        "its container is not visible"
    );
}

#[test]
fn nothing_is_released_where_that_is_turned_off_or_before_the_grace_time() {
    for keys in [json!({ "reclaim": false }), json!({ "graceSeconds": 3600 })] {
        let vpc = Vpc::new();
        let node = vpc.node();
        let pod = Pod::new("gone");
        reserve(&node, &pod);
        fs::remove_file(name(&node, &pod)).unwrap();
        drop(pod);
        let _agent = Agent::start(&node, &watching(&keys));
        await_looks(&node);
        assert!(is_reserved(&node, "10.0.4.70"), "{keys}");
    }
}

#[test]
fn a_pod_whose_eni_is_detached_is_named_once_and_counted() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    node.add(&pod, &["10.0.4.70"]).ok();
    let configuration = json!({ "metrics": ADDRESS, "reconcileSeconds": 1 });
    let agent = Agent::start(&node, &configuration);
    let count = || Scrape::of(&node).value("detached_attachments");
    await_looks(&node);
    assert_eq!(count(), 0.0);
    node.lab.detach_eni(&node.eni);
    assert!(eventually(|| count() == 1.0));
    await_looks(&node);
    let text = format!(
        "container c1, interface net1, network mgmt has lost its interface with 10.0.4.70: \
         {} is not attached",
        node.eni
    );
    let said = agent.log();
    assert_eq!(said.matches(&text).count(), 1, "{said}");
    node.del(&pod);
    assert!(eventually(|| count() == 0.0));
}

/// As a driver that is loaded again makes it: the same ENI, and another link.
#[test]
fn a_pod_whose_master_was_made_anew_is_named_once_and_counted() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let [pod, other] = ["c1", "c2"].map(Pod::new);
    let network = Network::published(PUBLISHED);
    let directory = node.node.state().join("eni-cni/ipvlan");
    let record = |pod: &Pod| {
        let file = format!("{}:net1.json", pod.id);
        directory.join(&network.name).join(file)
    };
    let master = &node.node.netns.link("ens6").unwrap()["ifindex"];
    for pod in [&pod, &other] {
        attach(&node, &network, pod, &node.mac);
        let text = fs::read_to_string(record(pod)).unwrap();
        let text = text.replace("\"masterIndex\":2", &format!("\"masterIndex\":{master}"));
        fs::write(record(pod), text).unwrap();
    }
    let is_up = ["link", "add", "net1", "up", "type", "bridge"];
    other.netns.ip(&is_up);
    let agent = Agent::start(&node, &json!({ "metrics": ADDRESS, "reconcileSeconds": 1 }));
    let count = || Scrape::of(&node).value("detached_attachments");
    await_looks(&node);
    assert_eq!(count(), 0.0, "{}", agent.log());
    node.node.netns.ip(&["link", "del", "ens6"]);
    let anew = [
        "link", "add", "ens6", "index", "77", "address", &node.mac, "type", "bridge",
    ];
    node.node.netns.ip(&anew);
    assert!(eventually(|| count() == 1.0), "{}", agent.log());
    await_looks(&node);
    let text = format!(
        "container c1, interface net1, network {} has lost its interface: the master with MAC {} \
         was removed, or made anew",
        network.name, node.mac
    );
    let said = agent.log();
    assert_eq!(said.matches(&text).count(), 1, "{said}");
    let output = node.command(&["doctor"]);
    assert!(output.stdout.contains(&text), "{output}");
    fs::remove_file(record(&pod)).unwrap();
    assert!(eventually(|| count() == 0.0));
}
