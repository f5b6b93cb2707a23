//! The calls that only read, and how EC2 describes its objects.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::SystemTime;

use ipnetwork::Ipv6Network;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::address;
use super::change::limits_of;
use super::error::Ec2Error;
use super::filter::{ids_or_pages, page, select};
use super::id::InstanceId;
use super::limits::{Limits, TABLE};
use super::query::{Query, items};
use super::rules::Rules;
use super::world::{Eni, Group, Instance, InstanceState, PRIMARY, Reservation, Subnet, Vpc, World};
use super::{ACCOUNT, AMI, REGION, SECURITY_GROUP};

/// A call with neither ids nor pagination needs one of these filters.
const LIMITING_FILTERS: [&str; 7] = [
    "attachment.instance-id",
    "group-id",
    "mac-address",
    "private-dns-name",
    "private-ip-address",
    "subnet-id",
    "vpc-id",
];

/// Answers a call; `None` when the action does not belong here.
pub(super) fn run(
    world: &World,
    rules: &Rules,
    action: &str,
    query: &Query,
) -> Option<Result<Value, Ec2Error>> {
    let answer = match action {
        "DescribeNetworkInterfaces" => enis(world, rules, query),
        "DescribeInstances" => instances(world, rules, query),
        "DescribeInstanceTypes" => instance_types(world, rules, query),
        "DescribeSubnets" => subnets(world, query),
        "DescribeSecurityGroups" => groups(world, query),
        "DescribeVpcs" => vpcs(world, query),
        "GetSubnetCidrReservations" => reservations(world, query),
        _ => return None,
    };
    Some(answer)
}

fn enis(world: &World, rules: &Rules, query: &Query) -> Result<Value, Ec2Error> {
    let ids = query.list("NetworkInterfaceId");
    let filters = query.filters();
    let limited = filters
        .iter()
        .any(|f| LIMITING_FILTERS.contains(&f.name.as_str()));
    let paginated = query.text("MaxResults").is_some() || query.text("NextToken").is_some();
    if rules.describe_needs_filter && ids.is_empty() && !limited && !paginated {
        return Err(Ec2Error::bad(
            "OperationNotPermitted",
            "You have too many network interfaces: use pagination or a filter",
        ));
    }
    ids_or_pages(query, "NetworkInterfaceId")?;
    for id in &ids {
        world.eni(id)?;
    }
    let all = world.enis.values().map(AsRef::as_ref);
    let found = select(world, all, &ids, &filters)?;
    let rows = found.into_iter().map(|e: &Eni| (e.id.as_str(), eni(e)));
    page(query, "networkInterfaceSet", 1000, rows)
}

fn instances(world: &World, rules: &Rules, query: &Query) -> Result<Value, Ec2Error> {
    ids_or_pages(query, "InstanceId")?;
    let ids = query.list("InstanceId");
    let is_hidden = |id: &InstanceId| rules.hidden_instances.contains(id);
    for id in &ids {
        if is_hidden(&world.instance(id)?.id) {
            let code = "InvalidInstanceID.NotFound";
            return Err(Ec2Error::not_found(code, "instance", id));
        }
    }
    let all = world.instances.values().map(AsRef::as_ref);
    let all = all.filter(|i: &&Instance| !is_hidden(&i.id));
    let found = select(world, all, &ids, &query.filters())?;
    let rows = found.into_iter().map(|i: &Instance| {
        let reservation = json!({
            "reservationId": i.id.as_str().replacen("i-", "r-", 1),
            "ownerId": ACCOUNT,
            "instancesSet": items([instance(world, i)]),
        });
        (i.id.as_str(), reservation)
    });
    page(query, "reservationSet", 1000, rows)
}

