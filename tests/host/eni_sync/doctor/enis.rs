//! The node's ENIs.

use harness::Pod;
use harness::eni_lab::Limits;
use harness::vpc::Vpc;

use super::examine;

const TAG: &str = "node.k8s.amazonaws.com/no_manage";

#[test]
fn a_node_needs_an_eni_for_pods() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.lab.untag_eni(&node.eni, TAG);
    examine(&node, &[]).has("eni-for-pods", "error", "no ENI for pods");
}

#[test]
fn an_interface_that_is_down_or_missing_is_a_warning() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.node.netns.ip(&["link", "set", "ens6", "down"]);
    examine(&node, &[]).has("eni-interface", "warning", "ens6 is down");
    node.node.netns.ip(&["link", "delete", "ens6"]);
    examine(&node, &[]).has("eni-interface", "warning", "no interface with its MAC");
}

#[test]
fn two_enis_in_one_subnet_are_mentioned() {
    let vpc = Vpc::new();
    let node = vpc.node();
    assert!(examine(&node, &[]).of("same-subnet").is_empty());
    let second = node.lab.multus_eni(&node.instance, &vpc.pods);
    examine(&node, &[]).has("same-subnet", "info", second.as_str());
}

#[test]
fn a_source_dest_check_that_is_off_is_mentioned() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.lab.source_dest_check(&node.eni, false);
    examine(&node, &[]).has("source-dest-check", "info", "off");
}

#[test]
fn an_eni_that_outlives_its_instance_is_a_warning() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.lab.delete_on_termination(&node.eni, false);
    let diagnosis = examine(&node, &[]);
    diagnosis.has(
        "delete-on-termination",
        "warning",
        "stays with all its addresses",
    );
    assert_eq!(diagnosis.output.status, Some(0), "warnings do not fail");
}

#[test]
fn an_eni_that_is_full_is_an_error() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.lab.rules(|rules| {
        let one = Limits {
            interfaces: 3,
            ipv4: 1,
            ipv6: 1,
            cards: 1,
        };
        rules.limit_overrides.insert("c5.large".to_owned(), one);
    });
    examine(&node, &[]).has("slots", "error", "1 of 1 IPv4 addresses used");
    node.node.netns.ip(&["link", "delete", "ens6"]);
    examine(&node, &[]).is_well("slots");
}

/// What is in its cool-down leaves when a pod needs its place.
#[test]
fn an_eni_that_has_room_when_a_pod_needs_it_is_a_warning() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    node.add(&pod, &["10.0.4.70"]).ok();
    node.del(&pod);
    node.lab.rules(|rules| {
        let two = Limits {
            interfaces: 3,
            ipv4: 2,
            ipv6: 1,
            cards: 1,
        };
        rules.limit_overrides.insert("c5.large".to_owned(), two);
    });
    let says = "2 of 2 IPv4 addresses used, 1 of them by no pod";
    examine(&node, &[]).has("slots", "warning", says);
}
