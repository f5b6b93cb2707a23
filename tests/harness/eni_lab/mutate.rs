//! The calls that change something: the four that eni-sync makes, and those for setting up a
//! VPC.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use ipnetwork::IpNetwork;
use serde_json::{Value, json};

use super::change::Change;
use super::describe;
use super::error::Ec2Error;
use super::id::EniId;
use super::query::{Query, items};

/// Carries out a call; `None` when the action does not belong here.
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

/// The prefixes that a call delegates, named or counted; `None` when it is about single
/// addresses.
fn assign_prefixes(
    change: &mut Change<'_>,
    query: &Query,
    name: &str,
) -> Result<Option<Vec<IpNetwork>>, Ec2Error> {
    let eni = query.require("NetworkInterfaceId")?;
    let named = prefixes_in(query, name)?;
    let count = query.parsed(&format!("{name}Count"))?;
    let lists = ["PrivateIpAddress", "Ipv6Addresses"];
    let counts = ["SecondaryPrivateIpAddressCount", "Ipv6AddressCount"];
    let is_single = lists.iter().any(|name| !query.list(name).is_empty())
        || counts.iter().any(|name| query.text(name).is_some());
    let is_prefix = count.is_some() || !named.is_empty();
    if is_single && is_prefix || count.is_some() && !named.is_empty() {
        return Err(list_and_count());
    }
    if let Some(count) = count {
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

/// The values of `Ipv4Prefix.1.Ipv4Prefix` and so on, a form that only CreateNetworkInterface
/// has.
fn created<T: FromStr>(
    query: &Query,
    list: &str,
    name: &str,
) -> impl Iterator<Item = Result<T, Ec2Error>> {
    let names = (1..).map(move |number| format!("{list}.{number}.{name}"));
    names.map_while(|name| query.parsed(&name).transpose())
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
    // An IPv6-only subnet has an IPv6 range and no IPv4 range.
    let cidr = match query.flag("Ipv6Native") {
        true => None,
        false => Some(query.require_parsed("CidrBlock")?),
    };
    let ipv6 = match cidr {
        Some(_) => query.parsed("Ipv6CidrBlock")?,
        None => Some(query.require_parsed("Ipv6CidrBlock")?),
    };
    let id = change.create_subnet(query.require("VpcId")?, cidr, ipv6)?;
    Ok(json!({"subnet": describe::subnet(&change.world, change.world.subnet(id.as_str())?)}))
}

fn reserve(change: &mut Change<'_>, query: &Query) -> Result<Value, Ec2Error> {
    let subnet = query.require("SubnetId")?;
    let cidr = query.require_parsed("Cidr")?;
    let reserved = change.reserve_cidr(subnet, cidr, query.require("ReservationType")?)?;
    Ok(json!({"subnetCidrReservation": describe::reservation(subnet, &reserved)}))
}

/// Only the subnet, the type and the number are used; images and keys make no difference
/// here.
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

/// Calls with the same client token create one interface. Source: Amazon EC2 Developer Guide,
/// "Ensuring idempotency".
fn create_eni(change: &mut Change<'_>, query: &Query) -> Result<Value, Ec2Error> {
    let Some(token) = query.text("ClientToken") else {
        let id = new_eni(change, query)?;
        return Ok(json!({"networkInterface": describe::eni(change.world.eni(id.as_str())?)}));
    };
    let parameters = query
        .parameters()
        .filter(|(name, _)| *name != "ClientToken");
    let request = json!(parameters.collect::<BTreeMap<_, _>>()).to_string();
    let id = match change.world.client_tokens.get(token) {
        Some((known, id)) if *known == request => id.clone(),
        Some(_) => {
            let message = "The client token was used with other parameters";
            return Err(Ec2Error::bad("IdempotentParameterMismatch", message));
        }
        None => new_eni(change, query)?,
    };
    let entry = (request, id.clone());
    change.world.client_tokens.insert(token.to_owned(), entry);
    let described = describe::eni(change.world.eni(id.as_str())?);
    Ok(json!({"networkInterface": described, "clientToken": token}))
}

fn new_eni(change: &mut Change<'_>, query: &Query) -> Result<EniId, Ec2Error> {
    let groups = query.list("SecurityGroupId");
    let vpc = change.world.subnet(query.require("SubnetId")?)?.vpc.clone();
    for group in &groups {
        if change
            .world
            .vpc_of_group(group)?
            .is_some_and(|own| *own != vpc)
        {
            let message =
                format!("Security group {group} and the subnet belong to different networks.");
            return Err(Ec2Error::bad("InvalidParameter", message));
        }
    }
    let id = change.create_eni(
        query.require("SubnetId")?,
        query.parsed("PrivateIpAddress")?,
        query.text("Description").unwrap_or_default(),
    )?;
    let eni = change.world.eni_mut(id.as_str())?;
    eni.tags.extend(query.tags("TagSpecification.1."));
    if !groups.is_empty() {
        eni.groups = groups.into_iter().map(str::to_owned).collect();
    }
    for (name, ipv6) in [
        ("SecondaryPrivateIpAddressCount", false),
        ("Ipv6AddressCount", true),
    ] {
        if let Some(count) = query.parsed(name)? {
            change.assign_count(id.as_str(), count, ipv6)?;
        }
    }
    let own = created(query, "Ipv6Addresses", "Ipv6Address");
    change.assign(id.as_str(), &own.collect::<Result<Vec<_>, _>>()?, false)?;
    for (family, ipv6) in [("Ipv4Prefix", false), ("Ipv6Prefix", true)] {
        let prefixes: Result<Vec<_>, _> = created(query, family, family).collect();
        change.assign_prefixes(id.as_str(), &prefixes?)?;
        if let Some(count) = query.parsed(&format!("{family}Count"))? {
            change.assign_prefix_count(id.as_str(), count, ipv6)?;
        }
    }
    Ok(id)
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

/// A call changes one attribute. Source: EC2's API reference,
/// `ModifyNetworkInterfaceAttribute`.
fn modify_eni(change: &mut Change<'_>, query: &Query) -> Result<Value, Ec2Error> {
    let eni = query.require("NetworkInterfaceId")?;
    let names = query
        .parameters()
        .filter_map(|(name, _)| name.split('.').next());
    let attributes: BTreeSet<&str> = names
        .filter(|name| !["NetworkInterfaceId", "DryRun"].contains(name))
        .collect();
    if attributes.len() > 1 {
        let message = "Only one attribute can be modified at a time";
        return Err(Ec2Error::bad("InvalidParameterCombination", message));
    }
    let found = change.world.eni_mut(eni)?;
    match attributes.first().copied() {
        Some("Attachment") => {
            let id = query.require("Attachment.AttachmentId")?;
            let on = query.require_parsed("Attachment.DeleteOnTermination")?;
            if found.attachment.as_ref().is_none_or(|a| a.id != id) {
                let code = "InvalidAttachmentID.NotFound";
                return Err(Ec2Error::not_found(code, "network attachment", id));
            }
            change.delete_on_termination(eni, on)?;
        }
        Some("SourceDestCheck") => {
            found.source_dest_check = query.require_parsed("SourceDestCheck.Value")?
        }
        Some("Description") => found.description = query.require("Description.Value")?.to_owned(),
        _ => {
            let message = "The request must contain an attribute that can be modified";
            return Err(Ec2Error::bad("MissingParameter", message));
        }
    }
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
