//! What must never happen, 7: an address that a pod, or the node itself, has is given to no other
//! pod, whatever the ledger says of it. An address that is on an interface is seen by every test,
//! so each has its own.

use std::fs::{self, File};
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::thread;

use harness::eni_lab::Hold;
use harness::vpc::{Vpc, VpcNode, assert_refused, eventually, ip, while_held};
use harness::{Call, Pod};
use nix::fcntl::{Flock, FlockArg};
use serde_json::{Value, json};

use super::ipam::{ASSIGN, add, addresses, call, call_with, del, intents, ipv4, sharing, whole};
use super::prefixes::node_of_its_own;
use super::release_command::{give_interface_back, give_whole_eni};

/// Puts an address on an interface of a pod.
pub(super) fn put(pod: &Pod, address: &str) {
    let cidr = format!("{address}/32");
    pod.netns.ip(&["address", "add", &cidr, "dev", "lo"]);
}

pub(super) fn take_off(pod: &Pod, address: &str) {
    let cidr = format!("{address}/32");
    pod.netns.ip(&["address", "del", &cidr, "dev", "lo"]);
}

/// A pod that no plugin of this suite has attached, with the address.
pub(super) fn unknown_pod(node: &VpcNode, address: &str) -> Pod {
    let directory = node.run_directory().join("netns");
    fs::create_dir_all(&directory).unwrap();
    let pod = Pod::new("unknown");
    symlink(pod.netns.path(), directory.join("cni-unknown")).unwrap();
    put(&pod, address);
    pod
}

/// The `ipam` section of a network whose pods have an address by name.
pub(super) fn named(address: &str) -> Value {
    json!({ "families": ["ipv4"], "addresses": [address] })
}

/// The two ways in which an address is asked for by name.
pub(super) fn requests(node: &VpcNode, pod: &Pod, address: &str) -> [Call; 2] {
    let chained = node.pod_call("ADD", pod, &[address]);
    [call(node, "ADD", pod, &named(address)), chained]
}

/// The next pod does not get the address, however it asks for it. EC2 is asked for nothing, and
/// the ledger has the address as before; one that it did not know is adopted.
#[track_caller]
fn assert_not_given(node: &VpcNode, address: &str, why: &str) {
    let before = node.ledger();
    let known = before.get(address).map_or("adopted", String::as_str);
    node.lab.reset_calls();
    let next = sharing(node, "next");
    for request in requests(node, &next, address) {
        let text = format!(
            "{address} on {} cannot be given to another pod yet",
            node.eni
        );
        assert_refused(node, &request, 11, &[&text, why]);
        assert_eq!(node.ledger()[address], known);
    }
}

#[track_caller]
fn assert_given(node: &VpcNode, address: &str) {
    let next = sharing(node, "after");
    for request in requests(node, &next, address) {
        node.run(&request).ok();
    }
    assert_eq!(node.ledger()[address], "held");
}

/// The runtime has ended the attachment, and the pod lives on, whatever the ledger makes of that.
#[test]
fn rule_7_what_a_pod_still_has_after_its_end_is_given_to_no_other_pod() {
    let address = "10.0.4.211";
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = sharing(&node, "c1");
    put(&pod, address);
    let own = requests(&node, &pod, address);
    node.run(&own[0]).ok();
    del(&node, &pod);
    for state in ["releasing", "withdrawn", "adopted"] {
        node.edit_ledger(address, |entry| entry["state"] = json!(state));
        assert_not_given(&node, address, "it is on an interface of a pod");
    }
    // The claim of an attachment that has ended without a DEL.
    node.edit_ledger(address, |entry| {
        entry["state"] = json!("held");
        entry["owner"]["bootId"] = json!("earlier");
    });
    let directory = node.run_directory().join("netns");
    fs::create_dir(&directory).unwrap();
    symlink(pod.netns.path(), directory.join("c1")).unwrap();
    assert_not_given(&node, address, "it is on an interface of a pod");
    // The pod itself may ask again.
    for own in &own {
        node.run(own).ok();
    }
    del(&node, &pod);
    take_off(&pod, address);
    assert_given(&node, address);
}

