//! What STATUS and CHECK say, and how many calls they need for it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use harness::eni_lab::Hold;
use harness::vpc::{Vpc, VpcNode, eventually, while_held};
use harness::{Call, Pod};
use serde_json::json;

use super::waiting::{is_turn_open, start};

const ADDRESS: &str = "10.0.4.70";

pub fn status_call(node: &VpcNode) -> Call {
    let conf = json!({ "cniVersion": "1.1.0", "name": "mgmt", "type": "eni-sync" });
    node.call("STATUS").conf(&conf)
}

/// A STATUS that says that no ADD can succeed now, and why.
#[track_caller]
fn assert_unavailable(node: &VpcNode, said: &str) {
    let error = node.run(&status_call(node)).error_code(50);
    let text = format!("{}: {}", error.msg, error.details);
    assert!(text.contains(said), "{text}");
}

#[test]
fn status_is_good_on_a_node_with_an_eni_for_pods_and_asks_ec2_once() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.run(&status_call(&node)).ok();
    let calls: Vec<_> = node.lab.calls().into_iter().collect();
    let once = |action: &str| (action.to_owned(), 1);
    let all = [
        "DescribeInstanceTypes",
        "DescribeNetworkInterfaces",
        "DescribeSubnets",
    ];
    assert_eq!(calls, all.map(once));
    node.lab.reset_calls();
    node.run(&status_call(&node)).ok();
    assert_eq!(node.lab.calls(), BTreeMap::new());
    assert_eq!(node.node.files(), [""; 0]);
}

#[test]
fn status_fails_without_metadata() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.lab.rules(|rules| rules.imds_down = true);
    assert_unavailable(&node, "instance metadata service");
}

#[test]
fn status_fails_without_credentials() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.run(&status_call(&node)).ok();
    node.lab.no_role();
    assert_unavailable(&node, "there are no AWS credentials");
}

#[test]
fn status_fails_without_an_eni_for_pods() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let tag = "node.k8s.amazonaws.com/no_manage";
    node.lab.untag_eni(&node.eni, tag);
    assert_unavailable(&node, &format!("{} has no ENI for pods", node.instance));
    assert_unavailable(&node, tag);
}

#[test]
fn status_fails_without_permission() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.lab.rules(|rules| {
        rules
            .denied_actions
            .insert("DescribeNetworkInterfaces".to_owned());
    });
    assert_unavailable(&node, "ec2:DescribeNetworkInterfaces");
}

#[test]
fn check_of_what_is_as_it_was_made_asks_nothing_of_ec2() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    let addresses = [ADDRESS, "2001:db8:4::70"];
    node.add(&pod, &addresses).ok();
    node.lab.reset_calls();
    node.check(&pod, &addresses).ok();
    assert_eq!(node.lab.calls(), BTreeMap::new());
}

#[test]
fn check_fails_when_another_program_has_removed_the_address() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    node.add(&pod, &[ADDRESS, "10.0.4.71"]).ok();
    let gone: IpAddr = "10.0.4.71".parse().unwrap();
    node.lab.unassign(&node.eni, &[gone]);
    let error = node.check(&pod, &[ADDRESS, "10.0.4.71"]).error();
    assert_eq!(
        error.msg,
        format!("10.0.4.71 is not assigned to {}", node.eni)
    );
    node.check(&pod, &[ADDRESS]).ok();
}

#[test]
fn check_fails_when_another_node_has_the_address() {
    let vpc = Vpc::new();
    let (node, other) = (vpc.node(), vpc.node());
    let pod = Pod::new("c1");
    node.add(&pod, &[ADDRESS]).ok();
    let moves: IpAddr = ADDRESS.parse().unwrap();
    node.lab.unassign(&node.eni, &[moves]);
    node.lab.assign(&other.eni, &[moves]);
    let error = node.check(&pod, &[ADDRESS]).error();
    assert_eq!(
        error.msg,
        format!("{ADDRESS} is not assigned to {}", node.eni)
    );
    assert_eq!(
        vpc.owner(ADDRESS),
        Some(other.eni.clone()),
        "CHECK changes nothing"
    );
}

