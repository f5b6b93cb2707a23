//! CHECK, STATUS and GC.

use std::fs;

use harness::{Call, Network, Pod};
use serde_json::{Value, json};

use super::{add, call, check, conf, del, in_path, node, reservations, with, with_script};

/// D11: the Go plugin echoes `mtu` and `advmss` and never programs them.
#[test]
fn every_attribute_of_a_route_reaches_the_kernel() {
    let (node, pod) = (node(), Pod::new("c1"));
    let routes = json!([
        {"dst": "10.1.0.0/16", "mtu": 1300, "advmss": 1200, "priority": 77},
        {"dst": "10.2.0.0/16", "table": 1000, "gw": "10.0.4.9"},
        {"dst": "10.3.0.0/16", "scope": 253},
        {"dst": "10.4.5.6/16"}
    ]);
    let ipam = json!({"type": "host-local", "subnet": "10.0.4.0/24", "routes": routes});
    let conf = with(conf(), json!({"ipam": ipam}));
    let result = add(&node, &conf, &pod);
    let main = pod.netns.ip(&["route"]);
    assert!(
        main.contains("10.1.0.0/16 via 10.0.4.1 dev net1 metric 77 mtu 1300 advmss 1200"),
        "{main}"
    );
    assert!(main.contains("10.4.0.0/16 via 10.0.4.1 dev net1"), "{main}");
    let other = pod.netns.ip(&["route", "show", "table", "1000"]);
    assert!(
        other.contains("10.2.0.0/16 via 10.0.4.9 dev net1"),
        "{other}"
    );
    assert_eq!(result["routes"][0]["mtu"], 1300);
    assert_eq!(result["routes"][3]["dst"], "10.4.5.6/16");
    // D25: the Go plugin's CHECK looks only in the main table.
    check(&node, &conf, &pod, &result).ok();
}

/// D25: the Go plugin's CHECK wants a connected route, which a /32 does not have.
#[test]
fn check_accepts_a_host_address() {
    let (node, pod) = (node(), Pod::new("c1"));
    let (plugins, conf) = with_script(
        r#"echo '{"cniVersion":"1.1.0","ips":[{"address":"10.1.1.1/32"}],"routes":[{"dst":"10.2.0.0/16"}]}'"#,
    );
    let result = node.run(&in_path(call("ADD", &conf, &pod), &plugins)).ok();
    let conf = with(conf, json!({"prevResult": result}));
    node.run(&in_path(call("CHECK", &conf, &pod), &plugins))
        .ok();
}

/// D25: the Go plugin expects every address of the result on the one interface.
#[test]
fn check_looks_for_each_address_on_its_own_interface() {
    let (node, pod) = (node(), Pod::new("c1"));
    let mut result = add(&node, &conf(), &pod);
    result["interfaces"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "eth0", "sandbox": pod.netns.path()}));
    result["ips"]
        .as_array_mut()
        .unwrap()
        .push(json!({"address": "10.9.9.9/24", "interface": 1}));
    check(&node, &conf(), &pod, &result).ok();
}

#[test]
fn check_accepts_routes_that_a_chained_plugin_moved_to_another_table() {
    let (node, pod) = (node(), Pod::new("c1"));
    let ipam =
        json!({"type": "host-local", "subnet": "10.0.4.0/24", "routes": [{"dst": "0.0.0.0/0"}]});
    let conf = with(conf(), json!({"ipam": ipam}));
    let result = add(&node, &conf, &pod);
    pod.netns.ip(&["route", "del", "default"]);
    pod.netns.ip(&[
        "route", "add", "default", "via", "10.0.4.1", "dev", "net1", "table", "100",
    ]);
    check(&node, &conf, &pod, &result).ok();
}

