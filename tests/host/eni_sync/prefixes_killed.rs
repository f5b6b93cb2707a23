//! Prefixes when the agent is killed, or EC2's answer is lost: what EC2 has given is found on
//! the ENI, used or given back, and no ADD succeeds with an address that the ENI has not.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use harness::Pod;
use harness::eni_lab::{Fault, Hold};
use harness::fault::each_system_call;
use harness::vpc::{Agent, DEADLINE, Vpc, VpcNode, device_call, eventually};
use serde_json::{Value, json};

use super::ipam::{ASSIGN, add, calls, intents, sharing};
use super::prefixes::{assert_in_prefix, keeping, kept, known, node_of_its_own, one, prefixes};
use super::release_command::{give_interface_back, give_whole_eni};

/// Kills an agent while EC2 holds its first call for prefixes.
pub(super) fn kill_while_asking(node: &VpcNode, configuration: &Value, hold: Hold) {
    node.lab.hold(ASSIGN, hold);
    let agent = Agent::start(node, configuration);
    assert!(eventually(|| node.lab.held() == 1), "{}", agent.log());
    agent.kill();
    // The lab drops a call whose client is gone.
    assert!(eventually(|| node.lab.held() == 0));
    node.lab.release_held();
}

#[test]
fn what_ec2_gave_to_an_agent_that_was_killed_is_found_and_used() {
    for (hold, there) in [(Hold::BeforeCommit, 0), (Hold::AfterCommit, 1)] {
        let vpc = Vpc::new();
        let node = vpc.node();
        kill_while_asking(&node, &one(), hold);
        assert_eq!(prefixes(&node).len(), there);
        assert_eq!(intents(&node), [".asked-ipv4"]);
        // What was not done is asked for again when no description can be older.
        node.let_time_pass(61);
        let _agent = kept(&node, &one(), 1);
        assert!(eventually(
            || !intents(&node).contains(&".asked-ipv4".to_owned())
        ));
        assert_in_prefix(&node, &add(&node, &sharing(&node, "c1")));
        assert_eq!(calls(&node, ASSIGN), 2 - there as u64);
    }
}

#[test]
fn an_answer_that_is_lost_loses_no_prefix() {
    for fault in [Fault::DropAfterCommit, Fault::Garbage] {
        let vpc = Vpc::new();
        let node = vpc.node();
        node.lab.fail_next(ASSIGN, 1, fault.clone());
        let _agent = kept(&node, &one(), 1);
        let address = add(&node, &sharing(&node, "c1"));
        assert_in_prefix(&node, &address);
    }
}

#[test]
fn a_prefix_that_nobody_knows_is_used_after_two_looks_and_one_of_a_pod_is_not() {
    let vpc = Vpc::new();
    let node = node_of_its_own(&vpc, "10.0.73.0/24");
    let theirs = "10.0.73.32/28";
    node.lab.assign_prefix(&node.eni, theirs);
    let pod = sharing(&node, "c1");
    pod.netns
        .ip(&["address", "add", "10.0.73.40/24", "dev", "net1"]);
    // As a runtime names its namespace.
    let names = node.run_directory().join("netns");
    fs::create_dir(&names).unwrap();
    symlink(pod.netns.path(), names.join("c1")).unwrap();
    let agent = kept(&node, &one(), 1);
    let states = || known(&node).into_iter().map(|(_, state)| state);
    assert_eq!(states().collect::<Vec<_>>(), ["adopted"]);
    drop(agent);
    node.let_time_pass(120);
    let agent = kept(&node, &one(), 2);
    let said = "10.0.73.32/28 is not used for pods: 10.0.73.40";
    assert!(eventually(|| agent.log().contains(said)), "{}", agent.log());
    let given = add(&node, &sharing(&node, "c2"));
    assert!(
        given.starts_with("10.0.73.1") || given.starts_with("10.0.73.2"),
        "{given}"
    );
    fs::remove_file(names.join("c1")).unwrap();
    drop((agent, pod));
    let agent = Agent::start(&node, &one());
    let is_used = || states().all(|state| state == "pooled");
    assert!(eventually(is_used), "{}", agent.log());
    assert_in_prefix(&node, &given);
}

#[test]
fn a_prefix_of_a_pod_that_has_the_whole_eni_is_not_used_for_others() {
    let vpc = Vpc::new();
    let node = node_of_its_own(&vpc, "10.0.78.0/24");
    node.lab.assign_prefix(&node.eni, "10.0.78.32/28");
    let pod = Pod::new("c1");
    give_whole_eni(&node, &pod);
    give_interface_back(&node);
    drop(kept(&node, &one(), 1));
    node.let_time_pass(120);
    let agent = kept(&node, &one(), 2);
    let said = "10.0.78.32/28 is not used for pods: a pod may have it with the whole ENI";
    assert!(eventually(|| agent.log().contains(said)), "{}", agent.log());
    let states = || known(&node).into_iter().map(|(_, state)| state);
    assert!(states().any(|state| state == "adopted"));
    drop(agent);
    node.run(&device_call("DEL", "dpdk", "ens6", &pod)).ok();
    let agent = Agent::start(&node, &one());
    let is_used = || states().all(|state| state == "pooled");
    assert!(eventually(is_used), "{}", agent.log());
}

