//! Chains: results passed through, and plugins that run before and behind.

use std::fs;

use harness::Pod;
use serde_json::{Value, json};

use super::{add, check, conf, del, node, refused, reservations, with};

/// D8: the Go plugin throws the name servers of the IPAM plugin away.
#[test]
fn dns_of_ipam_and_of_the_configuration_are_merged() {
    let (node, pod) = (node(), Pod::new("c1"));
    let resolv_conf = tempfile::NamedTempFile::new().unwrap();
    fs::write(
        resolv_conf.path(),
        "nameserver 192.0.2.53\nsearch example.org\n",
    )
    .unwrap();
    let ipam =
        json!({"type": "host-local", "subnet": "10.0.4.0/24", "resolvConf": resolv_conf.path()});
    let result = add(
        &node,
        &with(
            conf(),
            json!({"ipam": ipam, "dns": {"search": ["example.com"]}}),
        ),
        &pod,
    );
    assert_eq!(
        result["dns"],
        json!({"nameservers": ["192.0.2.53"], "search": ["example.com"]})
    );
}

/// D9: the Go plugin drops the interfaces of the result before it.
#[test]
fn the_result_of_the_plugin_before_is_passed_through() {
    let (node, pod) = (node(), Pod::new("c1"));
    let sandbox = pod.netns.path();
    let prev_result = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "br0"}, {"name": "eth0", "sandbox": sandbox, "mac": "02:00:00:00:00:01"}],
        "ips": [{"address": "10.9.9.9/24", "interface": 1}],
        "routes": [{"dst": "10.8.0.0/16", "gw": "10.9.9.1"}],
        "dns": {"domain": "example.org"}
    });
    let conf = with(conf(), json!({"prevResult": prev_result}));
    let result = add(&node, &conf, &pod);
    let names: Vec<_> = result["interfaces"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| i["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["br0", "eth0", "net1"]);
    assert_eq!(result["ips"][0], prev_result["ips"][0]);
    assert_eq!(
        result["ips"][1],
        json!({"address": "10.0.4.2/24", "gateway": "10.0.4.1", "interface": 2})
    );
    assert_eq!(result["routes"], prev_result["routes"]);
    assert_eq!(result["dns"], prev_result["dns"]);
    assert_eq!(pod.netns.addresses("net1"), ["10.0.4.2/24"]);
}

#[test]
fn the_master_and_the_addresses_can_come_from_the_plugin_before() {
    let (node, pod) = (node(), Pod::new("c1"));
    let prev_result = json!({
        "cniVersion": "1.1.0", "interfaces": [{"name": "eth1"}],
        "ips": [{"address": "10.0.4.99/24", "gateway": "10.0.4.1", "interface": 0}],
        "routes": [{"dst": "0.0.0.0/0"}]
    });
    let conf =
        json!({"cniVersion": "1.1.0", "name": "net", "type": "ipvlan", "prevResult": prev_result});
    let result = add(&node, &conf, &pod);
    assert_eq!(pod.netns.addresses("net1"), ["10.0.4.99/24"]);
    assert!(
        pod.netns
            .ip(&["route"])
            .contains("default via 10.0.4.1 dev net1")
    );
    assert_eq!(result["ips"][0]["interface"], 1);
    assert_eq!(result["interfaces"][1]["name"], "net1");
    assert_eq!(
        result["routes"],
        json!([{"dst": "0.0.0.0/0", "gw": "10.0.4.1"}])
    );
    check(&node, &conf, &pod, &result).ok();
    del(&node, &with(conf, json!({"prevResult": result})), &pod);
    assert_eq!(
        (pod.netns.links(), reservations(&node)),
        (vec!["lo".to_owned()], vec![])
    );
}

/// As with Go's plugin: the plugin before may not say where its interface is.
#[test]
fn the_master_inside_the_container_can_come_from_a_plugin_that_does_not_say_where_it_is() {
    for sandbox in ["", "its own"] {
        let (node, pod) = (node(), Pod::new("c1"));
        pod.netns
            .ip(&["link", "add", "eno1", "up", "type", "dummy"]);
        let mut interface = json!({"name": "eno1"});
        if !sandbox.is_empty() {
            interface["sandbox"] = pod.netns.path().into();
        }
        let prev_result = json!({"cniVersion": "1.1.0", "interfaces": [interface]});
        let changes = json!({"master": "", "linkInContainer": true, "prevResult": prev_result});
        add(&node, &with(conf(), changes), &pod);
        assert_eq!(pod.netns.link("net1").unwrap()["link"], "eno1");
    }
}

/// route-override leaves 0.0.0.0 where it has removed the gateway.
#[test]
fn the_unspecified_address_is_not_a_gateway() {
    let (node, pod) = (node(), Pod::new("c1"));
    let prev_result = json!({
        "cniVersion": "1.1.0", "interfaces": [{"name": "eth1"}],
        "ips": [{"address": "10.0.4.99/24", "gateway": "0.0.0.0", "interface": 0}],
        "routes": [{"dst": "10.8.0.0/16"}, {"dst": "10.9.0.0/16", "gw": "0.0.0.0"}]
    });
    for source_routing in [false, true] {
        let conf = json!({
            "cniVersion": "1.1.0", "name": "net", "type": "ipvlan",
            "sourceRouting": source_routing, "prevResult": prev_result
        });
        let result = add(&node, &conf, &pod);
        for destination in ["10.8.0.0/16", "10.9.0.0/16"] {
            let shown = pod.netns.ip(&["route", "show", destination]);
            let is_on_link = shown.contains("dev net1") && !shown.contains("via");
            assert!(is_on_link, "{shown}");
        }
        check(&node, &conf, &pod, &result).ok();
        pod.netns
            .ip(&["route", "flush", "table", "all", "root", "10.9.0.0/16"]);
        let error = check(&node, &conf, &pod, &result).error_code(999);
        let said = "Expected Route 10.9.0.0/16 not found in routing table";
        assert_eq!(error.msg, said);
        del(&node, &conf, &pod);
    }
}

#[test]
fn a_container_interface_in_the_previous_result_is_not_a_master_of_the_node() {
    let (node, pod) = (node(), Pod::new("c1"));
    let prev_result = json!({"cniVersion": "1.1.0", "interfaces": [{"name": "eth1", "sandbox": pod.netns.path()}]});
    let conf = with(conf(), json!({"master": "", "prevResult": prev_result}));
    refused(
        &node,
        &conf,
        &pod,
        7,
        "chained master failure. PrevResult lacks a single named interface",
    );
}

/// D10: the Go plugin creates the link and then fails with "no plugin name provided".
#[test]
fn without_ipam_the_interface_comes_alone() {
    let (node, pod) = (node(), Pod::new("c1"));
    let conf = with(conf(), json!({"ipam": {}}));
    let result = add(&node, &conf, &pod);
    assert_eq!(result["ips"], Value::Null);
    assert_eq!(pod.netns.addresses("net1"), [""; 0]);
    assert!(
        pod.netns.link("net1").unwrap()["flags"]
            .to_string()
            .contains("\"UP\"")
    );
    check(&node, &conf, &pod, &result).ok();
    del(&node, &conf, &pod);
    assert_eq!(pod.netns.links(), ["lo"]);
}

#[test]
fn without_ipam_the_versions_that_cannot_say_so_are_refused() {
    let (node, pod) = (node(), Pod::new("c1"));
    let conf = with(conf(), json!({"ipam": {}, "cniVersion": "0.2.0"}));
    refused(
        &node,
        &conf,
        &pod,
        7,
        "cannot convert: no valid IP addresses",
    );
}
