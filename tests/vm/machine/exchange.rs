//! The Go plugin and ours take each other's place with a NIC that outlives its pod, and
//! with ipvlan.

use fixtures::with;
use harness::{Call, Namespace, Node, Pod, wait_until};
use serde_json::{Value, json};

use crate::machine::{Machine, NIC, NIC_MAC, NIC_NAME, conf, netdev};

/// Before 0.4.0 libcni has no result for DEL, since then it has one.
const VERSIONS: [&str; 2] = ["0.3.1", "1.0.0"];

fn go(machine: &Machine, command: &str, conf: &Value) -> Call {
    Call::go("host-device", command)
        .attachment("c1", "net1", &machine.pod().path())
        .env("CNI_PATH", &machine.ipam.cni_path())
        .conf(conf)
}

/// The network of the NIC by this key alone.
fn by(version: &str, keys: &Value) -> Value {
    let base = json!({"cniVersion": version, "pciBusID": null});
    with(&with(&conf(), &base), keys)
}

fn keys() -> [Value; 4] {
    [
        json!({"device": NIC_NAME}),
        json!({"hwaddr": NIC_MAC}),
        json!({"kernelpath": "/sys/devices/pci0000:00/0000:00:06.0"}),
        json!({"pciBusID": NIC}),
    ]
}

#[test]
fn a_nic_that_go_has_attached_is_restored_by_every_key_without_a_result() {
    for version in VERSIONS {
        for keys in keys() {
            let machine = Machine::new();
            let conf = by(version, &keys);
            machine.node.run(&go(&machine, "ADD", &conf)).ok();
            machine.del(&conf);
            assert_eq!(netdev(NIC).as_deref(), Some(NIC_NAME), "{conf}");
            assert!(machine.ipam.reserved().is_empty());
        }
    }
}

#[test]
fn a_nic_that_nothing_names_is_not_left_behind_with_success() {
    let machine = Machine::new();
    let conf = by("0.3.1", &json!({"device": NIC_NAME}));
    machine.node.run(&go(&machine, "ADD", &conf)).ok();
    machine.pod().ip(&["link", "set", "net1", "alias", "evil0"]);
    let error = machine.node.run(&machine.call("DEL", &conf)).error_code(7);
    let expected = "cannot tell whether interface \"net1\" is the host device to give back";
    assert_eq!(error.msg, expected);
    assert_eq!(machine.pod().links(), ["lo", "net1"]);
    assert_eq!(machine.ipam.reserved(), ["c1.net1"]);
    machine
        .pod()
        .ip(&["link", "set", "net1", "alias", NIC_NAME]);
    machine.del(&conf);
    assert_eq!(netdev(NIC).as_deref(), Some(NIC_NAME));
}

#[test]
fn a_nic_that_the_pod_hides_behind_a_decoy_is_found_by_what_it_is() {
    for keys in [json!({"pciBusID": NIC}), json!({"hwaddr": NIC_MAC})] {
        let machine = Machine::new();
        let conf = by("0.3.1", &keys);
        machine.node.run(&go(&machine, "ADD", &conf)).ok();
        let deeds = format!(
            "ip link set net1 down; ip link set net1 name mine address 02:00:00:00:00:99
             ip link add net1 address {NIC_MAC} type veth peer name other
             ip link set net1 alias evil0"
        );
        machine.pod().tool("bash", &["-ec", &deeds]);
        machine.del(&conf);
        assert_eq!(machine.pod().links(), ["lo", "net1", "other"]);
        assert_eq!(netdev(NIC).as_deref(), Some(NIC_NAME));
        machine.host(&["link", "set", NIC_NAME, "address", NIC_MAC]);
    }
}

#[test]
fn a_nic_of_gos_whose_pod_has_ended_gets_its_name_from_the_next_command() {
    for (command, keys) in [
        ("DEL", json!({"device": NIC_NAME})),
        ("DEL", json!({"pciBusID": NIC})),
        ("GC", json!({"device": NIC_NAME})),
        ("ADD", json!({"device": NIC_NAME})),
        ("ADD", json!({"pciBusID": NIC})),
    ] {
        let mut machine = Machine::new();
        let conf = by("1.1.0", &keys);
        let older = with(&conf, &json!({"cniVersion": "0.3.1"}));
        machine.node.run(&go(&machine, "ADD", &older)).ok();
        machine.end_pod();
        assert_eq!(netdev(NIC).as_deref(), Some("net1"));
        machine.pod = Some(Namespace::new());
        let with_list = with(&conf, &json!({"cni.dev/valid-attachments": []}));
        let call = machine
            .call(command, &with_list)
            .env("CNI_CONTAINERID", "c2");
        machine.node.run(&call).ok();
        if command == "ADD" {
            let call = machine.call("DEL", &conf).env("CNI_CONTAINERID", "c2");
            machine.node.run(&call).ok();
        }
        assert_eq!(netdev(NIC).as_deref(), Some(NIC_NAME), "{command} {keys}");
        let nic = machine.node.netns.link(NIC_NAME).unwrap_or_default();
        assert_eq!(nic["ifalias"], Value::Null, "{command} {keys}");
    }
}

/// A node with a master, and a network on it in this version.
fn ipvlan(version: &str) -> (Node, Value) {
    let node = Node::new();
    node.netns
        .ip(&["link", "add", "eth1", "up", "type", "dummy"]);
    let ranges = json!([[{"subnet": "10.0.4.0/24"}]]);
    let ipam = json!({"type": "host-local", "ranges": ranges});
    let conf = json!({
        "cniVersion": version, "name": "lan", "type": "ipvlan", "master": "eth1", "ipam": ipam,
    });
    (node, conf)
}

