//! An ENI that leaves its node and comes back: others had its addresses meanwhile, so what EC2 has
//! confirmed before is not believed, whatever the ledger and the metadata say.

use std::time::Duration;

use harness::Pod;
use harness::vpc::{Agent, Vpc, VpcNode, eventually, ip};

use super::confirmed::{fill, listed, pool};
use super::ipam::{ASSIGN, add, calls, sharing};
use super::prefixes::{assert_in_prefix, contains, kept, one, prefixes};

const FIRST: &str = "10.0.4.64";
const SECOND: &str = "10.0.4.65";

/// Detaches the ENI of a node, which loses its interface.
fn take_away(node: &VpcNode) {
    node.lab.detach_eni(&node.eni);
    node.node.netns.ip(&["link", "del", "ens6"]);
}

/// Attaches it again.
fn bring_back(node: &VpcNode) {
    node.lab.attach_eni(&node.eni, &node.instance, 1);
    node.node.netns.ip(&[
        "link", "add", "ens6", "address", &node.mac, "up", "type", "veth", "peer", "name", "vpc",
    ]);
}

#[test]
fn what_another_node_has_got_of_a_pool_meanwhile_is_given_to_no_pod() {
    let vpc = Vpc::new();
    let (node, other) = (vpc.node(), vpc.node());
    fill(&node, &pool(64, 65, 2), 2);
    take_away(&node);
    vpc.lab.unassign(&node.eni, &[ip(FIRST)]);
    other.add(&Pod::new("theirs"), &[FIRST]).ok();
    bring_back(&node);
    let error = node.add(&Pod::new("c1"), &[FIRST]).error_code(11);
    assert!(error.msg.contains(other.eni.as_str()), "{error:?}");
    assert_eq!(vpc.owner(FIRST), Some(other.eni.clone()));
    // What nobody has taken is still the pool's.
    node.add(&Pod::new("c2"), &[SECOND]).ok();
    assert_eq!(node.ledger()[SECOND], "held");
    assert_eq!(vpc.owner(SECOND), Some(node.eni.clone()));
}

#[test]
fn the_ledger_is_compared_as_soon_as_an_eni_comes_back() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let mut configuration = pool(64, 65, 2);
    configuration["reconcileSeconds"] = 3000.into();
    let agent = Agent::start(&node, &configuration);
    let is_listed = |address: &str| listed(&node).is_some_and(|listed| listed.contains(address));
    assert!(eventually(|| is_listed(FIRST) && is_listed(SECOND)));
    // A description may be as old as what the ledger has written last.
    node.let_time_pass(120);
    take_away(&node);
    vpc.lab.unassign(&node.eni, &[ip(FIRST)]);
    bring_back(&node);
    assert!(eventually(|| !is_listed(FIRST)), "{}", agent.log());
    // What is there all the same is offered when descriptions are younger than the attachment.
    agent.stop();
    node.let_time_pass(61);
    let agent = Agent::start(&node, &configuration);
    assert!(eventually(|| is_listed(SECOND)), "{}", agent.log());
}

/// Descriptions still show the attachment of before, with all addresses.
#[test]
fn a_ranges_file_offers_nothing_of_the_attachment_before() {
    let vpc = Vpc::new();
    let (node, other) = (vpc.node(), vpc.node());
    let mut configuration = pool(64, 64, 1);
    configuration["reconcileSeconds"] = 3000.into();
    let agent = Agent::start(&node, &configuration);
    let is_listed = || listed(&node).is_some_and(|listed| listed.contains(FIRST));
    assert!(eventually(is_listed), "{}", agent.log());
    show_the_past(&vpc);
    take_away(&node);
    vpc.lab.unassign(&node.eni, &[ip(FIRST)]);
    other.add(&Pod::new("theirs"), &[FIRST]).ok();
    bring_back(&node);
    assert!(eventually(|| !is_listed()), "{}", agent.log());
}

/// The ledger does not know the prefix: another program had assigned it.
#[test]
fn a_prefix_that_only_an_old_description_shows_gives_no_pod_an_address() {
    const PREFIX: &str = "10.0.4.16/28";
    for has_inventory in [false, true] {
        let vpc = Vpc::new();
        let (node, other) = (vpc.node(), vpc.node());
        vpc.lab.assign_prefix(&node.eni, PREFIX);
        if has_inventory {
            node.add(&Pod::new("c0"), &[FIRST]).ok();
        }
        show_the_past(&vpc);
        if has_inventory {
            take_away(&node);
        }
        vpc.lab.unassign_prefix(&node.eni, PREFIX);
        vpc.lab.assign_prefix(&other.eni, PREFIX);
        if has_inventory {
            bring_back(&node);
        }
        let address = "10.0.4.20";
        node.add(&Pod::new("c1"), &[address]).error_code(11);
        assert_ne!(node.ledger()[address], "held", "{has_inventory}");
    }
}

