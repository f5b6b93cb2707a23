//! What ADD makes, and what it says of it.

use harness::{Pod, is_up};
use serde_json::{Value, json};

use super::{VERSIONS, add, call, check, conf, del, node, refused, reservations, with};

#[test]
fn the_interface_has_the_name_kind_mode_master_and_mtu_that_were_asked_for() {
    let node = node();
    for mode in ["l2", "l3", "l3s"] {
        let pod = Pod::new("c1");
        let conf = with(conf(), json!({"mode": mode, "mtu": 1400}));
        add(&node, &conf, &pod);
        assert_eq!(pod.netns.links(), ["lo", "net1"]);
        let link = pod.netns.link("net1").unwrap();
        let master = node.netns.link("eth1").unwrap();
        assert_eq!(link["linkinfo"]["info_kind"], "ipvlan");
        assert_eq!(link["linkinfo"]["info_data"]["mode"], mode);
        assert_eq!(link["link_index"], master["ifindex"]);
        assert_eq!(link["address"], master["address"]);
        assert_eq!(link["mtu"], 1400);
        assert!(link["flags"].to_string().contains("\"UP\""));
        assert_eq!(node.netns.links(), ["eth1", "lo"]);
        del(&node, &conf, &pod);
        assert_eq!(pod.netns.links(), ["lo"]);
        assert_eq!(reservations(&node), [""; 0]);
    }
}

#[test]
fn every_version_of_the_specification_gets_its_own_shape() {
    let node = node();
    for version in VERSIONS {
        let pod = Pod::new("c1");
        let conf = with(conf(), json!({"cniVersion": version}));
        let result = add(&node, &conf, &pod);
        assert_eq!(result["cniVersion"], version);
        let sandbox = pod.netns.path();
        match version {
            "0.1.0" | "0.2.0" => {
                assert!(result["ip4"]["ip"].as_str().unwrap().ends_with("/24"));
                assert_eq!(result["interfaces"], Value::Null);
            }
            _ => {
                assert_eq!(result["interfaces"].as_array().unwrap().len(), 1);
                assert_eq!(result["interfaces"][0]["sandbox"], sandbox.as_str());
                assert_eq!(result["interfaces"][0]["name"], "net1");
                assert_eq!(result["ips"][0]["interface"], 0);
                assert_eq!(result["ips"][0]["gateway"], "10.0.4.1");
                let is_new = version.starts_with('1');
                assert_eq!(
                    result["interfaces"][0]["mtu"],
                    if is_new { json!(9001) } else { Value::Null }
                );
                assert_eq!(
                    result["ips"][0]["version"],
                    if is_new { Value::Null } else { json!("4") }
                );
            }
        }
        if version >= "0.4.0" {
            check(&node, &conf, &pod, &result).ok();
        } else {
            assert_eq!(
                check(&node, &conf, &pod, &result).error_code(1).msg,
                "config version does not allow CHECK"
            );
        }
        del(&node, &conf, &pod);
    }
}

#[test]
fn an_mtu_that_is_not_given_is_the_masters() {
    let (node, pod) = (node(), Pod::new("c1"));
    add(&node, &conf(), &pod);
    assert_eq!(pod.netns.link("net1").unwrap()["mtu"], 9001);
}

/// D12: the Go plugin waits for duplicate address detection, or returns with a
/// tentative address.
#[test]
fn no_ipv6_address_is_tentative_when_add_returns() {
    let node = node();
    let ranges = json!([[{"subnet": "2001:db8::/64"}], [{"subnet": "10.0.4.0/24"}]]);
    for mode in ["l2", "l3"] {
        let pod = Pod::new(mode);
        let ipam = json!({"type": "host-local", "ranges": ranges, "routes": [{"dst": "::/0"}]});
        add(
            &node,
            &with(conf(), json!({"mode": mode, "ipam": ipam, "name": mode})),
            &pod,
        );
        let shown = pod.netns.ip(&["-6", "address", "show", "dev", "net1"]);
        assert!(shown.contains("2001:db8::2/64"), "{shown}");
        let global = shown
            .lines()
            .find(|line| line.contains("2001:db8::2"))
            .unwrap_or_default();
        assert!(
            !global.contains("tentative") && !global.contains("dadfailed"),
            "{shown}"
        );
        // The kernel makes the link-local address; it takes no detection for it either.
        let accept_dad = pod
            .netns
            .tool("cat", &["/proc/sys/net/ipv6/conf/net1/accept_dad"]);
        assert_eq!(accept_dad.trim(), "0");

        assert_eq!(
            pod.netns.addresses("net1"),
            ["10.0.4.2/24", "2001:db8::2/64"]
        );
        assert!(
            pod.netns
                .ip(&["-6", "route"])
                .contains("default via 2001:db8::1 dev net1")
        );
    }
}

#[test]
fn two_pods_reach_each_other_in_every_mode() {
    let node = node();
    for mode in ["l2", "l3", "l3s"] {
        let conf = with(conf(), json!({"mode": mode, "name": mode}));
        let (first, second) = (Pod::new("c1"), Pod::new("c2"));
        add(&node, &conf, &first);
        add(&node, &conf, &second);
        first
            .netns
            .tool("ping", &["-c", "1", "-W", "30", "-I", "net1", "10.0.4.3"]);
        del(&node, &conf, &first);
        del(&node, &conf, &second);
    }
}

