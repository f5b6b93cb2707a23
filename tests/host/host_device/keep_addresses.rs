//! `keepAddresses`: a device's addresses and routes go with it and come back.

use harness::{Namespace, Network, Pod};
use serde_json::{Value, json};

use super::{Fixture, plain, with};

const V4: [&str; 2] = ["10.55.0.5/24", "10.55.0.6/24"];
const V6: &str = "fd55::5/64";

/// A node whose device has addresses and routes of both families.
fn configured() -> Fixture {
    let fixture = Fixture::new();
    for link in ["hd0-peer", "hd0"] {
        fixture.host(&["link", "set", link, "up"]);
    }
    for address in V4 {
        fixture.host(&["address", "add", address, "dev", "hd0"]);
    }
    fixture.host(&["address", "add", V6, "dev", "hd0", "nodad"]);
    for route in [
        "10.57.0.0/16 dev hd0 scope link",
        "10.56.0.0/16 via 10.55.0.1 metric 7 mtu 1300 advmss 1200",
        "10.58.0.0/16 via 10.57.0.1",
        "default via 10.55.0.1",
        "default via 10.55.0.1 table 77",
        "10.59.0.0/16 via 10.55.0.1 table 4711",
    ] {
        let words: Vec<&str> = route.split(' ').collect();
        fixture.host(&[&["route", "add"], &words[..]].concat());
    }
    for route in [
        "fd56::/64 via fd55::1",
        "fd57::/64 dev hd0",
        "default via fd55::1 table 77",
    ] {
        let words: Vec<&str> = route.split(' ').collect();
        fixture.host(&[&["-6", "route", "add"], &words[..]].concat());
    }
    fixture
}

fn conf(keys: &Value) -> Value {
    plain(&with(
        &json!({"device": "hd0", "keepAddresses": true, "allowInUse": true}),
        keys,
    ))
}

/// The routes of `link` that the kernel has not made by itself, sorted.
pub(super) fn routes(namespace: &Namespace, link: &str) -> Vec<String> {
    let family = |family| {
        let text = namespace.ip(&[family, "route", "show", "table", "all", "dev", link]);
        let is_own = |line: &&str| {
            let words: Vec<&str> = line.split(' ').collect();
            let is_of_kernel = ["kernel", "local"].iter().any(|w| words.contains(w));
            !is_of_kernel && !line.starts_with("multicast") && !line.starts_with("broadcast")
        };
        let line = |line: &str| format!("{family} {}", line.trim());
        text.lines().filter(is_own).map(line).collect::<Vec<_>>()
    };
    let mut all = [family("-4"), family("-6")].concat();
    all.sort();
    all
}

#[test]
fn addresses_and_routes_of_both_families_go_with_the_device_and_come_back() {
    let fixture = configured();
    let before = (fixture.state(), routes(&fixture.node.netns, "hd0"));
    assert_eq!(before.1.len(), 9, "{:#?}", before.1);
    let result = fixture.add(&conf(&json!({})));
    assert_eq!(fixture.pod.addresses("net1"), [V4[0], V4[1], V6]);
    assert_eq!(routes(&fixture.pod, "net1"), before.1);

    let attached = conf(&json!({"prevResult": result}));
    fixture.node.run(&fixture.call("CHECK", &attached)).ok();
    fixture.del(&attached);
    assert_eq!(
        (fixture.state(), routes(&fixture.node.netns, "hd0")),
        before
    );
}

#[test]
fn the_result_lists_what_was_kept() {
    let fixture = configured();
    let result = fixture.add(&conf(&json!({})));
    let ip = |address: &str| json!({"address": address, "interface": 0});
    assert_eq!(result["ips"], json!([ip(V4[0]), ip(V4[1]), ip(V6)]));
    let routes = result["routes"].as_array().expect("there are routes");
    assert_eq!(routes.len(), 9);
    for expected in [
        json!({"dst": "0.0.0.0/0", "gw": "10.55.0.1"}),
        json!({"dst": "0.0.0.0/0", "gw": "10.55.0.1", "table": 77}),
        json!({
            "dst": "10.56.0.0/16", "gw": "10.55.0.1", "mtu": 1300, "advmss": 1200, "priority": 7
        }),
        json!({"dst": "10.57.0.0/16", "scope": 253}),
        json!({"dst": "fd56::/64", "gw": "fd55::1", "priority": 1024}),
    ] {
        assert!(
            routes.contains(&expected),
            "{expected} is missing: {routes:#?}"
        );
    }
}

