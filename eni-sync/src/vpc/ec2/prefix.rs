//! Has EC2 give prefixes to ENIs and take them back. Source: Amazon EC2 User Guide, "Prefix
//! delegation for Amazon EC2 network interfaces": a /28 or a /80 in the place of one address.

use aws_sdk_ec2::Client;
use common::address::Cidr;

use super::{Attempts, Ec2, Family, Outcome, journal};

impl Ec2 {
    /// Has EC2 choose so many prefixes of one family for an ENI: all of them or none. Each
    /// request that is done gives others, so it is sent again only when EC2 has refused it.
    pub(crate) fn assign_prefixes(
        &self,
        eni: &str,
        family: Family,
        count: usize,
    ) -> Outcome<Vec<Cidr>> {
        let number = i32::try_from(count).unwrap_or(i32::MAX);
        match family {
            Family::V4 => self.prefixes_v4(eni, number),
            Family::V6 => self.prefixes_v6(eni, number),
        }
    }

    /// Takes a prefix from an ENI.
    pub(crate) fn unassign_prefix(&self, eni: &str, prefix: Cidr) -> Outcome<()> {
        match prefix.is_ipv4() {
            true => self.unassign_prefix_v4(eni, prefix),
            false => self.unassign_prefix_v6(eni, prefix),
        }
    }

    fn prefixes_v4(&self, eni: &str, count: i32) -> Outcome<Vec<Cidr>> {
        const ACTION: &str = "AssignPrivateIpAddresses";
        self.note_batch(ACTION, usize::try_from(count).unwrap_or_default());
        let attempts = Attempts::UntilHeard;
        let request = |client: Client| {
            let request = client.assign_private_ip_addresses();
            let request = request.network_interface_id(eni);
            let request = request.ipv4_prefix_count(count).customize();
            request.config_override(attempts.configuration()).send()
        };
        let answer = self.call(ACTION, attempts, request);
        let chosen = answer.iter().flat_map(|a| a.assigned_ipv4_prefixes());
        let chosen = parsed(chosen.filter_map(|chosen| chosen.ipv4_prefix()));
        journal::change_prefixes(ACTION, eni, &chosen, answer).map(|()| chosen)
    }

    fn prefixes_v6(&self, eni: &str, count: i32) -> Outcome<Vec<Cidr>> {
        const ACTION: &str = "AssignIpv6Addresses";
        self.note_batch(ACTION, usize::try_from(count).unwrap_or_default());
        let attempts = Attempts::UntilHeard;
        let request = |client: Client| {
            let request = client.assign_ipv6_addresses();
            let request = request.network_interface_id(eni);
            let request = request.ipv6_prefix_count(count).customize();
            request.config_override(attempts.configuration()).send()
        };
        let answer = self.call(ACTION, attempts, request);
        let chosen = answer.iter().flat_map(|a| a.assigned_ipv6_prefixes());
        let chosen = parsed(chosen.map(String::as_str));
        journal::change_prefixes(ACTION, eni, &chosen, answer).map(|()| chosen)
    }

    fn unassign_prefix_v4(&self, eni: &str, prefix: Cidr) -> Outcome<()> {
        const ACTION: &str = "UnassignPrivateIpAddresses";
        self.note_batch(ACTION, 1);
        let request = |client: Client| {
            let request = client.unassign_private_ip_addresses();
            let request = request.network_interface_id(eni);
            request.ipv4_prefixes(prefix.to_string()).send()
        };
        let answer = self.call(ACTION, Attempts::Many, request);
        journal::change_prefixes(ACTION, eni, &[prefix], answer)
    }

    fn unassign_prefix_v6(&self, eni: &str, prefix: Cidr) -> Outcome<()> {
        const ACTION: &str = "UnassignIpv6Addresses";
        self.note_batch(ACTION, 1);
        let request = |client: Client| {
            let request = client.unassign_ipv6_addresses();
            let request = request.network_interface_id(eni);
            request.ipv6_prefixes(prefix.to_string()).send()
        };
        let answer = self.call(ACTION, Attempts::Many, request);
        journal::change_prefixes(ACTION, eni, &[prefix], answer)
    }
}

fn parsed<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<Cidr> {
    texts.filter_map(|text| text.parse().ok()).collect()
}
