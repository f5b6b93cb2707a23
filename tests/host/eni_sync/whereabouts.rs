//! Coming from whereabouts: its reservations, as kubectl prints them, are what host-local gives to
//! nobody until their pods have gone.

use std::fs;

use harness::{Call, Node, Output, Pod};
use serde_json::{Value, json};

/// A dump of a cluster: `kubectl get ippools.whereabouts.cni.cncf.io,pods -A -o json`.
const DUMP: &str = include_str!("../../data/whereabouts-ippools.json");

pub(super) fn dump() -> Value {
    serde_json::from_str(DUMP).unwrap()
}

/// The same without the items for which this is so.
fn without(is_gone: impl Fn(&Value) -> bool) -> Value {
    let mut dump = dump();
    let items = dump["items"].as_array_mut().unwrap();
    items.retain(|item| !is_gone(item));
    dump
}

/// The same when a pod has gone.
pub(super) fn dump_without_pod(name: &str) -> Value {
    without(|item| item["metadata"]["name"] == name)
}

fn whereabouts(dump: &Value, arguments: &[&str]) -> Output {
    let call = Call::ours("eni-sync", "").without("CNI_COMMAND");
    let call = call.stdin(dump.to_string());
    let mut process = call.process();
    process.args(["whereabouts", "-"]).args(arguments);
    call.run_as(process)
}

/// The addresses of the network of the tests.
pub(super) fn listed(dump: &Value) -> Value {
    let output = whereabouts(dump, &["--subnet", "10.0.4.0/24"]);
    assert_eq!(output.status, Some(0), "{output}");
    output.document()
}

/// What host-local gives a pod of a network without these addresses.
fn next_address(node: &Node, exclude: &Value, container: &str) -> Value {
    let conf = json!({
        "cniVersion": "1.1.0", "name": "lan", "type": "ipvlan", "ipam": {
            "type": "host-local", "exclude": exclude,
            "ranges": [[{ "subnet": "10.0.4.0/24", "rangeStart": "10.0.4.20", "rangeEnd": "10.0.4.23" }]],
        },
    });
    let call = Call::ours("host-local", "ADD").conf(&conf);
    let output = node.run(&call.pod(&Pod::new(container), "net1"));
    output.ok()["ips"][0]["address"].clone()
}

#[test]
fn what_whereabouts_has_reserved_is_given_to_nobody_until_its_pod_has_gone() {
    let node = Node::new();
    let exclude = listed(&dump());
    assert_eq!(exclude, json!(["10.0.4.20", "10.0.4.21", "10.0.4.100"]));
    assert_eq!(next_address(&node, &exclude, "c1"), "10.0.4.22/24");
    let later = listed(&dump_without_pod("smf-0"));
    assert_eq!(later, json!(["10.0.4.21", "10.0.4.100"]));
    assert_eq!(next_address(&node, &later, "c2"), "10.0.4.23/24");
    assert_eq!(next_address(&node, &later, "c3"), "10.0.4.20/24");
}

#[track_caller]
fn assert_lists_all(dump: &Value) {
    let output = whereabouts(dump, &[]);
    let expected = json!([
        "10.0.4.20",
        "10.0.4.21",
        "10.0.4.99",
        "10.0.4.100",
        "192.168.7.3",
        "2001:db8:4::1a",
    ]);
    assert_eq!(output.document(), expected, "{output}");
    assert_eq!(output.stderr, "");
}

#[test]
fn all_that_is_reserved_is_listed_where_the_dump_has_no_pods() {
    assert_lists_all(&without(|item| item["kind"] == "Pod"));
}

#[test]
fn a_dump_with_the_pods_of_another_namespace_does_not_end_those_of_this_one() {
    let is_of_user_plane = |item: &Value| item["metadata"]["namespace"] == "user-plane";
    assert_lists_all(&without(|item| {
        item["kind"] == "Pod" && is_of_user_plane(item)
    }));
}

#[test]
fn what_is_left_out_is_named_with_its_pod() {
    let output = whereabouts(&dump(), &[]);
    assert_eq!(
        output.stderr,
        "10.0.4.99 is left out: pod user-plane/upf-old has gone\n"
    );
}

#[test]
fn a_dump_that_may_lack_reservations_gives_no_list() {
    let broken = |change: &dyn Fn(&mut Value)| {
        let mut dump = dump();
        change(&mut dump["items"][0]);
        dump
    };
    for (dump, said) in [
        (without(|item| item["kind"] == "IPPool"), "it has no IPPool"),
        (json!({ "kind": "List" }), "it has \"List\" \"\""),
        (
            broken(&|pool| pool["spec"]["allocations"]["x"] = json!({ "id": "c9" })),
            "IPPool \"10.0.4.0-24\": \"x\" is not a place in 10.0.4.0/24",
        ),
        (
            broken(&|pool| pool["spec"]["allocations"]["256"] = json!({ "id": "c9" })),
            "\"256\" is not a place in 10.0.4.0/24",
        ),
        (
            broken(&|pool| _ = pool["spec"].as_object_mut().unwrap().remove("allocations")),
            "IPPool \"10.0.4.0-24\": missing field `allocations`",
        ),
    ] {
        let output = whereabouts(&dump, &[]);
        assert_eq!(output.status, Some(1), "{output}");
        assert_eq!(output.stdout, "", "{output}");
        assert!(output.stderr.contains(said), "{said}: {output}");
    }
}

#[test]
fn a_dump_can_be_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pools.json");
    let mut process = Call::ours("eni-sync", "").without("CNI_COMMAND").process();
    process.arg("whereabouts").arg(&path);
    let output = process.output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("failed to read"));
    fs::write(&path, DUMP).unwrap();
    let output = process.output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("10.0.4.20"));
}
