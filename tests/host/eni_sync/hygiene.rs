//! What the agent does about what others have left: attachments without a container,
//! and ENIs that come, go and get other names.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::time::Duration;

use harness::vpc::{Agent, DEADLINE, Vpc, VpcNode, eventually};
use harness::{Call, Namespace, Pod, Resident, our_plugin};
use serde_json::{Value, json};

const MACS: &str = "/latest/meta-data/network/interfaces/macs/";

/// An agent's configuration that finds our plugins and comes to its point quickly.
fn impatient(grace: u64) -> Value {
    let plugins = our_plugin("host-device");
    let directory = plugins.parent().unwrap();
    json!({ "cniPath": directory, "graceSeconds": grace, "reconcileSeconds": 1 })
}

/// The `interface` of each ENI in the inventory, by device index.
fn interfaces(node: &VpcNode) -> Vec<String> {
    let path = node.run_directory().join("eni-cni/enis.json");
    let Ok(text) = fs::read(path) else {
        return Vec::new();
    };
    let inventory: Value = serde_json::from_slice(&text).unwrap();
    let enis = inventory["enis"].as_array().unwrap();
    let names = enis
        .iter()
        .map(|eni| eni["interface"].as_str().unwrap().to_owned());
    names.collect()
}

/// A device of the node in a pod, with an address of host-local.
fn attach_device(node: &VpcNode, pod: &Pod) -> Call {
    // As a runtime does, by a name in /run/netns.
    let names = node.run_directory().join("netns");
    fs::create_dir_all(&names).unwrap();
    symlink(pod.netns.path(), names.join(&pod.id)).unwrap();
    attach_device_at(node, &pod.id, &format!("/run/netns/{}", pod.id))
}

/// The same in the namespace that this path leads to.
pub(super) fn attach_device_at(node: &VpcNode, id: &str, netns: &str) -> Call {
    node.add_device();
    let conf = json!({
        "cniVersion": "1.0.0", "name": "dpdk", "type": "host-device", "device": "dev7",
        "ipam": { "type": "host-local", "subnet": "10.9.0.0/24" },
    });
    let call = Call::ours("host-device", "ADD").conf(&conf);
    let call = call.attachment(id, "net1", netns);
    node.run(&call).ok();
    call
}

/// Waits until the agent has ended an attachment that is made here, whose container has gone. It
/// has looked at all others then, too.
fn await_look(node: &VpcNode, agent: &Agent) {
    node.node.netns.ip(&["link", "add", "dev8", "type", "veth"]);
    let conf = json!({
        "cniVersion": "1.0.0", "name": "other", "type": "host-device", "device": "dev8",
        "ipam": { "type": "host-local", "subnet": "10.8.0.0/24" },
    });
    let (pod, name) = (Pod::new("c8"), node.run_directory().join("netns/c8"));
    symlink(pod.netns.path(), &name).unwrap();
    let call = Call::ours("host-device", "ADD").conf(&conf);
    node.run(&call.attachment("c8", "net1", "/run/netns/c8"))
        .ok();
    let reservation = node.node.state().join("networks/other/10.8.0.2");
    assert!(reservation.exists());
    fs::remove_file(name).unwrap();
    drop(pod);
    assert!(eventually(|| !reservation.exists()), "{}", agent.log());
}

/// As `ctr run --cni` and nerdctl name namespaces.
#[test]
fn a_namespace_that_another_process_keeps_has_not_ended_with_the_one_that_named_it() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let first = Resident::alone();
    attach_device_at(&node, "c1", &first.netns());
    let second = Resident::inside(&first.netns());
    drop(first);
    let agent = Agent::start(&node, &impatient(0));
    assert!(eventually(|| agent.log().contains("is kept: ")));
    assert!(node.lab.wait_for_call("DescribeInstanceTypes", 3, DEADLINE));
    let pod = Namespace::at(second.netns());
    assert_eq!(pod.links(), ["lo", "net1"]);
    drop(pod);
    let log = agent.log();
    assert_eq!(log.matches("is kept: ").count(), 1, "{log}");
    let reservation = node.node.state().join("networks/dpdk/10.9.0.2");
    assert!(reservation.exists());
    drop(second);
    assert!(eventually(|| !reservation.exists()));
}

/// A pod whose namespace has the number of one that has ended.
fn pod_with_number_of(ended: Pod) -> Option<Pod> {
    let number = |pod: &Pod| fs::metadata(pod.netns.path()).unwrap().ino();
    let wanted = number(&ended);
    drop(ended);
    // The kernel gives the lowest number that is free, some time after the end.
    let mut others = Vec::new();
    for _ in 0..200 {
        let pod = Pod::new("c2");
        match number(&pod).cmp(&wanted) {
            Ordering::Equal => return Some(pod),
            Ordering::Less => others.push(pod),
            Ordering::Greater => {}
        }
    }
    None
}

#[test]
fn a_namespace_with_the_number_of_one_that_ended_is_another_one() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let name = node.run_directory().join("netns/c1");
    let attach = || {
        let pod = Pod::new("c1");
        let call = attach_device(&node, &pod);
        (pod_with_number_of(pod), call)
    };
    // Other tests may take the number first.
    let detach = |call: &Call| {
        fs::remove_file(&name).unwrap();
        node.run(&call.clone().env("CNI_COMMAND", "DEL")).ok();
        let is_there = || node.node.netns.links().contains(&"peer7".to_owned());
        assert!(eventually(|| !is_there()));
    };
    let other = (0..50).find_map(|_| {
        let (other, call) = attach();
        other.or_else(|| {
            detach(&call);
            None
        })
    });
    let other = other.expect("the number is used again");
    fs::remove_file(&name).unwrap();
    symlink(other.netns.path(), &name).unwrap();
    let _agent = Agent::start(&node, &impatient(0));
    let reservation = node.node.state().join("networks/dpdk/10.9.0.2");
    assert!(eventually(|| !reservation.exists()));
}

