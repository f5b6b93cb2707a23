//! Assigning and unassigning secondary IPv4 addresses.

use std::time::Duration;

use fixtures::lab::{ASSIGN, PATIENCE, UNASSIGN, Vpc, ip, named, texts};
use harness::eni_lab::{Event, Limits, Repeat};

const VALUE: &str = "InvalidParameterValue";

/// 4 "assign response": only the new ones, which amazon-vpc-cni-k8s depends on.
#[test]
fn an_assignment_answers_with_the_new_addresses_only() {
    let vpc = Vpc::new();
    vpc.assign(&["10.0.4.70"]).ok();
    let reply = vpc.assign(&["10.0.4.71", "10.0.4.72"]).ok();
    assert_eq!(reply.all("privateIpAddress"), ["10.0.4.71", "10.0.4.72"]);
    assert_eq!(reply.all("networkInterfaceId"), [vpc.eni.as_str()]);
    assert_eq!(vpc.addresses(), ["10.0.4.70", "10.0.4.71", "10.0.4.72"]);
    assert_eq!(
        vpc.lab.owner(&vpc.vpc, ip("10.0.4.71")),
        Some(vpc.eni.clone())
    );
}

/// What a repeated assignment does is in no document.
#[test]
fn the_same_assignment_again_is_accepted_or_refused_as_the_switch_says() {
    let vpc = Vpc::new();
    vpc.assign(&["10.0.4.70"]).ok();
    let reply = vpc.assign(&["10.0.4.70", "10.0.4.71"]).ok();
    assert_eq!(reply.all("privateIpAddress"), ["10.0.4.71"]);
    vpc.lab.rules(|r| r.repeat_assign = Repeat::Refuse);
    let (status, code, message) = vpc.assign(&["10.0.4.70", "10.0.4.72"]).error();
    assert_eq!((status, code.as_str()), (400, VALUE));
    assert!(
        message.contains("[10.0.4.70] already assigned"),
        "{message}"
    );
    assert_eq!(vpc.addresses(), ["10.0.4.70", "10.0.4.71"]);
}

/// From Ansible's `ec2_eni` documentation and Cilium's expression for it: only
/// the conflicting addresses are listed, and the whole call fails.
#[test]
fn addresses_of_another_interface_are_listed_and_nothing_is_assigned() {
    let vpc = Vpc::new();
    let (_, other) = vpc.another();
    vpc.lab.assign(&other, &[ip("10.0.4.70"), ip("10.0.4.71")]);
    let wanted = ["10.0.4.69", "10.0.4.70", "10.0.4.71"];
    let expected = "[10.0.4.70, 10.0.4.71] assigned, but move is not allowed.";
    assert_eq!(
        vpc.assign(&wanted).error(),
        (400, VALUE.to_owned(), expected.to_owned())
    );
    assert_eq!(vpc.addresses(), Vec::<String>::new());
}

/// `AllowReassignment`.
#[test]
fn a_reassignment_moves_the_address() {
    let vpc = Vpc::new();
    let (_, other) = vpc.another();
    vpc.lab.assign(&other, &[ip("10.0.4.70")]);
    let parameters = named(&vpc.eni, "PrivateIpAddress", &["10.0.4.70"]);
    let parameters = parameters.and("AllowReassignment", "true");
    vpc.call(ASSIGN, &parameters.pairs()).ok();
    assert_eq!(vpc.addresses(), ["10.0.4.70"]);
    assert!(vpc.lab.addresses(&other).is_empty());
}

/// "Remapping is an asynchronous operation".
#[test]
fn a_reassignment_may_take_effect_later_than_it_succeeds() {
    let vpc = Vpc::new();
    let (_, other) = vpc.another();
    vpc.lab.assign(&other, &[ip("10.0.4.70")]);
    vpc.lab.rules(|r| r.reassign_delay = PATIENCE);
    let parameters = named(&vpc.eni, "PrivateIpAddress", &["10.0.4.70"]);
    let parameters = parameters.and("AllowReassignment", "true");
    let reply = vpc.call(ASSIGN, &parameters.pairs()).ok();
    assert_eq!(reply.all("privateIpAddress"), ["10.0.4.70"]);
    assert_eq!(texts(&vpc.lab.addresses(&other)), ["10.0.4.70"]);
    assert!(vpc.addresses().is_empty());
    vpc.lab
        .rules(|r| r.reassign_delay = Duration::from_millis(50));
    vpc.call(ASSIGN, &parameters.pairs()).ok();
    let second = named(&other, "PrivateIpAddress", &["10.0.4.70"]);
    let (_, code, _) = vpc.call(ASSIGN, &second.pairs()).error();
    assert_eq!(code, VALUE);
    vpc.lab.rules(|r| r.reassign_delay = Duration::ZERO);
    let back = second.and("AllowReassignment", "true");
    vpc.call(ASSIGN, &back.pairs()).ok();
    assert_eq!(texts(&vpc.lab.addresses(&other)), ["10.0.4.70"]);
    vpc.lab
        .rules(|r| r.reassign_delay = Duration::from_millis(50));
    vpc.call(ASSIGN, &parameters.pairs()).ok();
    let moved = |lab: &harness::eni_lab::Lab| !lab.addresses(&vpc.eni).is_empty();
    assert!(vpc.lab.wait_until(PATIENCE, moved));
    assert!(vpc.lab.addresses(&other).is_empty());
}

