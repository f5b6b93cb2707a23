//! A command that is killed at any moment leaves an intent in the ledger: the DEL and
//! the GC that follow leave the VPC as it was, and an ADD that follows succeeds.

use std::fs;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use harness::eni_lab::{Hold, Lab};
use harness::fault::{Strike, each_system_call};
use harness::vpc::{DEADLINE, Vpc, VpcNode};
use harness::{Call, Node, Pod};

const ASSIGN: &str = "AssignPrivateIpAddresses";
const UNASSIGN: &str = "UnassignPrivateIpAddresses";
const ADDRESS: &str = "10.0.4.70";

/// At least as many system calls as DEL makes that change something.
const LEAST: usize = 5;

/// A node whose ENI has an address of another pod, which nothing here may touch.
fn ready(vpc: &Vpc) -> VpcNode {
    let node = vpc.node();
    node.add(&Pod::new("c0"), &["10.0.4.60"]).ok();
    node
}

/// What a runtime does after a failure, and everybody some time later.
#[track_caller]
fn clean_up(node: &VpcNode, pod: &Pod, what: &str) {
    node.del(pod);
    let ledger = node.ledger();
    assert_ne!(
        ledger.get(ADDRESS).map(String::as_str),
        Some("held"),
        "{what}"
    );
    // What was only wanted is looked for twice before it is forgotten.
    for _ in 0..2 {
        if node.ledger().contains_key(ADDRESS) {
            node.end_cooldown(ADDRESS);
        }
        node.gc(&[&Pod::new("c0")]);
    }
    assert_eq!(node.addresses(), ["10.0.4.60"], "{what}");
    assert_eq!(
        node.ledger().into_keys().collect::<Vec<_>>(),
        ["10.0.4.60"],
        "{what}"
    );
}

/// Kills what `make` sets up at every system call in turn that changes something, or at
/// one of `every`, and calls `then` after each.
fn kill_everywhere(
    every: usize,
    make: impl Fn(&VpcNode, &Pod) -> Call + Sync,
    then: impl Fn(&VpcNode, &Pod, &str) + Sync,
) {
    let kills = AtomicUsize::new(0);
    let site = || {
        let vpc = Vpc::new();
        let node = ready(&vpc);
        (node, vpc)
    };
    each_system_call(every, site, |(node, _), nth| {
        let pod = Pod::new("c1");
        let call = make(node, &pod);
        let how = Strike::kill(nth);
        let struck = node.node.strike(&call, how);
        then(node, &pod, &format!("{nth} {:?}", struck.hit));
        let directory = fs::read_dir(node.ledger_path()).unwrap();
        let names: Vec<_> = directory.map(|entry| entry.unwrap().file_name()).collect();
        assert!(names.len() <= 4, "something piles up: {names:?}");
        kills.fetch_add(usize::from(struck.hit.is_some()), Ordering::Relaxed);
        struck.hit.is_some()
    });
    let kills = kills.into_inner();
    assert!(kills * every >= LEAST, "only {kills} kills");
}

#[test]
fn what_an_add_that_was_killed_anywhere_has_left_is_cleaned() {
    kill_everywhere(
        1,
        |node, pod| node.pod_call("ADD", pod, &[ADDRESS]),
        clean_up,
    );
}

#[test]
fn an_add_succeeds_after_one_that_was_killed_anywhere() {
    kill_everywhere(
        3,
        |node, pod| node.pod_call("ADD", pod, &[ADDRESS]),
        |node, pod, what| {
            node.add(pod, &[ADDRESS]).ok();
            assert_eq!(node.addresses(), ["10.0.4.60", ADDRESS], "{what}");
            clean_up(node, pod, what);
        },
    );
}

#[test]
fn a_del_completes_one_that_was_killed_anywhere() {
    let make = |node: &VpcNode, pod: &Pod| {
        node.add(pod, &[ADDRESS]).ok();
        node.pod_call("DEL", pod, &[])
    };
    kill_everywhere(1, make, clean_up);
}

#[test]
fn a_gc_completes_one_that_was_killed_anywhere() {
    let make = |node: &VpcNode, pod: &Pod| {
        node.add(pod, &[ADDRESS]).ok();
        node.del(pod);
        node.end_cooldown(ADDRESS);
        node.gc_call(&[&Pod::new("c0")])
    };
    kill_everywhere(3, make, clean_up);
}

