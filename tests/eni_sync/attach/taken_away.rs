//! ENIs that a configuration does not name any more are taken away, unless they carry pods.

use harness::eni_lab::Hold;
use harness::{AwsNode, Host, Output, Pod};
use serde_json::{Value, json};

use super::{Site, attached, call, let_records_settle, records};
use crate::eni_sync::fixture::prev_result;
use crate::eni_sync::killed;

fn detach(node: &AwsNode, configuration: &Value, more: &[&str]) -> Output {
    call(node, configuration, &[]);
    let arguments = ["detach", "--config", "/run/eni-sync.json"];
    let arguments = [&arguments[..], more].concat();
    node.node.run(&node.eni_sync().arguments(&arguments))
}

/// An address of a pod on the node's first ENI of this kind, which eni-sync registers.
fn register(node: &AwsNode, mac: &str, pod: &Pod, command: &str) -> Output {
    let mut conf = json!({ "cniVersion": "1.1.0", "name": "mgmt", "type": "eni-sync" });
    conf["prevResult"] = prev_result(pod, &[(mac, &["10.0.4.70"])]);
    let call = node.eni_sync().env("CNI_COMMAND", command);
    node.node.run(&call.conf(&conf).pod(pod, "net1"))
}

#[test]
fn what_the_configuration_names_no_more_is_deleted_and_the_rest_stays() {
    let site = Site::new();
    let node = site.node();
    let both = site.configuration(&[site.wanted("control", 1), site.wanted("user", 2)]);
    attached(&node, &both);
    let output = detach(&node, &both, &[]);
    assert_eq!(output.stdout, "nothing to detach\n", "{output}");
    let fewer = site.configuration(&[site.wanted("user", 1)]);
    let_records_settle(&node);
    let report = attached(&node, &fewer);
    assert_eq!(report["unwanted"].as_array().unwrap().len(), 2, "{report}");
    let preview = detach(&node, &fewer, &["--dry-run"]);
    assert_eq!(
        preview.stdout.matches("would be deleted").count(),
        2,
        "{preview}"
    );
    assert_eq!(site.enis().len(), 3);
    let output = detach(&node, &fewer, &["--json"]);
    assert_eq!(output.status, Some(0), "{output}");
    assert_eq!(output.stdout.matches("\"deleted\"").count(), 2, "{output}");
    site.assert_exactly(&node, &[("user", 1)], "fewer");
    assert_eq!(super::inventory(&node)["enis"].as_array().unwrap().len(), 2);
    assert_eq!(records(&node), 0);
}

#[test]
fn an_eni_with_pods_stays_and_they_are_named() {
    let site = Site::new();
    let node = site.node();
    let before = site.configuration(&[site.wanted("user", 1)]);
    let report = attached(&node, &before);
    let mac = report["enis"][0]["mac"].as_str().unwrap();
    let pod = Pod::new("c1");
    register(&node, mac, &pod, "ADD").ok();
    let without = json!({"enis": []});
    let output = detach(&node, &without, &[]);
    assert_eq!(output.status, Some(1), "{output}");
    for said in [": kept: ", "c1", "10.0.4.70"] {
        assert!(output.stdout.contains(said), "{said}\n{output}");
    }
    site.assert_exactly(&node, &[("user", 1)], "with a pod");
    register(&node, mac, &pod, "DEL").ok();
    let output = detach(&node, &without, &[]);
    assert_eq!(output.status, Some(0), "{output}");
    assert_eq!(site.enis(), []);
}

#[test]
fn an_eni_whose_interface_a_pod_has_stays() {
    let site = Site::new();
    let node = site.node();
    attached(&node, &site.configuration(&[site.wanted("user", 1)]));
    let pod = Pod::new("c1");
    let path = pod.netns.path();
    node.node.netns.ip(&["link", "set", "ens6", "netns", &path]);
    let output = detach(&node, &json!({}), &[]);
    assert_eq!(output.status, Some(1), "{output}");
    let said = "its interface is not on the node: a pod or a driver for user space has it";
    assert!(output.stdout.contains(said), "{output}");
    site.assert_exactly(&node, &[("user", 1)], "in a pod");
}

#[test]
fn a_detach_that_is_killed_is_completed_by_the_next_start() {
    for action in ["DetachNetworkInterface", "DeleteNetworkInterface"] {
        for hold in [Hold::BeforeCommit, Hold::AfterCommit] {
            let site = Site::new();
            let node = site.node();
            let both = site.configuration(&[site.wanted("old", 1), site.wanted("user", 1)]);
            attached(&node, &both);
            let fewer = site.configuration(&[site.wanted("user", 1)]);
            call(&node, &fewer, &[]);
            let arguments = ["detach", "--config", "/run/eni-sync.json"];
            let call = node.eni_sync().arguments(&arguments);
            killed::kill_held(&node.node, &site.lab, &call, (action, hold));
            attached(&node, &fewer);
            let output = detach(&node, &fewer, &[]);
            assert_eq!(output.status, Some(0), "{output}");
            let what = format!("{action} {hold:?}");
            site.assert_exactly(&node, &[("user", 1)], &what);
        }
    }
}
