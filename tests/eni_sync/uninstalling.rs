//! `uninstall`: what it removes, what it puts back, and what keeps it from that.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use harness::{Agent, Output, Pod, go_plugin, our_plugin, run_tool};
use serde_json::json;
use tempfile::TempDir;

use super::fixture::{AwsNode, Vpc, ip};

/// A node's directory with Go's plugins, over which ours have been installed.
fn installed(node: &AwsNode) -> TempDir {
    let [source, target] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    for name in ["ipvlan", "host-local", "bridge"] {
        fs::copy(go_plugin(name), target.path().join(name)).unwrap();
    }
    for name in ["ipvlan", "host-local", "host-device"] {
        fs::copy(our_plugin(name), source.path().join(name)).unwrap();
    }
    // What is installed under this name is found by its bytes, and no program is as long as one
    // with debug information.
    let program = our_plugin("eni-sync").display().to_string();
    let stripped = source.path().join("eni-sync").display().to_string();
    let output = run_tool("strip", &["-o", &stripped, &program]);
    assert!(output.status.success(), "{output:?}");
    let [from, to] = [&source, &target].map(|d| d.path().display().to_string());
    let output = node.command(&["install", "--source", &from, "--target", &to]);
    assert_eq!(output.status, Some(0), "{output}");
    target
}

#[track_caller]
fn uninstall(node: &AwsNode, target: &TempDir, more: &[&str], status: i32) -> Output {
    let target = target.path().display().to_string();
    let arguments = [&["uninstall", "--target", &target], more].concat();
    let output = node.command(&arguments);
    assert_eq!(output.status, Some(status), "{output}");
    output
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

fn is_same(target: &TempDir, name: &str) -> bool {
    fs::read(target.path().join(name)).unwrap() == fs::read(go_plugin(name)).unwrap()
}

#[test]
fn what_was_there_before_comes_back_and_nothing_of_ours_stays() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let target = installed(&node);
    assert!(!is_same(&target, "ipvlan"));
    let pod = Pod::new("c1");
    node.add(&pod, &["10.0.4.70"]).ok();
    node.del(&pod);
    assert_eq!(node.addresses(), ["10.0.4.70"]);
    let output = uninstall(&node, &target, &[], 0);
    assert!(output.stdout.contains(": released\n"), "{output}");
    assert!(node.addresses().is_empty());
    assert_eq!(names(target.path()), ["bridge", "host-local", "ipvlan"]);
    assert!(is_same(&target, "ipvlan") && is_same(&target, "host-local"));
    let mode = fs::metadata(target.path().join("ipvlan")).unwrap();
    assert_eq!(mode.permissions().mode() & 0o7777, 0o755);
    assert!(!node.node.state().join("eni-cni").exists());
    assert!(!node.run_directory().join("eni-cni").exists());
    // Once more there is nothing to do, and no AWS is needed for it.
    node.lab.reset_calls();
    let output = uninstall(&node, &target, &[], 0);
    assert!(node.lab.calls().is_empty(), "{:?}", node.lab.calls());
    assert!(!output.stdout.contains("removed"), "{output}");
}

#[test]
fn a_dry_run_says_the_same_and_changes_nothing() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let target = installed(&node);
    let pod = Pod::new("c1");
    node.add(&pod, &["10.0.4.70"]).ok();
    node.del(&pod);
    let before = names(target.path());
    let output = uninstall(&node, &target, &["--dry-run"], 0);
    for text in [
        format!("10.0.4.70 on {}: would be released", node.eni),
        "/ipvlan would be what it was before".to_owned(),
        "/host-device would be removed".to_owned(),
        "/eni-sync would be removed".to_owned(),
        "/var/lib/cni/eni-cni would be removed".to_owned(),
    ] {
        assert!(output.stdout.contains(&text), "{text}: {output}");
    }
    assert_eq!(names(target.path()), before);
    assert_eq!(node.addresses(), ["10.0.4.70"]);
    assert_eq!(node.ledger()["10.0.4.70"], "releasing");
}

#[test]
fn while_a_pod_is_attached_it_is_named_and_everything_stays() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let target = installed(&node);
    let pod = Pod::new("c1");
    let call = node.pod_call("ADD", &pod, &["10.0.4.70"]);
    let args = "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0";
    node.run(&call.env("CNI_ARGS", args)).ok();
    let before = names(target.path());
    let output = uninstall(&node, &target, &[], 1);
    let named = "pod default/web-0, container c1, interface net1, network mgmt";
    assert!(output.stderr.contains(named), "{output}");
    assert_eq!(names(target.path()), before);
    assert_eq!(node.addresses(), ["10.0.4.70"]);
    // Told to, it removes the programs; what the pod has stays, and what is known of it.
    let output = uninstall(&node, &target, &["--force"], 1);
    assert!(
        output.stdout.contains("kept: in use by pod default/web-0"),
        "{output}"
    );
    assert!(is_same(&target, "ipvlan"));
    assert_eq!(node.addresses(), ["10.0.4.70"]);
    assert_eq!(node.ledger()["10.0.4.70"], "held");
}

#[test]
fn an_attachment_of_a_plugin_counts_without_an_address_in_the_vpc() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let target = installed(&node);
    let link = [
        "link", "add", "dev7", "type", "veth", "peer", "name", "peer7",
    ];
    node.node.netns.ip(&link);
    let pod = Pod::new("c1");
    let conf = json!({
        "cniVersion": "1.0.0", "name": "dpdk", "type": "host-device", "device": "dev7",
    });
    let call = harness::Call::ours("host-device", "ADD").conf(&conf);
    node.run(&call.pod(&pod, "net1")).ok();
    let output = uninstall(&node, &target, &[], 1);
    let named = "container c1, interface net1, network dpdk";
    assert!(output.stderr.contains(named), "{output}");
    let call = harness::Call::ours("host-device", "DEL").conf(&conf);
    node.run(&call.pod(&pod, "net1")).ok();
    uninstall(&node, &target, &[], 0);
}

#[test]
fn an_agent_that_runs_would_bring_everything_back() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let target = installed(&node);
    let _agent = Agent::start(&node, &json!({}));
    let before = names(target.path());
    for more in [&[][..], &["--force"]] {
        let output = uninstall(&node, &target, more, 1);
        assert!(output.stderr.contains("the agent runs"), "{output}");
    }
    assert_eq!(names(target.path()), before);
}

#[test]
fn what_others_have_put_there_since_stays_and_so_do_their_addresses() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let target = installed(&node);
    let theirs = target.path().join("ipvlan");
    fs::remove_file(&theirs).unwrap();
    fs::write(&theirs, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&theirs, fs::Permissions::from_mode(0o755)).unwrap();
    node.lab.assign(&node.eni, &[ip("10.0.4.98")]);
    node.command(&["sync", "--once"]);
    assert_eq!(node.ledger()["10.0.4.98"], "adopted");
    let output = uninstall(&node, &target, &[], 0);
    assert!(output.stdout.contains("/ipvlan stays: it is "), "{output}");
    assert_eq!(fs::read_to_string(&theirs).unwrap(), "#!/bin/sh\n");
    assert_eq!(node.addresses(), ["10.0.4.98"]);
}
