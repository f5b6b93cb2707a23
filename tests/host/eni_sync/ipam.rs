//! A network without addresses: eni-sync as the plugin that ipvlan or host-device asks for
//! them, and EC2 as the one that allocates.

use std::fs;

use harness::vpc::{Vpc, VpcNode, assert_refused, ip, is_unchanged};
use harness::{Call, Pod};
use serde_json::{Value, json};

pub(super) const ASSIGN: &str = "AssignPrivateIpAddresses";
pub(super) const ASSIGN_V6: &str = "AssignIpv6Addresses";

/// A pod with an interface that shares the ENI's MAC address, as ipvlan makes one.
pub(super) fn sharing(node: &VpcNode, id: &str) -> Pod {
    let pod = Pod::new(id);
    share(&node.mac, &pod);
    pod
}

/// Gives a pod an interface that shares the MAC address of an ENI.
pub(super) fn share(mac: &str, pod: &Pod) {
    pod.netns.ip(&[
        "link", "add", "below", "type", "veth", "peer", "name", "far",
    ]);
    pod.netns.ip(&[
        "link", "add", "net1", "link", "below", "address", mac, "type", "macvlan",
    ]);
}

/// A pod that has the ENI's interface itself, as host-device gives it one.
pub(super) fn whole(node: &VpcNode, id: &str) -> Pod {
    let pod = Pod::new(id);
    pod.netns.ip(&[
        "link", "add", "net1", "address", &node.mac, "type", "veth", "peer", "name", "far",
    ]);
    pod
}

/// A call of the plugin that makes the interface, with these keys in its `ipam` section.
pub(super) fn call(node: &VpcNode, command: &str, pod: &Pod, ipam: &Value) -> Call {
    call_with(node, command, pod, ipam, &json!({}))
}

/// The same with more keys beside the section.
pub(super) fn call_with(
    node: &VpcNode,
    command: &str,
    pod: &Pod,
    ipam: &Value,
    keys: &Value,
) -> Call {
    let mut conf = json!({
        "cniVersion": "1.1.0", "name": "mgmt", "type": "ipvlan", "ipam": { "type": "eni-sync" },
    });
    for (key, value) in ipam.as_object().unwrap() {
        conf["ipam"][key] = value.clone();
    }
    for (key, value) in keys.as_object().unwrap() {
        conf[key] = value.clone();
    }
    node.call(command).conf(&conf).pod(pod, "net1")
}

pub(super) fn ipv4() -> Value {
    json!({ "families": ["ipv4"] })
}

/// The addresses of a result, without their prefix lengths.
pub(super) fn addresses(result: &Value) -> Vec<String> {
    let ips = result["ips"].as_array().unwrap().iter();
    let texts = ips.map(|ip| ip["address"].as_str().unwrap());
    texts
        .map(|text| text.split('/').next().unwrap().to_owned())
        .collect()
}

/// An address of EC2's choice for a pod.
#[track_caller]
pub(super) fn add(node: &VpcNode, pod: &Pod) -> String {
    let result = node.run(&call(node, "ADD", pod, &ipv4())).ok();
    let [address] = &addresses(&result)[..] else {
        panic!("{result}");
    };
    address.clone()
}

#[track_caller]
pub(super) fn del(node: &VpcNode, pod: &Pod) {
    node.run(&call(node, "DEL", pod, &ipv4())).ok();
}

/// What the ledger has beside addresses, locks aside.
pub(super) fn intents(node: &VpcNode) -> Vec<String> {
    let names = fs::read_dir(node.ledger_path()).into_iter().flatten();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names
        .filter(|name| name.starts_with('.') && name != ".lock" && name != ".turn")
        .collect();
    names.sort();
    names
}

pub(super) fn calls(node: &VpcNode, action: &str) -> u64 {
    node.lab.calls().get(action).copied().unwrap_or_default()
}

