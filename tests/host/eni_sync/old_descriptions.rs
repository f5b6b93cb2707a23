//! Descriptions that are older than what EC2 has done: no ADD succeeds by one.

use std::thread;
use std::time::{Duration, Instant};

use harness::Pod;
use harness::vpc::{Vpc, VpcNode, ip};
use serde_json::{Value, json};

use super::confirmed::calls;
use super::ipam::{addresses, call, ipv4, whole};

const ASSIGN: &str = "AssignPrivateIpAddresses";
const LOOK: &str = "DescribeNetworkInterfaces";

/// EC2 may refuse to assign again what an ENI has, and a description may show what it has
/// not any more.
#[test]
fn an_old_description_lets_no_add_succeed() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    node.add(&pod, &["10.0.4.70"]).ok();
    node.del(&pod);
    node.end_cooldown("10.0.4.70");
    node.lab
        .rules(|rules| rules.describe_lag = Duration::from_secs(0));
    node.gc(&[]);
    assert_eq!(vpc.owner("10.0.4.70"), None);
    let looks = calls(&node, LOOK);
    node.lab.rules(|rules| {
        rules.describe_lag = Duration::from_secs(5);
        rules.denied_actions.clear();
    });
    let refusal = harness::eni_lab::Fault::Error {
        status: 400,
        code: "InvalidParameterValue".to_owned(),
        message: "because".to_owned(),
    };
    node.lab.fail_next(ASSIGN, 9, refusal);
    let output = node.add(&Pod::new("c2"), &["10.0.4.70"]);
    assert!(calls(&node, LOOK) > looks, "it was looked for");
    assert_ne!(output.status, Some(0), "{output}");
    assert_eq!(vpc.owner("10.0.4.70"), None);
}

/// An address that floats goes to another node and is wanted here again, before descriptions
/// show that it has gone.
#[test]
fn an_old_description_lets_no_add_succeed_with_what_another_node_has_taken() {
    thread::scope(|scope| {
        for takeover in ["dead-owner", "never"] {
            scope.spawn(move || {
                let vpc = Vpc::new().without_invariants();
                let (node, other) = (vpc.node(), vpc.node());
                let floats = json!({"takeover": "always"});
                let add = |node: &VpcNode, pod: &Pod, keys: &Value| {
                    node.run(&node.conf_call("ADD", pod, &["10.0.4.70"], keys))
                };
                let pod = Pod::new("c1");
                add(&node, &pod, &floats).ok();
                let past = Instant::now();
                node.del(&pod);
                let slow = (ASSIGN.to_owned(), Duration::from_secs(1));
                vpc.lab.rules(|rules| rules.latency_of.extend([slow]));
                let theirs = Pod::new("c2");
                add(&other, &theirs, &floats).ok();
                vpc.lab.rules(|rules| {
                    rules.latency_of.clear();
                    rules.describe_lag = past.elapsed();
                });
                let output = add(&node, &Pod::new("c3"), &json!({"takeover": takeover}));
                let error = output.error_code(11);
                assert!(error.msg.contains(other.instance.as_str()), "{error:?}");
                assert_eq!(vpc.owner("10.0.4.70"), Some(other.eni.clone()));
            });
        }
    });
}

/// Two looks a few seconds apart may both show the same old moment. The metadata know better.
#[test]
fn an_address_that_ec2_refuses_is_not_had_because_old_descriptions_show_it_twice() {
    let vpc = Vpc::new().without_invariants();
    let (node, other) = (vpc.node(), vpc.node());
    node.lab.assign(&node.eni, &[ip("10.0.4.70")]);
    let [theirs, pod] = ["c2", "c3"].map(Pod::new);
    let past = Instant::now();
    let slow = (ASSIGN.to_owned(), Duration::from_secs(9));
    vpc.lab.rules(|rules| rules.latency_of.extend([slow]));
    let floats = json!({"takeover": "always"});
    other
        .run(&other.conf_call("ADD", &theirs, &["10.0.4.70"], &floats))
        .ok();
    vpc.lab.rules(|rules| {
        rules.latency_of.clear();
        rules.describe_lag = past.elapsed();
    });
    let never = json!({"takeover": "never"});
    let add = node.conf_call("ADD", &pod, &["10.0.4.70"], &never);
    node.run(&add).error_code(11);
    assert_eq!(vpc.owner("10.0.4.70"), Some(other.eni.clone()));
}

/// Another ENI has it by now.
#[test]
fn a_whole_eni_does_not_bring_what_has_left_it() {
    let vpc = Vpc::new();
    let (node, other) = (vpc.node(), vpc.node());
    node.lab.assign(&node.eni, &[ip("10.0.4.30")]);
    let lag = Duration::from_secs(600);
    vpc.lab.age(lag);
    vpc.lab.rules(|rules| rules.describe_lag = lag);
    node.lab.unassign(&node.eni, &[ip("10.0.4.30")]);
    node.lab.assign(&other.eni, &[ip("10.0.4.30")]);
    let pod = whole(&node, "c1");
    let add = call(&node, "ADD", &pod, &ipv4());
    let error = node.run(&add).error_code(11);
    assert!(error.msg.contains("10.0.4.30"), "{error:?}");
    vpc.lab.rules(|rules| rules.describe_lag = Duration::ZERO);
    let primary = node.lab.primary(&node.eni).to_string();
    assert_eq!(addresses(&node.run(&add).ok()), [primary]);
}
