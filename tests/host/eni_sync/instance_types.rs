//! What EC2 says of the instance type: how many addresses its ENIs can have. It is a help to say
//! early that an ENI is full, and nothing depends on it.

use std::fs;
use std::thread;

use harness::eni_lab::Fault;
use harness::vpc::Vpc;
use harness::{Agent, Pod};
use serde_json::{Value, json};

use super::ipam;
use super::way::by_plugin_and_agent;

const ADDRESS: &str = "10.0.4.70";

#[test]
fn unknown_limits_of_the_instance_type_do_not_prevent_an_assignment() {
    by_plugin_and_agent(|vpc, node| {
        vpc.lab.rules(|rules| {
            rules
                .denied_actions
                .insert("DescribeInstanceTypes".to_owned());
        });
        fs::remove_file(node.run_directory().join("eni-cni/enis.json")).ok();
    });
}

#[test]
fn a_failed_look_at_the_instance_type_fails_no_add() {
    let error = |status, code: &str| Fault::Error {
        status,
        code: code.to_owned(),
        message: "because".to_owned(),
    };
    let faults = [
        error(400, "InvalidInstanceType"),
        error(500, "InternalError"),
        Fault::Throttle,
        Fault::Garbage,
        Fault::DropBeforeCommit,
    ];
    thread::scope(|scope| {
        for (fault, has_agent) in faults.iter().flat_map(|f| [(f, false), (f, true)]) {
            scope.spawn(move || {
                let vpc = Vpc::new();
                let node = vpc.node();
                let _agent = has_agent.then(|| Agent::start(&node, &json!({})));
                let inventory = node.run_directory().join("eni-cni/enis.json");
                vpc.lab
                    .fail_next("DescribeInstanceTypes", u64::MAX, fault.clone());
                fs::remove_file(&inventory).ok();
                let output = node.add(&Pod::new("c1"), &[ADDRESS]);
                assert_eq!(output.status, Some(0), "{fault:?} {has_agent}\n{output}");
                let pod = ipam::sharing(&node, "c2");
                let chosen = ipam::add(&node, &pod);
                assert_eq!(vpc.owner(&chosen), Some(node.eni.clone()));
                assert!(ipam::calls(&node, "DescribeInstanceTypes") > 0);
            });
        }
    });
}

#[test]
fn limits_that_were_known_stay_known() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let limit = || {
        let text = fs::read(node.run_directory().join("eni-cni/enis.json")).unwrap();
        let inventory: Value = serde_json::from_slice(&text).unwrap();
        inventory["enis"][0]["ipv4Limit"].clone()
    };
    node.command(&["sync", "--once"]);
    assert_eq!(limit(), 10);
    vpc.lab.rules(|rules| {
        rules
            .denied_actions
            .insert("DescribeInstanceTypes".to_owned());
    });
    node.command(&["sync", "--once"]);
    assert_eq!(limit(), 10);
}
