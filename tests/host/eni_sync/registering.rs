//! What ADD registers, on which ENI, and how many calls that takes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::thread;

use harness::Pod;
use harness::eni_lab::Hold;
use harness::vpc::{DEADLINE, Vpc, eventually, prev_result};
use serde_json::json;

#[test]
fn the_vpc_has_the_address_when_add_has_succeeded() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    node.add(&pod, &["10.0.4.70"]).ok();
    assert_eq!(vpc.owner("10.0.4.70"), Some(node.eni.clone()));
    assert_eq!(node.addresses(), ["10.0.4.70"]);
    assert_eq!(node.ledger()["10.0.4.70"], "held");
    node.check(&pod, &["10.0.4.70"]).ok();
}

#[test]
fn the_result_of_the_plugin_before_is_passed_on_in_every_version() {
    let vpc = Vpc::new();
    let node = vpc.node();
    for (number, version) in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]
        .into_iter()
        .enumerate()
    {
        let pod = Pod::new(&format!("c{number}"));
        let address = format!("10.0.4.{}", 70 + number);
        let mut given = prev_result(&pod, &[(&node.mac, &[&address])]);
        given["cniVersion"] = json!(version);
        given["routes"] = json!([{ "dst": "0.0.0.0/0", "gw": "10.0.4.1" }]);
        given["dns"] = json!({ "nameservers": ["10.0.0.2"] });
        if !version.starts_with('1') {
            given["ips"][0]["version"] = json!("4");
        }
        let keys = json!({ "cniVersion": version, "prevResult": given });
        let output = node.run(&node.conf_call("ADD", &pod, &[], &keys));
        assert_eq!(output.ok(), given, "{version}");
        assert_eq!(vpc.owner(&address), Some(node.eni.clone()));
    }
}

#[test]
fn a_result_without_interfaces_is_about_the_attachments_own() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    pod.netns.ip(&[
        "link", "add", "net1", "address", &node.mac, "type", "veth", "peer", "name", "x",
    ]);
    let given = json!({ "cniVersion": "0.2.0", "ip4": { "ip": "10.0.4.70/24" }, "dns": {} });
    let keys = json!({ "cniVersion": "0.2.0", "prevResult": given });
    node.run(&node.conf_call("ADD", &pod, &[], &keys)).ok();
    assert_eq!(node.addresses(), ["10.0.4.70"]);
}

#[test]
fn the_mac_address_decides_between_two_enis_of_one_subnet() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let second = node.lab.multus_eni(&node.instance, &vpc.pods);
    let pod = Pod::new("c1");
    let result = prev_result(&pod, &[(&node.lab.mac(&second), &["10.0.4.70"])]);
    let keys = json!({ "prevResult": result });
    node.run(&node.conf_call("ADD", &pod, &[], &keys)).ok();
    assert_eq!(node.addresses_of(&second), ["10.0.4.70"]);
    assert_eq!(node.addresses(), Vec::<String>::new());
}

/// A macvlan of another pod in mode passthru can have given the master the address of another ENI,
/// which the interface of the pod has then.
#[test]
fn the_record_of_ipvlan_decides_and_not_the_address_of_its_interface() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let second = node.lab.multus_eni(&node.instance, &vpc.pods);
    let second_mac = node.lab.mac(&second);
    let pod = Pod::new("c1");
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let inode = fs::metadata(pod.netns.path()).unwrap().ino();
    let record = json!({
        "network": "mgmt", "containerId": "c1", "ifname": "net1", "cniVersion": "1.1.0",
        "bootId": boot.trim(), "netns": pod.netns.path(), "ipam": null,
        "netnsId": { "device": 4, "inode": inode },
        "device": {
            "masterIndex": 7, "linkInContainer": false, "temporaryName": "ipv0", "mode": "l2",
            "masterMac": second_mac, "masterHardwareMac": node.mac,
        },
    });
    let directory = node.node.state().join("eni-cni/ipvlan/mgmt");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("c1:net1.json"), record.to_string()).unwrap();
    let result = prev_result(&pod, &[(&second_mac, &["10.0.4.70"])]);
    let keys = json!({ "prevResult": result });
    for command in ["ADD", "CHECK"] {
        node.run(&node.conf_call(command, &pod, &[], &keys)).ok();
        assert_eq!(node.addresses(), ["10.0.4.70"], "{command}");
        assert_eq!(
            node.addresses_of(&second),
            Vec::<String>::new(),
            "{command}"
        );
    }
}

