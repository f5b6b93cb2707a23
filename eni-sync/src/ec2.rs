//! The one place that speaks to EC2: one function per question, in our own types.

mod answer;
mod types;

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Debug;
use std::net::IpAddr;
use std::sync::Arc;

use aws_config::SdkConfig;
use aws_sdk_ec2::Client;
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ec2::types::{
    Filter, InstanceType, NetworkInterface, SubnetCidrReservation, SubnetCidrReservationType,
};
use common::address::Cidr;
use tokio::runtime::Runtime;

use self::answer::{description, failure};
pub(crate) use self::types::{Description, Family, Limits, Reservation};
use crate::failure::{Failure, Kind};
use crate::pace::Pace;

/// How many entries a page of a description has; the most that EC2 allows.
const PAGE: i32 = 1000;
/// How many values a filter can have. Source: EC2 API reference, "Filter".
const FILTER_VALUES: usize = 200;

type Outcome<T> = std::result::Result<T, Failure>;

/// EC2 in one region.
pub(crate) struct Ec2 {
    runtime: Arc<Runtime>,
    client: Client,
    pace: Option<Arc<Pace>>,
}

impl Ec2 {
    /// EC2 as `configuration` says. With a pace, calls keep to it and are measured.
    pub(crate) fn new(
        runtime: Arc<Runtime>,
        configuration: &SdkConfig,
        pace: Option<Arc<Pace>>,
    ) -> Self {
        Self {
            runtime,
            client: Client::new(configuration),
            pace,
        }
    }

    /// Assigns addresses of one family to an ENI: all of them or none, and none that
    /// another ENI has.
    pub(crate) fn assign(&self, eni: &str, addresses: &[IpAddr]) -> Outcome<()> {
        match addresses.first().copied().map(Family::of) {
            Some(Family::V4) => self.assign_v4(eni, addresses, false),
            Some(Family::V6) => self.assign_v6(eni, addresses),
            None => Ok(()),
        }
    }

    /// Assigns IPv4 addresses to an ENI, taking them from the ENIs that have them. EC2
    /// answers before it has done so.
    pub(crate) fn reassign(&self, eni: &str, addresses: &[IpAddr]) -> Outcome<()> {
        self.assign_v4(eni, addresses, true)
    }

    /// Removes addresses of one family from an ENI: all of them or none.
    pub(crate) fn unassign(&self, eni: &str, addresses: &[IpAddr]) -> Outcome<()> {
        match addresses.first().copied().map(Family::of) {
            Some(Family::V4) => self.unassign_v4(eni, addresses),
            Some(Family::V6) => self.unassign_v6(eni, addresses),
            None => Ok(()),
        }
    }

    /// Every ENI that is attached to an instance.
    pub(crate) fn enis_of_instance(&self, instance_id: &str) -> Outcome<Vec<Description>> {
        self.describe(vec![filter("attachment.instance-id", [instance_id])])
    }

    /// The ENI with this id, if it exists.
    pub(crate) fn eni(&self, id: &str) -> Outcome<Option<Description>> {
        let found = self.describe(vec![filter("network-interface-id", [id])])?;
        Ok(found.into_iter().next())
    }

    /// Every ENI in a subnet.
    pub(crate) fn enis_of_subnet(&self, subnet_id: &str) -> Outcome<Vec<Description>> {
        self.describe(vec![filter("subnet-id", [subnet_id])])
    }

    /// The ENIs in a VPC that have any of these addresses of one family.
    pub(crate) fn owners(&self, vpc_id: &str, addresses: &[IpAddr]) -> Outcome<Vec<Description>> {
        let mut owners = Vec::new();
        for some in addresses.chunks(FILTER_VALUES) {
            let name = match some.first().copied().map(Family::of) {
                Some(Family::V6) => "ipv6-addresses.ipv6-address",
                _ => "addresses.private-ip-address",
            };
            let filters = vec![filter("vpc-id", [vpc_id]), filter(name, texts(some))];
            owners.extend(self.describe(filters)?);
        }
        Ok(owners)
    }

    /// Every ENI in any of these subnets, also those of others.
    pub(crate) fn enis_of_subnets(&self, ids: &[String]) -> Outcome<Vec<Description>> {
        let mut enis = Vec::new();
        for some in ids.chunks(FILTER_VALUES) {
            enis.extend(self.describe(vec![filter("subnet-id", some)])?);
        }
        Ok(enis)
    }

    /// The CIDR reservations of a subnet.
    pub(crate) fn reservations(&self, subnet: &str) -> Outcome<Vec<Reservation>> {
        const ACTION: &str = "GetSubnetCidrReservations";
        let request = self.client.get_subnet_cidr_reservations().subnet_id(subnet);
        let answer = self.call(ACTION, || request.clone().send())?;
        let v4 = answer.subnet_ipv4_cidr_reservations().iter();
        let all = v4.chain(answer.subnet_ipv6_cidr_reservations());
        let reservation = |found: &SubnetCidrReservation| {
            Some(Reservation {
                cidr: found.cidr()?.parse().ok()?,
                is_explicit: found.reservation_type() == Some(&SubnetCidrReservationType::Explicit),
            })
        };
        Ok(all.filter_map(reservation).collect())
    }

    /// The state of an instance, such as `running`, or nothing when EC2 has forgotten it.
    pub(crate) fn instance_state(&self, id: &str) -> Outcome<Option<String>> {
        const ACTION: &str = "DescribeInstances";
        let request = self.client.describe_instances().instance_ids(id);
        let answer = match self.call(ACTION, || request.clone().send()) {
            Err(failure) if failure.kind == Kind::Missing => return Ok(None),
            answer => answer?,
        };
        let mut instances = answer.reservations().iter().flat_map(|r| r.instances());
        let state = instances.find_map(|instance| instance.state()?.name().cloned());
        Ok(state.map(|state| state.as_str().to_owned()))
    }

