//! What an attachment with ipvlan costs the kernel, on one that has it.

use fixtures::kernel_calls::calls_are_those_that_are_documented;
use harness::{Call, Node, Pod};
use serde_json::json;

#[test]
fn ipvlan_asks_the_kernel_for_what_is_documented_and_no_more() {
    let (node, pod) = (Node::new(), Pod::new("c1"));
    node.netns.ip(&["link", "add", "eth1", "type", "dummy"]);
    node.netns.ip(&["link", "set", "eth1", "up"]);
    let conf = json!({
        "cniVersion": "1.1.0", "name": "net", "type": "ipvlan", "master": "eth1",
        "ipam": {
            "type": "host-local", "subnet": "10.0.4.0/24",
            "routes": [{"dst": "10.0.0.0/8"}],
        },
    });
    let text = include_str!("../../ipvlan/KERNEL.md");
    let call =
        |command: &str, pod: &Pod| Call::ours("ipvlan", command).conf(&conf).pod(pod, "net1");
    let other = Pod::new("c0");
    node.run(&call("ADD", &other)).ok();
    calls_are_those_that_are_documented(&node, text, |command| call(command, &pod));
}