#[test]
fn a_pod_can_have_several_addresses_of_both_families_on_several_enis() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let second = node.lab.multus_eni(&node.instance, &vpc.pods);
    let pod = Pod::new("c1");
    let first_has: &[&str] = &["10.0.4.70", "10.0.4.71", "2001:db8:4::70"];
    let second_has: &[&str] = &["10.0.4.80", "2001:db8:4::80"];
    let mac = node.lab.mac(&second);
    let result = prev_result(&pod, &[(&node.mac, first_has), (&mac, second_has)]);
    let keys = json!({ "prevResult": result });
    node.run(&node.conf_call("ADD", &pod, &[], &keys)).ok();
    assert_eq!(node.addresses(), first_has);
    assert_eq!(node.addresses_of(&second), second_has);
    node.run(&node.conf_call("CHECK", &pod, &[], &keys)).ok();
    node.del(&pod);
    assert!(node.ledger().values().all(|state| state == "releasing"));
}

#[test]
fn the_enis_own_address_costs_no_call() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let primary = node.lab.primary(&node.eni).to_string();
    let other = Pod::new("c0");
    node.add(&other, &["10.0.4.70"]).ok();
    node.lab.reset_calls();
    let pod = Pod::new("c1");
    node.add(&pod, &[&primary]).ok();
    node.check(&pod, &[&primary]).ok();
    node.del(&pod);
    assert_eq!(node.lab.calls(), BTreeMap::new());
}

#[test]
fn an_interface_without_addresses_needs_nothing() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    node.add(&pod, &[]).ok();
    node.add(&pod, &["fe80::1"]).ok();
    assert_eq!(node.lab.calls(), BTreeMap::new());
}

#[test]
fn addresses_of_the_nodes_side_are_not_the_pods() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    let mut result = prev_result(&pod, &[(&node.mac, &["10.0.4.70"])]);
    let bridge = json!({ "name": "br0", "mac": "02:aa:00:00:00:01" });
    result["interfaces"].as_array_mut().unwrap().push(bridge);
    let address = json!({ "address": "10.0.4.99/24", "interface": 1 });
    result["ips"].as_array_mut().unwrap().push(address);
    let keys = json!({ "prevResult": result });
    node.run(&node.conf_call("ADD", &pod, &[], &keys)).ok();
    assert_eq!(node.addresses(), ["10.0.4.70"]);
}

#[test]
fn an_add_is_one_call_once_the_nodes_enis_are_known() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.add(&Pod::new("c0"), &["10.0.4.70"]).ok();
    let first: Vec<String> = node.lab.calls().into_keys().collect();
    assert_eq!(
        first,
        [
            "AssignPrivateIpAddresses",
            "DescribeInstanceTypes",
            "DescribeNetworkInterfaces",
            "DescribeSubnets"
        ]
    );
    node.lab.reset_calls();
    let pod = Pod::new("c1");
    node.add(&pod, &["10.0.4.71", "10.0.4.72"]).ok();
    let one = BTreeMap::from([("AssignPrivateIpAddresses".to_owned(), 1)]);
    assert_eq!(node.lab.calls(), one);
    node.add(&pod, &["10.0.4.71", "10.0.4.72"]).ok();
    node.del(&pod);
    assert_eq!(node.lab.calls(), one, "the second ADD and DEL need none");
}

