//! Setting up a VPC over the API, and the lives of instances and interfaces.

use std::time::Duration;

use fixtures::lab::{ASSIGN, DESCRIBE, PATIENCE, Vpc, ip, named};
use harness::eni_lab::{InstanceId, Lab};

#[test]
fn a_vpc_can_be_set_up_over_the_api_alone() {
    let lab = Vpc::new();
    let vpc = lab.make("CreateVpc", &[("CidrBlock", "10.9.0.0/16")], "vpcId");
    let in_vpc = ("VpcId", vpc.as_str());
    let cidrs = [
        in_vpc,
        ("CidrBlock", "10.9.4.0/24"),
        ("Ipv6CidrBlock", "2600:1f14:9:4::/64"),
    ];
    let subnet = lab.make("CreateSubnet", &cidrs, "subnetId");
    let in_subnet = ("SubnetId", subnet.as_str());
    let kind = ("InstanceType", "m5.large");
    let node = lab.make("RunInstances", &[kind, in_subnet], "instanceId");
    let tag = [
        ("TagSpecification.1.ResourceType", "network-interface"),
        ("TagSpecification.1.Tag.1.Key", "pool"),
        ("TagSpecification.1.Tag.1.Value", "a"),
    ];
    let parameters = [&[in_subnet, ("PrivateIpAddress", "10.9.4.50")][..], &tag].concat();
    let eni = lab.make("CreateNetworkInterface", &parameters, "networkInterfaceId");
    let the_eni = ("NetworkInterfaceId", eni.as_str());
    let attach = [the_eni, ("InstanceId", &node), ("DeviceIndex", "1")];
    let attachment = lab.make("AttachNetworkInterface", &attach, "attachmentId");
    let modify = [the_eni, ("SourceDestCheck.Value", "false")];
    lab.make("ModifyNetworkInterfaceAttribute", &modify, "return");
    let tags = [
        ("ResourceId.1", eni.as_str()),
        ("Tag.1.Key", "b"),
        ("Tag.1.Value", "2"),
    ];
    lab.make("CreateTags", &tags, "return");
    let described = || lab.call(DESCRIBE, &[("NetworkInterfaceId.1", &eni)]).ok();
    let reply = described();
    assert_eq!(reply.all("key"), ["b", "pool"]);
    assert_eq!(reply.all("value"), ["2", "a"]);
    assert_eq!(reply.all("sourceDestCheck"), ["false"]);
    assert_eq!(reply.all("privateIpAddress")[0], "10.9.4.50");
    assert_eq!(reply.all("instanceId"), [node.as_str()]);
    lab.make("DeleteTags", &tags[..2], "return");
    lab.make(
        "DetachNetworkInterface",
        &[("AttachmentId", &attachment)],
        "return",
    );
    let reply = described();
    assert_eq!(reply.all("key"), ["pool"]);
    assert_eq!(reply.all("status"), ["available"]);
    lab.make("DeleteNetworkInterface", &[the_eni], "return");
    let gone = lab.call(DESCRIBE, &[("NetworkInterfaceId.1", &eni)]);
    assert_eq!(gone.error().1, "InvalidNetworkInterfaceID.NotFound");
}

#[test]
fn reservations_and_ends_of_instances_are_calls_too() {
    let lab = Vpc::new();
    let in_subnet = ("SubnetId", lab.subnet.as_str());
    let reserve = [
        in_subnet,
        ("Cidr", "10.0.4.64/26"),
        ("ReservationType", "explicit"),
    ];
    lab.make(
        "CreateSubnetCidrReservation",
        &reserve,
        "subnetCidrReservationId",
    );
    let dead = [("InstanceId.1", lab.node.as_str())];
    let states = lab.call("TerminateInstances", &dead).ok().all("name");
    assert_eq!(states, ["terminated", "running"]);
}

