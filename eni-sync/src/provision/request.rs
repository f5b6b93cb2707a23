//! The request for a new ENI: the subnet in this node's zone, the security groups, the tags
//! that an ENI has from its creation, and its primary address if EC2 may not choose it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::SystemTime;

use common::address::{Cidr, number, numbered};
use common::attach::inventory::{NETWORK_TAG, NO_MANAGE_TAG};
use common::error::{Error, Result};
use common::timestamp::rfc3339;

use crate::provision::denied::explained;
use crate::provision::record::token;
use crate::provision::wanted::Wanted;
use crate::random;
use crate::vpc::ec2::{Choice, Ec2, NewEni, Subnet};
use crate::vpc::inventory::Look;

/// The tag with the instance that an ENI was created for.
pub(crate) const INSTANCE_TAG: &str = "eni-cni/instance";
/// The tag with the time of its creation.
pub(crate) const CREATED_TAG: &str = "eni-cni/created";

/// How many addresses at the start of a subnet AWS reserves; it also reserves the last one.
const RESERVED_FIRST: u128 = 4;

/// Where the node is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Site<'a> {
    pub(super) zone: &'a str,
    /// The VPC of the node's primary ENI, to which choices by tags are limited.
    pub(super) vpc_id: &'a str,
}

impl<'a> Site<'a> {
    pub(super) fn of(look: &'a Look) -> Self {
        let primary = look.enis.iter().find(|eni| eni.is_primary());
        Self {
            zone: &look.identity.availability_zone,
            vpc_id: primary.map_or("", |eni| eni.vpc_id.as_str()),
        }
    }
}

/// The subnet and the security groups for the ENIs of one kind, as EC2 has them.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) subnet: Subnet,
    groups: Vec<String>,
}

impl Chosen {
    /// Looks up what the configuration chooses.
    ///
    /// # Errors
    /// Code 7 when no chosen subnet is in the zone of the node or no chosen security group is
    /// found, and those of the calls.
    pub(super) fn find(ec2: &Ec2, wanted: &Wanted, site: Site<'_>) -> Result<Self> {
        let subnet = subnet(ec2, wanted, site)?;
        let groups = groups(ec2, wanted, &subnet)?;
        Ok(Self { subnet, groups })
    }

    /// The request to create one ENI for an instance.
    ///
    /// # Errors
    /// Code 7 when the configuration leaves no primary address in the subnet.
    pub(super) fn request(&self, wanted: &Wanted, instance: &str) -> Result<NewEni> {
        Ok(NewEni {
            token: token(),
            subnet_id: self.subnet.id.clone(),
            groups: self.groups.clone(),
            tags: tags(wanted, instance),
            primary: primary(wanted, &self.subnet)?,
            description: format!("{} of {instance}", wanted.name),
        })
    }
}

/// The subnet with the most free addresses, of those that were chosen.
fn subnet(ec2: &Ec2, wanted: &Wanted, site: Site<'_>) -> Result<Subnet> {
    let what = format!("find a subnet for {:?}", wanted.name);
    let found = ec2.subnets(wanted.subnets(), site.zone, site.vpc_id);
    let mut found = found.map_err(|failure| explained(&failure, &what))?;
    found.sort_by(|a, b| b.free.cmp(&a.free).then_with(|| a.id.cmp(&b.id)));
    found.into_iter().next().ok_or_else(|| {
        let (name, zone) = (&wanted.name, site.zone);
        let msg = format!("enis {name:?}: no subnet that was chosen is in {zone}");
        let chosen = describe(wanted.subnets(), site.vpc_id);
        let details = format!("{zone} is the availability zone of this node; chosen: {chosen}");
        Error::config(msg).with_details(details)
    })
}

