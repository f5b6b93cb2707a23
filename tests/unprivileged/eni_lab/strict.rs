//! Where EC2 is strict, or matches more than equal texts. Sources: the reference of its API and
//! the Developer Guide.

use fixtures::lab::{DESCRIBE, Vpc, send};

fn found(vpc: &Vpc, wanted: &[(&str, &str)]) -> usize {
    let reply = vpc.filtered(DESCRIBE, wanted).ok();
    reply.all("macAddress").len()
}

#[test]
fn a_filter_has_wildcards() {
    let vpc = Vpc::new();
    vpc.lab.tag_eni(&vpc.eni, "pool", "a*b");
    let own = ("network-interface-id", vpc.eni.as_str());
    for (wanted, count) in [
        ("a\\*b", 1),
        ("a*", 1),
        ("*b", 1),
        ("a??", 1),
        ("a?", 0),
        ("?*b?", 0),
        ("a\\?b", 0),
        ("A*", 0),
    ] {
        let wanted = [("vpc-id", "vpc-*"), own, ("tag:pool", wanted)];
        assert_eq!(found(&vpc, &wanted), count, "{wanted:?}");
    }
}

#[test]
fn a_filter_has_at_most_200_values() {
    let vpc = Vpc::new();
    let names: Vec<String> = (1..=201).map(|n| format!("Filter.1.Value.{n}")).collect();
    let values = names.iter().map(|name| (name.as_str(), "10.0.4.70"));
    let name = ("Filter.1.Name", "private-ip-address");
    let all: Vec<_> = std::iter::once(name).chain(values).collect();
    vpc.call(DESCRIBE, &all[..201]).ok();
    let error = vpc.call(DESCRIBE, &all).error();
    assert_eq!(error.1, "FilterLimitExceeded");
}

#[test]
fn interfaces_have_all_filters_of_the_model_that_they_can_have() {
    let vpc = Vpc::new();
    let name = vpc.lab.primary(&vpc.eni).to_string().replace('.', "-");
    let name = format!("ip-{name}.us-west-2.compute.internal");
    for (filter, value) in [
        ("private-dns-name", name.as_str()),
        ("interface-type", "interface"),
        ("requester-managed", "false"),
        ("attachment.instance-owner-id", "123456789012"),
        ("attachment.delete-on-termination", "true"),
    ] {
        let own = ("mac-address", &*vpc.lab.mac(&vpc.eni));
        assert_eq!(found(&vpc, &[own, (filter, value)]), 1, "{filter}");
        assert_eq!(found(&vpc, &[own, (filter, "other")]), 0, "{filter}");
    }
}

#[test]
fn one_attribute_of_an_interface_is_modified_at_a_time() {
    let vpc = Vpc::new();
    let own = [("NetworkInterfaceId.1", vpc.eni.as_str())];
    let described = || vpc.call(DESCRIBE, &own).ok();
    let attachment = described().all("attachmentId").remove(0);
    let modify = |parameters: &[(&str, &str)]| {
        let eni = [("NetworkInterfaceId", vpc.eni.as_str())];
        vpc.call(
            "ModifyNetworkInterfaceAttribute",
            &[&eni, parameters].concat(),
        )
    };
    let stays = ("Attachment.DeleteOnTermination", "false");
    let of_attachment = ("Attachment.AttachmentId", attachment.as_str());
    let unchecked = ("SourceDestCheck.Value", "false");
    assert_eq!(modify(&[]).error().1, "MissingParameter");
    assert_eq!(modify(&[stays]).error().1, "MissingParameter");
    let two = modify(&[stays, of_attachment, unchecked]);
    assert_eq!(two.error().1, "InvalidParameterCombination");
    let other = ("Attachment.AttachmentId", "eni-attach-0000000000000dead");
    assert_eq!(
        modify(&[stays, other]).error().1,
        "InvalidAttachmentID.NotFound"
    );
    assert_eq!(described().all("sourceDestCheck"), ["true"]);
    modify(&[stays, of_attachment]).ok();
    modify(&[unchecked]).ok();
    assert_eq!(described().all("deleteOnTermination"), ["false"]);
    assert_eq!(described().all("sourceDestCheck"), ["false"]);
}

#[test]
fn a_client_token_creates_one_interface() {
    let vpc = Vpc::new();
    let create = |token: &str, description: &str| {
        let parameters = [
            ("SubnetId", vpc.subnet.as_str()),
            ("Description", description),
            ("ClientToken", token),
            ("SecondaryPrivateIpAddressCount", "2"),
            ("Ipv6AddressCount", "1"),
        ];
        vpc.call("CreateNetworkInterface", &parameters)
    };
    let id = |token| create(token, "a").ok().all("networkInterfaceId").remove(0);
    let first = id("one");
    assert_eq!(id("one"), first);
    assert_ne!(id("two"), first);
    assert_eq!(create("one", "b").error().1, "IdempotentParameterMismatch");
    let eni = harness::eni_lab::EniId::from(first.as_str());
    assert_eq!(vpc.lab.addresses(&eni).len(), 3);
}

#[test]
fn reservations_do_not_overlap() {
    let vpc = Vpc::new();
    let reserve = |cidr: &str| {
        let parameters = [
            ("SubnetId", vpc.subnet.as_str()),
            ("Cidr", cidr),
            ("ReservationType", "explicit"),
        ];
        vpc.call("CreateSubnetCidrReservation", &parameters)
    };
    reserve("10.0.4.64/28").ok();
    for cidr in ["10.0.4.64/28", "10.0.4.64/26", "10.0.4.72/29"] {
        assert_eq!(reserve(cidr).error().1, "InvalidParameterValue", "{cidr}");
    }
    reserve("10.0.4.80/28").ok();
}

#[test]
fn every_version_of_the_metadata_is_there() {
    let vpc = Vpc::new();
    let ttl = ["x-aws-ec2-metadata-token-ttl-seconds: 60"];
    let token = send(vpc.imds, "PUT", "/latest/api/token", &ttl, "").unwrap();
    let header = format!("x-aws-ec2-metadata-token: {}", token.ok().body);
    let get = |path: &str| send(vpc.imds, "GET", path, &[&header], "").unwrap();
    assert!(get("/").ok().body.lines().any(|line| line == "latest"));
    let id = get("/2021-03-23/meta-data/instance-id").ok().body;
    assert_eq!(id, vpc.node.as_str());
    assert_eq!(get("/latest/meta-data/services/partition").ok().body, "aws");
    assert_eq!(get("/2001-01-01/meta-data/instance-id").status, 404);
}