#[test]
fn the_addresses_of_the_delegate_come_in_addition() {
    let fixture = configured();
    let before = (fixture.state(), routes(&fixture.node.netns, "hd0"));
    fixture.ipam.answer(&json!({
        "ips": [{"address": "10.9.0.5/24", "gateway": "10.9.0.1"}, {"address": V4[0]}],
        "routes": [{"dst": "10.8.0.0/16"}, {"dst": "10.56.0.0/16", "gw": "10.55.0.1", "priority": 7}],
    }));
    let conf = conf(&json!({"ipam": {"type": "fake-ipam"}}));
    let result = fixture.add(&conf);
    assert_eq!(
        result["ips"].as_array().map(Vec::len),
        Some(4),
        "{result:#}"
    );
    let addresses = ["10.55.0.5/24", "10.55.0.6/24", "10.9.0.5/24", V6];
    assert_eq!(fixture.pod.addresses("net1"), addresses);
    assert_eq!(routes(&fixture.pod, "net1").len(), 10);
    let attached = with(&conf, &json!({"prevResult": result}));
    fixture.node.run(&fixture.call("CHECK", &attached)).ok();
    fixture.del(&conf);
    assert_eq!(
        (fixture.state(), routes(&fixture.node.netns, "hd0")),
        before
    );
}

#[test]
fn check_notices_that_a_kept_address_or_route_is_missing() {
    let changes: [(&[&str], &str); 2] = [
        (
            &["address", "del", V4[1], "dev", "net1"],
            "Failed to match addr 10.55.0.6/24",
        ),
        (
            &["route", "del", "10.59.0.0/16", "table", "4711"],
            "Expected Route 10.59.0.0/16",
        ),
    ];
    for (change, expected) in changes {
        let fixture = configured();
        let result = fixture.add(&conf(&json!({})));
        fixture.pod.ip(change);
        let attached = conf(&json!({"prevResult": result}));
        let call = fixture.call("CHECK", &attached);
        let error = fixture.node.run(&call).error_code(999);
        assert!(error.msg.contains(expected), "{error:?}");
    }
}

#[test]
fn a_failed_add_leaves_addresses_and_routes_on_the_host() {
    let fixture = configured();
    let before = (fixture.state(), routes(&fixture.node.netns, "hd0"));
    fixture
        .ipam
        .fail("ADD", r#"{"code": 11, "msg": "no addresses"}"#);
    let conf = conf(&json!({"ipam": {"type": "fake-ipam"}}));
    fixture.node.run(&fixture.call("ADD", &conf)).error_code(11);
    assert_eq!(
        (fixture.state(), routes(&fixture.node.netns, "hd0")),
        before
    );
}

#[test]
fn whatever_the_pod_has_done_to_the_addresses_the_host_gets_what_it_had() {
    let fixture = configured();
    let before = (fixture.state(), routes(&fixture.node.netns, "hd0"));
    fixture.add(&conf(&json!({})));
    fixture.pod.ip(&["address", "flush", "dev", "net1"]);
    fixture
        .pod
        .ip(&["address", "add", "192.0.2.1/24", "dev", "net1"]);
    fixture.del(&plain(&json!({})));
    assert_eq!(
        (fixture.state(), routes(&fixture.node.netns, "hd0")),
        before
    );
}

#[test]
fn a_device_that_is_down_brings_its_addresses_and_is_down_again() {
    let fixture = Fixture::new();
    fixture.host(&["address", "add", V4[0], "dev", "hd0"]);
    let before = fixture.state();
    fixture.add(&conf(&json!({})));
    assert_eq!(fixture.pod.addresses("net1"), [V4[0]]);
    fixture.del(&conf(&json!({})));
    assert_eq!(fixture.state(), before);
}

#[test]
fn the_oldest_versions_report_the_kept_address() {
    let fixture = configured();
    let result = fixture.add(&conf(&json!({"cniVersion": "0.2.0"})));
    assert_eq!(result["ip4"]["ip"], V4[0]);
    assert_eq!(result["ip6"]["ip"], V6);
    // Without any address there is nothing that such a result could say.
    let fixture = Fixture::new();
    let before = fixture.state();
    let call = fixture.call("ADD", &conf(&json!({"cniVersion": "0.2.0"})));
    fixture.node.run(&call).error_code(999);
    assert_eq!(fixture.state(), before);
}

#[test]
fn a_published_network_keeps_the_addresses_of_its_device() {
    let fixture = configured();
    let before = fixture.state();
    let network = Network::from_nad(
        r#"
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata:
  name: storage
spec:
  config: |
    {
      "cniVersion": "1.0.0",
      "type": "host-device",
      "device": "hd0",
      "keepAddresses": true,
      "allowInUse": true
    }
"#,
    );
    let pod = Pod::new("c1");
    let result = network.attach(&fixture.node, &pod, "net1");
    assert_eq!(pod.netns.addresses("net1"), [V4[0], V4[1], V6]);
    network.detach(&fixture.node, &pod, "net1", &result);
    assert_eq!(fixture.state(), before);
}