#[test]
fn rule_7_what_a_pod_has_that_nobody_knows_is_given_to_no_other_pod() {
    let address = "10.0.4.212";
    let vpc = Vpc::new();
    let node = vpc.node();
    node.lab.assign(&node.eni, &[ip(address)]);
    let unknown = unknown_pod(&node, address);
    // That the metadata do not answer does not say that the ENI does not have the address.
    for down_for in [Some("/local-ipv4s".to_owned()), None] {
        node.lab.rules(|rules| rules.imds_down_for = down_for);
        assert_not_given(&node, address, "it is on an interface of a pod");
    }
    take_off(&unknown, address);
    assert_given(&node, address);
}

/// It cannot be told from a namespace that is not visible, but nothing says that the address is
/// there.
#[test]
fn a_file_that_a_runtime_has_left_keeps_no_pod_from_an_address_that_nobody_is_known_to_have() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let directory = node.run_directory().join("netns");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("cni-left"), "").unwrap();
    for (pod, address) in [("c1", "10.0.4.197"), ("c2", "10.0.4.229")] {
        node.lab.assign(&node.eni, &[ip(address)]);
        let pod = sharing(&node, pod);
        for request in requests(&node, &pod, address) {
            node.run(&request).ok();
            del(&node, &pod);
            node.edit_ledger(address, |entry| {
                entry["state"] = json!("adopted");
                entry.as_object_mut().unwrap().remove("owner");
            });
        }
    }
}

#[test]
fn rule_7_what_the_node_itself_has_is_given_to_no_pod() {
    let address = "10.0.4.213";
    let vpc = Vpc::new();
    let node = vpc.node();
    node.lab.assign(&node.eni, &[ip(address)]);
    let cidr = format!("{address}/24");
    let on_node = |verb: &str| node.node.netns.ip(&["address", verb, &cidr, "dev", "ens6"]);
    on_node("add");
    assert_not_given(
        &node,
        address,
        "it is on interface \"ens6\" of the node itself",
    );
    node.command(&["sync", "--once"]);
    assert_not_given(
        &node,
        address,
        "it is on interface \"ens6\" of the node itself",
    );
    on_node("del");
    assert_given(&node, address);
}

/// Another program has removed the address from the ENI, so EC2 may choose it.
#[test]
fn rule_7_what_a_pod_still_has_is_given_to_no_other_pod_when_ec2_chooses_it() {
    let vpc = Vpc::new();
    let node = node_of_its_own(&vpc, "10.0.186.0/24");
    let pod = sharing(&node, "c1");
    let address = add(&node, &pod);
    put(&pod, &address);
    del(&node, &pod);
    node.lab.unassign(&node.eni, &[ip(&address)]);
    let other = add(&node, &sharing(&node, "c2"));
    assert_ne!(other, address);
    assert_eq!(node.ledger()[&address], "releasing");
    assert_eq!(node.ledger()[&other], "held");
    assert_eq!(node.addresses(), [address, other]);
}

#[test]
fn rule_7_who_waits_is_told_that_pods_still_have_all_that_ec2_chooses() {
    let vpc = Vpc::new();
    let node = node_of_its_own(&vpc, "10.0.185.0/24");
    let pods: Vec<Pod> = (1..10).map(|n| sharing(&node, &format!("c{n}"))).collect();
    let chosen: Vec<String> = pods.iter().map(|pod| add(&node, pod)).collect();
    for (pod, address) in pods.iter().zip(&chosen) {
        put(pod, address);
        del(&node, pod);
    }
    let all: Vec<IpAddr> = chosen.iter().map(|address| ip(address)).collect();
    node.lab.unassign(&node.eni, &all);
    let next = sharing(&node, "next");
    let request = call(&node, "ADD", &next, &ipv4());
    let text = format!(
        "that EC2 chose for {} is excluded, or may be in use",
        node.eni
    );
    let error = node.run(&request).error_code(11);
    let says = "it is on an interface of a pod";
    assert!(
        error.msg.contains(&text) && error.details.contains(says),
        "{error:?}"
    );
}

