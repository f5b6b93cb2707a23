//! Hostile pods and damaged disks where that needs the VM: real devices, which outlive a
//! namespace, and ipvlan.

use std::fs::{self, File};

use fixtures::hostile::react_to_del;
use fixtures::with;
use harness::damage::{DAMAGES, OUTSIDE, remove, replace_by};
use harness::{Call, Namespace, Node, Pod, has_flag, wait_until};
use serde_json::{Value, json};

use crate::machine::{Machine, NIC, NIC_MAC, NIC_NAME, OTHER_NAME, OTHER_NIC, conf, netdev};

/// Moves the NIC of the pod into a namespace that only the pod knows.
fn move_on(machine: &Machine) -> Namespace {
    let third = Namespace::new();
    let pod = machine.pod();
    pod.ip(&["link", "set", "net1", "netns", &third.path()]);
    third.ip(&[
        "link", "property", "add", "dev", "net1", "altname", "hostile",
    ]);
    third
}

/// DEL while the NIC is out of reach: an error to be repeated, and nothing is forgotten.
#[track_caller]
fn del_has_to_come_again(machine: &Machine, conf: &Value) {
    let error = machine.node.run(&machine.call("DEL", conf)).error_code(11);
    let expected = "cannot give host device \"enp0s6\" back yet";
    assert_eq!(error.msg, expected);
    assert_eq!(machine.ipam.reserved(), ["c1.net1"]);
    assert_eq!(machine.node.files().len(), 1);
}

/// Waits until the kernel has put the NIC on the host.
fn is_on_host() {
    wait_until("the NIC is back on the host", || netdev(NIC).is_some());
}

#[test]
fn a_nic_that_the_pod_has_moved_on_is_not_forgotten_and_comes_back() {
    for command in ["DEL", "GC"] {
        let machine = Machine::new();
        machine.add(&conf());
        let third = move_on(&machine);
        del_has_to_come_again(&machine, &conf());
        drop(third);
        let keys = json!({"cni.dev/valid-attachments": []});
        let call = machine.call(command, &with(&conf(), &keys));
        machine.node.run(&call).ok();
        machine.is_clean();
    }
}

#[test]
fn a_nic_that_comes_back_from_a_third_namespace_is_named_by_the_next_add() {
    let machine = Machine::new();
    machine.add(&conf());
    drop(move_on(&machine));
    is_on_host();
    let other = with(&conf(), &json!({"pciBusID": null, "device": "none"}));
    let call = machine.call("ADD", &other).env("CNI_CONTAINERID", "c2");
    machine.node.run(&call).error_code(999);
    machine.has_nic_back();
    machine.del(&conf());
    machine.is_clean();
}

#[test]
fn a_nic_comes_back_from_a_pod_that_is_kept_alive_after_its_end() {
    let mut machine = Machine::new();
    machine.add(&conf());
    // The runtime has removed it; an open file keeps the namespace.
    let _kept = File::open(machine.pod().path()).expect("the pod lives");
    machine.pod = None;
    machine.del(&conf());
    machine.is_clean();
}

#[test]
fn a_pod_that_has_just_ended_is_waited_for() {
    let mut machine = Machine::new();
    machine.add(&conf());
    // The kernel needs its time for the end of a namespace with many links.
    let many = "for n in {1..100}; do echo link add d$n type dummy; done | ip -batch -";
    machine.pod().tool("bash", &["-c", many]);
    machine.pod = None;
    machine.del(&conf());
    machine.is_clean();
}

/// What a pod can do with a NIC, beyond what is done with a veth.
const DEEDS: [&str; 4] = [
    "ip link set net1 promisc on allmulticast on arp off multicast off txqueuelen 7 group 99",
    "ip link add above0 link net1 type vlan id 7
     ip link add above1 link net1 type macvlan
     ip link add above2 link above0 type macvlan",
    "ip link add above0 link net1 type ipvlan; ip link set above0 up",
    "ip link set net1 down; ip link set net1 name $'\\xff' alias $'\\xfe'
     name=$(printf 'x%.0s' {1..123})
     for n in {1000..1300}; do echo link property add dev $'\\xff' altname $name$n; done |
         ip -batch -",
];

#[test]
fn a_nic_comes_back_without_what_the_pod_has_made_of_it() {
    for deed in DEEDS {
        for ends_first in [false, true] {
            let mut machine = Machine::new();
            machine.add(&conf());
            machine.pod().tool("bash", &["-ec", deed]);
            if ends_first {
                machine.pod = None;
                is_on_host();
            }
            machine.del(&conf());
            machine.is_clean();
            let nic = machine.node.netns.link(NIC_NAME).expect("it is back");
            let flags = ["NOARP", "PROMISC", "ALLMULTI", "MULTICAST"];
            let flags = flags.map(|flag| has_flag(&nic, flag));
            assert_eq!(flags, [false, false, false, true], "{deed}");
            assert_eq!(
                (&nic["txqlen"], &nic["group"]),
                (&json!(1000), &json!("default"))
            );
            if let Some(pod) = &machine.pod {
                assert_eq!(pod.links(), ["lo"], "{deed}");
            }
        }
    }
}

