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

/// The same, but the first DEL of each of them fails.
const FAIL_AND_HANG: &str = r#"
if [ "$CNI_COMMAND" = DEL ] && [ "$CNI_CONTAINERID" != "${CNI_CONTAINERID#hangs}" ]; then
    if [ ! -e "$dir/failed-$CNI_CONTAINERID" ]; then
        echo >"$dir/failed-$CNI_CONTAINERID"
        echo '{"cniVersion": "1.0.0", "code": 11, "msg": "not yet"}'
        exit 1
    fi
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

/// An agent that ends such pods at once.
fn ending(node: &VpcNode, ipam: &FakeIpam) -> Agent {
    let plugins = our_plugin("host-device");
    let plugins = plugins.parent().unwrap().display().to_string();
    let mut configuration = pool(64, 65, 2);
    configuration["cniPath"] = format!("{plugins}:{}", ipam.cni_path()).into();
    configuration["graceSeconds"] = 0.into();
    configuration["reconcileSeconds"] = 1.into();
    Agent::start(node, &configuration)
}

#[test]
fn a_del_that_hangs_keeps_nothing_else_waiting() {
    let (vpc, ipam) = (Vpc::new(), FakeIpam::new());
    let node = vpc.node();
    for (number, id) in ["hangs1", "hangs2", "ends"].iter().enumerate() {
        leave(&node, &ipam, id, 10 + number as u32);
    }
    ipam.hook(HANG);
    let agent = ending(&node, &ipam);
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

#[test]
fn dels_that_have_failed_keep_a_new_one_from_nothing() {
    let (vpc, ipam) = (Vpc::new(), FakeIpam::new());
    let node = vpc.node();
    let names = ["hangs1", "hangs2", "hangs3", "hangs4", "hangs5"];
    for (number, id) in (10..).zip(names) {
        leave(&node, &ipam, id, number);
    }
    ipam.hook(FAIL_AND_HANG);
    let agent = ending(&node, &ipam);
    let have_failed = || {
        let mut names = names.iter();
        names.all(|id| ipam.path(&format!("failed-{id}")).exists())
    };
    assert!(eventually(have_failed), "{}", agent.log());
    let hanging = || names.iter().filter(|id| ipam.path(id).exists()).count();
    assert!(eventually(|| hanging() >= 3), "{}", agent.log());
    leave(&node, &ipam, "ends", 20);
    let has_ended = || !ipam.reserved().contains(&"ends.net1".to_owned());
    assert!(eventually(has_ended), "{}", agent.log());
    assert_eq!(hanging(), 3, "{}", agent.log());
    ipam.write("go-on", "");
    assert!(eventually(|| ipam.reserved().is_empty()), "{}", agent.log());
}