/// An unreadable list of records may have a pod with the whole ENI.
#[test]
fn what_ec2_chooses_while_nobody_knows_whether_a_pod_has_it_is_for_nobody_and_stays_known() {
    let vpc = Vpc::new();
    let node = node_of_its_own(&vpc, "10.0.184.0/24");
    let first = add(&node, &sharing(&node, "c1"));
    node.lab.unassign(&node.eni, &[ip(&first)]);
    fs::remove_dir_all(node.ledger_path()).unwrap();
    node.lab.assign(&node.eni, &[ip(&first)]);
    node.command(&["sync", "--once"]);
    assert_eq!(node.ledger()[&first], "adopted");
    node.lab.unassign(&node.eni, &[ip(&first)]);
    let records = node.node.state().join("eni-cni/host-device");
    fs::create_dir_all(&records).unwrap();
    let of_network = records.join("dpdk");
    symlink(&of_network, &of_network).unwrap();
    let pod = sharing(&node, "c2");
    let output = node.run(&call(&node, "ADD", &pod, &ipv4()));
    let given = addresses(&output.ok()).remove(0);
    assert_ne!(given, first, "{:?}\n{output}", node.ledger());
    assert_eq!(node.addresses().len(), 2);
    assert_eq!(
        (&*node.ledger()[&first], &*node.ledger()[&given]),
        ("adopted", "held")
    );
    assert_eq!(intents(&node), [""; 0]);
}

/// The process in turn asks EC2 for others, too.
#[test]
fn an_eni_has_its_turn_free_while_it_is_not_known_who_has_an_address() {
    let address = "10.0.4.219";
    let vpc = Vpc::new();
    let node = vpc.node();
    node.add(&Pod::new("c0"), &["10.0.4.30"]).ok();
    node.lab.assign(&node.eni, &[ip(address)]);
    let records = node.node.state().join("eni-cni/host-device/dpdk");
    fs::create_dir_all(&records).unwrap();
    fs::write(records.join("c9:net1.json"), "{").unwrap();
    node.lab.reset_calls();
    let turn = node.ledger_path().join(".turn");
    let is_free = || {
        let file = File::open(&turn).unwrap();
        let is_asked = node
            .lab
            .imds_calls()
            .keys()
            .any(|path| path.contains("local-ipv4s"));
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock);
        let entry = fs::read_to_string(node.ledger_path().join(address));
        let is_open = |entry: String| entry.contains("claiming") && !entry.contains("given to");
        is_asked && lock.is_ok() && entry.is_ok_and(is_open)
    };
    let pod = Pod::new("c1");
    thread::scope(|scope| {
        let adding = scope.spawn(|| node.add(&pod, &[address]));
        assert!(eventually(is_free));
        let error = adding.join().unwrap().error_code(11);
        assert!(error.details.contains("c9:net1"), "{error:?}");
    });
}

/// The container has gone without a DEL, so its address is still held.
#[test]
fn rule_7_a_pod_with_the_whole_eni_gets_no_address_of_another_attachment() {
    let address = "10.0.4.216";
    let vpc = Vpc::new();
    let node = vpc.node();
    let first = whole(&node, "c1");
    node.run(&call(&node, "ADD", &first, &named(address))).ok();
    let gone = Pod {
        id: first.id,
        netns: {
            let _ended = first.netns.end();
            Pod::new("gone").netns
        },
    };
    let next = whole(&node, "c2");
    let result = node.run(&call(&node, "ADD", &next, &ipv4())).ok();
    let primary = node.lab.primary(&node.eni).to_string();
    assert_eq!(addresses(&result), [primary]);
    let released = node.run(&call(&node, "DEL", &gone, &named(address)));
    released.ok();
    node.end_cooldown(address);
    node.gc(&[]);
    assert_eq!(node.addresses(), [""; 0]);
    let mut checked = result;
    let interface = json!({ "name": "net1", "mac": node.mac, "sandbox": next.netns.path() });
    checked["interfaces"] = json!([interface]);
    let keys = json!({ "prevResult": checked });
    node.run(&call_with(&node, "CHECK", &next, &ipv4(), &keys))
        .ok();
}

