//! Who else is on a master: interfaces that other plugins and tools have made, and the
//! addresses that another interface has.

use std::fs;
use std::process::{Child, Command, Stdio};

use harness::{Call, Node, Pod};
use serde_json::{Value, json};

use super::{add, call, conf, del, in_path, node, refused, reservations, with, with_script};

/// A process that is in the pod, as its containers are: by it, others see the pod.
struct Process(Child);

impl Process {
    fn inside(pod: &Pod) -> Self {
        let mut sleep = Command::new("sleep");
        sleep.arg("600").stdin(Stdio::null()).stdout(Stdio::null());
        Self(pod.netns.run(|| sleep.spawn().expect("there is sleep")))
    }

    fn netns(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().expect("it is our child");
        self.0.wait().expect("it is our child");
    }
}

fn other(changes: Value) -> Value {
    with(with(conf(), json!({"name": "other"})), changes)
}

#[track_caller]
fn add_by_go(node: &Node, conf: &Value, pod: &Pod) {
    let conf = with(conf.clone(), json!({"cniVersion": "1.0.0"}));
    let call = Call::go("ipvlan", "ADD").conf(&conf).pod(pod, "net1");
    node.run(&call.env("CNI_PATH", "/usr/lib/cni")).ok();
}

#[test]
fn the_mode_of_what_gos_plugin_has_attached_is_not_changed() {
    let node = node();
    let (theirs, ours) = (Pod::new("c1"), Pod::new("c2"));
    let process = Process::inside(&theirs);
    add_by_go(&node, &conf(), &theirs);
    let said = format!(
        "master \"eth1\" is used in mode l2 bridge by interface \"net1\" in netns {:?}",
        process.netns()
    );
    for changes in [json!({"mode": "l3"}), json!({"flag": "private"})] {
        refused(&node, &other(changes), &ours, 7, &said);
    }
    let shown = theirs.netns.ip(&["-details", "link", "show", "net1"]);
    assert!(shown.contains("mode l2 bridge"), "{shown}");
    let ipam = json!({"type": "host-local", "subnet": "10.0.5.0/24"});
    add(&node, &other(json!({"ipam": ipam})), &ours);
}

/// Moves the node's `eth1` into a pod as `net1`, although others have interfaces on it.
#[track_caller]
fn take_master(node: &Node, pod: &Pod) {
    let conf = json!({
        "cniVersion": "1.1.0", "name": "whole", "type": "host-device", "device": "eth1",
        "allowInUse": true,
    });
    let call = Call::ours("host-device", "ADD").conf(&conf);
    node.run(&call.pod(pod, "net1")).ok();
}

/// The answer to an ADD of `net2` in a pod, with the pod's own `net1` as the master, in mode l3.
fn add_inside(node: &Node, pod: &Pod) -> String {
    let ipam = json!({"type": "host-local", "subnet": "10.0.5.0/24"});
    let inside = json!({"master": "net1", "linkInContainer": true, "mode": "l3", "ipam": ipam});
    let call = Call::ours("ipvlan", "ADD").conf(&other(inside));
    node.run(&call.pod(pod, "net2")).error_code(7).msg
}

#[track_caller]
fn assert_is_l2(pod: &Pod) {
    let shown = pod.netns.ip(&["-details", "link", "show", "net1"]);
    assert!(shown.contains("mode l2 bridge"), "{shown}");
}

#[test]
fn the_mode_of_another_pod_is_not_changed_by_a_pod_that_has_its_master() {
    let node = node();
    let (theirs, ours) = (Pod::new("c1"), Pod::new("c2"));
    let process = Process::inside(&theirs);
    add(&node, &conf(), &theirs);
    take_master(&node, &ours);
    let said = format!(
        "master \"net1\" is used in mode l2 bridge by interface \"net1\" in netns {:?}",
        process.netns()
    );
    let msg = add_inside(&node, &ours);
    assert!(msg.contains(&said), "{msg}");
    assert_is_l2(&theirs);
}

/// The master is an ipvlan interface whose device is neither on the node nor in its pod.
#[test]
fn the_mode_of_an_interface_whose_device_another_pod_has_is_not_changed() {
    let node = node();
    let (theirs, ours) = (Pod::new("c1"), Pod::new("c2"));
    add(&node, &conf(), &theirs);
    take_master(&node, &ours);
    let said = "master \"net1\" is used in mode l2 bridge by interface \"net1\" in netns";
    let msg = add_inside(&node, &theirs);
    assert!(msg.contains(said), "{msg}");
    assert_is_l2(&theirs);
}

