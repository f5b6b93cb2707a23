//! How addresses leave: DEL only writes that down, and what is due goes with GC or with
//! somebody else's ADD.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;

use harness::Pod;
use harness::eni_lab::Fault;
use harness::vpc::{Vpc, VpcNode};
use serde_json::json;

const UNASSIGN: &str = "UnassignPrivateIpAddresses";

/// How often the node has asked EC2 to unassign.
fn unassigns(node: &VpcNode) -> u64 {
    node.lab.calls().get(UNASSIGN).copied().unwrap_or_default()
}

/// Addresses from .70 on, whose cool-down has just ended.
fn leave_due(node: &VpcNode, count: usize) -> Vec<String> {
    let addresses: Vec<String> = (0..count).map(|n| format!("10.0.4.{}", 70 + n)).collect();
    let texts: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let pod = Pod::new("gone");
    node.add(&pod, &texts).ok();
    node.del(&pod);
    for address in &addresses {
        node.edit_ledger(address, |entry| entry["after"] = entry["since"].clone());
    }
    addresses
}

#[test]
fn del_asks_nothing_of_aws_and_keeps_the_address_for_its_cooldown() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    node.add(&pod, &["10.0.4.70"]).ok();
    node.lab.reset_calls();
    node.lab.rules(|rules| rules.imds_down = true);
    node.del(&pod);
    node.del(&pod);
    assert_eq!(node.lab.calls(), BTreeMap::new());
    assert_eq!(node.lab.imds_calls(), BTreeMap::new());
    assert_eq!(node.ledger()["10.0.4.70"], "releasing");
    assert_eq!(node.addresses(), ["10.0.4.70"]);
}

#[test]
fn del_needs_neither_prev_result_nor_configuration_nor_namespace() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let minimal = json!({ "cniVersion": "1.1.0", "name": "mgmt", "type": "eni-sync" });
    for (number, netns) in ["", "/run/netns/gone", "/etc/hostname"]
        .into_iter()
        .enumerate()
    {
        let id = format!("c{number}");
        let address = format!("10.0.4.{}", 70 + number);
        node.add(&Pod::new(&id), &[&address]).ok();
        let call = node.call("DEL").conf(&minimal);
        node.run(&call.attachment(&id, "net1", netns)).ok();
        assert_eq!(node.ledger()[&address], "releasing", "{netns:?}");
    }
    let broken = json!({
        "cniVersion": "1.1.0", "name": "mgmt", "type": "eni-sync", "strict": 7, "takeover": [], "cooldownSeconds": "x",
    });
    node.add(&Pod::new("c9"), &["10.0.4.79"]).ok();
    let call = node.call("DEL").conf(&broken);
    node.run(&call.attachment("c9", "net1", "")).ok();
    assert_eq!(node.ledger()["10.0.4.79"], "releasing");
}

#[test]
fn del_of_an_unknown_attachment_succeeds_and_touches_nothing() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    node.del(&pod);
    assert_eq!(node.node.files(), [""; 0]);
    node.add(&pod, &["10.0.4.70"]).ok();
    let other_interface = node.pod_call("DEL", &pod, &["10.0.4.70"]);
    node.run(&other_interface.env("CNI_IFNAME", "net2")).ok();
    let keys = json!({ "name": "other" });
    node.run(&node.conf_call("DEL", &pod, &["10.0.4.71"], &keys))
        .ok();
    node.del(&Pod::new("c2"));
    assert_eq!(node.ledger()["10.0.4.70"], "held");
}

#[test]
fn other_files_beside_the_ledgers_keep_no_pod_from_ending() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    node.add(&pod, &["10.0.4.70"]).ok();
    let root = node.ledger_path().parent().unwrap().to_owned();
    fs::write(root.join("README"), "not mine").unwrap();
    fs::create_dir(root.join("lost+found")).unwrap();
    node.del(&pod);
    assert_eq!(node.ledger()["10.0.4.70"], "releasing");
    node.end_cooldown("10.0.4.70");
    node.gc(&[]);
    assert_eq!(node.addresses(), [""; 0]);
}

#[test]
fn gc_leaves_an_address_alone_until_its_cooldown_is_over() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    node.add(&pod, &["10.0.4.70"]).ok();
    node.del(&pod);
    node.gc(&[]);
    assert_eq!(node.addresses(), ["10.0.4.70"]);
    let keys = json!({ "cooldownSeconds": 0 });
    let pod = Pod::new("c2");
    node.run(&node.conf_call("ADD", &pod, &["10.0.4.71"], &keys))
        .ok();
    node.del(&pod);
    node.gc(&[]);
    assert_eq!(node.addresses(), ["10.0.4.70"]);
}

