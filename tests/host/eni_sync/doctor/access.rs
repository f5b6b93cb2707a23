//! The way to AWS.

use harness::eni_lab::Fault;
use harness::vpc::{Vpc, VpcNode};

use super::{examine, examine_network, examine_with, network};

fn deny(node: &VpcNode, action: &str) {
    node.lab.rules(|rules| {
        rules.denied_actions.insert(action.to_owned());
    });
}

#[test]
fn without_metadata_nothing_else_can_be_asked() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.lab.rules(|rules| rules.imds_down = true);
    let diagnosis = examine(&node, &[]);
    diagnosis.has("imds", "error", "the instance metadata service gives no");
    assert!(diagnosis.of("permission").is_empty());
}

#[test]
fn without_aws_networks_are_compared_with_the_inventory() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.command(&["sync", "--once"]);
    node.lab.rules(|rules| rules.imds_unreachable_token = true);
    let diagnosis = examine_network(&node, &network());
    diagnosis.has("imds", "error", "IMDSv2 token");
    for check in ["eni-for-pods", "no-manage", "range-subnet", "gateway"] {
        diagnosis.is_well(check);
    }
}

#[test]
fn a_region_that_is_not_the_nodes_is_an_error() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let call = node.call("").env("AWS_REGION", "eu-west-1");
    let diagnosis = examine_with(&node, &call, &[]);
    diagnosis.has("region", "error", "eu-west-1, and the node is in us-west-2");
}

#[test]
fn a_node_without_credentials_is_told_so() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.lab.no_role();
    let diagnosis = examine(&node, &[]);
    diagnosis.has("credentials", "error", "there are no AWS credentials");
    assert!(diagnosis.of("permission").is_empty());
}

#[test]
fn credentials_that_ec2_does_not_accept_count_as_missing() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let call = node
        .call("")
        .env("AWS_ACCESS_KEY_ID", "AKIDNOBODY")
        .env("AWS_SECRET_ACCESS_KEY", "x");
    let diagnosis = examine_with(&node, &call, &[]);
    diagnosis.has("credentials", "error", "EC2 does not accept them");
    // It is one cause, and one finding.
    assert!(
        diagnosis.of("permission").is_empty(),
        "{}",
        diagnosis.output
    );
}

#[test]
fn a_throttle_is_called_a_throttle_and_is_not_an_error_of_the_node() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let action = "DescribeNetworkInterfaces";
    node.lab.fail_next(action, 100, Fault::Throttle);
    let diagnosis = examine(&node, &[]);
    diagnosis.has("permission", "warning", "EC2 throttles this account");
    assert_eq!(diagnosis.output.status, Some(0), "{}", diagnosis.output);
    diagnosis.is_well("credentials");
}

#[test]
fn the_cause_of_missing_credentials_is_named() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let call = node
        .call("")
        .env("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:1/x");
    let diagnosis = examine_with(&node, &call, &[]);
    diagnosis.has("credentials", "error", "Connection refused");
}

#[test]
fn each_permission_that_is_missing_is_named() {
    let vpc = Vpc::new();
    let node = vpc.node();
    for action in [
        "DescribeInstances",
        "DescribeInstanceTypes",
        "DescribeSubnets",
        "DescribeNetworkInterfaces",
    ] {
        deny(&node, action);
        let diagnosis = examine(&node, &[]);
        let denied = diagnosis
            .findings
            .iter()
            .find(|f| f["check"] == "permission" && f["subject"] == format!("ec2:{action}"));
        let denied = denied.unwrap_or_else(|| panic!("{}", diagnosis.output));
        assert_eq!(denied["level"], "error");
        assert!(denied["advice"].as_str().unwrap().contains("role's policy"));
    }
}

#[test]
fn a_missing_permission_that_only_doctor_uses_is_not_an_error() {
    let vpc = Vpc::new();
    let node = vpc.node();
    deny(&node, "GetSubnetCidrReservations");
    let diagnosis = examine(&node, &[]);
    diagnosis.has("permission", "info", "not permitted");
    assert_eq!(diagnosis.output.status, Some(0));
}

#[test]
fn a_probe_finds_out_whether_addresses_may_be_changed() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let diagnosis = examine(&node, &["--probe-permissions"]);
    diagnosis.is_well("permission");
    assert_eq!(diagnosis.of("permission").len(), 9, "{}", diagnosis.output);
    deny(&node, "UnassignPrivateIpAddresses");
    let diagnosis = examine(&node, &["--probe-permissions"]);
    diagnosis.has("permission", "error", "not permitted");
    assert!(node.addresses().is_empty());
    node.lab.reset_calls();
    examine(&node, &[]);
    let calls = node.lab.calls();
    assert!(
        !calls.keys().any(|action| action.contains("ssign")),
        "{calls:?}"
    );
}
