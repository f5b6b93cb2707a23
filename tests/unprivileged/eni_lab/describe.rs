//! The calls that only read.

use fixtures::lab::{ASSIGN, DESCRIBE, Vpc, ip, send};

/// The elements that the SDK reads, as EC2 writes them.
#[test]
fn an_interface_is_described_in_full() {
    let vpc = Vpc::new();
    vpc.assign(&["10.0.4.70"]).ok();
    vpc.lab.assign(&vpc.eni, &[ip("2600:1f14:1:4::70")]);
    let reply = vpc.call(DESCRIBE, &[("NetworkInterfaceId.1", vpc.eni.as_str())]);
    let body = reply.ok().body;
    let mac = vpc.lab.mac(&vpc.eni);
    let parts = [
        "<DescribeNetworkInterfacesResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">"
            .to_owned(),
        format!("<networkInterfaceSet><item><networkInterfaceId>{}</", vpc.eni),
        format!("<subnetId>{}</", vpc.subnet),
        format!("<vpcId>{}</", vpc.vpc),
        format!("<macAddress>{mac}</"),
        "<status>in-use</".to_owned(),
        "<sourceDestCheck>true</".to_owned(),
        "<tagSet><item><key>node.k8s.amazonaws.com/no_manage</key><value>true</value></item></tagSet>"
            .to_owned(),
        "<privateIpAddressesSet><item><privateIpAddress>10.0.4.4</privateIpAddress><primary>true</primary></item>\
         <item><privateIpAddress>10.0.4.70</privateIpAddress><primary>false</primary></item></privateIpAddressesSet>"
            .to_owned(),
        "<ipv6AddressesSet><item><ipv6Address>2600:1f14:1:4::70</ipv6Address></item></ipv6AddressesSet>"
            .to_owned(),
        format!("<instanceId>{}</", vpc.node),
        "<deviceIndex>1</deviceIndex><networkCardIndex>0</networkCardIndex><status>attached</status>"
            .to_owned(),
    ];
    for part in parts {
        assert!(body.contains(&part), "{part} is missing in\n{body}");
    }
}

/// Each filter matches, and none for another value.
#[test]
fn interfaces_are_found_by_every_filter() {
    let vpc = Vpc::new();
    let (other_node, _) = vpc.another();
    vpc.assign(&["10.0.4.70"]).ok();
    vpc.lab.assign(&vpc.eni, &[ip("2600:1f14:1:4::70")]);
    vpc.lab.tag_eni(&vpc.eni, "pool", "a");
    let mac = vpc.lab.mac(&vpc.eni);
    let table = [
        ("network-interface-id", vpc.eni.as_str()),
        ("mac-address", &mac),
        ("private-ip-address", "10.0.4.70"),
        ("addresses.private-ip-address", "10.0.4.70"),
        ("ipv6-addresses.ipv6-address", "2600:1f14:1:4::70"),
        ("tag:pool", "a"),
        ("tag-key", "pool"),
    ];
    let in_vpc = ("vpc-id", vpc.vpc.as_str());
    for (name, value) in table {
        assert_eq!(
            vpc.found(&[in_vpc, (name, value)]),
            [vpc.eni.as_str()],
            "{name}"
        );
        assert!(vpc.found(&[in_vpc, (name, "x")]).is_empty(), "{name}");
    }
    let node = ("attachment.instance-id", vpc.node.as_str());
    assert_eq!(vpc.found(&[node]).len(), 2);
    let second = [node, ("attachment.device-index", "1")];
    assert_eq!(vpc.found(&second), [vpc.eni.as_str()]);
    let third = [("attachment.instance-id", other_node.as_str())];
    assert_eq!(vpc.found(&third).len(), 2);
    let counts = [
        ("status", "in-use", 4),
        ("status", "available", 0),
        ("subnet-id", vpc.subnet.as_str(), 3),
        ("description", "multus", 2),
        ("group-id", "sg-0ab00000000000001", 4),
        ("addresses.primary", "false", 1),
    ];
    for (name, value, count) in counts {
        assert_eq!(vpc.found(&[in_vpc, (name, value)]).len(), count, "{name}");
    }
}

