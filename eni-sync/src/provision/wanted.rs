//! The section `enis` of the agent's configuration: the ENIs that the node is to have.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use common::address::Cidr;
use common::attach::inventory::{NETWORK_TAG, NO_MANAGE_TAG};
use common::cni::identifier::is_identifier;
use serde::Deserialize;

use crate::ledger::Excluded;
use crate::registration::prefixes::kept::Kept;
use crate::vpc::ec2::Choice;

/// The largest number of ENIs of one kind. No instance type has as many.
const MOST: u32 = 64;
/// How many tags an ENI may get: what AWS allows, less the tags that every ENI gets. Source:
/// Amazon EC2 User Guide, "Tag restrictions".
const MOST_TAGS: usize = 45;
const LONGEST_KEY: usize = 128;
const LONGEST_VALUE: usize = 256;
/// The prefixes of the keys of this project's and of AWS' own tags.
const PREFIXES: [&str; 2] = ["eni-cni/", "aws:"];

/// ENIs of one kind that the node is to have.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Wanted {
    /// The name of the kind, also the value of their network tag.
    pub(crate) name: String,
    /// The subnets to choose from, of which those in the availability zone of the node count.
    subnets: Chosen,
    /// The security groups that all of them have.
    security_groups: Chosen,
    /// How many.
    #[serde(default = "one")]
    pub(crate) count: u32,
    /// The network card that they are attached to.
    #[serde(default)]
    pub(crate) network_card: u32,
    /// More tags for them.
    #[serde(default)]
    pub(crate) tags: BTreeMap<String, String>,
    /// The rules for their primary addresses.
    #[serde(default)]
    pub(crate) primary: Primary,
    /// How many prefixes are kept on each, instead of the number for all ENIs.
    #[serde(default)]
    pub(crate) prefixes: Option<Kept>,
    /// The excluded addresses, which the configuration has for all ENIs.
    #[serde(skip)]
    pub(crate) excluded: Excluded,
}

/// The rules for the primary address of an ENI.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Primary {
    /// The ranges that it must not be in; without any, EC2 chooses.
    pub(crate) outside: Vec<Cidr>,
}

/// A choice as it is written in the configuration.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Keys {
    ids: Vec<String>,
    tags: BTreeMap<String, String>,
}

/// A choice by exactly one of ids and tags.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Keys")]
struct Chosen(Choice);

impl TryFrom<Keys> for Chosen {
    type Error = &'static str;

    fn try_from(keys: Keys) -> Result<Self, &'static str> {
        match (keys.ids.is_empty(), keys.tags.is_empty()) {
            (false, true) => Ok(Self(Choice::Ids(keys.ids))),
            (true, false) => Ok(Self(Choice::Tags(keys.tags))),
            (true, true) => Err("neither ids nor tags are given"),
            (false, false) => Err("both ids and tags are given"),
        }
    }
}

fn one() -> u32 {
    1
}

impl Wanted {
    /// The subnets to choose from.
    pub(crate) fn subnets(&self) -> &Choice {
        &self.subnets.0
    }

    /// The security groups.
    pub(crate) fn security_groups(&self) -> &Choice {
        &self.security_groups.0
    }

    /// Whether EC2 may choose the primary address in a subnet with this range.
    pub(crate) fn leaves_primary_to_ec2(&self, cidr: Cidr) -> bool {
        self.primary.outside.is_empty() && !self.excluded.touches(cidr)
    }

    /// Whether an address may be the primary one.
    pub(crate) fn allows_primary(&self, address: IpAddr) -> bool {
        let mut outside = self.primary.outside.iter();
        !outside.any(|range| range.contains(address)) && !self.excluded.contains(address)
    }

    fn validate(&self) -> Result<(), String> {
        let name = &self.name;
        if !is_identifier(name) {
            return Err(format!("{name:?} is not the name of ENIs"));
        }
        if !(1..=MOST).contains(&self.count) {
            let count = self.count;
            return Err(format!(
                "enis {name:?}: count {count} is not between 1 and {MOST}"
            ));
        }
        if let Choice::Ids(ids) = self.subnets() {
            require_prefix(name, ids, "subnet-")?;
        }
        if let Choice::Ids(ids) = self.security_groups() {
            require_prefix(name, ids, "sg-")?;
        }
        if let Some(Err(why)) = self.prefixes.map(|kept| kept.validate()) {
            return Err(format!("enis {name:?}: prefixes: {why}"));
        }
        if self.tags.len() > MOST_TAGS {
            return Err(format!(
                "enis {name:?}: there are more than {MOST_TAGS} tags"
            ));
        }
        let mut tags = self.tags.iter();
        match tags.find(|(key, value)| !is_tag(key, value)) {
            Some((key, _)) => Err(format!("enis {name:?}: the tag {key:?} cannot be chosen")),
            None => Ok(()),
        }
    }
}

fn require_prefix(name: &str, ids: &[String], prefix: &str) -> Result<(), String> {
    match ids.iter().find(|id| !id.starts_with(prefix)) {
        Some(id) => Err(format!(
            "enis {name:?}: {id:?} does not begin with {prefix:?}"
        )),
        None => Ok(()),
    }
}

fn is_tag(key: &str, value: &str) -> bool {
    let is_reserved = PREFIXES.iter().any(|prefix| key.starts_with(prefix));
    let is_ours = key == NO_MANAGE_TAG || key == NETWORK_TAG;
    let fits = (1..=LONGEST_KEY).contains(&key.chars().count());
    fits && value.chars().count() <= LONGEST_VALUE && !is_reserved && !is_ours
}

/// Checks the configured ENIs, and that each name occurs once.
///
/// # Errors
/// The name of the kind and what is wrong.
pub(crate) fn validate(enis: &[Wanted]) -> Result<(), String> {
    let mut names = BTreeSet::new();
    for wanted in enis {
        wanted.validate()?;
        if !names.insert(&wanted.name) {
            return Err(format!("enis {:?} are there twice", wanted.name));
        }
    }
    Ok(())
}
