//! The column *since* of the tables of keys beside Debian's Go plugins. A Go plugin refuses a value
//! of the wrong type for a key that it has, and does not look at a key that it has not.

use fixtures::documents::keys::{Row, rows, set};
use harness::{Call, Node, Pod};
use serde_json::{Value, json};

/// Keys that newer Go plugins have than Debian's. Source: containernetworking/plugins 1.9.
const NEWER: [&str; 6] = [
    "linkInContainer",
    "ipam.routes[].advmss",
    "ipam.routes[].mtu",
    "ipam.routes[].priority",
    "ipam.routes[].scope",
    "ipam.routes[].table",
];

/// Whether the Go plugin finds a value of the wrong type in its configuration.
fn is_refused(program: &str, conf: &Value, node: &Node, pod: &Pod) -> bool {
    let call = Call::go(program, "ADD").conf(conf);
    let output = node.run(&call.pod(pod, "net1"));
    let refusal = [
        "cannot unmarshal",
        "invalid CIDR address",
        "invalid IP address",
    ];
    refusal.iter().any(|text| output.stdout.contains(text))
}

fn has_key(program: &str, base: &Value, row: &Row, node: &Node, pod: &Pod) -> bool {
    let mut conf = base.clone();
    let wrong = match row.kind.starts_with("number") {
        true => json!("x"),
        false => json!(7),
    };
    set(&mut conf, &row.key, &wrong);
    is_refused(program, &conf, node, pod)
}

/// Makes sure that the page calls those keys Go's that the Go plugin has.
fn require_since(program: &str, page: &str, base: &Value) {
    let (node, pod) = (Node::new(), Pod::new("c1"));
    assert!(!is_refused(program, base, &node, &pod), "{base}");
    for row in rows(page, "") {
        let is_newer = NEWER.contains(&row.key.as_str());
        let known = has_key(program, base, &row, &node, &pod);
        assert!(
            !(known && is_newer),
            "Debian's {program} has {} now",
            row.key
        );
        let since = if known || is_newer { "Go" } else { "0.1" };
        assert_eq!(row.since, since, "{page}: {}", row.key);
    }
}

#[test]
fn the_page_of_ipvlan_knows_the_keys_of_go() {
    let base = json!({
        "cniVersion": "1.0.0", "name": "net", "type": "ipvlan", "master": "nope", "ipam": {"type": "nope"}
    });
    require_since("ipvlan", "ipvlan.md", &base);
}

#[test]
fn the_page_of_host_device_knows_the_keys_of_go() {
    let base = json!({
        "cniVersion": "1.0.0", "name": "net", "type": "host-device", "device": "nope",
        "ipam": {"type": "nope"}
    });
    require_since("host-device", "host-device.md", &base);
}

#[test]
fn the_page_of_host_local_knows_the_keys_of_go() {
    let base = json!({
        "cniVersion": "1.0.0", "name": "net",
        "ipam": {
            "type": "host-local", "subnet": "10.0.4.0/24", "routes": [{"dst": "0.0.0.0/0"}]
        }
    });
    require_since("host-local", "host-local.md", &base);
}

#[test]
fn every_key_of_eni_sync_is_of_a_version_of_it() {
    let sections = ["\n## As a plugin\n", "\n## Agent\n"];
    let rows = sections
        .iter()
        .flat_map(|section| rows("eni-sync.md", section))
        .chain(rows("attach.md", ""));
    let others: Vec<String> = rows.filter(|r| r.since != "0.1").map(|r| r.key).collect();
    assert_eq!(others, [""; 0]);
}