#[test]
fn another_pod_gets_the_address_after_a_gc_that_was_killed_anywhere() {
    let make = |node: &VpcNode, pod: &Pod| {
        node.add(pod, &[ADDRESS]).ok();
        node.del(pod);
        node.end_cooldown(ADDRESS);
        node.gc_call(&[&Pod::new("c0")])
    };
    kill_everywhere(3, make, |node, _, what| {
        let next = Pod::new("c2");
        node.add(&next, &[ADDRESS]).ok();
        assert_eq!(node.addresses(), ["10.0.4.60", ADDRESS], "{what}");
        clean_up(node, &next, what);
    });
}

/// Kills `call` while EC2 holds its `action`, before or after that is carried out.
pub(super) fn kill_while_held(node: &VpcNode, call: &Call, action: &str, hold: Hold) {
    kill_held(&node.node, &node.lab, call, (action, hold));
}

/// The same on any node of a VPC.
pub(super) fn kill_held(node: &Node, lab: &Lab, call: &Call, (action, hold): (&str, Hold)) {
    lab.reset_calls();
    lab.hold(action, hold);
    let mut child = node.inside(|| call.start(Stdio::null()));
    assert!(lab.wait_until(DEADLINE, |lab| lab.held() == 1));
    child.kill().unwrap();
    child.wait().unwrap();
    // The lab drops a call whose client is gone.
    assert!(lab.wait_until(DEADLINE, |lab| lab.held() == 0));
    lab.release_held();
}

#[test]
fn an_add_that_was_killed_while_aws_worked_is_cleaned_or_completed() {
    for hold in [Hold::BeforeCommit, Hold::AfterCommit] {
        let vpc = Vpc::new();
        let node = ready(&vpc);
        let pod = Pod::new("c1");
        let call = node.pod_call("ADD", &pod, &[ADDRESS]);
        kill_while_held(&node, &call, ASSIGN, hold);
        assert_eq!(node.ledger()[ADDRESS], "claiming");
        clean_up(&node, &pod, "killed");
        kill_while_held(&node, &call, ASSIGN, hold);
        node.add(&pod, &[ADDRESS]).ok();
        assert_eq!(node.ledger()[ADDRESS], "held");
        clean_up(&node, &pod, "completed");
    }
}

#[test]
fn a_gc_that_was_killed_while_aws_worked_leaves_nothing_half_done() {
    for hold in [Hold::BeforeCommit, Hold::AfterCommit] {
        for is_wanted_again in [false, true] {
            let vpc = Vpc::new();
            let node = ready(&vpc);
            let pod = Pod::new("c1");
            node.add(&pod, &[ADDRESS]).ok();
            let had = Instant::now();
            node.del(&pod);
            node.end_cooldown(ADDRESS);
            let call = node.gc_call(&[&Pod::new("c0")]);
            kill_while_held(&node, &call, UNASSIGN, hold);
            if is_wanted_again {
                // The metadata still show the address, and that counts for nothing now.
                node.lab.rules(|rules| rules.imds_lag = had.elapsed());
                node.add(&pod, &[ADDRESS]).ok();
                assert_eq!(vpc.owner(ADDRESS), Some(node.eni.clone()));
            }
            clean_up(&node, &pod, "killed");
        }
    }
}

#[test]
fn a_process_that_was_killed_with_the_lock_releases_it() {
    let vpc = Vpc::new();
    let node = ready(&vpc);
    let pods = ["c1", "c2"].map(Pod::new);
    let call = node.pod_call("ADD", &pods[0], &[ADDRESS]);
    kill_while_held(&node, &call, ASSIGN, Hold::BeforeCommit);
    node.lab.reset_calls();
    // What the dead one has claimed is asked for along with the rest: its pod lives.
    node.add(&pods[1], &["10.0.4.71"]).ok();
    assert_eq!(node.addresses(), ["10.0.4.60", ADDRESS, "10.0.4.71"]);
    assert_eq!(node.lab.calls()[ASSIGN], 1);
}
