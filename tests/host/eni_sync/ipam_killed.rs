//! A process that is killed at any moment while EC2 chooses an address for its pod: whatever
//! EC2 has chosen is found, given to the next pod or given back, and no address is lost.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use harness::Pod;
use harness::eni_lab::{Fault as Answer, Hold};
use harness::fault::{Counted, Fault, Strike, Struck, each_system_call};
use harness::vpc::{Agent, Vpc, VpcNode, eventually};
use nix::errno::Errno;
use serde_json::json;

use super::ipam::{ASSIGN, add, call, calls, del, intents, ipv4, sharing};
use super::killed::kill_while_held;

/// At least as many system calls as an ADD makes that change something.
const LEAST: usize = 10;

fn unheard(node: &VpcNode) -> PathBuf {
    node.ledger_path().join(".unheard")
}

/// What a runtime does after a failure, and GC some time later.
#[track_caller]
fn clean_up(node: &VpcNode, pod: &Pod, what: &str) {
    del(node, pod);
    for _ in 0..3 {
        node.let_time_pass(61);
        node.gc(&[]);
    }
    assert_eq!(node.addresses(), [""; 0], "{what}: {:?}", node.ledger());
    assert!(node.ledger().is_empty(), "{what}: {:?}", node.ledger());
    assert_eq!(intents(node), [""; 0], "{what}");
}

/// Kills an ADD at every system call in turn that changes something, or at one of `every`.
fn kill_everywhere(every: usize, then: impl Fn(&VpcNode, &Pod, &str) + Sync) {
    strike_everywhere(Fault::Kill, every, |node, pod, struck| {
        then(node, pod, &format!("{:?}", struck.hit));
    });
}

/// Strikes an ADD at every system call in turn, or at one of `every`: at those that change
/// something, or at those that can return the error.
fn strike_everywhere(fault: Fault, every: usize, then: impl Fn(&VpcNode, &Pod, &Struck) + Sync) {
    let strikes = AtomicUsize::new(0);
    let site = || {
        let vpc = Vpc::new();
        (vpc.node(), vpc)
    };
    each_system_call(every, site, |(node, _), nth| {
        let pod = sharing(node, &format!("c{nth}"));
        let how = Strike {
            fault,
            counted: Counted::Changing,
            nth,
        };
        let struck = node.node.strike(&call(node, "ADD", &pod, &ipv4()), how);
        then(node, &pod, &struck);
        strikes.fetch_add(usize::from(struck.hit.is_some()), Ordering::Relaxed);
        struck.hit.is_some()
    });
    let strikes = strikes.into_inner();
    assert!(strikes * every >= LEAST, "only {strikes} of {fault:?}");
}

/// An ADD that is killed when EC2 has assigned an address and not answered yet.
fn kill_when_ec2_has_chosen(node: &VpcNode, pod: &Pod) {
    let call = call(node, "ADD", pod, &ipv4());
    kill_while_held(node, &call, ASSIGN, Hold::AfterCommit);
}

#[test]
fn what_an_add_that_was_killed_anywhere_has_got_is_given_back() {
    kill_everywhere(3, clean_up);
}

#[test]
fn an_add_after_one_that_was_killed_anywhere_needs_one_address() {
    kill_everywhere(5, |node, pod, what| {
        let address = add(node, pod);
        assert_eq!(node.ledger()[&address], "held", "{what}");
        assert_eq!(node.addresses(), [address], "{what}");
        clean_up(node, pod, what);
    });
}

/// A disk that is full or broken, for one system call.
#[test]
fn an_add_in_which_a_system_call_fails_has_its_address_or_says_what_failed() {
    for error in [Errno::ENOSPC, Errno::EIO] {
        strike_everywhere(Fault::Error(error), 17, |node, pod, struck| {
            let what = format!("{:?}: {}", struck.hit, struck.output);
            match struck.output.status {
                Some(0) => {
                    let registered = node.addresses();
                    assert_eq!(registered.len(), 1, "{what}");
                    assert_eq!(node.ledger()[&registered[0]], "held", "{what}");
                }
                _ => {
                    let failed = struck.output.error();
                    assert!(!failed.msg.is_empty(), "{what}");
                }
            }
            clean_up(node, pod, &what);
        });
    }
}

