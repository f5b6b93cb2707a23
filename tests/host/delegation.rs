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

/// However the attachment ends. The delegate is a script under the name of the one that speaks to
/// its server through the interface.
#[test]
fn the_interface_is_there_without_its_addresses_when_dhcp_releases_them() {
    for (command, code) in [("DEL", 0), ("GC", 0), ("ADD", 999)] {
        let (node, pod) = (node(), Pod::new("c1"));
        let ipam = FakeIpam::new();
        std::fs::copy(ipam.path("fake-ipam"), ipam.path("dhcp")).unwrap();
        ipam.hook(
            "[ $CNI_COMMAND = DEL ] || return 0
             nsenter --net=$CNI_NETNS ip -o link show dev net1 >$dir/link
             nsenter --net=$CNI_NETNS ip -4 -o address show dev net1 >$dir/addresses",
        );
        let conf = json!({
            "cniVersion": "1.1.0", "name": "net", "type": "host-device", "device": "eth1",
            "ipam": {"type": "dhcp"}, "cni.dev/valid-attachments": [],
        });
        let run = |command: &str| {
            let call = Call::ours("host-device", command).conf(&conf);
            node.run(&call.pod(&pod, "net1").env("CNI_PATH", &ipam.cni_path()))
        };
        if command == "ADD" {
            // The kernel refuses a gateway that is a broadcast address.
            let routes = json!([{"dst": "10.8.0.0/16", "gw": "10.9.0.255"}]);
            let ips = json!([{"address": "10.9.0.5/24"}]);
            ipam.answer(&json!({"ips": ips, "routes": routes}));
        } else {
            run("ADD").ok();
            assert_eq!(pod.netns.addresses("net1"), ["10.9.0.5/24"]);
        }
        let output = run(command);
        match code {
            0 => drop(output.ok()),
            code => drop(output.error_code(code)),
        }
        let link = ipam.read("link");
        assert!(
            link.contains("net1") && link.contains(",UP"),
            "{command}: {link:?}"
        );
        assert_eq!(ipam.read("addresses"), "", "{command}");
        assert_eq!(ipam.reserved(), [""; 0], "{command}");
        assert_eq!(pod.netns.links(), ["lo"], "{command}");
    }
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