#[test]
fn check_finds_whatever_is_not_as_add_left_it() {
    let node = node();
    node.netns
        .ip(&["link", "add", "eth2", "up", "type", "dummy"]);
    let ipam =
        json!({"type": "host-local", "subnet": "10.0.4.0/24", "routes": [{"dst": "0.0.0.0/0"}]});
    let conf = with(conf(), json!({"ipam": ipam, "mtu": 1500}));
    type Damage = Box<dyn Fn(&Pod)>;
    let ip = |arguments: &'static [&'static str]| -> Damage {
        Box::new(move |pod| drop(pod.netns.ip(arguments)))
    };
    let state = node.state().to_owned();
    let table: Vec<(Damage, &str)> = vec![
        (ip(&["link", "del", "net1"]), "net1 is missing"),
        (
            ip(&["link", "set", "net1", "type", "ipvlan", "mode", "l3"]),
            "Container IPVlan mode l3 does not match expected value: l2",
        ),
        (
            ip(&["address", "flush", "dev", "net1"]),
            "Failed to match addr 10.0.4.",
        ),
        (ip(&["route", "del", "default"]), "Expected Route 0.0.0.0/0"),
        (
            ip(&["route", "replace", "default", "via", "10.0.4.200"]),
            "Expected Route 0.0.0.0/0",
        ),
        (
            Box::new(move |_| {
                for file in fs::read_dir(state.join("networks/net")).unwrap().flatten() {
                    if file.file_name().to_string_lossy().starts_with("10.0.4.") {
                        fs::remove_file(file.path()).unwrap();
                    }
                }
            }),
            "Failed to find address added by container",
        ),
    ];
    for (damage, said) in table {
        let pod = Pod::new("c1");
        let result = add(&node, &conf, &pod);
        check(&node, &conf, &pod, &result).ok();
        damage(&pod);
        let output = check(&node, &conf, &pod, &result);
        let error = output.error();
        assert!(
            format!("{}: {}", error.msg, error.details).contains(said),
            "{said:?} was expected\n{output}"
        );
        del(&node, &conf, &pod);
    }
}

/// CNI specification, section 2, CHECK: a plugin must allow what one behind it has changed.
#[test]
fn check_allows_what_a_chained_tuning_has_changed() {
    let (node, pod) = (node(), Pod::new("c1"));
    let ipvlan = with(conf(), json!({"mtu": 1500}));
    let backup = tempfile::tempdir().unwrap();
    let tuning = json!({
        "type": "tuning", "mtu": 1400, "allmulti": true, "dataDir": backup.path(),
    });
    let network = Network::from_conf(&json!({
        "cniVersion": "1.0.0", "name": "net", "plugins": [ipvlan, tuning],
    }));
    let result = network.attach(&node, &pod, "net1");
    let checked = network.check(&node, &pod, "net1", &result);
    assert!(checked.is_ok(), "{}", checked.unwrap_err());
    network.detach(&node, &pod, "net1", &result);
}

/// A chained vrf moves the interface into a table of its own; the kernel empties all others
/// of its routes. CHECK of a network that has both says so.
#[test]
fn a_chained_vrf_passes_check_unless_the_network_has_source_routing() {
    let node = node();
    let vrf = json!({"type": "vrf", "vrfname": "blue", "table": 1001});
    for (keys, passes) in [(json!({}), true), (json!({"sourceRouting": true}), false)] {
        let pod = Pod::new("c1");
        let network = Network::from_conf(&json!({
            "cniVersion": "1.0.0", "name": "net", "plugins": [with(conf(), keys), vrf],
        }));
        let result = network.attach(&node, &pod, "net1");
        match network.check(&node, &pod, "net1", &result) {
            Ok(()) => assert!(passes),
            Err(output) => {
                assert!(!passes, "{output}");
                let said = "sourceRouting does not work in a VRF";
                assert!(output.error().details.ends_with(said), "{output}");
            }
        }
        network.detach(&node, &pod, "net1", &result);
    }
}

#[test]
fn check_finds_an_interface_on_another_master() {
    let (node, pod) = (node(), Pod::new("c1"));
    node.netns.ip(&["link", "add", "eth2", "type", "dummy"]);
    let mac = node.netns.link("eth1").unwrap()["address"]
        .as_str()
        .unwrap()
        .to_owned();
    node.netns
        .ip(&["link", "set", "eth2", "mtu", "9001", "address", &mac, "up"]);
    let conf = conf();
    let result = add(&node, &conf, &pod);
    pod.netns.ip(&["link", "del", "net1"]);
    node.netns.ip(&[
        "link", "add", "link", "eth2", "name", "tmp", "type", "ipvlan", "mode", "l2",
    ]);
    let target = pod.netns.path();
    node.netns
        .ip(&["link", "set", "tmp", "name", "net1", "netns", &target]);
    pod.netns
        .ip(&["address", "add", "10.0.4.2/24", "dev", "net1"]);
    pod.netns.ip(&["link", "set", "net1", "up"]);
    let error = check(&node, &conf, &pod, &result).error_code(999);
    assert!(error.msg.contains("is not on its master"), "{error:?}");
    // The interface is not ours any more: DEL leaves it.
    del(&node, &conf, &pod);
    assert_eq!(pod.netns.links(), ["lo", "net1"]);
}