fn instance_types(world: &World, rules: &Rules, query: &Query) -> Result<Value, Ec2Error> {
    let wanted = query.list("InstanceType");
    for kind in &wanted {
        limits_of(rules, kind).ok_or_else(|| {
            let message = format!("The following supplied instance types do not exist: [{kind}]");
            Ec2Error::bad("InvalidInstanceType", message)
        })?;
    }
    let mut known: Vec<&str> = TABLE.iter().map(|t| t.0).collect();
    known.extend(rules.limit_overrides.keys().map(String::as_str));
    known.sort_unstable();
    known.dedup();
    let found = select(world, known, &wanted, &query.filters())?;
    let rows = found
        .into_iter()
        .filter_map(|kind| Some((kind, instance_type(kind, limits_of(rules, kind)?))));
    page(query, "instanceTypeSet", 100, rows)
}

fn subnets(world: &World, query: &Query) -> Result<Value, Ec2Error> {
    let ids = query.list("SubnetId");
    for id in &ids {
        world.subnet(id)?;
    }
    let all = world.subnets.values().map(AsRef::as_ref);
    let found = select(world, all, &ids, &query.filters())?;
    let rows = found
        .into_iter()
        .map(|s: &Subnet| (s.id.as_str(), subnet(world, s)));
    page(query, "subnetSet", 1000, rows)
}

fn groups(world: &World, query: &Query) -> Result<Value, Ec2Error> {
    let ids = query.list("GroupId");
    for id in &ids {
        world.vpc_of_group(id)?;
    }
    let all = world.groups.values().map(AsRef::as_ref);
    let found = select(world, all, &ids, &query.filters())?;
    let rows = found.into_iter().map(|g: &Group| (g.id.as_str(), group(g)));
    page(query, "securityGroupInfo", 1000, rows)
}

fn vpcs(world: &World, query: &Query) -> Result<Value, Ec2Error> {
    let ids = query.list("VpcId");
    for id in &ids {
        world.vpc(id)?;
    }
    let all = world.vpcs.values().map(AsRef::as_ref);
    let found = select(world, all, &ids, &query.filters())?;
    let rows = found
        .into_iter()
        .map(|v: &Vpc| (v.id.as_str(), vpc(world, v)));
    page(query, "vpcSet", 1000, rows)
}

fn reservations(world: &World, query: &Query) -> Result<Value, Ec2Error> {
    let subnet = world.subnet(query.require("SubnetId")?)?;
    let of_family = |ipv6: bool| {
        let reserved = subnet.reservations.iter();
        items(
            reserved
                .filter(|r| r.cidr.is_ipv6() == ipv6)
                .map(|r| reservation(subnet.id.as_str(), r)),
        )
    };
    Ok(json!({
        "subnetIpv4CidrReservationSet": of_family(false),
        "subnetIpv6CidrReservationSet": of_family(true),
    }))
}

/// A `NetworkInterface`.
pub(super) fn eni(eni: &Eni) -> Value {
    let address =
        |address: IpAddr, primary: bool| json!({"privateIpAddress": address, "primary": primary});
    let primary = eni.primary().map(|a| address(a, true));
    let secondary = eni.ipv4().map(|a| address(a, false));
    let mut described = json!({
        "networkInterfaceId": eni.id.as_str(),
        "subnetId": eni.subnet.as_str(),
        "vpcId": eni.vpc.as_str(),
        "availabilityZone": eni.zone,
        "description": eni.description,
        "ownerId": ACCOUNT,
        "requesterId": eni.requester.0,
        "requesterManaged": eni.requester.1,
        "status": eni.status(),
        "macAddress": eni.mac,
        "interfaceType": "interface",
        "sourceDestCheck": eni.source_dest_check,
        "groupSet": items(eni.groups.iter().map(|id| json!({"groupId": id, "groupName": group_name(id)}))),
        "tagSet": tag_set(&eni.tags),
        "privateIpAddressesSet": items(primary.into_iter().chain(secondary)),
        "ipv6AddressesSet": items(eni.ipv6().map(|a| json!({"ipv6Address": a}))),
        "ipv4PrefixSet": items(prefixes(eni, false).map(|p| json!({"ipv4Prefix": p}))),
        "ipv6PrefixSet": items(prefixes(eni, true).map(|p| json!({"ipv6Prefix": p}))),
    });
    if let Some(primary) = eni.primary {
        described["privateIpAddress"] = json!(primary);
        described["privateDnsName"] = json!(private_dns_name(primary));
    }
    if let Some(attachment) = &eni.attachment {
        described["attachment"] = json!({
            "attachmentId": attachment.id,
            "instanceId": attachment.instance.as_str(),
            "instanceOwnerId": ACCOUNT,
            "deviceIndex": attachment.device_index,
            "networkCardIndex": attachment.network_card,
            "status": if attachment.is_detaching { "detaching" } else { "attached" },
            "attachTime": timestamp(attachment.time),
            "deleteOnTermination": attachment.delete_on_termination,
        });
    }
    described
}