#[test]
fn a_prefix_that_another_node_has_got_meanwhile_gives_no_pod_an_address() {
    let vpc = Vpc::new();
    let (node, other) = (vpc.node(), vpc.node());
    drop(kept(&node, &one(), 1));
    let prefix = prefixes(&node).remove(0);
    take_away(&node);
    vpc.lab.unassign_prefix(&node.eni, &prefix);
    vpc.lab.assign_prefix(&other.eni, &prefix);
    bring_back(&node);
    let address = add(&node, &sharing(&node, "c1"));
    assert!(!contains(&prefix, &address), "{address} is in {prefix}");
    assert_eq!(vpc.owner(&address), Some(node.eni.clone()));
}

/// From now on, descriptions show the ENI under an attachment that is two hours old.
fn show_the_past(vpc: &Vpc) {
    vpc.lab.age(Duration::from_secs(7200));
    let lag = Duration::from_secs(600);
    vpc.lab.rules(|rules| rules.describe_lag = lag);
}

/// The interface of the ENI is a new one, so its attachment is not as old as described.
#[test]
fn a_prefix_of_another_node_gives_no_address_while_the_earlier_attachment_is_described() {
    let vpc = Vpc::new();
    let (node, other) = (vpc.node(), vpc.node());
    drop(kept(&node, &one(), 1));
    let prefix = prefixes(&node).remove(0);
    show_the_past(&vpc);
    take_away(&node);
    vpc.lab.unassign_prefix(&node.eni, &prefix);
    vpc.lab.assign_prefix(&other.eni, &prefix);
    bring_back(&node);
    for number in 0..2 {
        let address = add(&node, &sharing(&node, &format!("c{number}")));
        assert!(!contains(&prefix, &address), "{address} is in {prefix}");
        assert_eq!(vpc.owner(&address), Some(node.eni.clone()));
        // By the agent, or by hand, before the next pod.
        node.command(&["sync", "--once"]);
    }
}

#[test]
fn a_description_of_an_earlier_attachment_confirms_no_address_of_a_pool() {
    let vpc = Vpc::new();
    let (node, other) = (vpc.node(), vpc.node());
    fill(&node, &pool(64, 65, 2), 2);
    node.let_time_pass(120);
    show_the_past(&vpc);
    take_away(&node);
    vpc.lab.unassign(&node.eni, &[ip(FIRST)]);
    other.add(&Pod::new("theirs"), &[FIRST]).ok();
    bring_back(&node);
    for _ in 0..2 {
        let output = node.command(&["sync", "--once"]);
        assert_eq!(output.status, Some(0), "{output}");
    }
    vpc.lab.rules(|rules| rules.describe_lag = Duration::ZERO);
    let error = node.add(&Pod::new("c1"), &[FIRST]).error_code(11);
    assert!(error.msg.contains(other.eni.as_str()), "{error:?}");
    assert_eq!(vpc.owner(FIRST), Some(other.eni.clone()));
}

#[test]
fn a_prefix_that_came_back_with_its_eni_is_used_after_the_second_look() {
    let vpc = Vpc::new();
    let node = vpc.node();
    drop(kept(&node, &one(), 1));
    take_away(&node);
    bring_back(&node);
    for _ in 0..2 {
        let output = node.command(&["sync", "--once"]);
        assert_eq!(output.status, Some(0), "{output}");
        node.let_time_pass(61);
    }
    node.lab.reset_calls();
    assert_in_prefix(&node, &add(&node, &sharing(&node, "c1")));
    assert_eq!(calls(&node, ASSIGN), 0, "{:?}", node.lab.calls());
}

/// The metadata are as old as the attachment before.
#[test]
fn what_was_taken_from_an_eni_that_was_away_is_not_used_again_by_the_metadata() {
    let vpc = Vpc::new();
    let (node, other) = (vpc.node(), vpc.node());
    let pod = Pod::new("c1");
    node.add(&pod, &[FIRST]).ok();
    node.del(&pod);
    vpc.lab.age(Duration::from_secs(600));
    vpc.lab
        .rules(|rules| rules.imds_lag = Duration::from_secs(400));
    take_away(&node);
    other.add(&Pod::new("theirs"), &[FIRST]).ok();
    bring_back(&node);
    let error = node.add(&Pod::new("c2"), &[FIRST]).error_code(11);
    assert!(error.msg.contains(other.eni.as_str()), "{error:?}");
    assert_eq!(vpc.owner(FIRST), Some(other.eni.clone()));
}

/// The kernel has the interface, and the metadata show its MAC address.
#[test]
fn an_eni_that_ec2_does_not_describe_yet_is_a_temporary_failure() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let foreign = Pod::new("c0");
    let foreign = node.pod_call("ADD", &foreign, &[FIRST]);
    let text = String::from_utf8(foreign.input().to_vec()).unwrap();
    let foreign = foreign.stdin(text.replace(&node.mac, "02:0b:ad:00:00:01"));
    // The oldest description is of a node without ENIs.
    vpc.lab
        .rules(|rules| rules.describe_lag = Duration::from_secs(3600));
    let add = || node.add(&Pod::new("c1"), &[FIRST]);
    let error = add().error_code(11);
    assert!(error.msg.contains(&node.mac), "{error:?}");
    node.run(&foreign).error_code(7);
    vpc.lab.rules(|rules| rules.describe_lag = Duration::ZERO);
    std::fs::remove_file(node.run_directory().join("eni-cni/enis.json")).unwrap();
    add().ok();
    node.run(&foreign).error_code(7);
}
