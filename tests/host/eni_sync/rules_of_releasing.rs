//! What must never happen, 1, 2, 6, 7 and 8: what is never removed from an ENI, and
//! what never keeps a pod from ending.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::time::Duration;

use harness::Pod;
use harness::eni_lab::Fault;
use harness::vpc::{Vpc, VpcNode, is_unchanged, prev_result};
use serde_json::json;

const TAG: &str = "node.k8s.amazonaws.com/no_manage";
const ADDRESS: &str = "10.0.4.70";

/// An attachment that has ended, and whose cool-down is over.
fn leave_due(node: &VpcNode, pod: &Pod) {
    node.add(pod, &[ADDRESS]).ok();
    node.del(pod);
    node.end_cooldown(ADDRESS);
}

#[test]
fn rule_1_an_address_that_another_program_assigned_stays() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let theirs: IpAddr = "10.0.4.99".parse().unwrap();
    node.lab.assign(&node.eni, &[theirs]);
    leave_due(&node, &Pod::new("c1"));
    node.gc(&[]);
    assert_eq!(node.addresses(), ["10.0.4.99"]);
}

#[test]
fn rule_1_nothing_is_removed_when_the_ledger_is_lost() {
    let vpc = Vpc::new();
    let node = vpc.node();
    leave_due(&node, &Pod::new("c1"));
    fs::remove_dir_all(node.ledger_path()).unwrap();
    node.gc(&[]);
    let other = Pod::new("c2");
    node.add(&other, &["10.0.4.71"]).ok();
    node.gc(&[&other]);
    assert_eq!(node.addresses(), [ADDRESS, "10.0.4.71"]);
}

#[test]
fn rule_1_an_adopted_address_is_never_removed_by_itself() {
    let vpc = Vpc::new();
    let node = vpc.node();
    leave_due(&node, &Pod::new("c1"));
    node.edit_ledger(ADDRESS, |entry| {
        let (confirmed, attachment) = (&entry["confirmed"], &entry["attachment"]);
        *entry = json!({
            "address": ADDRESS, "state": "adopted", "since": 1, "confirmed": confirmed,
            "attachment": attachment,
        });
    });
    node.gc(&[]);
    assert_eq!(node.addresses(), [ADDRESS]);
    // Whoever asks for it gets it without a call, and from then on it is as any other.
    node.lab.reset_calls();
    leave_due(&node, &Pod::new("c2"));
    assert_eq!(node.lab.calls(), BTreeMap::new());
    node.gc(&[]);
    assert_eq!(node.addresses(), [""; 0]);
}

#[test]
fn rule_2_the_primary_eni_is_never_changed() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let primary = node.lab.enis(&node.instance)[0].clone();
    node.lab.tag_eni(&primary, TAG, "true");
    let pod = Pod::new("c1");
    let result = prev_result(&pod, &[(&node.lab.mac(&primary), &["10.0.1.70"])]);
    let keys = json!({ "prevResult": result });
    let error = node
        .run(&node.conf_call("ADD", &pod, &[], &keys))
        .error_code(7);
    assert_eq!(
        error.msg,
        format!("{primary} is the primary ENI of this node")
    );
    assert!(is_unchanged(&node));
}

#[test]
fn rule_2_an_eni_without_the_tag_is_never_changed() {
    for value in [None, Some("false"), Some("")] {
        for has_condition in [false, true] {
            let vpc = Vpc::new();
            let node = vpc.node();
            node.lab.rules(|rules| rules.tag_condition = has_condition);
            node.lab.untag_eni(&node.eni, TAG);
            if let Some(value) = value {
                node.lab.tag_eni(&node.eni, TAG, value);
            }
            let error = node.add(&Pod::new("c1"), &[ADDRESS]).error_code(7);
            assert_eq!(error.msg, format!("{} is not tagged {TAG}=true", node.eni));
            assert!(is_unchanged(&node));
        }
    }
}

#[test]
fn rule_2_nothing_is_removed_from_an_eni_whose_tag_was_taken_away() {
    let vpc = Vpc::new();
    let node = vpc.node();
    leave_due(&node, &Pod::new("c1"));
    node.lab.untag_eni(&node.eni, TAG);
    node.lab.reset_calls();
    let error = node.run(&node.gc_call(&[])).error_code(7);
    assert_eq!(error.msg, format!("{} is not tagged {TAG}=true", node.eni));
    assert!(is_unchanged(&node));
    assert_eq!(node.ledger()[ADDRESS], "releasing");
    node.lab.tag_eni(&node.eni, TAG, "true");
    node.gc(&[]);
    assert_eq!(node.addresses(), [""; 0]);
}