#[test]
fn gc_removes_all_that_is_due_with_one_call_for_a_family() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let before = node.lab.addresses(&node.eni);
    let pod = Pod::new("c1");
    let addresses = [
        "10.0.4.70",
        "10.0.4.71",
        "10.0.4.72",
        "2001:db8:4::70",
        "2001:db8:4::71",
    ];
    node.add(&pod, &addresses).ok();
    node.del(&pod);
    addresses
        .iter()
        .for_each(|address| node.end_cooldown(address));
    node.lab.reset_calls();
    node.gc(&[]);
    assert_eq!(node.lab.addresses(&node.eni), before);
    assert_eq!(node.ledger(), BTreeMap::new());
    let calls = node.lab.calls();
    assert_eq!((calls[UNASSIGN], calls["UnassignIpv6Addresses"]), (1, 1));
    assert_eq!(calls["DescribeNetworkInterfaces"], 1, "{calls:?}");
    node.lab.reset_calls();
    node.gc(&[]);
    assert_eq!(node.lab.calls(), BTreeMap::new(), "nothing is due");
}

#[test]
fn gc_ends_the_attachments_of_its_network_that_are_not_listed() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let [listed, forgotten] = ["c1", "c2"].map(Pod::new);
    node.add(&listed, &["10.0.4.70"]).ok();
    node.add(&forgotten, &["10.0.4.71"]).ok();
    let (other, keys) = (Pod::new("c3"), json!({ "name": "other" }));
    node.run(&node.conf_call("ADD", &other, &["10.0.4.72"], &keys))
        .ok();
    drop(forgotten);
    node.gc(&[&listed]);
    let state = |address: &str| node.ledger()[address].clone();
    assert_eq!(state("10.0.4.70"), "held");
    assert_eq!(state("10.0.4.71"), "releasing");
    assert_eq!(state("10.0.4.72"), "held");
    node.end_cooldown("10.0.4.71");
    node.gc(&[&listed]);
    assert_eq!(node.addresses(), ["10.0.4.70", "10.0.4.72"]);
}

#[test]
fn an_add_of_another_attachment_releases_ten_addresses_that_are_due() {
    let vpc = Vpc::new();
    let node = vpc.node_of_type("m5.4xlarge");
    leave_due(&node, 9);
    node.lab.reset_calls();
    node.add(&Pod::new("c1"), &["10.0.4.200"]).ok();
    assert_eq!(unassigns(&node), 0, "nine are not worth a call");
    let pod = Pod::new("tenth");
    node.add(&pod, &["10.0.4.90"]).ok();
    node.del(&pod);
    node.edit_ledger("10.0.4.90", |entry| entry["after"] = entry["since"].clone());
    node.add(&Pod::new("c2"), &["10.0.4.201"]).ok();
    assert_eq!(unassigns(&node), 1);
    assert_eq!(node.addresses(), ["10.0.4.200", "10.0.4.201"]);
}

#[test]
fn an_add_of_another_attachment_releases_what_has_waited_for_a_minute() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    node.add(&pod, &["10.0.4.70"]).ok();
    node.del(&pod);
    let ended_at = |ago: u64| {
        node.edit_ledger("10.0.4.70", |entry| {
            let now = entry["since"].as_u64().unwrap();
            entry["after"] = json!(now - ago);
        });
    };
    ended_at(30);
    node.add(&Pod::new("c2"), &["10.0.4.71"]).ok();
    assert_eq!(node.addresses(), ["10.0.4.70", "10.0.4.71"]);
    ended_at(61);
    node.add(&Pod::new("c3"), &["10.0.4.72"]).ok();
    assert_eq!(node.addresses(), ["10.0.4.71", "10.0.4.72"]);
}

#[test]
fn an_add_succeeds_though_what_is_due_cannot_be_removed() {
    let vpc = Vpc::new();
    let node = vpc.node_of_type("m5.4xlarge");
    leave_due(&node, 10);
    node.lab.rules(|rules| {
        rules.denied_actions.insert(UNASSIGN.to_owned());
    });
    let output = node.add(&Pod::new("c1"), &["10.0.4.200"]);
    output.ok();
    let said = format!("releasing addresses of {}", node.eni);
    assert!(output.stderr.contains(&said), "{output}");
    assert_eq!(node.addresses().len(), 11);
    node.lab.rules(|rules| rules.denied_actions.clear());
    node.gc(&[&Pod::new("c1")]);
    assert_eq!(node.addresses(), ["10.0.4.200"]);
}

#[test]
fn gc_reports_what_aws_refuses_and_forgets_nothing() {
    let vpc = Vpc::new();
    let node = vpc.node();
    leave_due(&node, 2);
    node.lab.rules(|rules| {
        rules.denied_actions.insert(UNASSIGN.to_owned());
    });
    let error = node.run(&node.gc_call(&[])).error_code(100);
    assert!(
        error.msg.contains("ec2:UnassignPrivateIpAddresses"),
        "{error:?}"
    );
    assert!(error.msg.contains(node.eni.as_str()), "{error:?}");
    assert_eq!(node.ledger().len(), 2);
    node.lab.rules(|rules| rules.denied_actions.clear());
    node.gc(&[]);
    assert_eq!((node.addresses().len(), node.ledger().len()), (0, 0));
}

