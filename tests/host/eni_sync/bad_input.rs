//! What is wrong before AWS is asked: configuration, arguments, addresses, metadata. The
//! error names it, and nothing is assigned.

use std::time::Duration;

use harness::Pod;
use harness::vpc::{Vpc, assert_refused, prev_result};
use serde_json::json;

const ADDRESS: &str = "10.0.4.70";

#[test]
fn an_add_that_is_chained_behind_nothing_says_so() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let call = node.conf_call("ADD", &Pod::new("c1"), &[], &json!({ "prevResult": null }));
    let said = ["Required prevResult missing", "chained behind a plugin"];
    assert_refused(&node, &call, 7, &said);
}

#[test]
fn an_interface_that_is_not_an_eni_is_named() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    let result = prev_result(&pod, &[("02:ff:00:00:00:01", &[ADDRESS])]);
    let call = node.conf_call("ADD", &pod, &[], &json!({ "prevResult": result }));
    let said = [
        "02:ff:00:00:00:01",
        node.instance.as_str(),
        "VPC delivers nothing",
    ];
    assert_refused(&node, &call, 7, &said);
}

#[test]
fn an_address_on_an_interface_that_does_not_exist_is_named() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    let mut result = prev_result(&pod, &[(&node.mac, &[ADDRESS])]);
    result["ips"][0]["interface"] = json!(7);
    let call = node.conf_call("ADD", &pod, &[], &json!({ "prevResult": result }));
    assert_refused(&node, &call, 7, &[ADDRESS, "interface 7"]);
    let mut result = prev_result(&pod, &[("", &[ADDRESS])]);
    result["interfaces"][0]["name"] = json!("net7");
    let call = node.conf_call("ADD", &pod, &[], &json!({ "prevResult": result }));
    assert_refused(&node, &call, 7, &["\"net7\" has no MAC address"]);
}

#[test]
fn an_address_that_the_subnet_cannot_have_is_named_with_the_subnet() {
    let vpc = Vpc::new();
    let node = vpc.node();
    for (address, said) in [
        ("10.0.5.70", ["is not in the subnet of", "10.0.4.0/24"]),
        ("10.0.1.70", ["is not in the subnet of", "2001:db8:4::/64"]),
        ("2001:db8:5::70", ["is not in the subnet of", "10.0.4.0/24"]),
        ("10.0.4.1", ["is reserved by AWS", "10.0.4.0/24"]),
        ("10.0.4.255", ["is reserved by AWS", "10.0.4.0/24"]),
        ("2001:db8:4::3", ["is reserved by AWS", "2001:db8:4::/64"]),
    ] {
        let pod = Pod::new("c1");
        let call = node.pod_call("ADD", &pod, &[ADDRESS, address]);
        assert_refused(&node, &call, 7, &[address, said[0], said[1]]);
    }
    assert_eq!(node.ledger().len(), 0, "nothing was claimed");
}

#[test]
fn wrong_values_are_named_with_what_is_possible() {
    let vpc = Vpc::new();
    let node = vpc.node();
    for (key, value, said) in [
        ("strict", json!("no"), "true or false"),
        ("cooldownSeconds", json!(-1), "0 to 86400"),
        ("cooldownSeconds", json!("30"), "0 to 86400"),
        ("cooldownSeconds", json!(1e9), "0 to 86400"),
        (
            "takeover",
            json!("sometimes"),
            "never, dead-owner or always",
        ),
        ("takeover", json!(true), "never, dead-owner or always"),
    ] {
        let pod = Pod::new("c1");
        for command in ["ADD", "CHECK", "STATUS"] {
            let call = node.conf_call(command, &pod, &[ADDRESS], &json!({ key: value.clone() }));
            assert_refused(&node, &call, 7, &[&format!("invalid {key}"), said]);
        }
    }
}

#[test]
fn bad_arguments_of_the_runtime_are_named() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    let add = node.pod_call("ADD", &pod, &[ADDRESS]);
    assert_refused(
        &node,
        &add.clone().env("CNI_NETNS", "/run/netns/gone"),
        8,
        &["/run/netns/gone"],
    );
    assert_refused(
        &node,
        &add.clone().env("CNI_CONTAINERID", "../c1"),
        4,
        &["containerID", "../c1"],
    );
    assert_refused(
        &node,
        &add.clone().env("CNI_IFNAME", "net/1"),
        4,
        &["interface name"],
    );
    // Only the pod's name is read from these, and an address can do without it.
    node.run(&add.env("CNI_ARGS", "K8S_POD_NAME;")).ok();
}

#[test]
fn the_pod_is_named_where_its_address_is_in_the_way() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=core;K8S_POD_NAME=upf-0;X=y";
    node.run(&node.pod_call("ADD", &pod, &[ADDRESS]).env("CNI_ARGS", args))
        .ok();
    let error = node.add(&Pod::new("c2"), &[ADDRESS]).error_code(11);
    assert!(error.msg.contains(ADDRESS), "{error:?}");
    assert!(error.details.contains("pod core/upf-0"), "{error:?}");
    assert_eq!(node.ledger()[ADDRESS], "held");
}

#[test]
fn a_node_without_credentials_says_so() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.lab.no_role();
    let pod = Pod::new("c1");
    let call = node.pod_call("ADD", &pod, &[ADDRESS]);
    assert_refused(&node, &call, 11, &["there are no valid AWS credentials"]);
}

#[test]
fn a_node_without_metadata_says_so() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    let call = node.pod_call("ADD", &pod, &[ADDRESS]);
    node.lab.rules(|rules| rules.imds_unreachable_token = true);
    assert_refused(
        &node,
        &call,
        11,
        &["instance metadata service gives no IMDSv2 token"],
    );
    node.lab.rules(|rules| rules.imds_down = true);
    assert_refused(&node, &call, 11, &["instance metadata service"]);
}

#[test]
fn metadata_that_do_not_have_a_new_eni_yet_are_not_needed() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.lab
        .rules(|rules| rules.imds_404_after_attach = Duration::from_secs(3600));
    let pod = Pod::new("c1");
    node.add(&pod, &[ADDRESS]).ok();
    node.check(&pod, &[ADDRESS]).ok();
    node.add(&pod, &[ADDRESS]).ok();
}