#[test]
fn rule_2_a_primary_address_is_not_removed_whatever_the_ledger_says() {
    let vpc = Vpc::new();
    let node = vpc.node();
    leave_due(&node, &Pod::new("c1"));
    let primary = node.lab.primary(&node.eni).to_string();
    let entry = fs::read_to_string(node.ledger_path().join(ADDRESS)).unwrap();
    let wrong = entry.replace(ADDRESS, &primary);
    fs::write(node.ledger_path().join(&primary), wrong).unwrap();
    node.gc(&[]);
    assert_eq!(node.addresses(), [""; 0]);
    assert_eq!(node.ledger().into_keys().collect::<Vec<_>>(), [primary]);
}

#[test]
fn rule_6_del_succeeds_at_once_whatever_aws_does() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pods: Vec<Pod> = (0..4).map(|n| Pod::new(&format!("c{n}"))).collect();
    for (n, pod) in pods.iter().enumerate() {
        node.add(pod, &[&format!("10.0.4.{}", 70 + n)]).ok();
    }
    let actions = ["UnassignPrivateIpAddresses", "DescribeNetworkInterfaces"];
    node.lab.reset_calls();
    node.del(&pods[0]);
    for action in actions {
        node.lab.fail_next(action, 99, Fault::Hang);
    }
    node.del(&pods[1]);
    node.lab.no_role();
    node.del(&pods[2]);
    let gone = node.pod_call("DEL", &pods[3], &[]);
    let gone = gone.env("AWS_ENDPOINT_URL_EC2", "http://127.0.0.1:1");
    let gone = gone.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1");
    node.run(&gone).ok();
    assert!(node.ledger().values().all(|state| state == "releasing"));
    assert_eq!(node.lab.calls(), BTreeMap::new());
}

/// An address that only the pods of these tests have: paths of namespaces that are gone
/// may lead to those of other tests.
const LIVING: &str = "10.0.4.177";

/// Releases what is due, and tells whether the address is still on the ENI.
fn survives_gc(node: &VpcNode) -> bool {
    node.end_cooldown(LIVING);
    node.gc(&[]);
    node.addresses() == [LIVING]
}

#[test]
fn rule_7_an_address_that_its_pod_still_has_stays() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    pod.netns
        .ip(&["address", "add", "10.0.4.177/32", "dev", "lo"]);
    node.add(&pod, &[LIVING]).ok();
    node.del(&pod);
    assert!(survives_gc(&node));
    assert_eq!(node.ledger()[LIVING], "releasing");
    // It is looked at again a minute later.
    node.lab.reset_calls();
    node.gc(&[]);
    assert_eq!(node.lab.calls(), BTreeMap::new());
    pod.netns
        .ip(&["address", "del", "10.0.4.177/32", "dev", "lo"]);
    assert!(!survives_gc(&node));
}

#[test]
fn rule_7_an_address_that_any_other_pod_has_stays() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    node.add(&pod, &[LIVING]).ok();
    node.del(&pod);
    let directory = node.run_directory().join("netns");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("cni-stale"), "").unwrap();
    let other = Pod::new("c2");
    let netns = &other.netns;
    netns.ip(&["link", "add", "net1", "type", "veth", "peer", "name", "x"]);
    netns.ip(&["address", "add", "10.0.4.177/24", "dev", "net1"]);
    symlink(netns.path(), directory.join("cni-other")).unwrap();
    assert!(survives_gc(&node));
    fs::remove_file(directory.join("cni-other")).unwrap();
    assert!(!survives_gc(&node));
}

#[test]
fn rule_7_a_full_eni_takes_no_address_from_a_running_pod() {
    let vpc = Vpc::new();
    let node = vpc.node_of_type("t3.micro");
    let pod = Pod::new("c1");
    pod.netns
        .ip(&["address", "add", "10.0.4.177/32", "dev", "lo"]);
    node.add(&pod, &[LIVING]).ok();
    node.del(&pod);
    node.add(&Pod::new("c2"), &["10.0.4.71"]).error_code(11);
    assert_eq!(node.addresses(), [LIVING]);
}

#[test]
fn rule_8_an_address_that_the_metadata_do_not_show_is_not_released() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.lab
        .rules(|rules| rules.imds_lag = Duration::from_secs(3600));
    let pod = Pod::new("c1");
    node.add(&pod, &[ADDRESS]).ok();
    node.check(&pod, &[ADDRESS]).ok();
    node.gc(&[&pod]);
    node.add(&Pod::new("c2"), &["10.0.4.71"]).ok();
    assert_eq!(node.addresses(), [ADDRESS, "10.0.4.71"]);
    assert_eq!(node.ledger()[ADDRESS], "held");
}

#[test]
fn rule_8_an_address_that_the_metadata_do_not_show_yet_is_released_when_it_is_due() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.lab
        .rules(|rules| rules.imds_lag = Duration::from_secs(3600));
    leave_due(&node, &Pod::new("c1"));
    node.gc(&[]);
    assert_eq!((node.addresses().len(), node.ledger().len()), (0, 0));
}