/// Debian's plugin is older than 1.1.0: its pods are of 1.0.0.
fn run(node: &Node, call: Call, conf: &Value, pod: &Pod) -> harness::Output {
    node.run(&call.conf(conf).pod(pod, "net1"))
}

#[test]
fn what_one_ipvlan_has_attached_the_other_detaches() {
    for version in [
        "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
    ] {
        let (node, conf) = ipvlan(version);
        let older = match version {
            "1.1.0" => with(&conf, &json!({"cniVersion": "1.0.0"})),
            _ => conf.clone(),
        };
        let pod = Pod::new("c1");
        let is_detached = |conf: &Value| {
            assert_eq!(pod.netns.links(), ["lo"], "{conf}");
            let left = node.files();
            assert!(
                !left.iter().any(|file| file.contains("/10.0.4.")),
                "{left:?}"
            );
        };
        let has_result = version >= "0.4.0";
        let result = run(&node, Call::go("ipvlan", "ADD"), &older, &pod).ok();
        let del = match has_result {
            true => with(&conf, &json!({"prevResult": result})),
            false => conf.clone(),
        };
        run(&node, Call::ours("ipvlan", "DEL"), &del, &pod).ok();
        if has_result {
            is_detached(&del);
        } else {
            // The interface ends with the pod, as the README says.
            assert_eq!(pod.netns.links(), ["lo", "net1"], "{conf}");
            pod.netns.ip(&["link", "delete", "net1"]);
        }

        let result = run(&node, Call::ours("ipvlan", "ADD"), &conf, &pod).ok();
        let del = match has_result && version != "1.1.0" {
            true => with(&older, &json!({"prevResult": result})),
            false => older.clone(),
        };
        run(&node, Call::go("ipvlan", "DEL"), &del, &pod).ok();
        // Ours is called again, for what the Go plugin knows nothing of.
        run(&node, Call::ours("ipvlan", "DEL"), &conf, &pod).ok();
        is_detached(&conf);
    }
}

#[test]
fn a_renamed_network_of_ipvlan_ends_what_it_has_attached() {
    let (node, conf) = ipvlan("1.0.0");
    let other = ["link", "add", "eth2", "up", "type", "dummy"];
    node.netns.ip(&other);
    let pod = Pod::new("c1");
    let result = run(&node, Call::ours("ipvlan", "ADD"), &conf, &pod).ok();
    let renamed = with(&conf, &json!({"name": "wan"}));
    let elsewhere = with(&renamed, &json!({"master": "eth2"}));
    // A refused ADD of another network is followed by such a DEL, too.
    for unproven in [&renamed, &elsewhere] {
        let output = run(&node, Call::ours("ipvlan", "DEL"), unproven, &pod);
        let said = "interface net1 of container c1 belongs to network \"lan\", and is not changed";
        assert!(output.stderr.contains(said), "{output}");
        assert_eq!(pod.netns.links(), ["lo", "net1"]);
    }
    let proven = with(&renamed, &json!({"prevResult": result}));
    run(&node, Call::ours("ipvlan", "DEL"), &proven, &pod).ok();
    assert_eq!(pod.netns.links(), ["lo"]);
    assert!(
        !node
            .files()
            .iter()
            .any(|file| file.contains("c1") || file.contains("/10.0.4."))
    );
}

/// A bond, a VLAN and a pod's ipvlan interface are not left without their card, and what is
/// taken all the same comes back to its bond.
#[test]
fn a_nic_that_others_are_built_on_is_refused_and_a_bond_gets_it_back() {
    let machine = Machine::new();
    let conf = conf();
    let is_refused = |reason: &str| {
        for keys in [json!({}), json!({"keepAddresses": true})] {
            let call = machine.call("ADD", &with(&conf, &keys));
            let error = machine.node.run(&call).error_code(7);
            let expected = format!("cannot take host device \"{NIC_NAME}\": {reason}");
            assert_eq!(error.msg, expected);
        }
    };
    let vlan = [
        "link", "add", "link", NIC_NAME, "name", "above", "type", "vlan", "id", "7",
    ];
    machine.host(&vlan);
    is_refused("interface \"above\" is built on \"enp0s6\"");
    machine.host(&["link", "delete", "above"]);

    let ipvlan = |command: &str| {
        let keys = json!({"name": "ipv", "type": "ipvlan", "master": NIC_NAME, "ipam": {}});
        let call = Call::ours("ipvlan", command).conf(&with(&conf, &keys));
        let call = call.attachment("c9", "net9", &machine.pod().path());
        machine.node.run(&call).ok()
    };
    ipvlan("ADD");
    is_refused("container c9 has an ipvlan interface on \"enp0s6\"");
    ipvlan("DEL");

    machine.host(&["link", "add", "bond7", "mtu", "1400", "type", "bond"]);
    machine.host(&["link", "set", NIC_NAME, "down"]);
    machine.host(&["link", "set", NIC_NAME, "master", "bond7"]);
    is_refused("interface \"bond7\" is built on \"enp0s6\"");
    let taken = with(&conf, &json!({"allowInUse": true}));
    machine.add(&taken);
    assert!(machine.pod().link("net1").is_some());
    machine.del(&taken);
    wait_until("the bond has its card back", || {
        let nic = machine.node.netns.link(NIC_NAME).unwrap_or_default();
        nic["master"] == "bond7"
    });
    // A bond that ends leaves its ports down.
    machine.host(&["link", "delete", "bond7"]);
    machine.host(&["link", "set", NIC_NAME, "up"]);
    machine.is_clean();
}