    /// How many addresses an ENI of an instance type can have.
    pub(crate) fn limits(&self, instance_type: &str) -> Outcome<Limits> {
        const ACTION: &str = "DescribeInstanceTypes";
        let request = self
            .client
            .describe_instance_types()
            .instance_types(InstanceType::from(instance_type));
        let answer = self.call(ACTION, || request.clone().send())?;
        let network = answer
            .instance_types()
            .iter()
            .find_map(|t| t.network_info());
        let number = |n: Option<i32>| n.and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
        network
            .map(|network| Limits {
                ipv4: number(network.ipv4_addresses_per_interface()),
                ipv6: number(network.ipv6_addresses_per_interface()),
            })
            .ok_or_else(|| Failure {
                action: ACTION,
                kind: Kind::Missing,
                code: "Missing".to_owned(),
                answer: format!("{instance_type:?} is no instance type of this region"),
            })
    }

    /// The address ranges of subnets, by subnet id.
    pub(crate) fn subnet_cidrs(&self, ids: &[String]) -> Outcome<BTreeMap<String, Vec<Cidr>>> {
        const ACTION: &str = "DescribeSubnets";
        let request = self
            .client
            .describe_subnets()
            .set_subnet_ids(Some(ids.to_vec()));
        let answer = self.call(ACTION, || request.clone().send())?;
        let mut cidrs = BTreeMap::new();
        for subnet in answer.subnets() {
            let v6 = subnet.ipv6_cidr_block_association_set();
            let all = subnet.cidr_block().into_iter().chain(
                v6.iter()
                    .filter_map(|association| association.ipv6_cidr_block()),
            );
            let parsed = all.filter_map(|text| text.parse().ok()).collect();
            cidrs.insert(subnet.subnet_id().unwrap_or_default().to_owned(), parsed);
        }
        Ok(cidrs)
    }

    /// Sends a request, at the pace of the node where there is one, and waits for the
    /// answer.
    fn call<T, E, R, F>(&self, action: &'static str, request: impl Fn() -> F) -> Outcome<T>
    where
        F: Future<Output = Result<T, SdkError<E, R>>>,
        E: ProvideErrorMetadata + Error + 'static,
        R: Debug + 'static,
    {
        let ask = || {
            let answer = self.runtime.block_on(request());
            answer.map_err(|cause| failure(action, &cause))
        };
        match &self.pace {
            Some(pace) => pace.call(action, ask),
            None => ask(),
        }
    }

    fn note_batch(&self, action: &'static str, addresses: &[IpAddr]) {
        if let Some(pace) = &self.pace {
            pace.metrics.note_batch(action, addresses.len());
        }
    }

    /// Notes that an address has been taken from another ENI.
    pub(crate) fn note_takeover(&self) {
        if let Some(pace) = &self.pace {
            pace.metrics.takeovers.inc();
        }
    }

    fn describe(&self, filters: Vec<Filter>) -> Outcome<Vec<Description>> {
        let request = self
            .client
            .describe_network_interfaces()
            .set_filters(Some(filters));
        let all = || {
            let pages = request.clone().into_paginator().page_size(PAGE);
            pages.items().send().collect::<Result<Vec<_>, _>>()
        };
        let found: Vec<NetworkInterface> = self.call("DescribeNetworkInterfaces", all)?;
        Ok(found.iter().map(description).collect())
    }

    fn assign_v4(&self, eni: &str, addresses: &[IpAddr], reassign: bool) -> Outcome<()> {
        const ACTION: &str = "AssignPrivateIpAddresses";
        let request = self
            .client
            .assign_private_ip_addresses()
            .network_interface_id(eni)
            .allow_reassignment(reassign)
            .set_private_ip_addresses(Some(texts(addresses)));
        self.note_batch(ACTION, addresses);
        self.call(ACTION, || request.clone().send()).map(drop)
    }

    fn assign_v6(&self, eni: &str, addresses: &[IpAddr]) -> Outcome<()> {
        const ACTION: &str = "AssignIpv6Addresses";
        let request = self
            .client
            .assign_ipv6_addresses()
            .network_interface_id(eni)
            .set_ipv6_addresses(Some(texts(addresses)));
        self.note_batch(ACTION, addresses);
        self.call(ACTION, || request.clone().send()).map(drop)
    }

    fn unassign_v4(&self, eni: &str, addresses: &[IpAddr]) -> Outcome<()> {
        const ACTION: &str = "UnassignPrivateIpAddresses";
        let request = self
            .client
            .unassign_private_ip_addresses()
            .network_interface_id(eni)
            .set_private_ip_addresses(Some(texts(addresses)));
        self.note_batch(ACTION, addresses);
        self.call(ACTION, || request.clone().send()).map(drop)
    }

    fn unassign_v6(&self, eni: &str, addresses: &[IpAddr]) -> Outcome<()> {
        const ACTION: &str = "UnassignIpv6Addresses";
        let request = self
            .client
            .unassign_ipv6_addresses()
            .network_interface_id(eni)
            .set_ipv6_addresses(Some(texts(addresses)));
        self.note_batch(ACTION, addresses);
        self.call(ACTION, || request.clone().send()).map(drop)
    }
}

fn filter<T: Into<String>>(name: &str, values: impl IntoIterator<Item = T>) -> Filter {
    let values = values.into_iter().map(Into::into).collect();
    Filter::builder()
        .name(name)
        .set_values(Some(values))
        .build()
}

fn texts(addresses: &[IpAddr]) -> Vec<String> {
    addresses.iter().map(IpAddr::to_string).collect()
}
