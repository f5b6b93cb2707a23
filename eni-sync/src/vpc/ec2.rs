//! The one place that speaks to EC2: one function per question, in our own types.

mod answer;
mod choice;
mod interfaces;
mod journal;
mod types;
mod unassign;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::error::Error;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_sdk_ec2::Client;
use aws_sdk_ec2::config::Builder;
use aws_sdk_ec2::config::http::HttpResponse;
use aws_sdk_ec2::config::retry::RetryConfig;
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ec2::types::{
    Filter, InstanceType, NetworkInfo, NetworkInterface, SubnetCidrReservation,
    SubnetCidrReservationType,
};
use common::address::Cidr;
use tokio::time::timeout;

use self::answer::{description, failure};
pub(crate) use self::types::{
    Choice, Description, Family, Limits, NewEni, Place, Reservation, Subnet,
};
pub(crate) use self::unassign::OwnEni;
use crate::deadline::Deadline;
use crate::vpc::failure::{Failure, Kind};
use crate::vpc::rate_limit::{RateLimit, while_throttled};
use crate::vpc::session::Session;

/// How many entries a page of a description has; the most that EC2 allows.
const PAGE: i32 = 1000;
/// How long EC2 may take, with all attempts, to answer a question that can be left open.
const SOON: Duration = Duration::from_secs(3);
/// How many values a filter can have. Source: EC2 API reference, "Filter".
const FILTER_VALUES: usize = 200;

type Outcome<T> = std::result::Result<T, Failure>;

/// EC2 in one region.
pub(crate) struct Ec2 {
    session: Session,
    client: RefCell<Client>,
    rate_limit: Option<Arc<RateLimit>>,
    deadline: Cell<Deadline>,
}

impl Ec2 {
    /// A client with the region and the credentials of the session. With a rate limit, calls
    /// wait for it and are measured.
    pub(crate) fn new(session: Session, rate_limit: Option<Arc<RateLimit>>) -> Self {
        Self {
            client: RefCell::new(Client::new(&session.configuration())),
            session,
            rate_limit,
            deadline: Cell::default(),
        }
    }

    /// Sets the deadline of the calls that follow.
    pub(crate) fn set_deadline(&self, deadline: Deadline) {
        self.deadline.set(deadline);
    }

    /// Assigns addresses of one family to an ENI: all of them or none, and none that
    /// another ENI has.
    pub(crate) fn assign(&self, eni: &str, addresses: &[IpAddr]) -> Outcome<()> {
        match addresses.first().copied().map(Family::of) {
            Some(Family::V4) => self.assign_v4(eni, addresses, Attempts::Many),
            Some(Family::V6) => self.assign_v6(eni, addresses),
            None => Ok(()),
        }
    }

    /// Assigns IPv4 addresses to an ENI and takes them from the ENIs that have them when EC2
    /// carries out the request, which is after its answer. The request is sent once: before
    /// sending it again, the caller has to look which ENIs have the addresses by then.
    pub(crate) fn reassign_once(&self, eni: &str, addresses: &[IpAddr]) -> Outcome<()> {
        self.assign_v4(eni, addresses, Attempts::One)
    }

    /// Every ENI that is attached to an instance.
    pub(crate) fn enis_of_instance(&self, instance_id: &str) -> Outcome<Vec<Description>> {
        self.describe(&[filter("attachment.instance-id", [instance_id])])
    }

    /// The ENI with this id, if it exists.
    pub(crate) fn eni(&self, id: &str) -> Outcome<Option<Description>> {
        Ok(self.enis(&[id])?.into_iter().next())
    }

    /// Those of the ENIs with these ids that exist.
    pub(crate) fn enis(&self, ids: &[&str]) -> Outcome<Vec<Description>> {
        let mut enis = Vec::new();
        for some in ids.chunks(FILTER_VALUES) {
            let some = some.iter().copied();
            enis.extend(self.describe(&[filter("network-interface-id", some)])?);
        }
        Ok(enis)
    }

    /// Every ENI in a subnet.
    pub(crate) fn enis_of_subnet(&self, subnet_id: &str) -> Outcome<Vec<Description>> {
        self.describe(&[filter("subnet-id", [subnet_id])])
    }

    /// The ENIs in a VPC that have any of these addresses of one family.
    pub(crate) fn owners(&self, vpc_id: &str, addresses: &[IpAddr]) -> Outcome<Vec<Description>> {
        let mut owners = Vec::new();
        for some in addresses.chunks(FILTER_VALUES) {
            let name = match some.first().copied().map(Family::of) {
                Some(Family::V6) => "ipv6-addresses.ipv6-address",
                _ => "addresses.private-ip-address",
            };
            let filters = [filter("vpc-id", [vpc_id]), filter(name, texts(some))];
            owners.extend(self.describe(&filters)?);
        }
        Ok(owners)
    }

