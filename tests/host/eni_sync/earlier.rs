//! State as an earlier version wrote it, before formats had versions: `tests/data/earlier`, which
//! `make` there has made. The programs of today read it, and end what it is about. `upgrade` has
//! the earlier programs themselves, where the clone has its history.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use harness::vpc::{Vpc, VpcNode, device_call, ip};
use harness::{Call, Pod, attachment_files, repository};
use serde_json::{Value, json};

/// A file of the earlier version, with what this machine has in the places of its names.
fn earlier(file: &str, values: &[(&str, String)]) -> String {
    let directory = repository().join("tests/data/earlier");
    let mut text = fs::read_to_string(directory.join(file)).unwrap();
    for (name, value) in values {
        let is_number = value.bytes().all(|byte| byte.is_ascii_digit());
        text = match is_number {
            true => text.replace(&format!("\"@{name}@\""), value),
            false => text.replace(&format!("@{name}@"), value),
        };
    }
    assert!(!text.contains('@'), "{text}");
    text
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// What the files say of a pod.
fn of_pod(pod: &Pod) -> Vec<(&'static str, String)> {
    let namespace = fs::metadata(pod.netns.path()).unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    vec![
        ("netns", pod.netns.path()),
        ("device", namespace.dev().to_string()),
        ("inode", namespace.ino().to_string()),
        ("boot", boot.trim().to_owned()),
        // Long ago.
        ("now", "1700000000".to_owned()),
    ]
}

/// Gives the node the ledger of an address that a pod has and of one that waits to be released,
/// and the inventory.
fn with_addresses(node: &VpcNode, pod: &Pod) {
    node.lab
        .assign(&node.eni, &["10.0.4.70", "10.0.4.71"].map(ip));
    let values = of_pod(pod);
    for (address, file) in [("10.0.4.70", "held.json"), ("10.0.4.71", "releasing.json")] {
        write(&node.ledger_path().join(address), &earlier(file, &values));
    }
    let values = [
        ("instance", node.instance.to_string()),
        ("eni", node.eni.to_string()),
        ("mac", node.mac.clone()),
    ];
    let inventory = node.run_directory().join("eni-cni/enis.json");
    write(&inventory, &earlier("enis.json", &values));
}

#[test]
fn the_addresses_of_an_earlier_version_are_shown_checked_and_released() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    with_addresses(&node, &pod);
    let status = node.command(&["status", "--json"]).document();
    assert_eq!(status["instanceId"], node.instance.as_str());
    let shown = &status["enis"][0];
    let of = |address: &Value| {
        let alive = &address["owner"]["alive"];
        json!([address["address"], address["state"], alive])
    };
    let addresses = shown["addresses"].as_array().unwrap();
    let addresses: Vec<Value> = addresses.iter().map(of).collect();
    // That version did not write down whether EC2 had confirmed an address.
    let expected = [
        json!(["10.0.4.70", "held", true]),
        json!(["10.0.4.71", "withdrawn", true]),
    ];
    assert_eq!(addresses, expected, "{status:#}");
    assert_eq!(shown["damaged"], json!([]));
    node.check(&pod, &["10.0.4.70"]).ok();
    node.del(&pod);
    // What was never confirmed is released after a description that cannot be older.
    for _ in 0..3 {
        node.let_time_pass(120);
        node.command(&["sync", "--once"]);
    }
    assert_eq!(node.addresses(), [""; 0], "{:?}", node.ledger());
    assert!(node.ledger().is_empty(), "{:?}", node.ledger());
}

#[test]
fn a_device_and_an_address_of_an_earlier_version_come_back() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.add_device();
    let links = node.node.netns.links();
    let device = node.node.netns.link("dev7").unwrap();
    let peer = node.node.netns.link("peer7").unwrap();
    let pod = Pod::new("c3");
    let mut values = of_pod(&pod);
    values.push(("index", device["ifindex"].to_string()));
    values.push(("parent", peer["ifindex"].to_string()));
    values.push(("devmac", device["address"].as_str().unwrap().to_owned()));
    let state = node.node.state();
    let record = state.join("eni-cni/host-device/device/c3:net1.json");
    write(&record, &earlier("record.json", &values));
    write(
        &state.join("networks/device/10.9.0.2"),
        &earlier("reservation", &[]),
    );
    node.node
        .netns
        .ip(&["link", "set", "dev7", "netns", &pod.netns.path()]);
    pod.netns.ip(&["link", "set", "dev7", "name", "net1"]);
    pod.netns
        .ip(&["address", "add", "10.9.0.2/24", "dev", "net1"]);
    let mut conf = device_call("DEL", "device", "dev7", &pod);
    conf = with_ipam(conf);
    node.run(&conf).ok();
    assert_eq!(pod.netns.links(), ["lo"]);
    assert_eq!(node.node.netns.links(), links);
    assert_eq!(attachment_files(state), [""; 0]);
}

/// The same call of a network whose addresses are host-local's.
fn with_ipam(call: Call) -> Call {
    let mut conf: Value = serde_json::from_slice(call.input()).unwrap();
    conf["ipam"] = json!({
        "type": "host-local", "ranges": [[{ "subnet": "10.9.0.0/24" }]],
    });
    call.conf(&conf)
}