#[test]
fn another_pod_gets_what_ec2_chose_for_one_whose_add_was_killed() {
    for hold in [Hold::BeforeCommit, Hold::AfterCommit] {
        let vpc = Vpc::new();
        let node = vpc.node();
        let pod = sharing(&node, "c1");
        kill_while_held(&node, &call(&node, "ADD", &pod, &ipv4()), ASSIGN, hold);
        assert_eq!(intents(&node), [".unheard", ".wanted-c1-net1-ipv4"]);
        let chosen = node.addresses();
        assert_eq!(chosen.len(), usize::from(hold == Hold::AfterCommit));
        del(&node, &pod);
        let next = sharing(&node, "c2");
        let address = add(&node, &next);
        assert_eq!(node.addresses(), [address]);
        clean_up(&node, &next, "killed");
    }
}

#[test]
fn a_description_that_lags_hides_no_address_for_ever() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = sharing(&node, "c1");
    kill_when_ec2_has_chosen(&node, &pod);
    let lost = node.addresses().remove(0);
    let lag = std::time::Duration::from_secs(3600);
    node.lab.rules(|rules| rules.describe_lag = lag);
    let address = add(&node, &pod);
    assert_ne!(address, lost);
    assert_eq!(intents(&node), [".unheard"]);
    node.lab
        .rules(|rules| rules.describe_lag = std::time::Duration::ZERO);
    clean_up(&node, &pod, "lag");
}

#[test]
fn an_address_that_somebody_else_has_put_on_the_eni_is_left_alone() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let theirs = "10.0.4.200";
    node.lab.assign(&node.eni, &[theirs.parse().unwrap()]);
    let pod = sharing(&node, "c1");
    kill_when_ec2_has_chosen(&node, &pod);
    let address = add(&node, &pod);
    assert_ne!(address, theirs);
    del(&node, &pod);
    for _ in 0..3 {
        node.let_time_pass(61);
        node.gc(&[]);
    }
    assert_eq!(node.addresses(), [theirs]);
}

#[test]
fn a_file_that_cannot_be_read_is_named_and_no_address_is_asked_for() {
    let vpc = Vpc::new();
    let node = vpc.node();
    add(&node, &sharing(&node, "c1"));
    fs::write(unheard(&node), "{").unwrap();
    let before = calls(&node, ASSIGN);
    let output = node.run(&call(&node, "ADD", &sharing(&node, "c2"), &ipv4()));
    let error = output.error_code(6);
    assert!(error.msg.contains(".unheard"), "{error:?}");
    assert_eq!(calls(&node, ASSIGN), before);
}

#[test]
fn an_agent_finds_the_prefixes_of_a_lost_answer() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = sharing(&node, "c1");
    kill_when_ec2_has_chosen(&node, &pod);
    del(&node, &pod);
    assert_eq!(node.addresses().len(), 1);
    node.let_time_pass(61);
    let _agent = Agent::start(&node, &json!({}));
    assert!(eventually(|| node.addresses().is_empty()));
    assert!(eventually(|| intents(&node).is_empty()));
}

/// The request whose answer is lost here chooses an address that has left the ENI while an
/// earlier request was not answered.
#[test]
fn an_address_of_a_lost_answer_is_found_although_it_was_there_at_an_earlier_one() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let [first, second, third] = ["c1", "c2", "c3"].map(|id| sharing(&node, id));
    let left = add(&node, &first);
    node.lab.fail_next(ASSIGN, 1, Answer::DropAfterCommit);
    add(&node, &second);
    assert_eq!(intents(&node), [".unheard"]);
    del(&node, &first);
    node.end_cooldown(&left);
    node.gc(&[&second]);
    assert!(!node.addresses().contains(&left), "{:?}", node.ledger());
    node.lab.fail_next(ASSIGN, 1, Answer::DropAfterCommit);
    add(&node, &third);
    assert!(node.addresses().contains(&left), "{:?}", node.addresses());
    del(&node, &second);
    clean_up(&node, &third, "chosen again");
}

/// The metadata show what was removed for longer than the ledger remembers the removal.
#[test]
fn an_address_of_a_lost_answer_is_found_although_the_metadata_show_it_from_before() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let first = sharing(&node, "c1");
    let left = add(&node, &first);
    vpc.lab.age(Duration::from_secs(7200));
    vpc.lab
        .rules(|rules| rules.imds_lag = Duration::from_secs(600));
    del(&node, &first);
    node.end_cooldown(&left);
    node.gc(&[]);
    assert_eq!(node.addresses(), [""; 0]);
    node.let_time_pass(61);
    node.lab.fail_next(ASSIGN, 1, Answer::DropAfterCommit);
    let second = sharing(&node, "c2");
    add(&node, &second);
    assert!(node.addresses().contains(&left), "{:?}", node.addresses());
    // A description that is younger than the request tells that it is the answer.
    clean_up(&node, &second, "the metadata lag");
}
