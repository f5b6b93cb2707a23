//! The addresses that the ENIs have.

use std::fs;

use harness::Pod;
use harness::vpc::Vpc;
use serde_json::json;

use super::examine;

#[test]
fn an_address_of_an_unknown_owner_is_a_warning() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.lab.assign(&node.eni, &["10.0.4.98".parse().unwrap()]);
    examine(&node, &[]).has("owners", "warning", "the owner of 10.0.4.98 is not known");
    node.command(&["sync", "--once"]);
    assert_eq!(node.ledger()["10.0.4.98"], "adopted");
    examine(&node, &[]).has("owners", "warning", "the owner of 10.0.4.98 is not known");
}

#[test]
fn an_address_of_a_pod_that_is_not_on_the_eni_is_an_error() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    node.add(&pod, &["10.0.4.70"]).ok();
    node.lab
        .unassign(&node.eni, &["10.0.4.70".parse().unwrap()]);
    node.let_time_pass(60);
    examine(&node, &[]).has(
        "registered",
        "error",
        "pods have 10.0.4.70, but the ENI does not",
    );
}

#[test]
fn a_pod_whose_eni_was_detached_is_an_error() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    node.add(&pod, &["10.0.4.70"]).ok();
    node.lab.detach_eni(&node.eni);
    let text = "container c1, interface net1, network mgmt has lost its interface with 10.0.4.70";
    examine(&node, &[]).has("detached", "error", text);
}

#[test]
fn an_attachment_that_ended_without_a_del_is_a_warning() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.add(&Pod::new("c1"), &["10.0.4.70"]).ok();
    examine(&node, &[]).has(
        "attachments",
        "warning",
        "10.0.4.70 is held for attachments",
    );
}

#[test]
fn what_an_attachment_goes_on_without_is_an_error() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let other = vpc.node();
    node.lab.assign(&other.eni, &["10.0.4.70".parse().unwrap()]);
    let pod = Pod::new("c1");
    let lenient = json!({ "strict": false });
    node.run(&node.conf_call("ADD", &pod, &["10.0.4.70"], &lenient))
        .ok();
    examine(&node, &[]).has("refused", "error", other.eni.as_str());
}

#[test]
fn a_ledger_that_cannot_be_read_is_an_error() {
    let vpc = Vpc::new();
    let node = vpc.node();
    fs::create_dir(node.node.state().join("eni-cni")).unwrap();
    fs::write(node.node.state().join("eni-cni/ledger"), "x").unwrap();
    examine(&node, &[]).has("ledger", "error", "failed to list");
}
