//! The calls that change something: the four that eni-sync makes, and those that set
//! up a VPC.

use ipnetwork::IpNetwork;
use serde_json::{Value, json};

use super::change::Change;
use super::describe;
use super::error::Ec2Error;
use super::query::{Query, items};

/// Carries out a call, or nothing when the action is none of these.
pub(super) fn run(
    change: &mut Change<'_>,
    action: &str,
    query: &Query,
) -> Option<Result<Value, Ec2Error>> {
    let call = match action {
        "AssignPrivateIpAddresses" => assign_ipv4,
        "UnassignPrivateIpAddresses" => unassign_ipv4,
        "AssignIpv6Addresses" => assign_ipv6,
        "UnassignIpv6Addresses" => unassign_ipv6,
        "CreateVpc" => create_vpc,
        "CreateSubnet" => create_subnet,
        "CreateSubnetCidrReservation" => reserve,
        "RunInstances" => run_instances,
        "TerminateInstances" => terminate_instances,
        "CreateNetworkInterface" => create_eni,
        "AttachNetworkInterface" => attach_eni,
        "DetachNetworkInterface" => detach_eni,
        "DeleteNetworkInterface" => delete_eni,
        "ModifyNetworkInterfaceAttribute" => modify_eni,
        "CreateTags" => create_tags,
        "DeleteTags" => delete_tags,
        _ => return None,
    };
    Some(call(change, query))
}

fn assign_ipv4(change: &mut Change<'_>, query: &Query) -> Result<Value, Ec2Error> {
    query.only(&[
        "NetworkInterfaceId",
        "PrivateIpAddress",
        "SecondaryPrivateIpAddressCount",
        "AllowReassignment",
        "Ipv4Prefix",
        "Ipv4PrefixCount",
    ])?;
    let eni = query.require("NetworkInterfaceId")?;
    if let Some(prefixes) = assign_prefixes(change, query, "Ipv4Prefix")? {
        return Ok(json!({
            "networkInterfaceId": eni,
            "assignedIpv4PrefixSet": items(prefixes.into_iter().map(|p| json!({"ipv4Prefix": p.to_string()}))),
            "return": true,
        }));
    }
    let requested = query.ipv4s("PrivateIpAddress")?;
    let new = match query.parsed("SecondaryPrivateIpAddressCount")? {
        Some(_) if !requested.is_empty() => return Err(list_and_count()),
        Some(count) => change.assign_count(eni, count, false)?,
        None if requested.is_empty() => return Err(neither_list_nor_count()),
        None => change.assign(eni, &requested, query.flag("AllowReassignment"))?,
    };
    let item = |address: std::net::IpAddr| json!({"privateIpAddress": address});
    Ok(json!({
        "networkInterfaceId": eni,
        "assignedPrivateIpAddressesSet": items(new.into_iter().map(item)),
        "return": true,
    }))
}

fn unassign_ipv4(change: &mut Change<'_>, query: &Query) -> Result<Value, Ec2Error> {
    query.only(&["NetworkInterfaceId", "PrivateIpAddress", "Ipv4Prefix"])?;
    let eni = query.require("NetworkInterfaceId")?;
    let prefixes = prefixes_in(query, "Ipv4Prefix")?;
    if !prefixes.is_empty() {
        change.unassign_prefixes(eni, &prefixes)?;
        return Ok(json!({"return": true}));
    }
    let addresses = query.ipv4s("PrivateIpAddress")?;
    if addresses.is_empty() {
        return Err(neither_list_nor_count());
    }
    change.unassign(eni, &addresses)?;
    Ok(json!({"return": true}))
}

fn assign_ipv6(change: &mut Change<'_>, query: &Query) -> Result<Value, Ec2Error> {
    query.only(&[
        "NetworkInterfaceId",
        "Ipv6Addresses",
        "Ipv6AddressCount",
        "Ipv6Prefix",
        "Ipv6PrefixCount",
    ])?;
    let eni = query.require("NetworkInterfaceId")?;
    if let Some(prefixes) = assign_prefixes(change, query, "Ipv6Prefix")? {
        return Ok(json!({
            "networkInterfaceId": eni,
            "assignedIpv6PrefixSet": items(prefixes.into_iter().map(|p| json!(p.to_string()))),
        }));
    }
    let requested = query.ipv6s("Ipv6Addresses")?;
    let new = match query.parsed("Ipv6AddressCount")? {
        Some(_) if !requested.is_empty() => return Err(list_and_count()),
        Some(count) => change.assign_count(eni, count, true)?,
        None if requested.is_empty() => return Err(neither_list_nor_count()),
        None => change.assign(eni, &requested, false)?,
    };
    Ok(json!({
        "networkInterfaceId": eni,
        "assignedIpv6Addresses": items(new.into_iter().map(|a| json!(a))),
    }))
}