#[test]
fn a_pod_gets_an_address_of_each_family_with_the_prefix_and_the_router_of_the_subnet() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = sharing(&node, "c1");
    let result = node.run(&call(&node, "ADD", &pod, &json!({}))).ok();
    let found = addresses(&result);
    assert_eq!(found.len(), 2, "{result}");
    for (address, ip) in found.iter().zip(result["ips"].as_array().unwrap()) {
        assert_eq!(vpc.owner(address), Some(node.eni.clone()));
        assert_eq!(node.ledger()[address], "held");
        let is_v6 = address.contains(':');
        let expected = match is_v6 {
            false => json!({ "address": format!("{address}/24"), "gateway": "10.0.4.1" }),
            true => json!({ "address": format!("{address}/64") }),
        };
        assert_eq!(*ip, expected);
    }
    assert_eq!((calls(&node, ASSIGN), calls(&node, ASSIGN_V6)), (1, 1));
    assert_eq!(intents(&node), [""; 0]);
}

#[test]
fn the_same_attachment_gets_the_same_address_however_often_it_asks() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = sharing(&node, "c1");
    let address = add(&node, &pod);
    assert_eq!(add(&node, &pod), address);
    assert_eq!(calls(&node, ASSIGN), 1);
    let other = sharing(&node, "c2");
    assert_ne!(add(&node, &other), address);
}

#[test]
fn what_a_pod_has_had_leaves_the_eni_after_its_cool_down() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = sharing(&node, "c1");
    let address = add(&node, &pod);
    del(&node, &pod);
    assert_eq!(node.ledger()[&address], "releasing");
    node.gc(&[]);
    assert_eq!(node.addresses(), std::slice::from_ref(&address));
    node.end_cooldown(&address);
    node.gc(&[]);
    assert_eq!(node.addresses(), [""; 0]);
    // A second DEL, and one of a pod that never was, are as good.
    del(&node, &pod);
    del(&node, &sharing(&node, "c2"));
    assert!(node.ledger().is_empty());
}

#[test]
fn what_nobody_needs_any_more_is_given_to_the_next_pod_without_a_call() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = sharing(&node, "c1");
    let address = add(&node, &pod);
    del(&node, &pod);
    // Within the cool-down it is not for others.
    assert_ne!(add(&node, &sharing(&node, "c2")), address);
    node.end_cooldown(&address);
    node.lab.reset_calls();
    assert_eq!(add(&node, &sharing(&node, "c3")), address);
    assert_eq!(calls(&node, ASSIGN), 0);
}

#[test]
fn what_a_pod_still_has_is_not_given_to_another_one() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = sharing(&node, "c1");
    let address = add(&node, &pod);
    pod.netns
        .ip(&["address", "add", &format!("{address}/24"), "dev", "net1"]);
    del(&node, &pod);
    node.end_cooldown(&address);
    assert_ne!(add(&node, &sharing(&node, "c2")), address);
}

#[test]
fn what_host_local_hands_out_is_never_chosen() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let chained = Pod::new("c1");
    node.add(&chained, &["10.0.4.70"]).ok();
    node.del(&chained);
    node.end_cooldown("10.0.4.70");
    assert_ne!(add(&node, &sharing(&node, "c2")), "10.0.4.70");
    node.gc(&[&Pod::new("c2")]);
    assert_eq!(vpc.owner("10.0.4.70"), None);
}

#[test]
fn somebody_has_removed_what_the_next_pod_would_get() {
    let vpc = Vpc::new().without_invariants();
    let node = vpc.node();
    let pod = sharing(&node, "c1");
    let address = add(&node, &pod);
    del(&node, &pod);
    node.end_cooldown(&address);
    node.lab.unassign(&node.eni, &[ip(&address)]);
    let given = add(&node, &sharing(&node, "c2"));
    assert_eq!(vpc.owner(&given), Some(node.eni.clone()));
}

