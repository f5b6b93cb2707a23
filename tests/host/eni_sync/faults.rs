//! AWS at its worst: lost answers, expired credentials, missing permissions, and an ENI
//! that is full or gone.

use std::net::IpAddr;
use std::thread;

use harness::Pod;
use harness::eni_lab::{Fault, Limits, Repeat};
use harness::vpc::{Vpc, VpcNode};

const ASSIGN: &str = "AssignPrivateIpAddresses";
const ADDRESS: &str = "10.0.4.70";

fn ready(vpc: &Vpc) -> VpcNode {
    let node = vpc.node();
    node.add(&Pod::new("c0"), &["10.0.4.60"]).ok();
    node
}

/// Fills the ENI of a c5.large, which has nine secondary addresses, and returns the
/// pods that have them.
fn fill(node: &VpcNode) -> Vec<(Pod, String)> {
    let pod = |n: usize| (Pod::new(&format!("full{n}")), format!("10.0.4.{}", 100 + n));
    let pods: Vec<_> = (0..9).map(pod).collect();
    for (pod, address) in &pods {
        node.add(pod, &[address]).ok();
    }
    pods
}

/// An ADD of two addresses whose call goes wrong.
fn add_with_fault(repeat: Repeat, fault: &Fault) {
    let vpc = Vpc::new();
    let node = ready(&vpc);
    node.lab.rules(|rules| rules.repeat_assign = repeat);
    node.lab.fail_next(ASSIGN, 1, fault.clone());
    let pod = Pod::new("c1");
    let addresses = [ADDRESS, "10.0.4.71", "2001:db8:4::70"];
    node.add(&pod, &addresses).ok();
    assert_eq!(node.addresses()[1..], addresses, "{repeat:?}, {fault:?}");
    assert_eq!(node.ledger()[ADDRESS], "held");
    node.check(&pod, &addresses).ok();
}

#[test]
fn a_repeated_assignment_succeeds_whichever_way_aws_answers_it() {
    thread::scope(|scope| {
        for repeat in [Repeat::Accept, Repeat::Refuse] {
            for fault in [
                Fault::DropAfterCommit,
                Fault::HangAfterCommit,
                Fault::Garbage,
            ] {
                scope.spawn(move || add_with_fault(repeat, &fault));
            }
        }
    });
}

#[test]
fn addresses_that_another_program_assigned_to_the_eni_are_used_as_they_are() {
    for repeat in [Repeat::Accept, Repeat::Refuse] {
        let vpc = Vpc::new();
        let node = ready(&vpc);
        node.lab.rules(|rules| rules.repeat_assign = repeat);
        let there: IpAddr = ADDRESS.parse().unwrap();
        node.lab.assign(&node.eni, &[there]);
        node.add(&Pod::new("c1"), &[ADDRESS, "10.0.4.71"]).ok();
        assert_eq!(node.addresses(), ["10.0.4.60", ADDRESS, "10.0.4.71"]);
    }
}

#[test]
fn an_eni_that_is_full_is_named_with_its_limit_and_the_instance_type() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pods = fill(&node);
    let error = node.add(&Pod::new("c1"), &[ADDRESS]).error_code(11);
    let said = format!(
        "{} has no room for {ADDRESS}: 10 of 10 addresses used (c5.large)",
        node.eni
    );
    assert_eq!(error.msg, said);
    assert!(
        error.details.contains("PrivateIpAddressLimitExceeded"),
        "{error:?}"
    );
    assert_eq!(node.addresses().len(), 9);
    assert!(
        pods.iter()
            .all(|(_, address)| node.ledger()[address] == "held")
    );
}

#[test]
fn addresses_in_their_cooldown_make_room_the_oldest_first() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pods = fill(&node);
    for (number, (pod, address)) in pods[3..6].iter().enumerate() {
        node.del(pod);
        let age = 10 - number as u64;
        node.edit_ledger(address, |entry| {
            let after = entry["after"].as_u64().unwrap();
            entry["after"] = (after - age).into();
        });
    }
    node.add(&Pod::new("c1"), &[ADDRESS, "10.0.4.71"]).ok();
    let addresses = node.addresses();
    let has = |n: usize| addresses.contains(&pods[n].1);
    assert_eq!(
        [has(3), has(4), has(5)],
        [false, false, true],
        "{addresses:?}"
    );
    assert_eq!(addresses.len(), 9);
}

