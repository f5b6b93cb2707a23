//! Has EC2 choose addresses and prefixes for an ENI: all of them or none. Each request that EC2
//! carries out assigns new ones, so a request is repeated only when EC2 has throttled it.

use std::cell::Cell;
use std::error::Error;
use std::net::IpAddr;

use aws_sdk_ec2::Client;
use aws_sdk_ec2::config::http::HttpResponse;
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ec2::operation::assign_ipv6_addresses::AssignIpv6AddressesOutput;
use aws_sdk_ec2::operation::assign_private_ip_addresses::AssignPrivateIpAddressesOutput;
use common::address::{Cidr, parse_address};

use super::{Attempts, Ec2, Family, Outcome, journal};

const ASSIGN_V4: &str = "AssignPrivateIpAddresses";
const ASSIGN_V6: &str = "AssignIpv6Addresses";
const ATTEMPTS: Attempts = Attempts::WhileThrottled;

/// How many of what EC2 is to choose.
#[derive(Clone, Copy)]
enum Wanted {
    Addresses(i32),
    Prefixes(i32),
}

impl Wanted {
    fn addresses(self) -> Option<i32> {
        match self {
            Self::Addresses(count) => Some(count),
            Self::Prefixes(_) => None,
        }
    }

    fn prefixes(self) -> Option<i32> {
        match self {
            Self::Addresses(_) => None,
            Self::Prefixes(count) => Some(count),
        }
    }
}

impl Ec2 {
    /// Has EC2 choose addresses of one family for an ENI: as many as `count` says when the
    /// request is sent, so that who comes while it waits for the budget of calls has a part in
    /// it. Nothing is sent, and nothing returned, when that is none.
    pub(crate) fn assign_count(
        &self,
        eni: &str,
        family: Family,
        count: impl Fn() -> usize,
    ) -> Outcome<Option<Vec<IpAddr>>> {
        let sent = Cell::new(0);
        let wanted = || {
            sent.set(count());
            (sent.get() > 0).then(|| Wanted::Addresses(number(sent.get())))
        };
        let chosen = match family {
            Family::V4 => {
                let Some(answer) = self.choose_v4(eni, wanted).transpose() else {
                    return Ok(None);
                };
                let chosen = answer
                    .iter()
                    .flat_map(|a| a.assigned_private_ip_addresses());
                let chosen = addresses(chosen.filter_map(|one| one.private_ip_address()));
                journal::change(ASSIGN_V4, eni, &chosen, answer).map(|()| chosen)
            }
            Family::V6 => {
                let Some(answer) = self.choose_v6(eni, wanted).transpose() else {
                    return Ok(None);
                };
                let chosen = answer.iter().flat_map(|a| a.assigned_ipv6_addresses());
                let chosen = addresses(chosen.map(String::as_str));
                journal::change(ASSIGN_V6, eni, &chosen, answer).map(|()| chosen)
            }
        };
        self.note_batch(action(family), sent.get());
        chosen.map(Some)
    }

    /// Has EC2 choose `count` prefixes of one family for an ENI.
    pub(crate) fn assign_prefixes(
        &self,
        eni: &str,
        family: Family,
        count: usize,
    ) -> Outcome<Vec<Cidr>> {
        self.note_batch(action(family), count);
        let wanted = || Some(Wanted::Prefixes(number(count)));
        match family {
            Family::V4 => {
                let Some(answer) = self.choose_v4(eni, wanted).transpose() else {
                    return Ok(Vec::new());
                };
                let chosen = answer.iter().flat_map(|a| a.assigned_ipv4_prefixes());
                let chosen = prefixes(chosen.filter_map(|one| one.ipv4_prefix()));
                journal::change_prefixes(ASSIGN_V4, eni, &chosen, answer).map(|()| chosen)
            }
            Family::V6 => {
                let Some(answer) = self.choose_v6(eni, wanted).transpose() else {
                    return Ok(Vec::new());
                };
                let chosen = answer.iter().flat_map(|a| a.assigned_ipv6_prefixes());
                let chosen = prefixes(chosen.map(String::as_str));
                journal::change_prefixes(ASSIGN_V6, eni, &chosen, answer).map(|()| chosen)
            }
        }
    }

    fn choose_v4(
        &self,
        eni: &str,
        wanted: impl Fn() -> Option<Wanted>,
    ) -> Outcome<Option<AssignPrivateIpAddressesOutput>> {
        self.choose(ASSIGN_V4, wanted, |client: Client, wanted| {
            let request = client.assign_private_ip_addresses();
            let request = request.network_interface_id(eni);
            let request = request.set_secondary_private_ip_address_count(wanted.addresses());
            let request = request.set_ipv4_prefix_count(wanted.prefixes()).customize();
            request.config_override(ATTEMPTS.configuration()).send()
        })
    }

    fn choose_v6(
        &self,
        eni: &str,
        wanted: impl Fn() -> Option<Wanted>,
    ) -> Outcome<Option<AssignIpv6AddressesOutput>> {
        self.choose(ASSIGN_V6, wanted, |client: Client, wanted| {
            let request = client.assign_ipv6_addresses();
            let request = request.network_interface_id(eni);
            let request = request.set_ipv6_address_count(wanted.addresses());
            let request = request.set_ipv6_prefix_count(wanted.prefixes()).customize();
            request.config_override(ATTEMPTS.configuration()).send()
        })
    }

    /// Sends a request for what is wanted by the time that the budget allows it, if anything.
    fn choose<T, E, F>(
        &self,
        action: &'static str,
        wanted: impl Fn() -> Option<Wanted>,
        request: impl Fn(Client, Wanted) -> F,
    ) -> Outcome<Option<T>>
    where
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
        E: ProvideErrorMetadata + Error + 'static,
    {
        let answer = self.rate_limited(action, ATTEMPTS, || {
            let wanted = wanted();
            wanted
                .map(|wanted| self.ask(action, &|client| request(client, wanted)))
                .transpose()
        });
        if !matches!(answer, Ok(None)) {
            journal::answered(action, &answer);
        }
        answer
    }
}

fn action(family: Family) -> &'static str {
    match family {
        Family::V4 => ASSIGN_V4,
        Family::V6 => ASSIGN_V6,
    }
}

/// A number as EC2 takes it.
fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn addresses<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<IpAddr> {
    texts.filter_map(|text| parse_address(text).ok()).collect()
}

fn prefixes<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<Cidr> {
    texts.filter_map(|text| text.parse().ok()).collect()
}
