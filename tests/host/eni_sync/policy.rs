//! The policy that is published for the role of nodes: enough for everything that
//! eni-sync does, and nothing more.

use std::collections::BTreeSet;
use std::fs;

use harness::vpc::Vpc;
use harness::{Pod, repository};
use serde_json::Value;

const TAG: &str = "node.k8s.amazonaws.com/no_manage";

fn policy() -> Value {
    read("iam-policy.json")
}

fn read(name: &str) -> Value {
    let text = fs::read(repository().join("eni-sync").join(name)).unwrap();
    serde_json::from_slice(&text).unwrap()
}

#[test]
fn the_policy_for_several_vpcs_is_the_same_but_for_these() {
    let (one, mut several) = (policy(), read("iam-policy-vpcs.json"));
    let condition = &mut several["Statement"][1]["Condition"]["ArnEquals"]["ec2:Vpc"];
    let vpcs = condition.as_array().unwrap().clone();
    let first = vpcs[0].as_str().unwrap().replace("VPC-1", "VPC");
    assert!(vpcs.len() > 1);
    *condition = first.into();
    assert_eq!(several, one);
}

/// GovCloud and China are other partitions.
#[test]
fn no_policy_is_for_one_partition_alone() {
    for suffix in ["", "-attach", "-vpcs"] {
        let name = format!("iam-policy{suffix}.json");
        let text = read(&name).to_string();
        let partitions = text.split("arn:").skip(1);
        let mut partitions = partitions.filter_map(|rest| rest.split(':').next());
        assert!(
            partitions.all(|partition| partition == "PARTITION"),
            "{name}"
        );
    }
}

/// Every action that the policy allows, on whatever.
fn permitted() -> BTreeSet<String> {
    let policy = policy();
    let statements = policy["Statement"].as_array().unwrap();
    let actions = statements.iter().flat_map(|s| s["Action"].as_array());
    actions
        .flatten()
        .map(|action| action.as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn all_that_eni_sync_does_needs_the_policy_and_nothing_more() {
    let vpc = Vpc::new();
    vpc.lab.rules(|rules| rules.tag_condition = true);
    let (node, other) = (vpc.node(), vpc.node());
    let both = ["10.0.4.70", "2001:db8:4::70"];
    let (pod, successor) = (Pod::new("c1"), Pod::new("c2"));

    node.add(&pod, &both).ok();
    node.check(&pod, &both).ok();
    other.add(&successor, &["10.0.4.70"]).error_code(11);
    other.add(&successor, &["2001:db8:4::70"]).error_code(11);
    node.del(&pod);
    for address in both {
        node.end_cooldown(address);
    }
    node.gc(&[]);
    assert_eq!(node.addresses(), [""; 0]);

    node.add(&pod, &both).ok();
    vpc.lab.terminate_instance(&node.instance);
    // An ENI that outlives its instance keeps its addresses.
    let survivor = vpc.lab.create_eni(&vpc.pods);
    vpc.lab.tag_eni(&survivor, TAG, "true");
    vpc.lab.assign(&survivor, &["10.0.4.71".parse().unwrap()]);
    vpc.lab
        .assign(&survivor, &["2001:db8:4::71".parse().unwrap()]);
    other.add(&successor, &both).ok();
    let third = Pod::new("c3");
    let left = ["10.0.4.71", "2001:db8:4::71"];
    other.add(&third, &left).ok();
    other.check(&third, &left).ok();

    let called = vpc.lab.calls().into_keys();
    let called: BTreeSet<String> = called.map(|action| format!("ec2:{action}")).collect();
    assert_eq!(called, permitted());
}

/// The plugin believes for some minutes what it has read of a tag; the policy does not.
#[test]
fn the_policy_protects_an_eni_whose_tag_has_been_taken_away() {
    let vpc = Vpc::new().without_invariants();
    let node = vpc.node();
    vpc.lab.rules(|rules| rules.tag_condition = true);
    node.add(&Pod::new("c1"), &["10.0.4.70"]).ok();
    vpc.lab.untag_eni(&node.eni, TAG);
    let error = node.add(&Pod::new("c2"), &["10.0.4.71"]).error_code(100);
    let expected = "the node's role does not permit ec2:AssignPrivateIpAddresses";
    assert!(error.msg.contains(expected), "{error:?}");
    assert_eq!(node.addresses(), ["10.0.4.70"]);
}

#[test]
fn every_change_is_permitted_on_tagged_enis_only() {
    let policy = policy();
    for statement in policy["Statement"].as_array().unwrap() {
        let mut actions = statement["Action"].as_array().unwrap().iter();
        if actions.any(|action| action.as_str().unwrap().contains("ssign")) {
            let tag = format!("aws:ResourceTag/{TAG}");
            assert_eq!(statement["Condition"]["StringEquals"][tag], "true");
        }
    }
}