#[test]
fn a_release_whose_answer_is_lost_is_complete() {
    let vpc = Vpc::new();
    let node = vpc.node();
    leave_due(&node, 3);
    node.lab.fail_next(UNASSIGN, 1, Fault::DropAfterCommit);
    node.gc(&[]);
    assert_eq!((node.addresses().len(), node.ledger().len()), (0, 0));
}

#[test]
fn an_address_that_another_program_removed_does_not_prevent_the_release_of_others() {
    let vpc = Vpc::new();
    let node = vpc.node();
    leave_due(&node, 3);
    let gone: IpAddr = "10.0.4.71".parse().unwrap();
    node.lab.unassign(&node.eni, &[gone]);
    node.gc(&[]);
    assert_eq!((node.addresses().len(), node.ledger().len()), (0, 0));
}

#[test]
fn an_address_that_ec2_does_not_remove_keeps_no_other_on_the_eni() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let addresses = leave_due(&node, 8);
    let pinned = "10.0.4.73";
    node.lab.rules(|rules| {
        rules.pinned.insert(pinned.parse().unwrap());
    });
    node.lab.reset_calls();
    let said = node.run(&node.gc_call(&[])).stderr;
    assert_eq!(node.addresses(), [pinned]);
    assert_eq!(node.ledger(), [(pinned.into(), "releasing".into())].into());
    assert_eq!(said.matches(pinned).count(), 3, "reason and answer\n{said}");
    let others = addresses.iter().filter(|address| *address != pinned);
    others.for_each(|address| assert!(!said.contains(address.as_str()), "{said}"));
    assert!(unassigns(&node) <= 7, "{:?}", node.lab.calls());
    // It is asked for again later, and disturbs no batch until then.
    node.lab.reset_calls();
    node.let_time_pass(240);
    node.gc(&[]);
    assert_eq!(node.lab.calls(), BTreeMap::new());
    node.lab.rules(|rules| rules.pinned.clear());
    node.let_time_pass(61);
    node.gc(&[]);
    assert_eq!((node.addresses().len(), node.ledger().len()), (0, 0));
}

#[test]
fn many_addresses_that_ec2_does_not_remove_cost_few_calls_and_keep_no_other_for_long() {
    let vpc = Vpc::new();
    let node = vpc.node_of_type("m5.4xlarge");
    let addresses = leave_due(&node, 20);
    let (last, pinned) = addresses.split_last().unwrap();
    node.lab.rules(|rules| {
        let pinned = pinned.iter().map(|address| address.parse().unwrap());
        rules.pinned.extend::<Vec<IpAddr>>(pinned.collect());
    });
    for round in 0..3 {
        node.lab.reset_calls();
        node.gc(&[]);
        assert!(unassigns(&node) <= 17, "{round}: {:?}", node.lab.calls());
        node.let_time_pass(61);
    }
    assert!(!node.addresses().contains(last), "{:?}", node.ledger());
    assert_eq!(node.addresses(), pinned);
}

#[test]
fn an_address_leaves_with_an_eni_that_was_detached_for_minutes() {
    let vpc = Vpc::new();
    let node = vpc.node();
    leave_due(&node, 2);
    node.lab.detach_eni(&node.eni);
    for _ in 0..3 {
        let said = node.run(&node.gc_call(&[])).stderr;
        assert!(said.contains("is attached to no instance"), "{said}");
        node.let_time_pass(301);
    }
    assert_eq!(node.ledger().len(), 2, "the ENI has them still");
    node.lab
        .attach_eni_to_card(&node.eni, &node.instance, (0, 1));
    node.command(&["sync", "--once"]);
    assert_eq!((node.addresses().len(), node.ledger().len()), (0, 0));
}

#[test]
fn an_address_that_floats_goes_to_another_node_and_comes_back() {
    let vpc = Vpc::new().without_invariants();
    let nodes = [vpc.node(), vpc.node()];
    let floats = json!({ "takeover": "always" });
    let mut pods = Vec::new();
    for (round, turn) in [0, 1, 0, 1, 0].into_iter().enumerate() {
        let pod = Pod::new(&format!("c{round}"));
        let call = nodes[turn].conf_call("ADD", &pod, &["10.0.4.70"], &floats);
        nodes[turn].run(&call).ok();
        assert_eq!(
            vpc.owner("10.0.4.70"),
            Some(nodes[turn].eni.clone()),
            "round {round}"
        );
        // It ends on the node that has lost the address, and the release changes nothing.
        if let Some((former, pod)) = pods.pop() {
            let former: &VpcNode = &nodes[former];
            former.del(&pod);
            former.end_cooldown("10.0.4.70");
            former.gc(&[]);
            assert_eq!(former.ledger(), BTreeMap::new());
        }
        pods.push((turn, pod));
    }
    assert_eq!(nodes[0].addresses(), ["10.0.4.70"]);
}
