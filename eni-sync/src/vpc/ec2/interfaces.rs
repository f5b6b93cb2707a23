//! The requests that create, attach, detach and delete ENIs. Every request can be sent again:
//! at worst EC2 answers that it was done already.

use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{
    Filter, NetworkInterfaceAttachmentChanges, ResourceType, Tag, TagSpecification,
};

use super::answer::description;
use super::types::{Choice, Description, NewEni, Place, Subnet};
use super::{Attempts, Ec2, FILTER_VALUES, Outcome, filter, journal};
use crate::vpc::failure::{Failure, Kind};

impl Ec2 {
    /// The chosen subnets of an availability zone. A choice by tags finds only subnets of the
    /// VPC.
    pub(crate) fn subnets(&self, choice: &Choice, zone: &str, vpc: &str) -> Outcome<Vec<Subnet>> {
        const ACTION: &str = "DescribeSubnets";
        let mut filters = chosen(choice, "subnet-id", vpc);
        filters.push(filter("availability-zone", [zone]));
        let request = |client: Client| {
            let request = client.describe_subnets();
            request.set_filters(Some(filters.clone())).send()
        };
        let answer = self.call(ACTION, Attempts::Many, request)?;
        Ok(answer.subnets().iter().map(subnet).collect())
    }

    /// The ids of the chosen security groups. A choice by tags finds only groups of the VPC.
    pub(crate) fn groups(&self, choice: &Choice, vpc: &str) -> Outcome<Vec<String>> {
        const ACTION: &str = "DescribeSecurityGroups";
        let filters = chosen(choice, "group-id", vpc);
        let request = |client: Client| {
            let request = client.describe_security_groups();
            request.set_filters(Some(filters.clone())).send()
        };
        let answer = self.call(ACTION, Attempts::Many, request)?;
        let ids = answer.security_groups().iter();
        Ok(ids
            .filter_map(|g| g.group_id().map(str::to_owned))
            .collect())
    }

    /// The ENIs of a VPC that have any value of a tag and are attached to nothing.
    pub(crate) fn available_with(&self, tag: &str, vpc: &str) -> Outcome<Vec<Description>> {
        self.describe(&[
            filter("status", ["available"]),
            filter("tag-key", [tag]),
            filter("vpc-id", [vpc]),
        ])
    }

    /// The ENIs that have this tag and are attached to nothing.
    pub(crate) fn available(&self, tag: &str, value: &str) -> Outcome<Vec<Description>> {
        self.describe(&[
            filter("status", ["available"]),
            filter(&format!("tag:{tag}"), [value]),
        ])
    }

    /// The states of those instances that EC2 finds, by their ids.
    pub(crate) fn instance_states(&self, ids: &[String]) -> Outcome<Vec<(String, String)>> {
        const ACTION: &str = "DescribeInstances";
        let mut states = Vec::new();
        for some in ids.chunks(FILTER_VALUES) {
            let all = |client: Client| {
                let request = client.describe_instances();
                let request = request.filters(filter("instance-id", some));
                let pages = request.into_paginator().items().send();
                pages.collect::<Result<Vec<_>, _>>()
            };
            let found = self.call(ACTION, Attempts::Many, all)?;
            for instance in found.iter().flat_map(|r| r.instances()) {
                let state = instance.state().and_then(|state| state.name());
                if let (Some(id), Some(state)) = (instance.instance_id(), state) {
                    states.push((id.to_owned(), state.as_str().to_owned()));
                }
            }
        }
        Ok(states)
    }

    /// Creates an ENI, or finds the one that the same request has created.
    pub(crate) fn create(&self, new: &NewEni) -> Outcome<Description> {
        const ACTION: &str = "CreateNetworkInterface";
        let tags = new
            .tags
            .iter()
            .map(|(k, v)| Tag::builder().key(k).value(v).build());
        let tags = TagSpecification::builder()
            .resource_type(ResourceType::NetworkInterface)
            .set_tags(Some(tags.collect()))
            .build();
        let request = |client: Client| {
            let request = client.create_network_interface();
            let request = request.subnet_id(&new.subnet_id).client_token(&new.token);
            let request = request.set_groups(Some(new.groups.clone()));
            let request = request.set_private_ip_address(new.primary.map(|a| a.to_string()));
            let request = request.description(&new.description);
            request.tag_specifications(tags.clone()).send()
        };
        let answer = self.call(ACTION, Attempts::Many, request);
        let made = answer.iter().filter_map(|a| a.network_interface());
        let made = made.map(description).next();
        let id = made.as_ref().map_or("", |made| made.id.as_str());
        journal::change(ACTION, id, &[], answer)?;
        made.ok_or_else(|| Failure::empty(ACTION))
    }

