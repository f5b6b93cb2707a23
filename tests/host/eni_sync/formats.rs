//! Files of a newer version, as a return to an older one leaves them: each is refused by its
//! name, and stays as it is. `docs/reliability.md` has the table.

use std::fs;
use std::path::Path;

use harness::vpc::{Agent, Vpc, assert_refused, device_call};
use harness::{Call, Pod};
use rustix::fs::{XattrFlags, lsetxattr};
use serde_json::{Value, json};

use super::ipam;

/// Makes a document one of a newer format.
fn mark(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let mut document: Value = serde_json::from_str(&text).unwrap();
    document["formatVersion"] = json!(3);
    fs::write(path, document.to_string()).unwrap();
    document.to_string()
}

const NEWER: &str = "it is of format 3, and version ";
/// Nothing that this version could make sense of.
const NEW: &str = r#"{"formatVersion":3,"what":"new"}"#;
/// The extended attribute in which a record's file has the number of its boot.
const BOOT: &str = "user.eni-cni.boot";

#[test]
fn an_entry_of_a_newer_ledger_is_refused_and_stays() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    node.add(&pod, &["10.0.4.70"]).ok();
    let path = node.ledger_path().join("10.0.4.70");
    let marked = mark(&path);
    node.lab.reset_calls();
    let call = node.pod_call("CHECK", &pod, &["10.0.4.70"]);
    let named = format!("ledger/{}/10.0.4.70", node.eni);
    assert_refused(&node, &call, 6, &[&named, "newer ledger", NEWER]);
    let output = node.command(&["release", "--eni", node.eni.as_str(), "--force"]);
    assert_eq!(output.status, Some(1), "{output}");
    assert!(output.stdout.contains(NEWER), "{output}");
    assert_eq!(node.addresses(), ["10.0.4.70"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), marked);
}

/// Without it, an address could be given away that it names.
#[test]
fn an_exclusion_list_of_a_newer_version_is_refused_and_stays() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let path = node.ledger_path().with_file_name("exclude.json");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, NEW).unwrap();
    let agent = Agent::start(&node, &json!({ "exclude": ["10.0.4.70"] }));
    let log = agent.log();
    assert!(
        log.contains("ledger/exclude.json") && log.contains(NEWER),
        "{log}"
    );
    let pod = ipam::sharing(&node, "c1");
    let call = ipam::call(&node, "ADD", &pod, &json!({ "addresses": ["10.0.4.71"] }));
    assert_refused(
        &node,
        &call,
        6,
        &["ledger/exclude.json", "newer ledger", NEWER],
    );
    let waiting = ipam::sharing(&node, "c2");
    let chosen = ipam::call(&node, "ADD", &waiting, &ipam::ipv4());
    assert_refused(&node, &chosen, 6, &["ledger/exclude.json", "newer ledger"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), NEW);
    // What host-local has chosen waits for none of this.
    node.add(&Pod::new("c3"), &["10.0.4.72"]).ok();
    assert_eq!(node.addresses(), ["10.0.4.72"]);
}

#[test]
fn a_record_of_a_newer_version_is_refused_and_stays() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.add_device();
    let pod = Pod::new("c1");
    let add = device_call("ADD", "dpdk", "dev7", &pod);
    node.run(&add).ok();
    let path = node
        .node
        .state()
        .join("eni-cni/host-device/dpdk/c1:net1.json");
    let marked = mark(&path);
    let output = node.run(&add);
    let error = output.error();
    assert_eq!(error.code, 5, "{output}");
    assert!(error.msg.contains("c1:net1.json"), "{output}");
    assert!(error.details.contains(NEWER), "{output}");
    assert_eq!(fs::read_to_string(&path).unwrap(), marked);
    // Neither is it taken for one that a power failure has damaged.
    lsetxattr(&path, BOOT, b"another", XattrFlags::REPLACE).unwrap();
    let error = node.run(&add).error_code(5);
    assert!(error.msg.contains("of a newer version"), "{error:?}");
    assert!(error.details.contains(NEWER), "{error:?}");
    assert_eq!(fs::read_to_string(&path).unwrap(), marked);
}

#[test]
fn what_else_a_newer_ledger_has_of_an_eni_is_refused_and_stays() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.add(&Pod::new("c1"), &["10.0.4.70"]).ok();
    let unheard = node.ledger_path().join(".unheard");
    fs::write(&unheard, NEW).unwrap();
    let pod = ipam::sharing(&node, "c2");
    let call = ipam::call(&node, "ADD", &pod, &ipam::ipv4());
    node.lab.reset_calls();
    assert_refused(&node, &call, 6, &["/.unheard", "newer ledger", NEWER]);
    assert_eq!(fs::read_to_string(&unheard).unwrap(), NEW);
}

#[test]
fn the_way_that_an_agent_of_a_newer_version_has_left_is_not_taken() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let path = node.run_directory().join("eni-cni/environment.json");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let newer = r#"{"formatVersion":3,"variables":{"AWS_REGION":"eu-west-1"}}"#;
    fs::write(&path, newer).unwrap();
    let output = node.add(&Pod::new("c1"), &["10.0.4.70"]);
    output.ok();
    assert_eq!(node.addresses(), ["10.0.4.70"]);
    let said = "going on without \"/run/eni-cni/environment.json\": it is of format 3";
    assert!(output.stderr.contains(said), "{output}");
}

#[test]
fn an_inventory_of_a_newer_version_is_refused() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.command(&["sync", "--once"]);
    mark(&node.run_directory().join("eni-cni/enis.json"));
    let output = node.command(&["status"]);
    assert!(output.stderr.contains("/run/eni-cni/enis.json"), "{output}");
    assert!(output.stderr.contains(NEWER), "{output}");
    // It is a copy of what EC2 says, and written anew.
    node.command(&["sync", "--once"]);
    let output = node.command(&["status"]);
    assert!(output.stdout.contains(node.instance.as_str()), "{output}");
}

#[test]
fn a_ranges_file_of_a_newer_version_is_refused() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ranges.json");
    fs::write(
        &path,
        json!({"ranges": [[{"subnet": "10.9.0.0/24"}]]}).to_string(),
    )
    .unwrap();
    let conf = json!({
        "cniVersion": "1.1.0", "name": "net", "type": "host-local",
        "ipam": {"type": "host-local", "rangesFile": path},
    });
    let pod = Pod::new("c1");
    let add = Call::ours("host-local", "ADD")
        .conf(&conf)
        .pod(&pod, "net1");
    node.run(&add).ok();
    mark(&path);
    let next = Pod::new("c2");
    let add = Call::ours("host-local", "ADD")
        .conf(&conf)
        .pod(&next, "net1");
    let output = node.run(&add);
    assert!(output.stdout.contains("ranges.json"), "{output}");
    assert!(output.stdout.contains(NEWER), "{output}");
}
