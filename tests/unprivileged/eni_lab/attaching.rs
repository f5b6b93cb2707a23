//! What decides which interface an instance can get: zones, security groups, and who else
//! attaches interfaces to it.

use fixtures::lab::{ATTACH, PATIENCE, Vpc};
use harness::eni_lab::Fault;

#[test]
fn an_interface_of_another_zone_cannot_be_attached() {
    let vpc = Vpc::new();
    let far = vpc.lab.create_subnet(&vpc.vpc, "10.0.9.0/24", None);
    vpc.lab.set_zone(&far, "us-west-2b");
    vpc.lab.tag_subnet(&far, "role", "pods");
    let found = vpc.described("DescribeSubnets", "availability-zone", "us-west-2b");
    assert_eq!(found.all("subnetId"), [far.as_str()]);
    let found = vpc.described("DescribeSubnets", "tag:role", "pods");
    assert_eq!(found.all("availabilityZone"), ["us-west-2b"]);
    let eni = vpc.lab.create_eni(&far);
    let (_, code, message) = vpc.attach(eni.as_str(), "2").error();
    assert_eq!(code, "InvalidParameterCombination", "{message}");
}

#[test]
fn an_interface_has_the_groups_that_it_was_created_with() {
    let vpc = Vpc::new();
    let group = vpc.lab.create_security_group(&vpc.vpc, "role", "pods");
    let found = vpc.described("DescribeSecurityGroups", "tag:role", "pods");
    assert_eq!(found.all("groupId"), [group.as_str()]);
    let create = |group: &str| {
        let parameters = [
            ("SubnetId", vpc.subnet.as_str()),
            ("SecurityGroupId.1", group),
        ];
        vpc.call("CreateNetworkInterface", &parameters)
    };
    assert_eq!(create(group.as_str()).ok().all("groupId"), [group.as_str()]);
    let unknown = create("sg-0ab0000000000ffff").error();
    assert_eq!(unknown.1, "InvalidGroup.NotFound");
    let elsewhere = vpc.lab.create_vpc("10.9.0.0/16");
    let foreign = vpc.lab.create_security_group(&elsewhere, "role", "pods");
    assert_eq!(create(foreign.as_str()).error().1, "InvalidParameter");
}

#[test]
fn the_vpc_cni_takes_the_index_that_a_call_asks_for_and_adopts_what_has_no_tag() {
    let vpc = Vpc::new();
    vpc.lab.rules(|rules| {
        rules.vpc_cni.insert(vpc.node.clone());
        let limits = harness::eni_lab::Limits {
            interfaces: 4,
            ipv4: 10,
            ipv6: 10,
            cards: 1,
        };
        rules.limit_overrides.insert("c5.large".to_owned(), limits);
    });
    let faster = Fault::VpcCniAttaches(vpc.node.clone());
    vpc.lab.fail_next(ATTACH, 1, faster);
    let (bare, tagged) = (
        vpc.lab.create_eni(&vpc.subnet),
        vpc.lab.create_eni(&vpc.subnet),
    );
    vpc.lab
        .tag_eni(&tagged, "node.k8s.amazonaws.com/no_manage", "true");
    let refused = vpc.attach(tagged.as_str(), "2").error();
    assert_eq!(refused.1, "InvalidParameterValue");
    assert!(
        vpc.lab
            .wait_until(PATIENCE, |_| vpc.of_vpc_cni().len() == 1)
    );
    vpc.attach(tagged.as_str(), "3").ok();
    assert_eq!(vpc.of_vpc_cni().len(), 1);
    vpc.lab.detach_eni(&tagged);
    vpc.attach(bare.as_str(), "3").ok();
    assert_eq!(vpc.of_vpc_cni().len(), 2);
}