#[test]
fn the_mode_of_an_interface_of_the_node_is_not_changed() {
    for kind in ["ipvlan", "ipvtap"] {
        let (node, pod) = (node(), Pod::new("c1"));
        let link = [
            "link", "add", "link", "eth1", "name", "ipv0", "type", kind, "mode", "l3",
        ];
        node.netns.ip(&link);
        let said = "is used in mode l3 bridge by interface \"ipv0\" of the node";
        refused(&node, &conf(), &pod, 7, said);
        node.netns.ip(&["link", "del", "ipv0"]);
        add(&node, &conf(), &pod);
    }
}

#[test]
fn an_interface_on_another_master_with_the_same_index_does_not_count() {
    let (node, elsewhere, pod) = (node(), Pod::new("c0"), Pod::new("c1"));
    let _process = Process::inside(&elsewhere);
    let index = node.netns.link("eth1").unwrap()["ifindex"].to_string();
    elsewhere
        .netns
        .ip(&["link", "add", "eth1", "index", &index, "type", "dummy"]);
    let ipvlan = [
        "link", "add", "link", "eth1", "name", "ipv0", "type", "ipvlan", "mode", "l3",
    ];
    elsewhere.netns.ip(&ipvlan);
    add(&node, &conf(), &pod);
}

#[test]
fn an_address_that_another_network_has_on_the_master_is_passed_over() {
    let node = node();
    let (first, second) = (Pod::new("c1"), Pod::new("c2"));
    add(&node, &conf(), &first);
    let result = add(&node, &other(json!({})), &second);
    assert_eq!(result["ips"][0]["address"], "10.0.4.3/24");
    assert_eq!(second.netns.addresses("net1"), ["10.0.4.3/24"]);
    assert_eq!(
        reservations(&node)[2..],
        ["networks/net/10.0.4.2", "networks/other/10.0.4.3"]
    );
    del(&node, &other(json!({})), &second);
    assert_eq!(second.netns.links(), ["lo"]);
}

#[test]
fn the_holder_of_an_address_is_named_where_no_other_address_is_free() {
    let node = node();
    let (first, second) = (Pod::new("c1"), Pod::new("c2"));
    add(&node, &conf(), &first);
    let ipam = json!({
        "type": "host-local", "subnet": "10.0.4.0/24",
        "rangeStart": "10.0.4.2", "rangeEnd": "10.0.4.2"
    });
    let said = "address 10.0.4.2 is in use on the same master by interface \"net1\" of container c1 in network \"net\"";
    refused(&node, &other(json!({"ipam": ipam})), &second, 7, said);
    let prev_result = json!({
        "cniVersion": "1.1.0", "ips": [{"address": "10.0.4.2/24", "gateway": "10.0.4.1"}],
    });
    let chained = other(json!({"ipam": {}, "prevResult": prev_result}));
    refused(&node, &chained, &second, 7, said);
}

#[test]
fn an_add_asks_for_another_address_a_bounded_number_of_times() {
    let node = node();
    let (theirs, ours) = (Pod::new("c1"), Pod::new("c2"));
    let process = Process::inside(&theirs);
    add_by_go(&node, &conf(), &theirs);
    for last in 3..=40 {
        let address = format!("10.0.4.{last}/24");
        theirs
            .netns
            .ip(&["address", "add", &address, "dev", "net1"]);
    }
    let count = tempfile::NamedTempFile::new().unwrap();
    let path = count.path().display();
    let (plugins, conf) = with_script(&format!(
        r#"[ $CNI_COMMAND = ADD ] || exit 0
           echo >> {path}; last=$(( $(wc -l < {path}) + 2 ))
           echo '{{"cniVersion":"1.1.0","ips":[{{"address":"10.0.4.'$last'/24"}}]}}'"#
    ));
    let error = node
        .run(&in_path(call("ADD", &conf, &ours), &plugins))
        .error_code(7);
    let holder = format!("interface \"net1\" in netns {:?}", process.netns());
    assert!(error.msg.contains(&holder), "{error:?}");
    assert_eq!(fs::read_to_string(count.path()).unwrap().len(), 17);
    assert_eq!(ours.netns.links(), ["lo"]);
}
