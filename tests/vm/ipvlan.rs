//! ipvlan, on a kernel that has it.

mod chaining;
mod checking;
mod delegating;
mod deleting;
mod failing;
mod held;
mod identity;
mod making;
mod neighbours;
mod refusing;
mod sharing;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use harness::{Call, Node, Output, Pod};
use serde_json::{Value, json};
use tempfile::TempDir;

const VERSIONS: [&str; 7] = [
    "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
];

/// A node with a master `eth1` (MTU 9001) that is up.
fn node() -> Node {
    let node = Node::new();
    let made = node.netns.try_tool(
        "ip",
        &["link", "add", "eth1", "mtu", "9001", "type", "dummy"],
    );
    assert!(
        made.status.success(),
        "this kernel has no dummy and ipvlan interfaces; `make test` runs these tests in a VM"
    );
    node.netns.ip(&["link", "set", "eth1", "up"]);
    node
}

/// A configuration of version 1.1.0 with host-local and 10.0.4.0/24.
fn conf() -> Value {
    json!({
        "cniVersion": "1.1.0", "name": "net", "type": "ipvlan", "master": "eth1", "mode": "l2",
        "ipam": {"type": "host-local", "subnet": "10.0.4.0/24"}
    })
}

fn with(mut conf: Value, changes: Value) -> Value {
    for (key, value) in changes.as_object().unwrap() {
        conf[key] = value.clone();
    }
    conf
}

fn call(command: &str, conf: &Value, pod: &Pod) -> Call {
    Call::ours("ipvlan", command).conf(conf).pod(pod, "net1")
}

#[track_caller]
fn add(node: &Node, conf: &Value, pod: &Pod) -> Value {
    node.run(&call("ADD", conf, pod)).ok()
}

#[track_caller]
fn del(node: &Node, conf: &Value, pod: &Pod) {
    node.run(&call("DEL", conf, pod)).ok();
}

fn check(node: &Node, conf: &Value, pod: &Pod, result: &Value) -> Output {
    let conf = with(conf.clone(), json!({"prevResult": result}));
    node.run(&call("CHECK", &conf, pod))
}

/// An ADD that must fail with `code`, name `thing` and change nothing at all.
#[track_caller]
fn refused(node: &Node, conf: &Value, pod: &Pod, code: u64, thing: &str) {
    let before = (node.netns.links(), pod.netns.links(), reservations(node));
    let output = node.run(&call("ADD", conf, pod));
    let error = output.error_code(code);
    let said = format!("{}: {}", error.msg, error.details);
    assert!(
        said.contains(thing),
        "{said:?} does not name {thing:?}\n{output}"
    );
    assert_eq!(
        (node.netns.links(), pod.netns.links(), reservations(node)),
        before
    );
}

/// Everything the plugins remember: reservations and records, not the marks of the
/// round robin.
fn reservations(node: &Node) -> Vec<String> {
    let is_mark = |file: &String| file.contains("last_reserved_ip.") || file.ends_with("/lock");
    node.files()
        .into_iter()
        .filter(|file| !is_mark(file))
        .collect()
}

/// An IPAM plugin made of a shell script; `$CNI_COMMAND` decides.
fn script(directory: &Path, name: &str, text: &str) {
    let path = directory.join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A configuration whose IPAM plugin is a script, and the call with its directory.
fn with_script(text: &str) -> (TempDir, Value) {
    let directory = tempfile::tempdir().unwrap();
    script(directory.path(), "fake-ipam", text);
    (
        directory,
        with(conf(), json!({"ipam": {"type": "fake-ipam"}})),
    )
}

fn in_path(call: Call, directory: &TempDir) -> Call {
    call.env("CNI_PATH", directory.path().to_str().unwrap())
}
