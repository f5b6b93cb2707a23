//! The addresses that the ENIs have.

use std::fs;

use harness::vpc::Vpc;
use harness::{Network, Pod};
use serde_json::json;

use super::examine;
use crate::eni_sync::auto::{PUBLISHED, attach};

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

/// Its ipvlan interface has no master any more, which is no second cause.
#[test]
fn an_ipvlan_pod_whose_eni_was_detached_is_one_error() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    let network = Network::published(PUBLISHED);
    attach(&node, &network, &pod, &node.mac);
    let records = node.node.state().join("eni-cni/ipvlan");
    let record = records.join(&network.name).join("c1:net1.json");
    let text = fs::read_to_string(&record).unwrap();
    let without_master = text.replace("\"masterIndex\":2", "\"masterIndex\":999");
    assert_ne!(without_master, text);
    fs::write(&record, without_master).unwrap();
    let name = json!({ "name": network.name });
    node.run(&node.conf_call("ADD", &pod, &["10.0.4.70"], &name))
        .ok();
    node.lab.detach_eni(&node.eni);
    let said = node.command(&["doctor"]).stdout;
    let lost = said.matches("has lost its interface").count();
    assert_eq!(lost, 1, "{said}");
    assert!(
        said.contains("has lost its interface with 10.0.4.70"),
        "{said}"
    );
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