#[test]
fn an_address_that_never_came_to_the_eni_makes_no_room() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let other = vpc.node();
    other
        .add(&Pod::new("theirs"), &["10.0.4.200", "10.0.4.201"])
        .ok();
    for address in ["10.0.4.200", "10.0.4.201"] {
        node.add(&Pod::new("refused"), &[address]).error_code(11);
        node.edit_ledger(address, |entry| entry["after"] = entry["since"].clone());
    }
    let pods = fill(&node);
    node.del(&pods[4].0);
    node.add(&Pod::new("c1"), &[ADDRESS]).ok();
    assert!(!node.addresses().contains(&pods[4].1));
    assert_eq!(other.addresses().len(), 2);
}

#[test]
fn the_limit_of_ipv6_addresses_is_the_eni_s_own() {
    for code in ["PrivateIpAddressLimitExceeded", "Ipv6AddressLimitExceeded"] {
        let vpc = Vpc::new();
        let tiny = Limits {
            interfaces: 3,
            ipv4: 10,
            ipv6: 1,
            cards: 1,
        };
        vpc.lab.rules(|rules| {
            rules.limit_overrides.insert("tiny.large".to_owned(), tiny);
            rules.ipv6_limit_code = code.to_owned();
        });
        let node = vpc.node_of_type("tiny.large");
        node.add(&Pod::new("c1"), &["2001:db8:4::70"]).ok();
        let error = node
            .add(&Pod::new("c2"), &["2001:db8:4::71"])
            .error_code(11);
        assert!(
            error.msg.contains("1 of 1 addresses used (tiny.large)"),
            "{error:?}"
        );
    }
}

#[test]
fn the_part_of_a_batch_that_fits_is_served() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.add(
        &Pod::new("c0"),
        &[
            "10.0.4.60",
            "10.0.4.61",
            "10.0.4.62",
            "10.0.4.63",
            "10.0.4.64",
        ],
    )
    .ok();
    let batch = [
        "10.0.4.80",
        "10.0.4.81",
        "10.0.4.82",
        "10.0.4.83",
        "10.0.4.84",
        "10.0.4.85",
    ];
    let outputs = node.add_behind_one(&batch, || {});
    let served = outputs
        .iter()
        .filter(|output| output.status == Some(0))
        .count();
    assert_eq!((served, node.addresses().len()), (4, 9));
    for output in outputs.iter().filter(|output| output.status != Some(0)) {
        let error = output.error_code(11);
        assert!(
            error.msg.contains("of 10 addresses used (c5.large)"),
            "{error:?}"
        );
    }
}

#[test]
fn an_eni_that_is_gone_fails_the_add_and_frees_the_ledger() {
    let vpc = Vpc::new();
    let node = ready(&vpc);
    let pod = Pod::new("c1");
    node.add(&pod, &[ADDRESS]).ok();
    node.lab.detach_eni(&node.eni);
    node.lab.delete_eni(&node.eni);
    let error = node.add(&Pod::new("c2"), &["10.0.4.71"]).error_code(11);
    assert!(error.msg.contains(node.eni.as_str()), "{error:?}");
    node.gc(&[]);
    // That it is gone is believed when a later look says so as well.
    for _ in 0..2 {
        assert_ne!(node.ledger().len(), 0);
        node.let_time_pass(120);
        node.gc(&[]);
    }
    assert_eq!(node.ledger().len(), 0);
}

#[test]
fn a_missing_permission_is_named_with_code_100() {
    for before in [true, false] {
        for action in [
            ASSIGN,
            "AssignIpv6Addresses",
            "DescribeNetworkInterfaces",
            "DescribeSubnets",
        ] {
            let vpc = Vpc::new();
            let node = vpc.node();
            node.lab.rules(|rules| {
                rules.authorise_before_validate = before;
                rules.denied_actions.insert(action.to_owned());
            });
            let error = node
                .add(&Pod::new("c1"), &[ADDRESS, "2001:db8:4::70"])
                .error_code(100);
            let said = format!("the node's role does not permit ec2:{action}");
            assert!(error.msg.contains(&said), "{error:?}");
        }
    }
}

#[test]
fn a_permission_that_only_a_takeover_needs_is_named_by_the_takeover() {
    let vpc = Vpc::new();
    let (node, other) = (vpc.node(), vpc.node());
    other.add(&Pod::new("theirs"), &[ADDRESS]).ok();
    node.lab.rules(|rules| {
        rules.denied_actions.insert("DescribeInstances".to_owned());
    });
    let error = node.add(&Pod::new("c1"), &[ADDRESS]).error_code(100);
    assert!(error.msg.contains("ec2:DescribeInstances"), "{error:?}");
    assert_eq!(vpc.owner(ADDRESS), Some(other.eni.clone()));
}