#[test]
fn what_ec2_would_not_set_up_is_refused() {
    let vpc = Vpc::new();
    let (lab_vpc, subnet) = (
        ("VpcId", vpc.vpc.as_str()),
        ("SubnetId", vpc.subnet.as_str()),
    );
    let (eni, node) = (
        ("NetworkInterfaceId", vpc.eni.as_str()),
        ("InstanceId", vpc.node.as_str()),
    );
    let free = vpc.lab.create_eni(&vpc.subnet);
    let free = ("NetworkInterfaceId", free.as_str());
    let table = [
        (
            "CreateSubnet",
            vec![lab_vpc, ("CidrBlock", "10.1.0.0/24")],
            "InvalidSubnet.Range",
        ),
        (
            "CreateSubnet",
            vec![lab_vpc, ("CidrBlock", "10.0.4.0/25")],
            "InvalidSubnet.Conflict",
        ),
        (
            "RunInstances",
            vec![subnet, ("InstanceType", "x")],
            "InvalidInstanceType",
        ),
        (
            "CreateNetworkInterface",
            vec![subnet, ("PrivateIpAddress", "10.0.4.4")],
            "InvalidIPAddress.InUse",
        ),
        (
            "AttachNetworkInterface",
            vec![eni, node, ("DeviceIndex", "2")],
            "InvalidNetworkInterface.InUse",
        ),
        (
            "AttachNetworkInterface",
            vec![free, node, ("DeviceIndex", "1")],
            "InvalidParameterValue",
        ),
        ("DeleteNetworkInterface", vec![eni], "InvalidParameterValue"),
        (
            "DetachNetworkInterface",
            vec![("AttachmentId", "eni-attach-0000000000000dead")],
            "InvalidAttachmentID.NotFound",
        ),
    ];
    for (action, parameters, code) in table {
        assert_eq!(
            vpc.call(action, &parameters).error().1,
            code,
            "{action} {parameters:?}"
        );
    }
}

/// `MaximumNetworkInterfaces`: a c5.large has three.
#[test]
fn an_instance_carries_only_so_many_interfaces() {
    let vpc = Vpc::new();
    vpc.lab.multus_eni(&vpc.node, &vpc.subnet);
    let error = vpc.lab.try_multus_eni(&vpc.node, &vpc.subnet);
    let error = error.expect_err("it is the fourth");
    assert_eq!(error.code, "AttachmentLimitExceeded");
    assert_eq!(vpc.lab.enis(&vpc.node).len(), 3);
}

/// 4 "DeleteOnTermination, terminate".
#[test]
fn interfaces_go_with_their_instance_or_become_available() {
    let vpc = Vpc::new();
    vpc.assign(&["10.0.4.70"]).ok();
    let kept = vpc.lab.create_eni(&vpc.subnet);
    vpc.lab.attach_eni(&kept, &vpc.node, 2);
    vpc.lab.assign(&kept, &[ip("10.0.4.71")]);
    vpc.lab.terminate_instance(&vpc.node);
    assert_eq!(vpc.lab.owner(&vpc.vpc, ip("10.0.4.70")), None);
    assert_eq!(vpc.lab.owner(&vpc.vpc, ip("10.0.4.71")), Some(kept.clone()));
    let id = [("NetworkInterfaceId.1", kept.as_str())];
    let reply = vpc.call(DESCRIBE, &id).ok();
    assert_eq!(reply.all("status"), ["available"]);
}

/// While the owner shuts down, its addresses are still taken.
#[test]
fn a_dying_instance_keeps_its_interfaces_for_a_while() {
    let vpc = Vpc::new();
    let state = |node: &InstanceId| {
        let id = [("InstanceId.1", node.as_str())];
        let reply = vpc.call("DescribeInstances", &id).ok();
        reply.all("name")[0].clone()
    };
    let (dying, its_eni) = vpc.another();
    vpc.lab.assign(&its_eni, &[ip("10.0.4.70")]);
    vpc.lab.rules(|r| r.shutting_down = 10 * PATIENCE);
    vpc.lab.terminate_instance(&dying);
    assert_eq!(state(&dying), "shutting-down");
    assert_eq!(
        vpc.assign(&["10.0.4.70"]).error().1,
        "InvalidParameterValue"
    );
    let (quick, its_eni) = vpc.another();
    vpc.lab.assign(&its_eni, &[ip("10.0.4.71")]);
    vpc.lab
        .rules(|r| r.shutting_down = Duration::from_millis(50));
    vpc.lab.terminate_instance(&quick);
    let freed = |lab: &Lab| lab.owner(&vpc.vpc, ip("10.0.4.71")).is_none();
    assert!(vpc.lab.wait_until(PATIENCE, freed));
    assert_eq!(state(&quick), "terminated");
    vpc.assign(&["10.0.4.71"]).ok();
}