/// From aws-sdk-go#2864: the whole message is `secondary-addresses`.
#[test]
fn a_primary_address_cannot_be_taken() {
    let vpc = Vpc::new();
    let (_, other) = vpc.another();
    let primary = vpc.lab.primary(&other).to_string();
    let parameters = named(&vpc.eni, "PrivateIpAddress", &[&primary]);
    let expected = (400, VALUE.to_owned(), "secondary-addresses".to_owned());
    assert_eq!(vpc.call(ASSIGN, &parameters.pairs()).error(), expected);
    let parameters = parameters.and("AllowReassignment", "true");
    assert_eq!(vpc.call(ASSIGN, &parameters.pairs()).error(), expected);
    let own = vpc.lab.primary(&vpc.eni).to_string();
    assert_eq!(vpc.assign(&[&own]).error(), expected);
}

/// The first four addresses of a subnet and the last one are AWS' own.
#[test]
fn addresses_outside_of_the_subnet_and_reserved_ones_are_refused() {
    let vpc = Vpc::new();
    let table = [
        (
            "192.0.2.1",
            "does not fall within the subnet's address range",
        ),
        (
            "10.0.5.70",
            "does not fall within the subnet's address range",
        ),
        ("10.0.4.0", "is in subnet's reserved address range"),
        ("10.0.4.1", "is in subnet's reserved address range"),
        ("10.0.4.3", "is in subnet's reserved address range"),
        ("10.0.4.255", "is in subnet's reserved address range"),
        ("nonsense", "Invalid IP address"),
        ("2600:1f14:1:4::70", "Invalid IP address"),
    ];
    for (address, said) in table {
        let (status, code, message) = vpc.assign(&["10.0.4.70", address]).error();
        assert_eq!((status, code.as_str()), (400, VALUE), "{address}");
        assert!(message.contains(said), "{address}: {message}");
    }
    assert!(vpc.addresses().is_empty());
}

/// From amazon-vpc-cni-k8s#989; a c5.large has ten addresses an interface, and
/// the primary one counts.
#[test]
fn the_limit_of_the_instance_type_counts_the_primary_address() {
    let vpc = Vpc::new();
    let nine: Vec<String> = (70..79).map(|n| format!("10.0.4.{n}")).collect();
    let nine: Vec<&str> = nine.iter().map(String::as_str).collect();
    vpc.assign(&nine).ok();
    let expected = (
        400,
        "PrivateIpAddressLimitExceeded".to_owned(),
        format!(
            "{}: Number of private addresses will exceed limit.",
            vpc.eni
        ),
    );
    assert_eq!(vpc.assign(&["10.0.4.90"]).error(), expected);
    vpc.assign(&["10.0.4.70"]).ok();
    let more = Limits {
        interfaces: 3,
        ipv4: 11,
        ipv6: 10,
        cards: 1,
    };
    vpc.lab.rules(|r| {
        r.limit_overrides.insert("c5.large".to_owned(), more);
    });
    vpc.assign(&["10.0.4.90"]).ok();
    assert_eq!(vpc.assign(&["10.0.4.91"]).error(), expected);
}

