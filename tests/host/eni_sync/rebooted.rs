//! An ENI that was away while its node was down: its interface looks as before, and for a minute
//! EC2 may describe it as before.

use std::fs;
use std::time::Duration;

use harness::vpc::{Vpc, VpcNode, ip};
use harness::{Call, Output, Pod};
use serde_json::json;

use super::confirmed::{fill, pool};
use super::ipam::{addresses, call, ipv4, sharing};
use super::prefixes::{contains, kept, one, prefixes};

const FIRST: &str = "10.0.4.64";
/// How much older, in seconds, what has happened becomes.
const PAST: u64 = 7200;

/// Runs a call on a node that has been up for so many seconds.
fn run_after(node: &VpcNode, up: i64, call: &Call) -> Output {
    let uptime = fs::read_to_string("/proc/uptime").unwrap();
    let seconds: i64 = uptime.split('.').next().unwrap().parse().unwrap();
    let offset = (up - seconds).to_string();
    let arguments = ["--time", "--boottime", &offset];
    node.node.inside(|| call.run_under("unshare", &arguments))
}

/// Restarts a node whose ENI is detached meanwhile, loses what `taken` takes from it, and comes
/// back. Descriptions show the time before.
fn restart(vpc: &Vpc, node: &mut VpcNode, taken: impl FnOnce(&VpcNode)) {
    vpc.lab.age(Duration::from_secs(PAST));
    let lag = Duration::from_secs(600);
    vpc.lab.rules(|rules| rules.describe_lag = lag);
    vpc.lab.detach_eni(&node.eni);
    taken(node);
    vpc.lab.attach_eni(&node.eni, &node.instance, 1);
    fs::remove_dir_all(node.run_directory().join("eni-cni")).unwrap();
    node.node.reboot();
}

#[test]
fn what_was_taken_from_an_eni_while_its_node_was_down_is_given_to_no_pod() {
    let vpc = Vpc::new();
    let (mut node, other) = (vpc.node(), vpc.node());
    fill(&node, &pool(64, 64, 1), 1);
    // As old as the attachment will be described.
    node.edit_ledger(FIRST, |entry| {
        let time = entry["attachment"]["attachTime"].as_u64().unwrap();
        entry["attachment"]["attachTime"] = json!(time - PAST);
    });
    restart(&vpc, &mut node, |node| {
        vpc.lab.unassign(&node.eni, &[ip(FIRST)]);
        other.add(&Pod::new("theirs"), &[FIRST]).ok();
    });
    let sync = node.call("").without("CNI_COMMAND");
    let output = run_after(&node, 20, &sync.arguments(&["sync", "--once"]));
    assert_eq!(output.status, Some(0), "{output}");
    let pod = Pod::new("c1");
    let add = node.pod_call("ADD", &pod, &[FIRST]);
    run_after(&node, 30, &add).error_code(11);
    assert_eq!(vpc.owner(FIRST), Some(other.eni.clone()));
}

#[test]
fn a_prefix_that_was_taken_while_the_node_was_down_gives_no_pod_an_address() {
    let vpc = Vpc::new();
    let (mut node, other) = (vpc.node(), vpc.node());
    drop(kept(&node, &one(), 1));
    let prefix = prefixes(&node).remove(0);
    restart(&vpc, &mut node, |node| {
        vpc.lab.unassign_prefix(&node.eni, &prefix);
        vpc.lab.assign_prefix(&other.eni, &prefix);
    });
    let pod = sharing(&node, "c1");
    let add = call(&node, "ADD", &pod, &ipv4());
    let result = run_after(&node, 30, &add).ok();
    let address = addresses(&result).remove(0);
    assert!(!contains(&prefix, &address), "{address} is in {prefix}");
    assert_eq!(vpc.owner(&address), Some(node.eni.clone()));
}

/// What is described a minute after the boot is of the present attachment.
#[test]
fn a_prefix_is_used_again_when_a_description_is_younger_than_the_boot() {
    let vpc = Vpc::new();
    let mut node = vpc.node();
    drop(kept(&node, &one(), 1));
    let prefix = prefixes(&node).remove(0);
    vpc.lab.age(Duration::from_secs(PAST));
    fs::remove_dir_all(node.run_directory().join("eni-cni")).unwrap();
    node.node.reboot();
    let sync = node.call("").without("CNI_COMMAND");
    let sync = sync.arguments(&["sync", "--once"]);
    let add = |id: &str| {
        let pod = sharing(&node, id);
        let add = call(&node, "ADD", &pod, &ipv4());
        addresses(&run_after(&node, 70, &add).ok()).remove(0)
    };
    for (up, is_used) in [(30, false), (65, true)] {
        let output = run_after(&node, up, &sync);
        assert_eq!(output.status, Some(0), "{output}");
        let address = add(&format!("c{up}"));
        assert_eq!(contains(&prefix, &address), is_used, "{up}: {address}");
    }
}