#[test]
fn a_prefix_of_a_pod_that_has_the_whole_eni_is_not_given_back() {
    let vpc = Vpc::new();
    let node = node_of_its_own(&vpc, "10.0.83.0/24");
    drop(kept(&node, &one(), 1));
    let pod = Pod::new("c1");
    give_whole_eni(&node, &pod);
    give_interface_back(&node);
    let agent = Agent::start(&node, &json!({}));
    let said = "10.0.83.16/28 stays: a pod may have it with the whole ENI";
    let is_over = || agent.log().contains(said) || prefixes(&node).is_empty();
    assert!(eventually(is_over), "{}", agent.log());
    assert_eq!(prefixes(&node), ["10.0.83.16/28"]);
    drop(agent);
    node.run(&device_call("DEL", "dpdk", "ens6", &pod)).ok();
    node.let_time_pass(61);
    let agent = Agent::start(&node, &json!({}));
    let is_gone = || prefixes(&node).is_empty();
    assert!(eventually(is_gone), "{}", agent.log());
}

#[test]
fn a_prefix_that_the_metadata_do_not_show_yet_is_not_what_ec2_was_asked_for_last() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.lab
        .rules(|rules| rules.imds_lag = Duration::from_secs(3600));
    drop(kept(&node, &one(), 1));
    let two = keeping(&json!({ "ipv4": { "low": 2, "high": 2 } }));
    kill_while_asking(&node, &two, Hold::BeforeCommit);
    // The ENI has the prefix that had been there before, and not the other one.
    assert_eq!(node.command(&["sync", "--once"]).status, Some(0));
    assert!(intents(&node).contains(&".asked-ipv4".to_owned()));
}

#[test]
fn a_prefix_that_somebody_has_taken_away_is_not_handed_out_any_more() {
    let vpc = Vpc::new().without_invariants();
    let node = vpc.node();
    drop(kept(&node, &one(), 1));
    let pod = sharing(&node, "c1");
    let address = add(&node, &pod);
    let gone = prefixes(&node).remove(0);
    node.lab.unassign_prefix(&node.eni, &gone);
    node.let_time_pass(120);
    let command = |arguments: &[&str]| assert_eq!(node.command(arguments).status, Some(0));
    command(&["sync", "--once"]);
    // The pod gets its address back, alone, and nobody else one of the prefix.
    assert_eq!(node.addresses(), std::slice::from_ref(&address));
    assert_eq!(vpc.owner(&address), Some(node.eni.clone()));
    let next = add(&node, &sharing(&node, "c2"));
    assert_eq!(vpc.owner(&next), Some(node.eni.clone()));
    node.let_time_pass(120);
    command(&["sync", "--once"]);
    assert!(known(&node).is_empty(), "{:?}", known(&node));
}

/// An agent that is killed at every system call in turn that changes a file or what EC2 has, or
/// at one of a few.
#[test]
fn an_agent_that_is_killed_anywhere_loses_no_prefix_and_takes_no_extra_one() {
    const EVERY: usize = 5;
    let kills = AtomicUsize::new(0);
    let site = || {
        let vpc = Vpc::new();
        (vpc.node(), vpc)
    };
    each_system_call(EVERY, site, |(node, vpc), nth| {
        // Each begins with an ENI that has nothing.
        let vpc_of_this = Vpc::new();
        *node = vpc_of_this.node();
        *vpc = vpc_of_this;
        let mut agent = Agent::spawn_to_be_killed(node, &one(), nth);
        let is_done = || known(node).len() == 1 && intents(node).len() == 1;
        let deadline = Instant::now() + DEADLINE;
        while !is_done() && !agent.has_ended() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        let was_killed = agent.has_ended();
        agent.kill();
        node.let_time_pass(61);
        let _agent = kept(node, &one(), 1);
        let pods = ["c1", "c2"].map(|id| sharing(node, id));
        let given = pods.each_ref().map(|pod| add(node, pod));
        assert_ne!(given[0], given[1], "{nth}");
        given
            .iter()
            .for_each(|address| assert_in_prefix(node, address));
        kills.fetch_add(usize::from(was_killed), Ordering::Relaxed);
        was_killed
    });
    assert!(kills.into_inner() >= 3);
}
