//! Filters and pagination of the calls that describe.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::ACCOUNT;
use super::describe::private_dns_name;
use super::error::Ec2Error;
use super::query::{Filter, Query, items};
use super::world::{Eni, Group, Instance, Subnet, Vpc, World};

/// The largest number of values of a filter. Source: EC2's API reference, `Filter`.
const MOST_VALUES: usize = 200;

/// An object that can be described.
pub(super) trait Described {
    /// Its identifier.
    fn id(&self) -> &str;

    /// The object's values for a filter; `None` when EC2 does not know the filter.
    fn values(&self, world: &World, filter: &str) -> Option<Vec<String>>;
}

/// The values for a filter about tags, of an object with these tags.
fn tagged(tags: &BTreeMap<String, String>, filter: &str) -> Option<Vec<String>> {
    match filter.strip_prefix("tag:") {
        Some(key) => Some(tags.get(key).cloned().into_iter().collect()),
        None => (filter == "tag-key").then(|| tags.keys().cloned().collect()),
    }
}

/// The objects that match every filter, and have one of these ids if there are any.
pub(super) fn select<'a, T: Described + ?Sized + 'a>(
    world: &World,
    all: impl IntoIterator<Item = &'a T>,
    ids: &[&str],
    filters: &[Filter],
) -> Result<Vec<&'a T>, Ec2Error> {
    let mut found: Vec<&T> = all
        .into_iter()
        .filter(|thing| ids.is_empty() || ids.contains(&thing.id()))
        .collect();
    for filter in filters {
        if filter.values.len() > MOST_VALUES {
            let message = format!("The maximum number of values of a filter is {MOST_VALUES}");
            return Err(Ec2Error::bad("FilterLimitExceeded", message));
        }
        let mut matching = Vec::new();
        for thing in found {
            let has = thing.values(world, &filter.name).ok_or_else(|| {
                let message = format!("The filter '{}' is invalid", filter.name);
                Ec2Error::value(message)
            })?;
            let is_wanted =
                |value: &String| filter.values.iter().any(|wanted| matches(wanted, value));
            if has.iter().any(is_wanted) {
                matching.push(thing);
            }
        }
        found = matching;
    }
    Ok(found)
}

/// Whether a value matches a filter: `*` stands for any text and `?` for any character, unless a
/// backslash precedes them.
fn matches(wanted: &str, value: &str) -> bool {
    let mut rest = wanted.chars();
    match rest.next() {
        None => value.is_empty(),
        Some('*') => {
            let ends = value.char_indices().map(|(at, _)| at).chain([value.len()]);
            ends.into_iter()
                .any(|at| matches(rest.as_str(), &value[at..]))
        }
        Some(first) => {
            let mut characters = value.chars();
            let escaped = if first == '\\' { rest.next() } else { None };
            let found = characters.next();
            let is_same = first == '?' || found == Some(escaped.unwrap_or(first));
            found.is_some() && is_same && matches(rest.as_str(), characters.as_str())
        }
    }
}

/// One page of the rows, sorted by id, as the list `name`, and the token of the next page.
pub(super) fn page<'a>(
    query: &Query,
    name: &str,
    most: usize,
    rows: impl Iterator<Item = (&'a str, Value)>,
) -> Result<Value, Ec2Error> {
    let size: Option<usize> = query.parsed("MaxResults")?;
    if let Some(size) = size
        && !(5..=most).contains(&size)
    {
        let message = format!(
            "Value ( {size} ) for parameter maxResults is invalid. Expecting a value between 5 and {most}."
        );
        return Err(Ec2Error::value(message));
    }
    let after = match query.text("NextToken") {
        Some(token) => token.strip_prefix(TOKEN).ok_or_else(|| {
            Ec2Error::bad("InvalidNextToken", "The specified NextToken is not valid.")
        })?,
        None => "",
    };
    let mut rest = rows.filter(|(id, _)| *id > after);
    let page: Vec<(&str, Value)> = rest.by_ref().take(size.unwrap_or(most)).collect();
    let last = page.last().map(|row| row.0);
    let next = rest.next().and(last).map(|id| format!("{TOKEN}{id}"));
    let mut answer = json!({name: items(page.into_iter().map(|row| row.1))});
    if let Some(next) = next {
        answer["nextToken"] = json!(next);
    }
    Ok(answer)
}

/// The prefix of page tokens, which is followed by the last id on the page.
const TOKEN: &str = "after/";

/// Refuses ids together with pagination.
pub(super) fn ids_or_pages(query: &Query, ids: &str) -> Result<(), Ec2Error> {
    if query.list(ids).is_empty() || query.text("MaxResults").is_none() {
        return Ok(());
    }
    let message = format!("The parameter {ids} cannot be used with the parameter maxResults");
    Err(Ec2Error::bad("InvalidParameterCombination", message))
}

impl Described for Eni {
    fn id(&self) -> &str {
        self.id.as_str()
    }