/// From a dying instance an address may be taken.
#[test]
fn a_reassignment_from_a_terminating_instance_is_not_a_violation() {
    let vpc = Vpc::new();
    let (dying, other) = vpc.another();
    vpc.lab.assign(&other, &[ip("10.0.4.70")]);
    vpc.lab.rules(|r| r.shutting_down = 10 * PATIENCE);
    vpc.lab.terminate_instance(&dying);
    let take = named(&vpc.eni, "PrivateIpAddress", &["10.0.4.70"]);
    vpc.call(ASSIGN, &take.and("AllowReassignment", "true").pairs())
        .ok();
    assert_eq!(vpc.addresses(), ["10.0.4.70"]);
    assert_eq!(vpc.lab.invariant_violations(), Vec::<String>::new());
}

#[test]
fn macs_are_unique_and_can_be_those_of_devices() {
    let vpc = Vpc::new();
    let (_, other) = vpc.another();
    assert!(vpc.lab.mac(&vpc.eni).starts_with("02:"));
    assert_ne!(vpc.lab.mac(&vpc.eni), vpc.lab.mac(&other));
    vpc.lab.set_mac(&vpc.eni, "0A:00:00:00:00:01");
    assert_eq!(vpc.lab.mac(&vpc.eni), "0a:00:00:00:00:01");
}

/// Two VPCs may have the same ranges.
#[test]
fn the_same_address_can_be_in_two_vpcs() {
    let vpc = Vpc::new();
    let second = vpc.lab.create_vpc("10.0.0.0/16");
    let subnet = vpc.lab.create_subnet(&second, "10.0.4.0/24", None);
    let eni = vpc.lab.create_eni(&subnet);
    vpc.lab.assign(&eni, &[ip("10.0.4.70")]);
    vpc.assign(&["10.0.4.70"]).ok();
    assert_eq!(vpc.lab.owner(&second, ip("10.0.4.70")), Some(eni));
    assert!(vpc.lab.invariant_violations().is_empty());
}

/// As EC2 describes it: without a range, a number or an address of IPv4.
#[test]
fn a_subnet_for_ipv6_only_and_its_interfaces_have_nothing_of_ipv4() {
    let lab = Vpc::new();
    let parameters = [
        ("VpcId", lab.vpc.as_str()),
        ("Ipv6Native", "true"),
        ("Ipv6CidrBlock", "2600:1f14:6::/64"),
    ];
    let subnet = lab.make("CreateSubnet", &parameters, "subnetId");
    let in_subnet = ("SubnetId", subnet.as_str());
    let reply = lab
        .call("DescribeSubnets", &[("SubnetId.1", subnet.as_str())])
        .ok();
    assert_eq!(reply.all("ipv6Native"), ["true"]);
    assert_eq!(reply.all("availableIpAddressCount"), ["0"]);
    assert!(reply.all("cidrBlock").is_empty(), "{}", reply.body);
    let eni = lab.make("CreateNetworkInterface", &[in_subnet], "networkInterfaceId");
    let reply = lab.call(DESCRIBE, &[("NetworkInterfaceId.1", &eni)]).ok();
    assert_eq!(reply.all("ipv6Address"), ["2600:1f14:6::4"]);
    assert!(reply.all("privateIpAddress").is_empty(), "{}", reply.body);
    let own = [in_subnet, ("PrivateIpAddress", "10.0.4.50")];
    let refused = lab.call("CreateNetworkInterface", &own).error();
    assert_eq!(refused.1, "InvalidParameterValue");
    let count = [
        ("NetworkInterfaceId", eni.as_str()),
        ("SecondaryPrivateIpAddressCount", "1"),
    ];
    let refused = lab.call(ASSIGN, &count).error();
    assert_eq!(refused.1, "InsufficientFreeAddressesInSubnet");
    let without = [("VpcId", lab.vpc.as_str()), ("Ipv6Native", "true")];
    assert_eq!(
        lab.call("CreateSubnet", &without).error().1,
        "MissingParameter"
    );
}