    /// Every ENI in any of these subnets, also those of other instances.
    pub(crate) fn enis_of_subnets(&self, ids: &[String]) -> Outcome<Vec<Description>> {
        let mut enis = Vec::new();
        for some in ids.chunks(FILTER_VALUES) {
            enis.extend(self.describe(&[filter("subnet-id", some)])?);
        }
        Ok(enis)
    }

    /// The CIDR reservations of a subnet.
    pub(crate) fn reservations(&self, subnet: &str) -> Outcome<Vec<Reservation>> {
        const ACTION: &str = "GetSubnetCidrReservations";
        let request = |client: Client| {
            let request = client.get_subnet_cidr_reservations();
            request.subnet_id(subnet).send()
        };
        let answer = self.call(ACTION, Attempts::Many, request)?;
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

    /// The state of an instance, such as `running`. `None` when EC2 does not find the instance,
    /// which does not show that it has ended: descriptions are eventually consistent.
    pub(crate) fn instance_state(&self, id: &str) -> Outcome<Option<String>> {
        const ACTION: &str = "DescribeInstances";
        let request = |client: Client| client.describe_instances().instance_ids(id).send();
        let answer = match self.call(ACTION, Attempts::Many, request) {
            Err(failure) if failure.kind == Kind::Missing => return Ok(None),
            answer => answer?,
        };
        let mut instances = answer.reservations().iter().flat_map(|r| r.instances());
        let state = instances.find_map(|instance| instance.state()?.name().cloned());
        Ok(state.map(|state| state.as_str().to_owned()))
    }

    /// How many addresses an ENI of an instance type can have, and how many ENIs each of its
    /// network cards.
    pub(crate) fn limits(&self, instance_type: &str) -> Outcome<Limits> {
        const ACTION: &str = "DescribeInstanceTypes";
        let request = |client: Client| {
            let request = client.describe_instance_types();
            let kind = InstanceType::from(instance_type);
            request.instance_types(kind).send()
        };
        let answer = self.call(ACTION, Attempts::Many, request)?;
        let network = answer
            .instance_types()
            .iter()
            .find_map(|t| t.network_info());
        let number = |n: Option<i32>| n.and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
        network
            .map(|network| Limits {
                ipv4: number(network.ipv4_addresses_per_interface()),
                ipv6: number(network.ipv6_addresses_per_interface()),
                interfaces: interfaces_of_cards(network),
            })
            .ok_or_else(|| Failure {
                action: ACTION,
                kind: Kind::Missing,
                code: "Missing".to_owned(),
                request_id: None,
                answer: format!("{instance_type:?} is not an instance type of this region"),
            })
    }

    /// The same, if EC2 answers soon.
    pub(crate) fn limits_soon(&self, instance_type: &str) -> Outcome<Limits> {
        let deadline = self.deadline.get();
        self.deadline.set(Deadline::after(deadline.left_of(SOON)));
        let answer = self.limits(instance_type);
        self.deadline.set(deadline);
        answer
    }

    /// The address ranges of subnets, by subnet id.
    pub(crate) fn subnet_cidrs(&self, ids: &[String]) -> Outcome<BTreeMap<String, Vec<Cidr>>> {
        let subnets = self.described_subnets(ids)?.into_iter();
        Ok(subnets.map(|subnet| (subnet.id, subnet.cidrs)).collect())
    }

    /// What EC2 says of subnets.
    pub(crate) fn described_subnets(&self, ids: &[String]) -> Outcome<Vec<Subnet>> {
        const ACTION: &str = "DescribeSubnets";
        let request = |client: Client| {
            let request = client.describe_subnets();
            request.set_subnet_ids(Some(ids.to_vec())).send()
        };
        let answer = self.call(ACTION, Attempts::Many, request)?;
        Ok(answer.subnets().iter().map(interfaces::subnet).collect())
    }

    /// Sends a request within the node's rate limit, if there is one, and waits for the answer.
    fn call<T, E, F>(
        &self,
        action: &'static str,
        attempts: Attempts,
        request: impl Fn(Client) -> F,
    ) -> Outcome<T>
    where
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
        E: ProvideErrorMetadata + Error + 'static,
    {
        let answer = self.rate_limited(action, attempts, || self.ask(action, &request));
        journal::answered(action, &answer);
        answer
    }

    /// Asks within the rate limit of the node, where there is one, as often as `attempts` says.
    fn rate_limited<T>(
        &self,
        action: &'static str,
        attempts: Attempts,
        ask: impl Fn() -> Outcome<T>,
    ) -> Outcome<T> {
        match (&self.rate_limit, attempts) {
            (Some(rate_limit), Attempts::Many) => rate_limit.call(action, self.deadline.get(), ask),
            (Some(rate_limit), Attempts::One) => rate_limit.call_once(ask),
            (Some(rate_limit), Attempts::WhileThrottled) => {
                rate_limit.call_while_throttled(action, self.deadline.get(), ask)
            }
            (None, Attempts::WhileThrottled) => while_throttled(self.deadline.get(), ask),
            (None, _) => ask(),
        }
    }

    /// Sends a request up to three times while EC2 refuses its signature. From the first
    /// refusal the SDK learns how far this node's clock is off; after the second the
    /// credentials are loaded again, because they may have been replaced. EC2 does nothing when
    /// it refuses a signature.
    fn ask<T, E, F>(&self, action: &'static str, request: &impl Fn(Client) -> F) -> Outcome<T>
    where
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
        E: ProvideErrorMetadata + Error + 'static,
    {
        let send = || {
            let client = self.client.borrow().clone();
            let left = self.deadline.get().left();
            let answer = async { timeout(left, request(client)).await };
            match self.session.runtime.block_on(answer) {
                Ok(answer) => answer.map_err(|cause| failure(action, &cause)),
                Err(_) => Err(Failure::too_late(action)),
            }
        };
        let is_refused = |answer: &Outcome<T>| answer.as_ref().is_err_and(Failure::is_of_signature);
        let began = Instant::now();
        let mut answer = send();
        if is_refused(&answer) {
            answer = send();
        }
        if is_refused(&answer) {
            let client = Client::new(&self.session.configuration());
            self.client.replace(client);
            answer = send();
        }
        if let Some(rate_limit) = &self.rate_limit {
            let failure = answer.as_ref().err();
            rate_limit.calls.note_call(action, failure, began.elapsed());
        }
        answer
    }

    fn note_batch(&self, action: &'static str, size: usize) {
        if let Some(rate_limit) = &self.rate_limit {
            rate_limit.calls.note_batch(action, size);
        }
    }

    /// Notes that an address has been taken from another ENI.
    pub(crate) fn note_takeover(&self) {
        if let Some(rate_limit) = &self.rate_limit {
            rate_limit.calls.takeovers.inc();
        }
    }

    fn describe(&self, filters: &[Filter]) -> Outcome<Vec<Description>> {
        let all = |client: Client| {
            let request = client.describe_network_interfaces();
            let request = request.set_filters(Some(filters.to_vec()));
            let pages = request.into_paginator().page_size(PAGE);
            pages.items().send().collect::<Result<Vec<_>, _>>()
        };
        let found: Vec<NetworkInterface> =
            self.call("DescribeNetworkInterfaces", Attempts::Many, all)?;
        Ok(found.iter().map(description).collect())
    }

    /// With [`Attempts::One`], EC2 also takes the addresses from other ENIs.
    fn assign_v4(&self, eni: &str, addresses: &[IpAddr], attempts: Attempts) -> Outcome<()> {
        const ACTION: &str = "AssignPrivateIpAddresses";
        self.note_batch(ACTION, addresses.len());
        let request = |client: Client| {
            let request = client.assign_private_ip_addresses();
            let request = request.network_interface_id(eni);
            let request = request.set_private_ip_addresses(Some(texts(addresses)));
            let request = request.allow_reassignment(attempts == Attempts::One);
            let request = request.customize();
            request.config_override(attempts.configuration()).send()
        };
        journal::change(ACTION, eni, addresses, self.call(ACTION, attempts, request))
    }

    fn assign_v6(&self, eni: &str, addresses: &[IpAddr]) -> Outcome<()> {
        const ACTION: &str = "AssignIpv6Addresses";
        self.note_batch(ACTION, addresses.len());
        let request = |client: Client| {
            let request = client.assign_ipv6_addresses();
            let request = request.network_interface_id(eni);
            request.set_ipv6_addresses(Some(texts(addresses))).send()
        };
        let answer = self.call(ACTION, Attempts::Many, request);
        journal::change(ACTION, eni, addresses, answer)
    }
}

/// How often a request is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Attempts {
    /// Until it is answered or too much time has passed.
    Many,
    /// Once, for a pod that waits.
    One,
    /// Again only while EC2 throttles it: a request that EC2 may have carried out is not
    /// repeated.
    WhileThrottled,
}

impl Attempts {
    fn configuration(self) -> Builder {
        match self {
            Self::Many => Builder::new(),
            Self::One | Self::WhileThrottled => {
                Builder::new().retry_config(RetryConfig::disabled())
            }
        }
    }
}

/// How many ENIs each network card can have, by its index.
fn interfaces_of_cards(network: &NetworkInfo) -> Vec<u32> {
    let mut cards: Vec<(i32, i32)> = network
        .network_cards()
        .iter()
        .filter_map(|card| {
            Some((
                card.network_card_index()?,
                card.maximum_network_interfaces()?,
            ))
        })
        .collect();
    cards.sort_unstable();
    let numbers = cards.into_iter().map(|(_, most)| u32::try_from(most));
    numbers.map(Result::unwrap_or_default).collect()
}

fn filter<T: Into<String>>(name: &str, values: impl IntoIterator<Item = T>) -> Filter {
    let values = values.into_iter().map(Into::into).collect();
    Filter::builder()
        .name(name)
        .set_values(Some(values))
        .build()
}

fn texts(addresses: &[impl ToString]) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}