fn groups(ec2: &Ec2, wanted: &Wanted, subnet: &Subnet) -> Result<Vec<String>> {
    if let Choice::Ids(ids) = wanted.security_groups() {
        return Ok(ids.clone());
    }
    let what = format!("find the security groups for {:?}", wanted.name);
    let found = ec2.groups(wanted.security_groups(), &subnet.vpc_id);
    let mut found = found.map_err(|failure| explained(&failure, &what))?;
    found.sort();
    if found.is_empty() {
        let (name, vpc) = (&wanted.name, &subnet.vpc_id);
        let msg = format!("enis {name:?}: there is no security group that was chosen in {vpc}");
        let chosen = describe(wanted.security_groups(), vpc);
        return Err(Error::config(msg).with_details(format!("chosen: {chosen}")));
    }
    Ok(found)
}

/// The choice, as a text for people.
fn describe(choice: &Choice, vpc: &str) -> String {
    match choice {
        Choice::Ids(ids) => ids.join(", "),
        Choice::Tags(tags) => {
            let tags: Vec<String> = tags.iter().map(|(k, v)| format!("{k}={v}")).collect();
            format!("the tags {} in {vpc}", tags.join(", "))
        }
    }
}

fn tags(wanted: &Wanted, instance: &str) -> BTreeMap<String, String> {
    let created = rfc3339(SystemTime::now());
    let ours = [
        (NO_MANAGE_TAG, "true"),
        (NETWORK_TAG, &wanted.name),
        (INSTANCE_TAG, instance),
        (CREATED_TAG, &created),
    ];
    let ours = ours.map(|(key, value)| (key.to_owned(), value.to_owned()));
    wanted.tags.clone().into_iter().chain(ours).collect()
}

/// A random primary address outside of the configured ranges and not excluded; `None` when EC2
/// may choose it, or the subnet has no IPv4. It may be in use: then EC2 refuses it, and the
/// next attempt chooses another one.
fn primary(wanted: &Wanted, subnet: &Subnet) -> Result<Option<Ipv4Addr>> {
    let v4 = subnet.cidrs.iter().find(|cidr| cidr.is_ipv4());
    let Some(cidr) = v4.filter(|cidr| !wanted.leaves_primary_to_ec2(**cidr)) else {
        return Ok(None);
    };
    let chosen = candidate(wanted, *cidr, random::number());
    chosen.map(Some).ok_or_else(|| {
        let (name, id) = (&wanted.name, &subnet.id);
        let msg = format!("enis {name:?}: primary.outside and exclude leave no address of {id}");
        Error::config(msg)
    })
}

/// One of the allowed addresses; `chance` is a random number, by which all are equally
/// probable.
fn candidate(wanted: &Wanted, cidr: Cidr, chance: u64) -> Option<Ipv4Addr> {
    let base = cidr.network().address();
    let (first, last) = (number(base) + RESERVED_FIRST, number(cidr.last()));
    let allowed = || {
        let addresses = (first..last).map(|one| numbered(one, base));
        addresses.filter(|address| wanted.allows_primary(*address))
    };
    let count = u64::try_from(allowed().count())
        .ok()
        .filter(|count| *count > 0)?;
    let chosen = usize::try_from(chance % count).ok()?;
    allowed().nth(chosen).and_then(|address| match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(outside: &[&str]) -> Wanted {
        let text = serde_json::json!({
            "name": "pods", "subnets": {"ids": ["subnet-1"]}, "securityGroups": {"ids": ["sg-1"]},
            "primary": {"outside": outside},
        });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn a_primary_address_is_outside_of_the_ranges_and_not_one_of_aws() {
        let cidr: Cidr = "10.0.4.0/28".parse().unwrap();
        let wanted = wanted(&["10.0.4.6/31", "10.0.4.8/29"]);
        let found: Vec<Ipv4Addr> = (0..2)
            .filter_map(|chance| candidate(&wanted, cidr, chance))
            .collect();
        let expected: Vec<Ipv4Addr> = ["10.0.4.4", "10.0.4.5"].map(|a| a.parse().unwrap()).into();
        assert_eq!(found, expected);
    }

    #[test]
    fn ranges_that_cover_the_subnet_leave_no_address() {
        let cidr: Cidr = "10.0.4.0/28".parse().unwrap();
        assert_eq!(candidate(&wanted(&["10.0.0.0/16"]), cidr, 7), None);
    }
}
