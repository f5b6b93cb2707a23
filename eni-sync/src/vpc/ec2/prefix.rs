//! Unassigns prefixes of ENIs. Source: Amazon EC2 User Guide, "Prefix delegation for Amazon EC2
//! network interfaces": a prefix is a /28 or a /80 and uses the slot of one address.

use aws_sdk_ec2::Client;
use common::address::Cidr;

use super::{Attempts, Ec2, Outcome, journal, texts};

impl Ec2 {
    /// Unassigns prefixes of one family from an ENI: all of them or none.
    pub(crate) fn unassign_prefixes(&self, eni: &str, prefixes: &[Cidr]) -> Outcome<()> {
        match prefixes.first().map(|prefix| prefix.is_ipv4()) {
            Some(true) => self.unassign_prefixes_v4(eni, prefixes),
            Some(false) => self.unassign_prefixes_v6(eni, prefixes),
            None => Ok(()),
        }
    }

    fn unassign_prefixes_v4(&self, eni: &str, prefixes: &[Cidr]) -> Outcome<()> {
        const ACTION: &str = "UnassignPrivateIpAddresses";
        self.note_batch(ACTION, prefixes.len());
        let request = |client: Client| {
            let request = client.unassign_private_ip_addresses();
            let request = request.network_interface_id(eni);
            request.set_ipv4_prefixes(Some(texts(prefixes))).send()
        };
        let answer = self.call(ACTION, Attempts::Many, request);
        journal::change_prefixes(ACTION, eni, prefixes, answer)
    }

    fn unassign_prefixes_v6(&self, eni: &str, prefixes: &[Cidr]) -> Outcome<()> {
        const ACTION: &str = "UnassignIpv6Addresses";
        self.note_batch(ACTION, prefixes.len());
        let request = |client: Client| {
            let request = client.unassign_ipv6_addresses();
            let request = request.network_interface_id(eni);
            request.set_ipv6_prefixes(Some(texts(prefixes))).send()
        };
        let answer = self.call(ACTION, Attempts::Many, request);
        journal::change_prefixes(ACTION, eni, prefixes, answer)
    }
}