#[test]
fn an_unknown_filter_is_refused() {
    let vpc = Vpc::new();
    let (_, code, message) = vpc
        .filtered(DESCRIBE, &[("vpc-id", vpc.vpc.as_str()), ("colour", "red")])
        .error();
    assert_eq!(code, "InvalidParameterValue");
    assert_eq!(message, "The filter 'colour' is invalid");
}

/// "the operation fails unless you use pagination or one of the following
/// filters", for accounts with many interfaces.
#[test]
fn interfaces_need_pagination_or_one_of_some_filters() {
    let vpc = Vpc::new();
    let (_, code, _) = vpc.call(DESCRIBE, &[]).error();
    assert_eq!(code, "OperationNotPermitted");
    let (_, code, _) = vpc.filtered(DESCRIBE, &[("status", "in-use")]).error();
    assert_eq!(code, "OperationNotPermitted");
    vpc.call(DESCRIBE, &[("MaxResults", "5")]).ok();
    vpc.lab.rules(|r| r.describe_needs_filter = false);
    vpc.call(DESCRIBE, &[]).ok();
}

/// `MaxResults` is 5 to 1000, and not together with ids.
#[test]
fn interfaces_come_in_pages() {
    let vpc = Vpc::new();
    for _ in 0..10 {
        vpc.lab.create_eni(&vpc.subnet);
    }
    let mut ids = Vec::new();
    let mut pages = Vec::new();
    let mut token = None;
    loop {
        let mut parameters = vec![("MaxResults", "5")];
        parameters.extend(token.as_deref().map(|t| ("NextToken", t)));
        let reply = vpc.call(DESCRIBE, &parameters).ok();
        let page = reply.all("networkInterfaceId");
        pages.push(page.len());
        ids.extend(page);
        token = reply.all("nextToken").into_iter().next();
        if token.is_none() {
            break;
        }
    }
    assert_eq!(pages, [5, 5, 2]);
    ids.dedup();
    assert_eq!(ids.len(), 12);
    for (parameters, code) in [
        (vec![("MaxResults", "4")], "InvalidParameterValue"),
        (vec![("MaxResults", "1001")], "InvalidParameterValue"),
        (vec![("NextToken", "invented")], "InvalidNextToken"),
        (
            vec![
                ("MaxResults", "5"),
                ("NetworkInterfaceId.1", vpc.eni.as_str()),
            ],
            "InvalidParameterCombination",
        ),
    ] {
        assert_eq!(vpc.call(DESCRIBE, &parameters).error().1, code);
    }
}

/// Every kind of thing is asked for by ids that exist.
#[test]
fn what_does_not_exist_is_not_found() {
    let vpc = Vpc::new();
    let table = [
        (
            DESCRIBE,
            "NetworkInterfaceId.1",
            "InvalidNetworkInterfaceID.NotFound",
        ),
        (
            "DescribeInstances",
            "InstanceId.1",
            "InvalidInstanceID.NotFound",
        ),
        ("DescribeSubnets", "SubnetId.1", "InvalidSubnetID.NotFound"),
        ("DescribeVpcs", "VpcId.1", "InvalidVpcID.NotFound"),
        (
            "DescribeInstanceTypes",
            "InstanceType.1",
            "InvalidInstanceType",
        ),
        (
            "GetSubnetCidrReservations",
            "SubnetId",
            "InvalidSubnetID.NotFound",
        ),
    ];
    for (action, name, code) in table {
        let gone = match code.split_once('.') {
            Some(_) => "x-0000000000000dead",
            None => "none.large",
        };
        let error = |id: &str| vpc.call(action, &[(name, id)]).error().1;
        assert_eq!(error(gone), code, "{action}");
        let malformed = code.replace(".NotFound", ".Malformed");
        assert_eq!(error("none"), malformed, "{action}");
    }
    assert_eq!(vpc.call("DescribeMoon", &[]).error().1, "InvalidAction");
}