fn unassign_ipv6(change: &mut Change<'_>, query: &Query) -> Result<Value, Ec2Error> {
    query.only(&["NetworkInterfaceId", "Ipv6Addresses", "Ipv6Prefix"])?;
    let eni = query.require("NetworkInterfaceId")?;
    let prefixes = prefixes_in(query, "Ipv6Prefix")?;
    if !prefixes.is_empty() {
        change.unassign_prefixes(eni, &prefixes)?;
        return Ok(json!({
            "networkInterfaceId": eni,
            "unassignedIpv6PrefixSet": items(prefixes.into_iter().map(|p| json!(p.to_string()))),
        }));
    }
    let addresses = query.ipv6s("Ipv6Addresses")?;
    if addresses.is_empty() {
        return Err(neither_list_nor_count());
    }
    change.unassign(eni, &addresses)?;
    Ok(json!({
        "networkInterfaceId": eni,
        "unassignedIpv6Addresses": items(addresses.into_iter().map(|a| json!(a))),
    }))
}

/// The prefixes that a call delegates, named or counted; nothing when it is about single
/// addresses.
fn assign_prefixes(
    change: &mut Change<'_>,
    query: &Query,
    name: &str,
) -> Result<Option<Vec<IpNetwork>>, Ec2Error> {
    let eni = query.require("NetworkInterfaceId")?;
    let named = prefixes_in(query, name)?;
    if let Some(count) = query.parsed(&format!("{name}Count"))? {
        let ipv6 = name == "Ipv6Prefix";
        return change.assign_prefix_count(eni, count, ipv6).map(Some);
    }
    if named.is_empty() {
        return Ok(None);
    }
    change.assign_prefixes(eni, &named)?;
    Ok(Some(named))
}

fn prefixes_in(query: &Query, name: &str) -> Result<Vec<IpNetwork>, Ec2Error> {
    let texts = query.list(name).into_iter();
    texts.map(|text| prefix(name, text)).collect()
}

/// `Ipv4Prefix.1.Ipv4Prefix`, as only CreateNetworkInterface has it.
fn created_prefixes(query: &Query, name: &str) -> Result<Vec<IpNetwork>, Ec2Error> {
    let texts = (1..).map_while(|n| query.text(&format!("{name}.{n}.{name}")));
    texts.map(|text| prefix(name, text)).collect()
}

fn prefix(name: &str, text: &str) -> Result<IpNetwork, Ec2Error> {
    let invalid = |_| Ec2Error::value(format!("Value ({text}) for parameter {name} is invalid."));
    text.parse().map_err(invalid)
}

fn create_vpc(change: &mut Change<'_>, query: &Query) -> Result<Value, Ec2Error> {
    let id = change.create_vpc(query.require_parsed("CidrBlock")?);
    Ok(json!({"vpc": describe::vpc(&change.world, change.world.vpc(id.as_str())?)}))
}

fn create_subnet(change: &mut Change<'_>, query: &Query) -> Result<Value, Ec2Error> {
    let id = change.create_subnet(
        query.require("VpcId")?,
        query.require_parsed("CidrBlock")?,
        query.parsed("Ipv6CidrBlock")?,
    )?;
    Ok(json!({"subnet": describe::subnet(&change.world, change.world.subnet(id.as_str())?)}))
}

fn reserve(change: &mut Change<'_>, query: &Query) -> Result<Value, Ec2Error> {
    let subnet = query.require("SubnetId")?;
    let cidr = query.require_parsed("Cidr")?;
    let reserved = change.reserve_cidr(subnet, cidr, query.require("ReservationType")?)?;
    Ok(json!({"subnetCidrReservation": describe::reservation(subnet, &reserved)}))
}

/// Only what describes where and how many; images and keys make no difference here.
fn run_instances(change: &mut Change<'_>, query: &Query) -> Result<Value, Ec2Error> {
    let kind = query.require("InstanceType")?;
    let subnet = query.require("SubnetId")?;
    let count: usize = query.parsed("MaxCount")?.unwrap_or(1);
    let mut started = Vec::new();
    for _ in 0..count {
        let id = change.run_instance(kind, subnet)?;
        let instance = change.world.instance(id.as_str())?;
        started.push(describe::instance(&change.world, instance));
    }
    Ok(json!({
        "reservationId": "r-0ab00000000000001",
        "ownerId": super::ACCOUNT,
        "instancesSet": items(started),
    }))
}

