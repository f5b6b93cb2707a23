//! What is EC2's answer to a request and what is not, when the answer was lost while others change
//! the ENI, and what EC2 and the metadata show is old.

use std::time::Duration;

use harness::eni_lab::{Fault, Hold};
use harness::vpc::{Agent, Vpc, VpcNode, eventually, ip};
use harness::{Pod, Resident};
use serde_json::json;

use super::ipam::{ASSIGN, add, call, del, intents, ipv4, sharing};
use super::killed::kill_while_held;
use super::prefixes::{assert_in_prefix, keeping, kept, known, node_of_its_own, one, prefixes};
use super::prefixes_killed::kill_while_asking;

const THEIRS: &str = "10.0.4.200";
const LAG: Duration = Duration::from_secs(600);

/// From now on, the metadata show what was ten minutes ago.
fn let_metadata_lag(vpc: &Vpc) {
    vpc.lab.age(LAG);
    vpc.lab.rules(|rules| rules.imds_lag = LAG);
}

/// What GC does some time later.
fn clean_up(node: &VpcNode) {
    for _ in 0..3 {
        node.let_time_pass(61);
        node.gc(&[]);
    }
}

/// Neither source has shown it before EC2 was asked.
#[test]
fn an_address_that_another_program_has_assigned_stays_where_the_metadata_do_not_show_it_yet() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let_metadata_lag(&vpc);
    node.lab.assign(&node.eni, &[ip(THEIRS)]);
    let pod = sharing(&node, "c1");
    kill_while_held(
        &node,
        &call(&node, "ADD", &pod, &ipv4()),
        ASSIGN,
        Hold::AfterCommit,
    );
    let chosen = node.addresses();
    assert_eq!(chosen.len(), 2);
    let address = add(&node, &pod);
    assert_ne!(address, THEIRS);
    del(&node, &pod);
    clean_up(&node);
    // Nobody can tell which of them EC2 has chosen.
    assert_eq!(node.addresses(), chosen);
    assert_eq!(intents(&node), [""; 0]);
    let output = node.command(&["sync", "--once"]);
    assert_eq!(output.status, Some(0), "{output}");
    assert_eq!(node.ledger()[THEIRS], "adopted");
}

/// As before the end of it, the pod gets an address of EC2's choice.
#[test]
fn an_address_that_has_left_the_eni_is_not_taken_for_a_lost_answer() {
    let vpc = Vpc::new();
    let (node, other) = (vpc.node(), vpc.node());
    node.lab.assign(&node.eni, &[ip(THEIRS)]);
    vpc.lab.age(LAG);
    vpc.lab.rules(|rules| rules.describe_lag = LAG);
    node.lab.unassign(&node.eni, &[ip(THEIRS)]);
    node.lab.assign(&other.eni, &[ip(THEIRS)]);
    node.lab.fail_next(ASSIGN, 1, Fault::DropAfterCommit);
    let pod = sharing(&node, "c1");
    let address = add(&node, &pod);
    assert_eq!(vpc.owner(&address), Some(node.eni.clone()));
    vpc.lab.rules(|rules| rules.describe_lag = Duration::ZERO);
    del(&node, &pod);
    clean_up(&node);
    assert_eq!(node.addresses(), [""; 0]);
    assert_eq!(vpc.owner(THEIRS), Some(other.eni.clone()));
}

/// The descriptions show the answer, and the metadata do not yet: the next description that is
/// younger than the request decides.
#[test]
fn an_answer_that_only_descriptions_show_is_given_back_a_minute_later() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let_metadata_lag(&vpc);
    node.lab.fail_next(ASSIGN, 1, Fault::DropAfterCommit);
    let pod = sharing(&node, "c1");
    add(&node, &pod);
    assert_eq!(node.addresses().len(), 2);
    let output = node.command(&["sync", "--once"]);
    assert_eq!(output.status, Some(0), "{output}");
    assert_eq!(node.ledger().len(), 1, "{:?}", node.ledger());
    del(&node, &pod);
    clean_up(&node);
    assert_eq!(node.addresses(), [""; 0]);
}

#[test]
fn a_prefix_that_another_program_has_assigned_is_adopted_where_the_metadata_lag() {
    let vpc = Vpc::new();
    let node = vpc.node();
    drop(kept(&node, &one(), 1));
    let own = prefixes(&node).remove(0);
    let two = keeping(&json!({ "ipv4": { "low": 2, "high": 2 } }));
    node.lab.hold(ASSIGN, Hold::AfterCommit);
    let agent = Agent::start(&node, &two);
    assert!(eventually(|| node.lab.held() == 1), "{}", agent.log());
    let_metadata_lag(&vpc);
    node.lab.assign_prefix(&node.eni, "10.0.4.208/28");
    agent.kill();
    assert!(eventually(|| node.lab.held() == 0));
    node.lab.release_held();
    assert_eq!(prefixes(&node).len(), 3);
    let states = || {
        let known = known(&node).into_iter();
        let others = known.filter(|(prefix, _)| *prefix != own);
        others.map(|(_, state)| state).collect::<Vec<_>>()
    };
    let sync = || assert_eq!(node.command(&["sync", "--once"]).status, Some(0));
    sync();
    assert_eq!(states(), [""; 0]);
    assert!(intents(&node).contains(&".asked-ipv4".to_owned()));
    node.let_time_pass(61);
    sync();
    assert_eq!(states(), ["adopted"; 2]);
    assert_eq!(prefixes(&node).len(), 3);
}

#[test]
fn what_a_pod_has_of_a_prefix_in_a_lost_answer_is_given_to_nobody_else() {
    let vpc = Vpc::new();
    let node = node_of_its_own(&vpc, "10.0.97.0/24");
    kill_while_asking(&node, &one(), Hold::AfterCommit);
    let prefix = prefixes(&node).remove(0);
    let first = prefix.split('/').next().unwrap();
    let theirs = Pod::new("theirs");
    theirs.netns.ip(&["address", "add", first, "dev", "lo"]);
    let _process = Resident::inside(&theirs.netns.path());
    let output = node.command(&["sync", "--once"]);
    assert_eq!(output.status, Some(0), "{output}");
    assert_eq!(known(&node), [(prefix.clone(), "pooled".to_owned())]);
    let address = add(&node, &sharing(&node, "c1"));
    assert_in_prefix(&node, &address);
    assert_ne!(address, first);
}
