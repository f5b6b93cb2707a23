//! Assigning and unassigning IPv6 addresses.

use fixtures::lab::{ASSIGN_IPV6, Vpc, ip, named};

/// 4 "v6 explicit … uncompressed": EC2 normalises.
#[test]
fn an_uncompressed_address_is_normalised() {
    let vpc = Vpc::new();
    let reply = vpc.assign_ipv6(&["2600:1F14:0001:0004:0000:0000:0000:0070"]);
    let reply = reply.ok();
    assert_eq!(reply.all("item"), ["2600:1f14:1:4::70"]);
    assert_eq!(vpc.addresses(), ["2600:1f14:1:4::70"]);
    let reply = vpc.unassign_ipv6(&["2600:1f14:1:4:0:0:0:70"]).ok();
    assert_eq!(reply.all("item"), ["2600:1f14:1:4::70"]);
    assert!(vpc.addresses().is_empty());
}

/// `AssignIpv6Addresses` has no `AllowReassignment`; the code of a conflict is
/// in no document.
#[test]
fn an_address_of_another_interface_cannot_be_moved() {
    let vpc = Vpc::new();
    let (_, other) = vpc.another();
    vpc.lab.assign(&other, &[ip("2600:1f14:1:4::70")]);
    let wanted = ["2600:1f14:1:4::69", "2600:1f14:1:4::70"];
    assert_eq!(vpc.assign_ipv6(&wanted).error().1, "InvalidParameterValue");
    vpc.lab
        .rules(|r| r.ipv6_conflict_code = "InvalidIPv6Address.InUse".to_owned());
    assert_eq!(
        vpc.assign_ipv6(&wanted).error().1,
        "InvalidIPv6Address.InUse"
    );
    let forced = named(&vpc.eni, "Ipv6Addresses", &wanted).and("AllowReassignment", "true");
    let (_, code, _) = vpc.call(ASSIGN_IPV6, &forced.pairs()).error();
    assert_eq!(code, "UnknownParameter");
    assert!(vpc.addresses().is_empty());
}

#[test]
fn addresses_outside_of_the_subnet_and_reserved_ones_are_refused() {
    let vpc = Vpc::new();
    let table = [
        ("2001:db8::1", "does not fall within"),
        ("2600:1f14:1:5::70", "does not fall within"),
        ("2600:1f14:1:4::1", "reserved"),
        ("2600:1f14:1:4:ffff:ffff:ffff:ffff", "reserved"),
        ("10.0.4.70", "Invalid IP address"),
        ("nonsense", "Invalid IP address"),
    ];
    for (address, said) in table {
        let (_, code, message) = vpc.assign_ipv6(&["2600:1f14:1:4::70", address]).error();
        assert_eq!(code, "InvalidParameterValue", "{address}");
        assert!(message.contains(said), "{address}: {message}");
    }
    assert!(vpc.addresses().is_empty());
}

/// A second range of the subnet is as good as the first.
#[test]
fn a_range_that_came_later_can_be_assigned_from() {
    let vpc = Vpc::new();
    vpc.lab.add_subnet_cidr(&vpc.subnet, "2600:1f14:1:5::/64");
    vpc.assign_ipv6(&["2600:1f14:1:5::70"]).ok();
    assert_eq!(vpc.addresses(), ["2600:1f14:1:5::70"]);
}

/// The code of the limit is in no document.
#[test]
fn a_number_of_addresses_is_chosen_by_ec2_up_to_the_limit() {
    let vpc = Vpc::new();
    let eni = ("NetworkInterfaceId", vpc.eni.as_str());
    let reply = vpc.call(ASSIGN_IPV6, &[eni, ("Ipv6AddressCount", "10")]);
    assert_eq!(reply.ok().all("networkInterfaceId"), [vpc.eni.as_str()]);
    assert_eq!(vpc.addresses().len(), 10);
    let more = || vpc.call(ASSIGN_IPV6, &[eni, ("Ipv6AddressCount", "1")]);
    assert_eq!(more().error().1, "PrivateIpAddressLimitExceeded");
    vpc.lab
        .rules(|r| r.ipv6_limit_code = "Ipv6AddressLimitExceeded".to_owned());
    assert_eq!(more().error().1, "Ipv6AddressLimitExceeded");
    assert_eq!(vpc.call(ASSIGN_IPV6, &[eni]).error().1, "MissingParameter");
}

/// All or nothing.
#[test]
fn unassigning_what_is_not_assigned_fails_as_a_whole() {
    let vpc = Vpc::new();
    vpc.assign_ipv6(&["2600:1f14:1:4::70"]).ok();
    let error = vpc.unassign_ipv6(&["2600:1f14:1:4::70", "2600:1f14:1:4::71"]);
    assert_eq!(error.error().1, "InvalidParameterValue");
    assert_eq!(vpc.addresses(), ["2600:1f14:1:4::70"]);
}