/// The interface as an `InstanceNetworkInterface`, which has fewer fields.
fn nested(of: &Eni) -> Value {
    let mut described = eni(of);
    for (within, names) in [
        (
            "",
            &[
                "availabilityZone",
                "requesterId",
                "requesterManaged",
                "tagSet",
            ][..],
        ),
        ("/attachment", &["instanceId", "instanceOwnerId"]),
    ] {
        if let Some(object) = described.pointer_mut(within).and_then(Value::as_object_mut) {
            object.retain(|name, _| !names.contains(&name.as_str()));
        }
    }
    described
}

/// The private DNS name of an address.
pub(super) fn private_dns_name(address: Ipv4Addr) -> String {
    let host = address.to_string().replace('.', "-");
    format!("ip-{host}.{REGION}.compute.internal")
}

/// The prefixes of a family, as EC2 writes them.
pub(super) fn prefixes(eni: &Eni, ipv6: bool) -> impl Iterator<Item = String> + '_ {
    let of_family = eni.prefixes.iter().filter(move |p| p.is_ipv6() == ipv6);
    of_family.map(ToString::to_string)
}

/// An `Instance`.
pub(super) fn instance(world: &World, instance: &Instance) -> Value {
    let attached = world.attached(&instance.id);
    let primary = attached.get(&PRIMARY).and_then(|e| e.primary());
    let mut described = json!({
        "instanceId": instance.id.as_str(),
        "imageId": AMI,
        "instanceState": state(instance.state),
        "instanceType": instance.kind,
        "launchTime": timestamp(instance.launched),
        "placement": {"availabilityZone": world.zone(instance), "tenancy": "default"},
        "subnetId": instance.subnet.as_str(),
        "networkInterfaceSet": items(attached.values().map(|e| nested(e))),
    });
    if let Ok(subnet) = world.subnet(instance.subnet.as_str()) {
        described["vpcId"] = json!(subnet.vpc.as_str());
    }
    if let Some(primary) = primary {
        described["privateIpAddress"] = json!(primary);
    }
    described
}

/// An `InstanceState`.
pub(super) fn state(state: InstanceState) -> Value {
    let (code, name) = state.code_and_name();
    json!({"code": code, "name": name})
}

fn instance_type(kind: &str, limits: Limits) -> Value {
    let cards = (0..limits.cards).map(|index| {
        json!({
            "networkCardIndex": index,
            "maximumNetworkInterfaces": limits.interfaces / limits.cards,
        })
    });
    json!({
        "instanceType": kind,
        "hypervisor": "nitro",
        "networkInfo": {
            "maximumNetworkInterfaces": limits.interfaces,
            "maximumNetworkCards": limits.cards,
            "defaultNetworkCardIndex": 0,
            "networkCards": items(cards),
            "ipv4AddressesPerInterface": limits.ipv4,
            "ipv6AddressesPerInterface": limits.ipv6,
            "ipv6Supported": true,
        },
    })
}