#[test]
fn an_attachment_whose_container_has_gone_is_ended_by_its_own_plugin() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    attach_device(&node, &pod);
    let reservation = node.node.state().join("networks/dpdk/10.9.0.2");
    assert!(reservation.exists());
    fs::remove_file(node.run_directory().join("netns/c1")).unwrap();
    drop(pod);
    let _agent = Agent::start(&node, &impatient(0));
    assert!(eventually(|| !reservation.exists()));
    let records = || {
        node.node
            .files()
            .iter()
            .any(|file| file.contains("host-device/"))
    };
    assert!(eventually(|| !records()), "{:?}", node.node.files());
}

#[test]
fn an_attachment_is_not_ended_before_the_grace_time_or_while_its_container_runs() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    attach_device(&node, &pod);
    let agent = Agent::start(&node, &impatient(0));
    assert!(
        node.lab.wait_for_call("DescribeInstanceTypes", 3, DEADLINE),
        "it has compared twice"
    );
    await_look(&node, &agent);
    agent.stop();
    assert_eq!(pod.netns.links(), ["lo", "net1"]);
    fs::remove_file(node.run_directory().join("netns/c1")).unwrap();
    let _agent = Agent::start(&node, &impatient(3600));
    assert!(node.lab.wait_for_call("DescribeInstanceTypes", 6, DEADLINE));
    assert!(node.node.state().join("networks/dpdk/10.9.0.2").exists());
}

#[test]
fn what_cannot_be_seen_is_not_taken_for_gone() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    attach_device(&node, &pod);
    // As in a container that does not share the directory of the runtime: the names are
    // not there, or there is no mount at them.
    let names = node.run_directory().join("netns");
    fs::remove_file(names.join("c1")).unwrap();
    fs::write(names.join("c1"), "").unwrap();
    let agent = Agent::start(&node, &impatient(0));
    assert!(node.lab.wait_for_call("DescribeInstanceTypes", 3, DEADLINE));
    await_look(&node, &agent);
    agent.stop();
    fs::remove_dir_all(&names).unwrap();
    let _agent = Agent::start(&node, &impatient(0));
    assert!(node.lab.wait_for_call("DescribeInstanceTypes", 6, DEADLINE));
    assert!(node.node.state().join("networks/dpdk/10.9.0.2").exists());
}

#[test]
fn an_eni_that_is_plugged_in_is_in_the_inventory() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let _agent = Agent::start(&node, &json!({}));
    assert!(eventually(|| interfaces(&node) == ["", "ens6"]));
    let second = node.lab.multus_eni(&node.instance, &vpc.pods);
    let mac = node.lab.mac(&second);
    node.node
        .netns
        .ip(&["link", "add", "ens7", "address", &mac, "type", "bridge"]);
    assert!(eventually(|| interfaces(&node) == ["", "ens6", "ens7"]));
    node.node
        .netns
        .ip(&["link", "set", "ens7", "name", "user0"]);
    assert!(eventually(|| interfaces(&node) == ["", "ens6", "user0"]));
    node.lab.detach_eni(&second);
    node.node.netns.ip(&["link", "del", "user0"]);
    assert!(eventually(|| interfaces(&node) == ["", "ens6"]));
}

#[test]
fn an_eni_that_the_metadata_show_late_is_found_nevertheless() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let _agent = Agent::start(&node, &json!({}));
    assert!(eventually(|| interfaces(&node) == ["", "ens6"]));
    node.lab
        .rules(|rules| rules.imds_lag = Duration::from_secs(2));
    let second = node.lab.multus_eni(&node.instance, &vpc.pods);
    let mac = node.lab.mac(&second);
    node.node
        .netns
        .ip(&["link", "add", "ens7", "address", &mac, "type", "bridge"]);
    assert!(eventually(|| interfaces(&node) == ["", "ens6", "ens7"]));
}

#[test]
fn pods_that_come_and_go_cost_no_question() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let _agent = Agent::start(&node, &json!({}));
    assert!(eventually(|| interfaces(&node) == ["", "ens6"]));
    let has_compared = node
        .lab
        .wait_for_call("DescribeNetworkInterfaces", 2, DEADLINE);
    assert!(has_compared);
    let before = node.lab.calls();
    for number in 0..10 {
        let pod = Pod::new(&format!("c{number}"));
        let end = format!("veth{number}");
        let target = pod.netns.path();
        let peer = ["peer", "name", "eth0", "netns", &target];
        node.node
            .netns
            .ip(&[&["link", "add", &end, "type", "veth"][..], &peer].concat());
        node.node.netns.ip(&["link", "del", &end]);
    }
    let asked = node.lab.imds_calls();
    // The next change shows that those before it have been seen.
    node.node
        .netns
        .ip(&["link", "set", "ens6", "name", "ens66"]);
    assert!(eventually(|| interfaces(&node) == ["", "ens66"]));
    assert_eq!(node.lab.calls(), before);
    let looks = |calls: &BTreeMap<String, u64>| calls.get(MACS).copied().unwrap_or_default();
    assert!(looks(&node.lab.imds_calls()) <= looks(&asked) + 2);
}