/// A list, or a number of addresses of EC2's choice: not those reserved.
#[test]
fn a_number_of_addresses_is_chosen_by_ec2_beside_reservations() {
    let vpc = Vpc::new();
    vpc.lab.reserve_cidr(&vpc.subnet, "10.0.4.0/26", "explicit");
    let eni = ("NetworkInterfaceId", vpc.eni.as_str());
    let count = ("SecondaryPrivateIpAddressCount", "2");
    let reply = vpc.call(ASSIGN, &[eni, count]).ok();
    assert_eq!(reply.all("privateIpAddress"), ["10.0.4.64", "10.0.4.65"]);
    let both = named(&vpc.eni, "PrivateIpAddress", &["10.0.4.90"]);
    let both = both.and("SecondaryPrivateIpAddressCount", "1");
    assert_eq!(
        vpc.call(ASSIGN, &both.pairs()).error().1,
        "InvalidParameterCombination"
    );
    assert_eq!(vpc.call(ASSIGN, &[eni]).error().1, "MissingParameter");
    assert_eq!(vpc.call(ASSIGN, &[]).error().1, "MissingParameter");
}

/// From amazon-vpc-cni-k8s.
#[test]
fn a_full_subnet_has_no_address_to_choose() {
    let vpc = Vpc::new();
    let small = vpc.lab.create_subnet(&vpc.vpc, "10.0.9.0/28", None);
    let eni = vpc.lab.multus_eni(&vpc.node, &small);
    let count = ("SecondaryPrivateIpAddressCount", "11");
    let error = vpc.call(ASSIGN, &[("NetworkInterfaceId", eni.as_str()), count]);
    assert_eq!(error.error().1, "InsufficientFreeAddressesInSubnet");
}

/// From the clients of KubeBlocks and titus: all or nothing.
#[test]
fn unassigning_what_is_not_assigned_fails_as_a_whole() {
    let vpc = Vpc::new();
    vpc.assign(&["10.0.4.70", "10.0.4.71"]).ok();
    let expected = format!(
        "Some of the specified addresses are not assigned to interface {}",
        vpc.eni
    );
    assert_eq!(
        vpc.unassign(&["10.0.4.70", "10.0.4.99"]).error(),
        (400, VALUE.to_owned(), expected)
    );
    assert_eq!(vpc.addresses(), ["10.0.4.70", "10.0.4.71"]);
    vpc.unassign(&["10.0.4.70", "10.0.4.71"]).ok();
    assert!(vpc.addresses().is_empty());
}

#[test]
fn a_pinned_address_fails_a_call_as_a_whole() {
    let vpc = Vpc::new();
    vpc.assign(&["10.0.4.70", "10.0.4.71"]).ok();
    vpc.lab.rules(|rules| {
        rules.pinned.insert(ip("10.0.4.71"));
    });
    let (_, code, message) = vpc.unassign(&["10.0.4.70", "10.0.4.71"]).error();
    assert_eq!(code, VALUE);
    assert!(message.contains("10.0.4.71"), "{message}");
    vpc.unassign(&["10.0.4.70"]).ok();
    assert_eq!(vpc.addresses(), ["10.0.4.71"]);
}

#[test]
fn the_primary_address_cannot_be_unassigned() {
    let vpc = Vpc::new();
    let primary = vpc.lab.primary(&vpc.eni);
    let (_, code, message) = vpc.unassign(&[&primary.to_string()]).error();
    assert_eq!(code, VALUE);
    assert!(message.contains("cannot be unassigned"), "{message}");
    assert_eq!(vpc.lab.primary(&vpc.eni), primary);
    let touched = |event: &Event| matches!(event, Event::PrimaryTouched { .. });
    assert!(vpc.lab.events().iter().any(touched));
}

/// From amazon-vpc-cni-k8s.
#[test]
fn an_interface_that_is_gone_is_not_found() {
    let vpc = Vpc::new();
    let gone = harness::eni_lab::EniId::from("eni-0000000000000dead");
    for action in [ASSIGN, UNASSIGN] {
        let parameters = named(&gone, "PrivateIpAddress", &["10.0.4.70"]);
        let (status, code, message) = vpc.call(action, &parameters.pairs()).error();
        assert_eq!(
            (status, code.as_str()),
            (400, "InvalidNetworkInterfaceID.NotFound")
        );
        assert_eq!(
            message,
            format!("The networkInterface ID '{gone}' does not exist")
        );
    }
}

/// The four mutations have neither.
#[test]
fn the_mutations_know_no_dry_run_and_no_client_token() {
    let vpc = Vpc::new();
    for name in ["DryRun", "ClientToken"] {
        let parameters = named(&vpc.eni, "PrivateIpAddress", &["10.0.4.70"]).and(name, "true");
        let (_, code, message) = vpc.call(ASSIGN, &parameters.pairs()).error();
        assert_eq!(code, "UnknownParameter");
        assert!(message.contains(name), "{message}");
    }
    assert!(vpc.addresses().is_empty());
}