    /// Attaches an ENI to an instance, and returns the id of the attachment.
    pub(crate) fn attach(&self, eni: &str, instance: &str, place: Place) -> Outcome<String> {
        const ACTION: &str = "AttachNetworkInterface";
        let number = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
        let request = |client: Client| {
            let request = client.attach_network_interface();
            let request = request.network_interface_id(eni).instance_id(instance);
            let request = request.device_index(number(place.device_index));
            // Instance types without network cards refuse a request that names card 0.
            let card = Some(number(place.network_card)).filter(|card| *card > 0);
            request.set_network_card_index(card).send()
        };
        let answer = self.call(ACTION, Attempts::Many, request);
        let id = answer
            .iter()
            .find_map(|a| a.attachment_id().map(str::to_owned));
        journal::change(ACTION, eni, &[], answer)?;
        id.ok_or_else(|| Failure::empty(ACTION))
    }

    /// Has an ENI deleted with the instance that it is attached to.
    pub(crate) fn delete_with_instance(&self, eni: &str, attachment: &str) -> Outcome<()> {
        const ACTION: &str = "ModifyNetworkInterfaceAttribute";
        let change = NetworkInterfaceAttachmentChanges::builder()
            .attachment_id(attachment)
            .delete_on_termination(true)
            .build();
        let request = |client: Client| {
            let request = client.modify_network_interface_attribute();
            let request = request.network_interface_id(eni);
            request.attachment(change.clone()).send()
        };
        let answer = self.call(ACTION, Attempts::Many, request);
        journal::change(ACTION, eni, &[], answer)
    }

    /// Detaches an ENI. An attachment that EC2 does not know any more is a success.
    pub(crate) fn detach(&self, eni: &str, attachment: &str) -> Outcome<()> {
        const ACTION: &str = "DetachNetworkInterface";
        let request = |client: Client| {
            let request = client.detach_network_interface();
            request.attachment_id(attachment).send()
        };
        let answer = self.call(ACTION, Attempts::Many, request);
        unless_missing(journal::change(ACTION, eni, &[], answer))
    }

    /// Deletes an ENI; EC2 refuses one that is attached. Returns whether EC2 knew the ENI: an
    /// unknown one has been deleted, or was created a moment ago.
    pub(crate) fn delete(&self, eni: &str) -> Outcome<bool> {
        const ACTION: &str = "DeleteNetworkInterface";
        let request = |client: Client| {
            let request = client.delete_network_interface();
            request.network_interface_id(eni).send()
        };
        let answer = self.call(ACTION, Attempts::Many, request);
        let answer = journal::change(ACTION, eni, &[], answer);
        let is_known = answer.is_ok();
        unless_missing(answer).map(|()| is_known)
    }
}

fn unless_missing(outcome: Outcome<()>) -> Outcome<()> {
    match outcome {
        Err(failure) if failure.kind == Kind::Missing => Ok(()),
        outcome => outcome,
    }
}

/// The filters for a choice. Ids may be of any VPC.
fn chosen(choice: &Choice, id: &str, vpc: &str) -> Vec<Filter> {
    match choice {
        Choice::Ids(ids) => vec![filter(id, ids)],
        Choice::Tags(tags) => {
            let of_vpc = filter("vpc-id", [vpc]);
            let tags = tags
                .iter()
                .map(|(k, v)| filter(&format!("tag:{k}"), [escaped(v)]));
            tags.chain([of_vpc]).collect()
        }
    }
}

/// The filter value that matches only this text: `*` and `?` are wildcards in filters.
fn escaped(value: &str) -> String {
    let mut text = String::new();
    for character in value.chars() {
        if matches!(character, '*' | '?' | '\\') {
            text.push('\\');
        }
        text.push(character);
    }
    text
}

pub(super) fn subnet(found: &aws_sdk_ec2::types::Subnet) -> Subnet {
    let v6 = found.ipv6_cidr_block_association_set().iter();
    let v6 = v6.filter_map(|association| association.ipv6_cidr_block());
    let cidrs = found.cidr_block().into_iter().chain(v6);
    let free = found.available_ip_address_count().unwrap_or_default();
    Subnet {
        id: found.subnet_id().unwrap_or_default().to_owned(),
        vpc_id: found.vpc_id().unwrap_or_default().to_owned(),
        zone: found.availability_zone().unwrap_or_default().to_owned(),
        cidrs: cidrs.filter_map(|text| text.parse().ok()).collect(),
        free: u32::try_from(free).unwrap_or_default(),
    }
}