fn terminate_instances(change: &mut Change<'_>, query: &Query) -> Result<Value, Ec2Error> {
    let mut answers = Vec::new();
    for id in query.list("InstanceId") {
        let before = describe::state(change.world.instance(id)?.state);
        change.terminate_instance(id)?;
        let now = describe::state(change.world.instance(id)?.state);
        answers.push(json!({"instanceId": id, "currentState": now, "previousState": before}));
    }
    Ok(json!({"instancesSet": items(answers)}))
}

fn create_eni(change: &mut Change<'_>, query: &Query) -> Result<Value, Ec2Error> {
    let id = change.create_eni(
        query.require("SubnetId")?,
        query.parsed("PrivateIpAddress")?,
        query.text("Description").unwrap_or_default(),
    )?;
    let eni = change.world.eni_mut(id.as_str())?;
    eni.tags.extend(query.tags("TagSpecification.1."));
    for family in ["Ipv4Prefix", "Ipv6Prefix"] {
        let prefixes = created_prefixes(query, family)?;
        change.assign_prefixes(id.as_str(), &prefixes)?;
        if let Some(count) = query.parsed(&format!("{family}Count"))? {
            change.assign_prefix_count(id.as_str(), count, family == "Ipv6Prefix")?;
        }
    }
    Ok(json!({"networkInterface": describe::eni(change.world.eni(id.as_str())?)}))
}

fn attach_eni(change: &mut Change<'_>, query: &Query) -> Result<Value, Ec2Error> {
    let card: u32 = query.parsed("NetworkCardIndex")?.unwrap_or(0);
    let attachment = change.attach_eni(
        query.require("NetworkInterfaceId")?,
        query.require("InstanceId")?,
        (card, query.require_parsed("DeviceIndex")?),
    )?;
    Ok(json!({"attachmentId": attachment, "networkCardIndex": card}))
}

fn detach_eni(change: &mut Change<'_>, query: &Query) -> Result<Value, Ec2Error> {
    let id = query.require("AttachmentId")?;
    let eni = change.world.enis.values().find(|eni| {
        let attachment = eni.attachment.as_ref();
        attachment.is_some_and(|a| a.id == id)
    });
    let eni = eni.map(|eni| eni.id.clone()).ok_or_else(|| {
        Ec2Error::not_found("InvalidAttachmentID.NotFound", "network attachment", id)
    })?;
    change.detach_eni(eni.as_str())?;
    Ok(json!({"return": true}))
}

fn delete_eni(change: &mut Change<'_>, query: &Query) -> Result<Value, Ec2Error> {
    change.delete_eni(query.require("NetworkInterfaceId")?)?;
    Ok(json!({"return": true}))
}

fn modify_eni(change: &mut Change<'_>, query: &Query) -> Result<Value, Ec2Error> {
    let eni = query.require("NetworkInterfaceId")?;
    if let Some(on) = query.parsed("Attachment.DeleteOnTermination")? {
        change.delete_on_termination(eni, on)?;
    }
    if let Some(on) = query.parsed("SourceDestCheck.Value")? {
        change.world.eni_mut(eni)?.source_dest_check = on;
    }
    change.world.eni(eni)?;
    Ok(json!({"return": true}))
}

/// Only interfaces have tags here.
fn create_tags(change: &mut Change<'_>, query: &Query) -> Result<Value, Ec2Error> {
    for id in query.list("ResourceId") {
        change.world.eni_mut(id)?.tags.extend(query.tags(""));
    }
    Ok(json!({"return": true}))
}

fn delete_tags(change: &mut Change<'_>, query: &Query) -> Result<Value, Ec2Error> {
    for id in query.list("ResourceId") {
        for (key, _) in query.tags("") {
            change.world.eni_mut(id)?.tags.remove(&key);
        }
    }
    Ok(json!({"return": true}))
}

fn list_and_count() -> Ec2Error {
    Ec2Error::bad(
        "InvalidParameterCombination",
        "A list of addresses and a number of addresses cannot be used together",
    )
}

fn neither_list_nor_count() -> Ec2Error {
    Ec2Error::bad(
        "MissingParameter",
        "Either a list of addresses or a number of addresses must be specified",
    )
}