#[test]
fn rule_7_a_pod_with_the_whole_eni_gets_only_what_no_pod_has() {
    let (used, free) = ("10.0.4.217", "10.0.4.218");
    let vpc = Vpc::new();
    let node = vpc.node();
    node.lab.assign(&node.eni, &[ip(used), ip(free)]);
    let unknown = unknown_pod(&node, used);
    let pod = whole(&node, "c1");
    put(&pod, free);
    let given = || addresses(&node.run(&call(&node, "ADD", &pod, &ipv4())).ok());
    let primary = node.lab.primary(&node.eni).to_string();
    assert_eq!(given(), [primary.as_str(), free]);
    node.command(&["sync", "--once"]);
    assert_eq!(given(), [primary.as_str(), free]);
    take_off(&unknown, used);
    assert_eq!(given(), [primary.as_str(), used, free]);
}

#[test]
fn rule_7_a_pod_with_the_whole_eni_does_not_get_what_ec2_chooses_for_another_one() {
    let vpc = Vpc::new();
    let node = node_of_its_own(&vpc, "10.0.190.0/24");
    let (sharer, pod) = (sharing(&node, "c1"), whole(&node, "c2"));
    let (chosen, given) = while_held(
        &node.lab,
        (ASSIGN, Hold::AfterCommit),
        || add(&node, &sharer),
        || addresses(&node.run(&call(&node, "ADD", &pod, &ipv4())).ok()),
    );
    assert_eq!(node.addresses(), [chosen]);
    assert_eq!(given, [node.lab.primary(&node.eni).to_string()]);
}

/// Neither the ledger nor an interface shows what it has got.
#[test]
fn rule_7_what_a_pod_has_with_the_whole_eni_is_given_to_no_other_pod() {
    let address = "10.0.4.219";
    let vpc = Vpc::new();
    let node = vpc.node();
    node.lab.assign(&node.eni, &[ip(address)]);
    let pod = Pod::new("c1");
    give_whole_eni(&node, &pod);
    give_interface_back(&node);
    let why = "a pod may have it with the whole ENI: container c1, interface net1, network dpdk";
    assert_not_given(&node, address, why);
    let _ended = pod.netns.end();
    assert_given(&node, address);
}

/// What it has claimed by name is its own, as long as its device is not back.
#[test]
fn rule_7_what_a_pod_has_claimed_on_its_whole_eni_stays_until_it_has_ended() {
    let address = "10.0.4.236";
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    give_whole_eni(&node, &pod);
    let keys = json!({ "name": "dpdk" });
    let own = |command| call_with(&node, command, &pod, &named(address), &keys);
    node.run(&own("ADD")).ok();
    node.run(&own("DEL")).ok();
    node.end_cooldown(address);
    let output = node.run(&node.gc_call(&[]));
    output.ok();
    let why = format!("{address} stays: a pod may have it with the whole ENI: container c1");
    assert!(output.stderr.contains(&why), "{output}");
    assert_eq!(node.addresses(), [address]);
    node.run(&own("ADD")).ok();
    node.run(&own("DEL")).ok();
    let _ended = pod.netns.end();
    node.end_cooldown(address);
    node.gc(&[]);
    assert_eq!(node.addresses(), [""; 0]);
}

/// An address that its attachment has claimed is no part of what the next one gets with the ENI.
#[test]
fn what_was_claimed_on_a_whole_eni_leaves_while_the_next_pod_has_it() {
    let address = "10.0.4.237";
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = whole(&node, "c1");
    node.run(&call(&node, "ADD", &pod, &named(address))).ok();
    del(&node, &pod);
    let next = Pod::new("c2");
    give_whole_eni(&node, &next);
    node.end_cooldown(address);
    node.gc(&[]);
    assert_eq!(node.addresses(), [""; 0]);
}
