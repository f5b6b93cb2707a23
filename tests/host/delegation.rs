//! Go's main plugins with our host-local: they delegate to it as they do to Go's.

use fixtures::dhcp;
use harness::{Call, FakeIpam, Node, Pod};
use serde_json::{Value, json};

/// A node with a master `eth1` that is up.
fn node() -> Node {
    let node = Node::new();
    node.netns.ip(&[
        "link", "add", "eth1", "type", "veth", "peer", "name", "peer1",
    ]);
    node.netns.ip(&["link", "set", "eth1", "up"]);
    node.netns.ip(&["link", "set", "peer1", "up"]);
    node
}

fn go_delegates_to_ours(conf: &Value) {
    let (node, pod) = (node(), Pod::new("c1"));
    let plugin = conf["type"].as_str().unwrap();
    let reservation = node.state().join("networks/net/10.0.4.2");
    let call = |command: &str, conf: &Value| Call::go(plugin, command).conf(conf).pod(&pod, "net1");

    let result = node.run(&call("ADD", conf)).ok();
    assert_eq!(pod.netns.addresses("net1"), ["10.0.4.2/24"]);
    assert_eq!(std::fs::read_to_string(&reservation).unwrap(), "c1\r\nnet1");
    assert_eq!(result["dns"]["nameservers"], Value::Null);

    let mut checked = conf.clone();
    checked["prevResult"] = result;
    node.run(&call("CHECK", &checked)).ok();
    std::fs::rename(&reservation, reservation.with_extension("away")).unwrap();
    let error = node.run(&call("CHECK", &checked)).error();
    assert!(
        error
            .msg
            .contains("Failed to find address added by container c1"),
        "{error:?}"
    );
    std::fs::rename(reservation.with_extension("away"), &reservation).unwrap();

    node.run(&call("DEL", conf)).ok();
    assert!(!reservation.exists());
    assert_eq!(pod.netns.links(), ["lo"]);
}

fn ipam() -> Value {
    json!({"type": "host-local", "subnet": "10.0.4.0/24"})
}

#[test]
fn go_macvlan_delegates_to_our_host_local() {
    go_delegates_to_ours(&json!({
        "cniVersion": "1.0.0", "name": "net", "type": "macvlan", "master": "eth1", "ipam": ipam()
    }));
}

#[test]
fn go_ptp_delegates_to_our_host_local() {
    go_delegates_to_ours(
        &json!({"cniVersion": "1.0.0", "name": "net", "type": "ptp", "ipam": ipam()}),
    );
}

#[test]
fn a_dhcp_server_sees_a_lease_acquired_and_released_with_host_device() {
    dhcp::a_lease_is_taken_and_given_back("host-device");
}

/// As when the ADD fails behind the delegate's.
#[test]
fn a_dhcp_server_gets_the_lease_of_a_failed_add_back() {
    dhcp::a_failed_add_gives_its_lease_back("host-device");
}

#[test]
fn what_a_delegate_says_cannot_write_to_the_terminal() {
    let (node, pod) = (node(), Pod::new("c1"));
    let ipam = FakeIpam::new();
    ipam.write("hook", "printf 'one \\033[2J\\nlast' >&2\n");
    let conf = json!({
        "cniVersion": "1.0.0", "name": "net", "type": "host-device", "device": "eth1",
        "ipam": {"type": "fake-ipam"},
    });
    let call = Call::ours("host-device", "ADD")
        .conf(&conf)
        .pod(&pod, "net1");
    let directory = ipam.path("");
    let output = node.run(&call.env("CNI_PATH", &directory.display().to_string()));
    assert_eq!(output.status, Some(0), "{output}");
    assert!(output.stderr.contains("one \\u{1b}[2J\nlast\n"), "{output}");
}