#[test]
fn gc_and_check_are_those_of_the_ledger() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pods = ["c1", "c2"].map(|id| sharing(&node, id));
    let results = pods
        .each_ref()
        .map(|pod| node.run(&call(&node, "ADD", pod, &ipv4())).ok());
    let checked = |pod: &Pod, result: &Value| {
        let mut result = result.clone();
        result["interfaces"] =
            json!([{ "name": "net1", "mac": node.mac, "sandbox": pod.netns.path() }]);
        result["ips"][0]["interface"] = json!(0);
        let keys = json!({ "prevResult": result });
        node.run(&call_with(&node, "CHECK", pod, &ipv4(), &keys))
    };
    for (pod, result) in pods.iter().zip(&results) {
        checked(pod, result).ok();
    }
    checked(&pods[0], &results[1]).error_code(999);
    let keys = json!({
        "cni.dev/valid-attachments": [{ "containerID": "c1", "ifname": "net1" }],
    });
    let gc = call_with(&node, "GC", &pods[0], &ipv4(), &keys);
    node.run(&gc).ok();
    let [kept, ended] = results.each_ref().map(|result| addresses(result).remove(0));
    assert_eq!(node.ledger()[&kept], "held");
    assert_eq!(node.ledger()[&ended], "releasing");
    node.run(&call(&node, "STATUS", &pods[0], &json!({}))).ok();
}

#[test]
fn status_shows_which_pod_has_which_address() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = sharing(&node, "c1");
    let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0";
    let add = call(&node, "ADD", &pod, &ipv4()).env("CNI_ARGS", args);
    let address = addresses(&node.run(&add).ok()).remove(0);
    let output = node.command(&["status"]);
    let mut lines = output.stdout.lines();
    let line = lines.find(|line| line.contains(&address)).unwrap();
    assert!(
        line.contains("held") && line.contains("default/web-0"),
        "{output}"
    );
}

#[test]
fn every_version_of_the_specification_has_its_result() {
    let vpc = Vpc::new();
    let node = vpc.node();
    for version in [
        "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
    ] {
        let pod = sharing(&node, &format!("c{}", version.replace('.', "-")));
        let keys = json!({ "cniVersion": version });
        let output = node.run(&call_with(&node, "ADD", &pod, &json!({}), &keys));
        let result = output.document();
        let (v4, v6) = match version {
            "0.1.0" | "0.2.0" => (&result["ip4"]["ip"], &result["ip6"]["ip"]),
            _ => (&result["ips"][0]["address"], &result["ips"][1]["address"]),
        };
        for (address, prefix) in [(v4, "/24"), (v6, "/64")] {
            let text = address.as_str().unwrap_or_else(|| panic!("{output}"));
            let address = text.strip_suffix(prefix).unwrap();
            assert_eq!(vpc.owner(address), Some(node.eni.clone()), "{version}");
        }
        del(&node, &pod);
    }
}

#[test]
fn an_eni_that_is_not_for_pods_gives_no_address() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = sharing(&node, "c1");
    let other = Pod::new("c2");
    other.netns.ip(&[
        "link",
        "add",
        "net1",
        "address",
        "02:00:00:00:00:99",
        "type",
        "veth",
        "peer",
        "name",
        "far",
    ]);
    let add = |pod: &Pod| call(&node, "ADD", pod, &json!({}));
    assert_refused(&node, &add(&other), 7, &["02:00:00:00:00:99", "no ENI"]);
    assert_refused(&node, &add(&Pod::new("c3")), 7, &["net1", "no MAC address"]);
    node.lab
        .untag_eni(&node.eni, "node.k8s.amazonaws.com/no_manage");
    fs::remove_file(node.run_directory().join("eni-cni/enis.json")).unwrap();
    let said = [node.eni.to_string(), "is not tagged".to_owned()];
    assert_refused(&node, &add(&pod), 7, &[&said[0], &said[1]]);
    assert!(node.ledger().is_empty() && intents(&node).is_empty());
    assert!(is_unchanged(&node));
}