#[test]
fn check_needs_the_result_of_add() {
    let (node, pod) = (node(), Pod::new("c1"));
    add(&node, &conf(), &pod);
    let error = node.run(&call("CHECK", &conf(), &pod)).error_code(7);
    assert_eq!(error.msg, "Required prevResult missing");
}

#[test]
fn status_says_whether_an_add_could_be_served() {
    let node = node();
    let status = |conf: &Value| node.run(&Call::ours("ipvlan", "STATUS").conf(conf));
    assert_eq!(status(&conf()).stdout, "");
    status(&conf()).ok();
    assert!(
        status(&with(conf(), json!({"master": "eth9"})))
            .error_code(50)
            .msg
            .contains("\"eth9\"")
    );
    assert!(
        status(&with(conf(), json!({"mode": "l4"})))
            .error_code(7)
            .msg
            .contains("l4")
    );
    node.netns.ip(&["link", "set", "eth1", "down"]);
    status(&conf()).ok();
    let left_down = with(conf(), json!({"masterUp": false}));
    assert!(status(&left_down).error_code(50).msg.contains("is down"));
    node.netns.ip(&["link", "set", "eth1", "up"]);
    let ipam = json!({"type": "host-local", "subnet": "10.0.4.0/24", "rangeStart": "10.0.4.9", "rangeEnd": "10.0.4.9"});
    let conf = with(conf(), json!({"ipam": ipam}));
    status(&conf).ok();
    // An address whose container has ended counts as free.
    let pod = Pod::new("c1");
    add(&node, &conf, &pod);
    status(&conf).error_code(50);
}

/// D21: the Go plugin answers success to GC and does nothing.
#[test]
fn gc_removes_what_is_not_listed_and_nothing_else() {
    let node = node();
    let pods: Vec<Pod> = ["c1", "c2", "c3"].map(Pod::new).into();
    for pod in &pods {
        add(&node, &conf(), pod);
    }
    let other = json!({"name": "other", "ipam": {"type": "host-local", "subnet": "10.0.5.0/24"}});
    let other = with(conf(), other);
    let elsewhere = Pod::new("c4");
    add(&node, &other, &elsewhere);
    let gc = |changes: Value| {
        node.run(&Call::ours("ipvlan", "GC").conf(&with(conf(), changes)))
            .ok()
    };
    gc(json!({}));
    assert_eq!(reservations(&node).len(), 8, "a missing list says nothing");
    gc(json!({"cni.dev/valid-attachments": [{"containerID": "c2", "ifname": "net1"}]}));
    let links: Vec<_> = pods.iter().map(|pod| pod.netns.links().len()).collect();
    assert_eq!(links, [1, 2, 1]);
    assert_eq!(reservations(&node).len(), 4);
    gc(json!({"cni.dev/valid-attachments": null}));
    assert_eq!(pods[1].netns.links(), ["lo"]);
    assert_eq!(elsewhere.netns.links(), ["lo", "net1"]);
    assert_eq!(
        reservations(&node),
        [
            "eni-cni/ipvlan/other/c4:net1.json",
            "networks/other/10.0.5.2"
        ]
    );
}

#[test]
fn gc_goes_on_after_a_failure_and_reports_it() {
    let node = node();
    let (plugins, conf) = with_script(
        r#"[ $CNI_COMMAND$CNI_CONTAINERID = DELc1 ] && { echo '{"code": 5, "msg": "stuck"}'; exit 1; }
           echo '{"cniVersion":"1.1.0","ips":[{"address":"10.1.1.1/24"}]}'"#,
    );
    for pod in ["c1", "c2"].map(Pod::new) {
        node.run(&in_path(call("ADD", &conf, &pod), &plugins)).ok();
    }
    let gc = Call::ours("ipvlan", "GC").conf(&with(conf, json!({"cni.dev/valid-attachments": []})));
    assert!(
        node.run(&in_path(gc, &plugins))
            .error_code(5)
            .msg
            .contains("stuck")
    );
    assert_eq!(reservations(&node), ["eni-cni/ipvlan/net/c1:net1.json"]);
}