/// The pod gives the index of its NIC to another interface while DEL removes what is
/// stacked on the NIC.
#[test]
fn what_a_pod_puts_in_the_place_of_its_nic_gets_nothing_of_it() {
    let machine = Machine::new();
    machine.host(&["address", "add", "10.55.0.5/24", "dev", NIC_NAME]);
    let conf = with(&conf(), &json!({"keepAddresses": true}));
    machine.add(&conf);
    let (pod, third) = (machine.pod(), Namespace::new());
    for n in 0..4 {
        let name = format!("above{n}");
        pod.ip(&["link", "add", &name, "link", "net1", "type", "macvlan"]);
    }
    let index = &pod.link("net1").expect("it is in the pod")["ifindex"];
    let (path, before) = (third.path(), machine.node.netns.links().len());
    let decoy = format!("link add net1 index {index} address {NIC_MAC} type veth peer name other");
    let reaction = format!("link set net1 netns {path}\n{decoy}\n");
    let end = react_to_del(pod, &reaction);
    del_has_to_come_again(&machine, &conf);
    end();
    assert_eq!(third.links(), ["lo", "net1"], "the pod was too slow");
    assert!(
        pod.links().contains(&"other".to_owned()),
        "{:?}",
        pod.links()
    );
    assert_eq!(machine.node.netns.links().len(), before);

    drop(third);
    machine.del(&conf);
    assert_eq!(machine.node.netns.addresses(NIC_NAME), ["10.55.0.5/24"]);
    machine.host(&["address", "flush", "dev", NIC_NAME]);
    machine.is_clean();
}

/// Each of two NICs has the other one's name when its pod has ended.
#[test]
fn two_nics_that_a_pod_has_given_each_others_names_both_come_back() {
    for command in ["DEL", "GC", "ADD"] {
        let mut machine = Machine::new();
        let (one, other) = (conf(), with(&conf(), &json!({"pciBusID": OTHER_NIC})));
        let second = |machine: &Machine, command: &str| {
            let call = machine.call(command, &other);
            call.env("CNI_IFNAME", "net2")
        };
        machine.add(&one);
        machine.node.run(&second(&machine, "ADD")).ok();
        for (from, to) in [("net1", OTHER_NAME), ("net2", NIC_NAME)] {
            machine.pod().ip(&["link", "set", from, "down"]);
            machine.pod().ip(&["link", "set", from, "name", to]);
        }
        machine.end_pod();
        wait_until("the other one is back", || netdev(OTHER_NIC).is_some());
        assert_eq!(netdev(NIC).as_deref(), Some(OTHER_NAME));
        match command {
            "DEL" => {}
            "GC" => {
                let keys = json!({"cni.dev/valid-attachments": []});
                let call = machine.call("GC", &with(&one, &keys));
                machine.node.run(&call).ok();
            }
            _ => {
                machine.pod = Some(Namespace::new());
                let missing = with(&conf(), &json!({"pciBusID": null, "device": "none"}));
                let call = machine.call("ADD", &missing).env("CNI_CONTAINERID", "c2");
                machine.node.run(&call).error_code(999);
            }
        }
        machine.del(&one);
        machine.node.run(&second(&machine, "DEL")).ok();
        assert_eq!(netdev(OTHER_NIC).as_deref(), Some(OTHER_NAME), "{command}");
        machine.is_clean();
    }
}

#[test]
fn a_damaged_record_of_ipvlan_does_not_matter() {
    let node = Node::new();
    node.netns
        .ip(&["link", "add", "eth1", "up", "type", "dummy"]);
    let outside = fs::read(OUTSIDE).ok();
    let ranges = json!([[{"subnet": "10.0.4.0/24"}]]);
    let ipam = json!({"type": "host-local", "ranges": ranges});
    let conf = json!({
        "cniVersion": "1.1.0", "name": "mgmt", "type": "ipvlan", "master": "eth1", "ipam": ipam,
    });
    for file in ["c1:net1.json", ".c1:net1.json.tmp", "c9:net1.json"] {
        let path = node.state().join("eni-cni/ipvlan/mgmt").join(file);
        for (damage, make) in DAMAGES {
            let (what, pod) = (format!("{damage} at {file}"), Pod::new("c1"));
            let call = |command: &str, conf: &Value| {
                let call = Call::ours("ipvlan", command).conf(conf).pod(&pod, "net1");
                node.inside(|| call.run_under("timeout", &["120"]))
            };
            replace_by(&path, make);
            let add = call("ADD", &conf);
            let conf = match add.status {
                Some(0) => with(&conf, &json!({"prevResult": add.ok()})),
                _ => {
                    assert!(add.error_code(5).msg.contains("c1:net1.json"), "{what}");
                    assert_eq!(pod.netns.links(), ["lo"], "{what}");
                    conf.clone()
                }
            };
            call("DEL", &conf).ok();
            assert_eq!(pod.netns.links(), ["lo"], "{what}");
            remove(&path);
            let is_address = |file: &String| file.contains("/10.0.4.");
            assert!(!node.files().iter().any(is_address), "{what}");
        }
    }
    assert_eq!(fs::read(OUTSIDE).ok(), outside);
}
