//! Has EC2 choose addresses and prefixes for an ENI: all of them or none. Each request that EC2
//! carries out assigns new ones, so a request is repeated only when EC2 has throttled it.

use std::net::IpAddr;

use aws_sdk_ec2::Client;
use aws_sdk_ec2::operation::assign_ipv6_addresses::AssignIpv6AddressesOutput;
use aws_sdk_ec2::operation::assign_private_ip_addresses::AssignPrivateIpAddressesOutput;
use common::address::{Cidr, parse_address};

use super::{Attempts, Ec2, Family, Outcome, journal};

const ASSIGN_V4: &str = "AssignPrivateIpAddresses";
const ASSIGN_V6: &str = "AssignIpv6Addresses";

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
    /// Has EC2 choose `count` addresses of one family for an ENI.
    pub(crate) fn assign_count(
        &self,
        eni: &str,
        family: Family,
        count: usize,
    ) -> Outcome<Vec<IpAddr>> {
        let wanted = Wanted::Addresses(self.counted(family, count));
        match family {
            Family::V4 => {
                let answer = self.choose_v4(eni, wanted);
                let chosen = answer
                    .iter()
                    .flat_map(|a| a.assigned_private_ip_addresses());
                let chosen = addresses(chosen.filter_map(|one| one.private_ip_address()));
                journal::change(ASSIGN_V4, eni, &chosen, answer).map(|()| chosen)
            }
            Family::V6 => {
                let answer = self.choose_v6(eni, wanted);
                let chosen = answer.iter().flat_map(|a| a.assigned_ipv6_addresses());
                let chosen = addresses(chosen.map(String::as_str));
                journal::change(ASSIGN_V6, eni, &chosen, answer).map(|()| chosen)
            }
        }
    }

    /// Has EC2 choose `count` prefixes of one family for an ENI.
    pub(crate) fn assign_prefixes(
        &self,
        eni: &str,
        family: Family,
        count: usize,
    ) -> Outcome<Vec<Cidr>> {
        let wanted = Wanted::Prefixes(self.counted(family, count));
        match family {
            Family::V4 => {
                let answer = self.choose_v4(eni, wanted);
                let chosen = answer.iter().flat_map(|a| a.assigned_ipv4_prefixes());
                let chosen = prefixes(chosen.filter_map(|one| one.ipv4_prefix()));
                journal::change_prefixes(ASSIGN_V4, eni, &chosen, answer).map(|()| chosen)
            }
            Family::V6 => {
                let answer = self.choose_v6(eni, wanted);
                let chosen = answer.iter().flat_map(|a| a.assigned_ipv6_prefixes());
                let chosen = prefixes(chosen.map(String::as_str));
                journal::change_prefixes(ASSIGN_V6, eni, &chosen, answer).map(|()| chosen)
            }
        }
    }

    /// The number in the type of EC2's API. Notes it in the metrics.
    fn counted(&self, family: Family, count: usize) -> i32 {
        let action = match family {
            Family::V4 => ASSIGN_V4,
            Family::V6 => ASSIGN_V6,
        };
        self.note_batch(action, count);
        i32::try_from(count).unwrap_or(i32::MAX)
    }

    fn choose_v4(&self, eni: &str, wanted: Wanted) -> Outcome<AssignPrivateIpAddressesOutput> {
        let attempts = Attempts::WhileThrottled;
        let request = |client: Client| {
            let request = client.assign_private_ip_addresses();
            let request = request.network_interface_id(eni);
            let request = request.set_secondary_private_ip_address_count(wanted.addresses());
            let request = request.set_ipv4_prefix_count(wanted.prefixes()).customize();
            request.config_override(attempts.configuration()).send()
        };
        self.call(ASSIGN_V4, attempts, request)
    }

    fn choose_v6(&self, eni: &str, wanted: Wanted) -> Outcome<AssignIpv6AddressesOutput> {
        let attempts = Attempts::WhileThrottled;
        let request = |client: Client| {
            let request = client.assign_ipv6_addresses();
            let request = request.network_interface_id(eni);
            let request = request.set_ipv6_address_count(wanted.addresses());
            let request = request.set_ipv6_prefix_count(wanted.prefixes()).customize();
            request.config_override(attempts.configuration()).send()
        };
        self.call(ASSIGN_V6, attempts, request)
    }
}

fn addresses<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<IpAddr> {
    texts.filter_map(|text| parse_address(text).ok()).collect()
}

fn prefixes<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<Cidr> {
    texts.filter_map(|text| text.parse().ok()).collect()
}
