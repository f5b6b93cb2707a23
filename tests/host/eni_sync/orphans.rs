//! Attachments whose container has ended without a DEL, and whose DEL takes long.

use std::fs;
use std::os::unix::fs::symlink;

use harness::vpc::{Agent, Vpc, VpcNode, eventually};
use harness::{Call, FakeIpam, Pod, our_plugin};
use serde_json::json;

use super::confirmed::{listed, pool};

/// The DEL of the IPAM plugin hangs until a file is there, or the test has ended.
const HANG: &str = r#"
if [ "$CNI_COMMAND" = DEL ] && [ "$CNI_CONTAINERID" != "${CNI_CONTAINERID#hangs}" ]; then
    echo >"$dir/$CNI_CONTAINERID"
    while [ -e "$dir/hook" ] && [ ! -e "$dir/go-on" ]; do sleep 0.1; done
fi
"#;

/// A pod that has ended, with a device of the node.
fn leave(node: &VpcNode, ipam: &FakeIpam, id: &str, number: u32) {
    let device = format!("dev{number}");
    node.node
        .netns
        .ip(&["link", "add", &device, "type", "veth"]);
    let pod = Pod::new(id);
    let names = node.run_directory().join("netns");
    fs::create_dir_all(&names).unwrap();
    symlink(pod.netns.path(), names.join(id)).unwrap();
    let conf = json!({
        "cniVersion": "1.0.0", "name": "lan", "type": "host-device", "device": device,
        "ipam": { "type": "fake-ipam" },
    });
    let call = Call::ours("host-device", "ADD").conf(&conf);
    let call = call.attachment(id, "net1", &format!("/run/netns/{id}"));
    node.run(&call.env("CNI_PATH", &ipam.cni_path())).ok();
    fs::remove_file(names.join(id)).unwrap();
}

#[test]
fn a_del_that_hangs_keeps_nothing_else_waiting() {
    let (vpc, ipam) = (Vpc::new(), FakeIpam::new());
    let node = vpc.node();
    for (number, id) in ["hangs1", "hangs2", "ends"].iter().enumerate() {
        leave(&node, &ipam, id, 10 + number as u32);
    }
    ipam.hook(HANG);
    let plugins = our_plugin("host-device");
    let plugins = plugins.parent().unwrap().display().to_string();
    let mut configuration = pool(64, 65, 2);
    configuration["cniPath"] = format!("{plugins}:{}", ipam.cni_path()).into();
    configuration["graceSeconds"] = 0.into();
    configuration["reconcileSeconds"] = 1.into();
    let agent = Agent::start(&node, &configuration);
    let hangs = || ["hangs1", "hangs2"].map(|id| ipam.path(id).exists()) == [true, true];
    assert!(eventually(hangs), "{}", agent.log());
    // The pool gets its addresses, the third attachment ends, and the agent goes on comparing.
    assert!(eventually(
        || listed(&node).is_some_and(|listed| listed.len() == 2)
    ));
    let left = ["hangs1.net1", "hangs2.net1"];
    assert!(eventually(|| ipam.reserved() == left), "{}", agent.log());
    let describes = || node.lab.calls()["DescribeNetworkInterfaces"];
    let before = describes();
    assert!(eventually(|| describes() > before + 2));
    assert_eq!(ipam.reserved(), left);
    ipam.write("go-on", "");
    assert!(eventually(|| ipam.reserved().is_empty()), "{}", agent.log());
}