    fn values(&self, _world: &World, filter: &str) -> Option<Vec<String>> {
        let attachment = self.attachment.as_ref();
        let all_ipv4 = self.all().filter(IpAddr::is_ipv4);
        Some(match filter {
            "attachment.instance-id" => attachment
                .map(|a| a.instance.to_string())
                .into_iter()
                .collect(),
            "attachment.device-index" => attachment
                .map(|a| a.device_index.to_string())
                .into_iter()
                .collect(),
            "attachment.attachment-id" => attachment.map(|a| a.id.clone()).into_iter().collect(),
            "attachment.status" => attachment
                .map(|_| "attached".to_owned())
                .into_iter()
                .collect(),
            "attachment.instance-owner-id" => {
                attachment.map(|_| ACCOUNT.to_owned()).into_iter().collect()
            }
            "attachment.delete-on-termination" => attachment
                .map(|a| a.delete_on_termination.to_string())
                .into_iter()
                .collect(),
            "interface-type" => vec!["interface".to_owned()],
            "requester-id" => vec![self.requester.0.clone()],
            "requester-managed" => vec![self.requester.1.to_string()],
            "private-dns-name" => self.primary.map(private_dns_name).into_iter().collect(),
            "network-interface-id" => vec![self.id.to_string()],
            "mac-address" => vec![self.mac.clone()],
            "subnet-id" => vec![self.subnet.to_string()],
            "vpc-id" => vec![self.vpc.to_string()],
            "status" => vec![self.status().to_owned()],
            "private-ip-address" | "addresses.private-ip-address" => {
                all_ipv4.map(|a| a.to_string()).collect()
            }
            "addresses.primary" => all_ipv4
                .map(|a| (Some(a) == self.primary()).to_string())
                .collect(),
            "ipv6-addresses.ipv6-address" => self.ipv6().map(|a| a.to_string()).collect(),
            "description" => vec![self.description.clone()],
            "group-id" => self.groups.clone(),
            "availability-zone" => vec![self.zone.clone()],
            "owner-id" => vec![ACCOUNT.to_owned()],
            "source-dest-check" => vec![self.source_dest_check.to_string()],
            _ => return tagged(&self.tags, filter),
        })
    }
}

impl Described for Instance {
    fn id(&self) -> &str {
        self.id.as_str()
    }

    fn values(&self, world: &World, filter: &str) -> Option<Vec<String>> {
        Some(match filter {
            "instance-id" => vec![self.id.to_string()],
            "instance-type" => vec![self.kind.clone()],
            "instance-state-name" => vec![self.state.code_and_name().1.to_owned()],
            "instance-state-code" => vec![self.state.code_and_name().0.to_string()],
            "subnet-id" => vec![self.subnet.to_string()],
            "availability-zone" => vec![world.zone(self).to_owned()],
            "vpc-id" => {
                let subnet = world.subnet(self.subnet.as_str()).ok();
                subnet.map(|s| s.vpc.to_string()).into_iter().collect()
            }
            "network-interface.network-interface-id" => {
                let attached = world.attached(&self.id);
                attached.values().map(|e| e.id.to_string()).collect()
            }
            _ => return None,
        })
    }
}

impl Described for Subnet {
    fn id(&self) -> &str {
        self.id.as_str()
    }

    fn values(&self, _world: &World, filter: &str) -> Option<Vec<String>> {
        Some(match filter {
            "subnet-id" => vec![self.id.to_string()],
            "vpc-id" => vec![self.vpc.to_string()],
            "cidr-block" | "cidr" => self.cidr.iter().map(ToString::to_string).collect(),
            "ipv6-native" => vec![self.cidr.is_none().to_string()],
            "ipv6-cidr-block-association.ipv6-cidr-block" => {
                self.ipv6.iter().map(ToString::to_string).collect()
            }
            "availability-zone" => vec![self.zone.clone()],
            "state" => vec!["available".to_owned()],
            _ => return tagged(&self.tags, filter),
        })
    }
}

impl Described for Group {
    fn id(&self) -> &str {
        self.id.as_str()
    }

    fn values(&self, _world: &World, filter: &str) -> Option<Vec<String>> {
        Some(match filter {
            "group-id" => vec![self.id.to_string()],
            "group-name" => vec![self.name.clone()],
            "vpc-id" => vec![self.vpc.to_string()],
            _ => return tagged(&self.tags, filter),
        })
    }
}

impl Described for Vpc {
    fn id(&self) -> &str {
        self.id.as_str()
    }

    fn values(&self, _world: &World, filter: &str) -> Option<Vec<String>> {
        Some(match filter {
            "vpc-id" => vec![self.id.to_string()],
            "cidr" | "cidr-block-association.cidr-block" => vec![self.cidr.to_string()],
            "state" => vec!["available".to_owned()],
            _ => return None,
        })
    }
}

/// The id of an instance type is its name.
impl Described for str {
    fn id(&self) -> &str {
        self
    }

    fn values(&self, _world: &World, filter: &str) -> Option<Vec<String>> {
        (filter == "instance-type").then(|| vec![self.to_owned()])
    }
}
