//! What an attachment costs the kernel: the netlink messages of ADD and DEL, exactly
//! as the crates' `KERNEL.md` lists them, and bounds for all system calls.

use std::fs;

use fixtures::kernel_calls::{Trace, calls_are_those_that_are_documented};
use harness::{Call, Node, Pod};
use serde_json::{Value, json};

#[test]
fn host_device_asks_the_kernel_for_what_is_documented_and_no_more() {
    let (node, pod) = (Node::new(), Pod::new("c1"));
    let veth = [
        "link", "add", "hd0", "type", "veth", "peer", "name", "hd0-peer",
    ];
    node.netns.ip(&veth);
    node.netns.ip(&["link", "set", "hd0", "up"]);
    let conf = json!({
        "cniVersion": "1.1.0", "name": "lan", "type": "host-device", "device": "hd0",
        "ipam": {
            "type": "host-local", "subnet": "10.9.0.0/24",
            "routes": [{"dst": "10.0.0.0/8"}],
        },
    });
    let text = include_str!("../../host-device/KERNEL.md");
    calls_are_those_that_are_documented(&node, text, |command| {
        Call::ours("host-device", command)
            .conf(&conf)
            .pod(&pod, "net1")
    });
}

/// A node has a record for each device that a pod has. Whether a virtual device has come back is
/// seen on the host, without a look at the pod.
#[test]
fn the_record_of_another_pod_costs_an_add_of_host_device_its_reading_only() {
    const OTHERS: usize = 40;
    // statx of the inode, open, statx, two times read, and close, which a debug build precedes by an
    // fcntl.
    const OF_READING: usize = 7;
    let (node, pod) = (Node::new(), Pod::new("c1"));
    let veth = [
        "link", "add", "hd0", "type", "veth", "peer", "name", "hd0-peer",
    ];
    node.netns.ip(&veth);
    let conf = json!({
        "cniVersion": "1.1.0", "name": "lan", "type": "host-device", "device": "hd0",
    });
    let call = |command: &str| {
        Call::ours("host-device", command)
            .conf(&conf)
            .pod(&pod, "net1")
    };
    node.run(&call("ADD")).ok();
    let records = node.state().join("eni-cni/host-device/lan");
    let record = fs::read(records.join("c1:net1.json")).expect("ADD has written it");
    let mut record: Value = serde_json::from_slice(&record).expect("a record is JSON");
    node.run(&call("DEL")).ok();
    let alone = Trace::of(&node, &call("ADD")).own_calls;
    node.run(&call("DEL")).ok();
    for number in 0..OTHERS {
        let name = format!("other{number}");
        let file = records.join(format!("{name}:net1.json"));
        record["containerId"] = json!(name);
        record["device"]["name"] = json!(name);
        record["device"]["sysfsNumber"] = json!(u64::MAX - number as u64);
        fs::write(file, record.to_string()).expect("it can be written");
    }
    let trace = Trace::of(&node, &call("ADD"));
    // The list of the directory, and that of the interfaces with two of them.
    let most = alone + OTHERS * OF_READING + 15;
    let calls = trace.own_calls;
    assert!(
        calls <= most,
        "{calls} > {most}\n{}",
        trace.calls().join("\n")
    );
    node.run(&call("DEL")).ok();
}