/// The kernel refuses a new link whose name exists in the namespace it is asked in:
/// the Go plugin needs a temporary name, ours asks in the container's.
#[test]
fn an_interface_of_the_same_name_on_the_node_does_not_matter() {
    let (node, pod) = (node(), Pod::new("c1"));
    node.netns.ip(&["link", "add", "net1", "type", "dummy"]);
    add(&node, &conf(), &pod);
    assert_eq!(
        pod.netns.link("net1").unwrap()["linkinfo"]["info_kind"],
        "ipvlan"
    );
    del(&node, &conf(), &pod);
    assert_eq!(node.netns.links(), ["eth1", "lo", "net1"]);
}

#[test]
fn the_master_is_found_by_an_alternative_name() {
    let (node, pod) = (node(), Pod::new("c1"));
    node.netns.ip(&[
        "link",
        "property",
        "add",
        "dev",
        "eth1",
        "altname",
        "a-name-longer-than-fifteen-bytes",
    ]);
    let conf = with(
        conf(),
        json!({"master": "a-name-longer-than-fifteen-bytes"}),
    );
    add(&node, &conf, &pod);
    assert_eq!(
        pod.netns.link("net1").unwrap()["link_index"],
        node.netns.link("eth1").unwrap()["ifindex"]
    );
}

#[test]
fn without_a_master_the_default_route_decides() {
    let (node, pod) = (node(), Pod::new("c1"));
    let conf = with(conf(), json!({"master": ""}));
    refused(&node, &conf, &pod, 7, "no default route interface found");
    node.netns
        .ip(&["address", "add", "192.0.2.2/24", "dev", "eth1"]);
    node.netns
        .ip(&["route", "add", "default", "via", "192.0.2.1"]);
    add(&node, &conf, &pod);
    assert_eq!(
        pod.netns.link("net1").unwrap()["link_index"],
        node.netns.link("eth1").unwrap()["ifindex"]
    );
}

/// D4: the Go plugin never resolves the master on CHECK, and fails without one.
#[test]
fn check_works_without_a_master_in_the_configuration() {
    let (node, pod) = (node(), Pod::new("c1"));
    node.netns
        .ip(&["address", "add", "192.0.2.2/24", "dev", "eth1"]);
    node.netns
        .ip(&["route", "add", "default", "via", "192.0.2.1"]);
    let conf = with(conf(), json!({"master": ""}));
    let result = add(&node, &conf, &pod);
    check(&node, &conf, &pod, &result).ok();
}

/// D5: the Go plugin needs the default route again on DEL, and leaks the address.
#[test]
fn del_needs_no_master() {
    let (node, pod) = (node(), Pod::new("c1"));
    node.netns
        .ip(&["address", "add", "192.0.2.2/24", "dev", "eth1"]);
    node.netns
        .ip(&["route", "add", "default", "via", "192.0.2.1"]);
    let conf = with(conf(), json!({"master": "", "cniVersion": "0.3.1"}));
    add(&node, &conf, &pod);
    node.netns.ip(&["route", "del", "default"]);
    del(&node, &conf, &pod);
    assert_eq!(pod.netns.links(), ["lo"]);
    assert_eq!(reservations(&node), [""; 0]);
}

/// An ENI that is attached to a running node stays down on Amazon Linux 2023.
#[test]
fn a_master_that_is_down_is_set_up_and_that_is_said() {
    let (node, pod, other) = (node(), Pod::new("c1"), Pod::new("c2"));
    node.netns.ip(&["link", "set", "eth1", "down"]);
    let said = "master \"eth1\" was down and is set up";
    let output = node.run(&call("ADD", &conf(), &pod));
    output.ok();
    assert!(output.stderr.contains(said), "{output}");
    assert!(is_up(&node.netns.link("eth1").unwrap()));
    let output = node.run(&call("ADD", &conf(), &other));
    output.ok();
    assert!(!output.stderr.contains(said), "{output}");
    pod.netns
        .tool("ping", &["-c", "1", "-W", "30", "-I", "net1", "10.0.4.3"]);
}

#[test]
fn a_master_that_is_down_stays_so_when_an_add_is_refused() {
    let (node, pod) = (node(), Pod::new("c1"));
    node.netns.ip(&[
        "link", "add", "link", "eth1", "name", "ipv0", "type", "ipvlan", "mode", "l3",
    ]);
    node.netns.ip(&["link", "set", "eth1", "down"]);
    refused(&node, &conf(), &pod, 7, "is used in mode l3");
    assert!(!is_up(&node.netns.link("eth1").unwrap()));
}

#[test]
fn the_master_may_be_inside_the_container() {
    let (node, pod) = (node(), Pod::new("c1"));
    pod.netns.ip(&["link", "add", "eno1", "type", "dummy"]);
    let conf = with(conf(), json!({"master": "eno1", "linkInContainer": true}));
    let result = add(&node, &conf, &pod);
    assert_eq!(pod.netns.link("net1").unwrap()["link"], "eno1");
    check(&node, &conf, &pod, &result).ok();
    del(&node, &conf, &pod);
    assert_eq!(pod.netns.links(), ["eno1", "lo"]);
}
