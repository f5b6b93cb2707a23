//! ipvlan on the kernel of this machine, which may have it or not.

use harness::{Call, Node, Pod};
use serde_json::{Value, json};

/// Whether it has it is asked of `ip`.
#[test]
fn status_and_add_say_whether_the_kernel_has_ipvlan() {
    let (node, pod) = (Node::new(), Pod::new("c1"));
    node.netns.ip(&["link", "add", "eth1", "type", "veth"]);
    node.netns.ip(&["link", "set", "eth1", "up"]);
    let ipvlan = [
        "link", "add", "link", "eth1", "name", "ipv0", "type", "ipvlan", "mode", "l2",
    ];
    let has_ipvlan = node.netns.try_tool("ip", &ipvlan).status.success();
    let conf = json!({
        "cniVersion": "1.1.0", "name": "net", "type": "ipvlan", "master": "eth1",
        "ipam": {"type": "host-local", "subnet": "10.0.4.0/24"}
    });
    let status = node.run(&Call::ours("ipvlan", "STATUS").conf(&conf));
    let add = Call::ours("ipvlan", "ADD").conf(&conf).pod(&pod, "net1");
    let add = node.run(&add);
    if has_ipvlan {
        status.ok();
        add.ok();
        return;
    }
    let said = "the kernel of this node has no ipvlan";
    assert!(status.error_code(50).msg.starts_with(said), "{status}");
    assert!(add.error_code(7).msg.starts_with(said), "{add}");
    assert_eq!(pod.netns.links(), ["lo"]);
    assert_eq!(node.files(), [""; 0]);
}

/// Whatever the kernel has: nothing is asked of it.
#[test]
fn a_version_that_cannot_express_the_result_is_refused_before_anything_is_touched() {
    let (node, pod) = (Node::new(), Pod::new("c1"));
    let mut conf = json!({
        "cniVersion": "0.2.0", "name": "net", "type": "ipvlan", "master": "no-such-master"
    });
    let add = |conf: &Value| node.run(&Call::ours("ipvlan", "ADD").conf(conf).pod(&pod, "net1"));
    let error = add(&conf).error_code(7);
    assert_eq!(error.msg, "cannot convert: no valid IP addresses");
    assert!(!node.state().join("eni-cni").exists());

    // Addresses from the plugin before it are enough.
    conf["prevResult"] = json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.0.4.2/24"}});
    let error = add(&conf).error_code(7);
    assert!(error.msg.contains("no-such-master"), "{error:?}");
}