#[test]
fn an_address_that_is_asked_for_again_within_its_cooldown_costs_no_call() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let first = Pod::new("c1");
    node.add(&first, &["10.0.4.70"]).ok();
    node.del(&first);
    node.lab.reset_calls();
    let second = Pod::new("c2");
    node.add(&second, &["10.0.4.70"]).ok();
    assert_eq!(node.lab.calls(), BTreeMap::new());
    assert_eq!(node.ledger()["10.0.4.70"], "held");
    // The DEL of the first comes again, as runtimes do.
    node.del(&first);
    assert_eq!(node.ledger()["10.0.4.70"], "held");
}

#[test]
fn pods_that_start_together_share_calls() {
    let vpc = Vpc::new();
    let node = vpc.node_of_type("m5.xlarge");
    node.add(&Pod::new("c0"), &["10.0.4.10"]).ok();
    node.lab.reset_calls();
    node.lab
        .hold("AssignPrivateIpAddresses", Hold::BeforeCommit);
    let pods: Vec<Pod> = (0..10).map(|n| Pod::new(&format!("c{n}"))).collect();
    let addresses: Vec<String> = (0..10).map(|n| format!("10.0.4.{}", 100 + n)).collect();
    thread::scope(|scope| {
        let add = |number: usize| {
            let call = node.pod_call("ADD", &pods[number], &[&addresses[number]]);
            let node = &node;
            scope.spawn(move || node.run(&call).ok())
        };
        let leader = add(0);
        assert!(
            node.lab
                .wait_for_call("AssignPrivateIpAddresses", 1, DEADLINE)
        );
        let followers: Vec<_> = (1..10).map(add).collect();
        let queued = || node.ledger().values().filter(|s| *s == "claiming").count() == 10;
        assert!(eventually(queued), "{:?}", node.ledger());
        node.lab.release_held();
        for add in [leader].into_iter().chain(followers) {
            add.join().unwrap();
        }
    });
    let calls = node.lab.calls();
    assert_eq!(calls["AssignPrivateIpAddresses"], 2, "{calls:?}");
    assert_eq!(node.addresses().len(), 11);
}

/// As a CHECK that the runtime has begun before the DEL.
#[test]
fn a_check_after_the_del_takes_no_address_back() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let (pod, next) = (Pod::new("c1"), Pod::new("c2"));
    let address = "10.0.4.76";
    node.add(&pod, &[address]).ok();
    node.check(&pod, &[address]).ok();
    node.del(&pod);
    let error = node.check(&pod, &[address]).error_code(999);
    assert!(error.msg.contains(address), "{error:?}");
    assert_eq!(node.ledger()[address], "releasing");
    node.add(&next, &[address]).ok();
    node.check(&next, &[address]).ok();
}

/// The runtime has the configuration by its new name only.
#[test]
fn del_of_a_network_that_was_renamed_releases_the_addresses_of_the_attachment() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let (first, second, other) = ("10.0.4.77", "10.0.4.78", "10.0.4.79");
    let (lives, gone, neighbour) = (Pod::new("c1"), Pod::new("c2"), Pod::new("c3"));
    for (pod, address) in [(&lives, first), (&gone, second), (&neighbour, other)] {
        node.add(pod, &[address]).ok();
    }
    let renamed = json!({ "name": "new" });
    let del = |pod: &Pod, addresses: &[&str]| {
        let call = node.conf_call("DEL", pod, addresses, &renamed);
        node.run(&call).ok();
    };
    // Neither by its name alone nor with another address.
    del(&lives, &[]);
    del(&lives, &[other]);
    assert_eq!(node.ledger()[first], "held");
    del(&lives, &[first]);
    assert_eq!(node.ledger()[first], "releasing");
    // What has ended needs no more proof.
    let successor = Pod::new("c2");
    let _ended = gone.netns.end();
    // Who forks keeps a namespace for a moment.
    let is_ended = || {
        del(&successor, &[]);
        node.ledger()[second] == "releasing"
    };
    assert!(eventually(is_ended), "{:?}", node.ledger());
    assert_eq!(node.ledger()[other], "held");
}