#[test]
fn check_believes_ec2_where_the_metadata_lag_behind() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.lab
        .rules(|rules| rules.imds_lag = Duration::from_secs(3600));
    let pod = Pod::new("c1");
    node.add(&pod, &[ADDRESS]).ok();
    node.lab.reset_calls();
    node.check(&pod, &[ADDRESS]).ok();
    assert_eq!(node.lab.calls()["DescribeNetworkInterfaces"], 1);
}

#[test]
fn check_works_without_metadata_where_the_enis_are_known() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    node.add(&pod, &[ADDRESS]).ok();
    node.lab
        .rules(|rules| rules.imds_404_after_attach = Duration::from_secs(3600));
    node.check(&pod, &[ADDRESS]).ok();
}

#[test]
fn check_adopts_what_a_lost_ledger_had_so_that_del_gives_it_back() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    node.add(&pod, &[ADDRESS]).ok();
    fs::remove_dir_all(node.ledger_path()).unwrap();
    node.check(&pod, &[ADDRESS]).ok();
    assert_eq!(node.ledger()[ADDRESS], "held");
    node.del(&pod);
    node.end_cooldown(ADDRESS);
    node.gc(&[]);
    assert_eq!(node.addresses(), [""; 0]);
}

#[test]
fn check_adopts_nothing_that_the_vpc_does_not_have() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.check(&Pod::new("c1"), &[ADDRESS]).error();
    assert_eq!(node.ledger(), BTreeMap::new());
}

#[test]
fn check_adopts_nothing_that_is_being_removed() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    node.add(&pod, &[ADDRESS]).ok();
    node.del(&pod);
    node.end_cooldown(ADDRESS);
    let held = ("UnassignPrivateIpAddresses", Hold::BeforeCommit);
    let ((), mut check) = while_held(
        &vpc.lab,
        held,
        || node.gc(&[]),
        || {
            let check = node.pod_call("CHECK", &pod, &[ADDRESS]);
            let check = RefCell::new(start(&node, &check));
            let is_done = || check.borrow_mut().try_wait().unwrap().is_some();
            let id = check.borrow().id();
            assert!(eventually(|| is_done() || is_turn_open(id)));
            check.into_inner()
        },
    );
    assert!(!check.wait().unwrap().success());
    assert_eq!(node.addresses(), [""; 0]);
    assert_eq!(node.ledger(), BTreeMap::new());
}

#[test]
fn check_adopts_nothing_that_another_attachment_has_claimed_meanwhile() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let (pod, other) = (Pod::new("c1"), Pod::new("c2"));
    node.add(&pod, &[ADDRESS]).ok();
    node.del(&pod);
    node.edit_ledger(ADDRESS, |entry| entry["owner"]["containerId"] = json!("c0"));
    let held = ("DescribeNetworkInterfaces", Hold::AfterCommit);
    let check = || node.check(&pod, &[ADDRESS]);
    // Within its cool-down it needs neither EC2 nor a turn.
    let add = || node.add(&other, &[ADDRESS]).ok();
    let (check, _) = while_held(&vpc.lab, held, check, add);
    check.error_code(11);
    node.check(&other, &[ADDRESS]).ok();
}

#[test]
fn check_fails_for_an_address_of_another_attachment() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let (pod, other) = (Pod::new("c1"), Pod::new("c2"));
    node.add(&pod, &[ADDRESS]).ok();
    let error = node.check(&other, &[ADDRESS]).error();
    assert_eq!(
        error.msg,
        format!("the ledger has {ADDRESS} for another attachment")
    );
    assert!(error.details.contains("container c1"), "{error:?}");
    node.check(&pod, &[ADDRESS]).ok();
}

#[test]
fn check_needs_the_result_of_the_plugins_before() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    let call = node.conf_call("CHECK", &pod, &[], &json!({ "prevResult": null }));
    let error = node.run(&call).error_code(7);
    assert_eq!(error.msg, "Required prevResult missing");
}