#[test]
fn instances_are_described_with_their_state_and_interfaces() {
    let vpc = Vpc::new();
    let reply = vpc.filtered("DescribeInstances", &[("instance-id", vpc.node.as_str())]);
    let reply = reply.ok();
    assert_eq!(reply.all("name"), ["running"]);
    assert_eq!(reply.all("instanceType"), ["c5.large"]);
    assert_eq!(reply.all("networkInterfaceId").len(), 2);
    vpc.lab.terminate_instance(&vpc.node);
    let dead = [("instance-state-name", "terminated")];
    let reply = vpc.filtered("DescribeInstances", &dead).ok();
    assert!(reply.body.contains(vpc.node.as_str()), "{}", reply.body);
}

/// The numbers from amazon-vpc-cni-k8s' generated table.
#[test]
fn instance_types_have_their_limits() {
    let vpc = Vpc::new();
    let table = [
        ("c5.large", "3", "10"),
        ("m5.xlarge", "4", "15"),
        ("c5n.18xlarge", "15", "50"),
    ];
    for (kind, interfaces, addresses) in table {
        let reply = vpc
            .call("DescribeInstanceTypes", &[("InstanceType.1", kind)])
            .ok();
        assert_eq!(
            reply.all("maximumNetworkInterfaces")[0],
            interfaces,
            "{kind}"
        );
        assert_eq!(
            reply.all("ipv4AddressesPerInterface"),
            [addresses],
            "{kind}"
        );
        assert_eq!(
            reply.all("ipv6AddressesPerInterface"),
            [addresses],
            "{kind}"
        );
    }
}

#[test]
fn subnets_and_vpcs_have_their_ranges() {
    let vpc = Vpc::new();
    let reply = vpc
        .filtered("DescribeSubnets", &[("subnet-id", vpc.subnet.as_str())])
        .ok();
    assert_eq!(reply.all("cidrBlock"), ["10.0.4.0/24"]);
    assert_eq!(reply.all("ipv6CidrBlock"), ["2600:1f14:1:4::/64"]);
    assert_eq!(reply.all("availableIpAddressCount"), ["250"]);
    let reply = vpc
        .filtered("DescribeVpcs", &[("vpc-id", vpc.vpc.as_str())])
        .ok();
    assert_eq!(reply.all("cidrBlock")[0], "10.0.0.0/16");
    assert_eq!(reply.all("ipv6CidrBlock"), ["2600:1f14:1::/56"]);
}

/// Types `prefix` and `explicit`.
#[test]
fn reservations_are_listed_by_family() {
    let vpc = Vpc::new();
    vpc.lab
        .reserve_cidr(&vpc.subnet, "10.0.4.64/26", "explicit");
    vpc.lab
        .reserve_cidr(&vpc.subnet, "2600:1f14:1:4::/80", "prefix");
    let subnet = ("SubnetId", vpc.subnet.as_str());
    let reply = vpc.call("GetSubnetCidrReservations", &[subnet]).ok();
    assert_eq!(reply.all("cidr"), ["10.0.4.64/26", "2600:1f14:1:4::/80"]);
    assert_eq!(reply.all("reservationType"), ["explicit", "prefix"]);
}

/// DryRun exists on describing calls.
#[test]
fn a_dry_run_tells_only_whether_it_is_permitted() {
    let vpc = Vpc::new();
    let dry = ("DryRun", "true");
    let (status, code, _) = vpc.call(DESCRIBE, &[dry]).error();
    assert_eq!((status, code.as_str()), (412, "DryRunOperation"));
    vpc.lab.rules(|r| {
        r.denied_actions.insert(DESCRIBE.to_owned());
    });
    let (status, code, _) = vpc.call(DESCRIBE, &[dry]).error();
    assert_eq!((status, code.as_str()), (403, "UnauthorizedOperation"));
}

/// The SDK posts a form, other clients use the address.
#[test]
fn a_call_may_be_in_the_address() {
    let vpc = Vpc::new();
    let credential = "X-Amz-Credential=AKIDLAB%2F20260101%2Fus-west-2%2Fec2%2Faws4_request";
    let path = format!("/?Action=DescribeVpcs&{credential}&X-Amz-Signature=00");
    let reply = send(vpc.ec2, "GET", &path, &[], "").expect("there is an answer");
    assert_eq!(reply.ok().all("vpcId"), [vpc.vpc.as_str()]);
    assert_eq!(vpc.lab.calls().get(ASSIGN), None);
}