/// A `Subnet`.
pub(super) fn subnet(world: &World, subnet: &Subnet) -> Value {
    let enis = world.enis.values().filter(|e| e.subnet == subnet.id);
    let used: usize = enis
        .map(|e| e.all().filter(IpAddr::is_ipv4).count() + 16 * prefixes(e, false).count())
        .sum();
    let associations = subnet.ipv6.iter().enumerate().map(|(index, cidr)| {
        json!({
            "associationId": format!("subnet-cidr-assoc-0ab{index:014x}"),
            "ipv6CidrBlock": cidr.to_string(),
            "ipv6CidrBlockState": {"state": "associated"},
        })
    });
    let mut described = json!({
        "subnetId": subnet.id.as_str(),
        "subnetArn": format!("arn:aws:ec2:{REGION}:{ACCOUNT}:subnet/{}", subnet.id),
        "state": "available",
        "ownerId": ACCOUNT,
        "vpcId": subnet.vpc.as_str(),
        "ipv6CidrBlockAssociationSet": items(associations),
        "ipv6Native": subnet.cidr.is_none(),
        "assignIpv6AddressOnCreation": subnet.cidr.is_none(),
        "availableIpAddressCount": address::usable(subnet).saturating_sub(used as u128) as u64,
        "availabilityZone": subnet.zone,
        "tagSet": tag_set(&subnet.tags),
        "defaultForAz": false,
        "mapPublicIpOnLaunch": false,
    });
    if let Some(cidr) = subnet.cidr {
        described["cidrBlock"] = json!(cidr.to_string());
    }
    described
}

/// A `SecurityGroup`, with the fields that are needed here.
fn group(group: &Group) -> Value {
    json!({
        "groupId": group.id.as_str(),
        "groupName": group.name,
        "groupDescription": group.name,
        "ownerId": ACCOUNT,
        "vpcId": group.vpc.as_str(),
        "tagSet": tag_set(&group.tags),
    })
}

/// The name of a group in the description of an interface.
fn group_name(id: &str) -> &str {
    match id {
        SECURITY_GROUP => "default",
        id => id,
    }
}

fn tag_set(tags: &BTreeMap<String, String>) -> Value {
    items(
        tags.iter()
            .map(|(key, value)| json!({"key": key, "value": value})),
    )
}

/// The IPv6 ranges of a VPC: the /56 around the range of each subnet.
pub(super) fn ipv6_ranges(world: &World, vpc: &Vpc) -> BTreeSet<Ipv6Network> {
    let subnets = world.subnets.values().filter(|s| s.vpc == vpc.id);
    let of_subnets = subnets.flat_map(|s| &s.ipv6);
    let whole = |cidr: &Ipv6Network| {
        let range = Ipv6Network::new(cidr.network(), cidr.prefix().min(56));
        range.and_then(|range| Ipv6Network::new(range.network(), range.prefix()))
    };
    of_subnets.filter_map(|cidr| whole(cidr).ok()).collect()
}

/// A `Vpc`.
pub(super) fn vpc(world: &World, vpc: &Vpc) -> Value {
    let ipv6 = ipv6_ranges(world, vpc).into_iter().map(|cidr| {
        json!({
            "ipv6CidrBlock": cidr.to_string(),
            "ipv6CidrBlockState": {"state": "associated"},
        })
    });
    let ipv4 = json!({
        "associationId": vpc.id.as_str().replacen("vpc-", "vpc-cidr-assoc-", 1),
        "cidrBlock": vpc.cidr.to_string(),
        "cidrBlockState": {"state": "associated"},
    });
    json!({
        "vpcId": vpc.id.as_str(),
        "ownerId": ACCOUNT,
        "state": "available",
        "cidrBlock": vpc.cidr.to_string(),
        "cidrBlockAssociationSet": items([ipv4]),
        "ipv6CidrBlockAssociationSet": items(ipv6),
        "isDefault": false,
    })
}

/// A `SubnetCidrReservation`.
pub(super) fn reservation(subnet: &str, reservation: &Reservation) -> Value {
    json!({
        "subnetCidrReservationId": reservation.id,
        "subnetId": subnet,
        "cidr": reservation.cidr.to_string(),
        "reservationType": reservation.kind,
        "ownerId": ACCOUNT,
    })
}

/// `2026-01-31T12:00:00Z`.
pub fn timestamp(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    let whole = time.replace_nanosecond(0).unwrap_or(time);
    whole.format(&Rfc3339).expect("the year has four digits")
}
