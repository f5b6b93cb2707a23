//! Unassigns addresses and prefixes. A request that removes something from an ENI of this node
//! is repeated only after another look at the ENI: it may have gone to another node meanwhile,
//! whose pods have the addresses then, and no permission keeps EC2 from removing them there.

use std::cell::Cell;
use std::error::Error;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use aws_sdk_ec2::Client;
use aws_sdk_ec2::config::http::HttpResponse;
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use common::address::Cidr;

use super::{Attempts, Description, Ec2, Family, Outcome, journal, texts};
use crate::vpc::eni;
use crate::vpc::failure::Failure;
use crate::vpc::rate_limit::repeated;

/// How long a look at an ENI counts for a first request. A request may wait much longer for
/// the budget.
const COUNTS: Duration = Duration::from_secs(5);

/// An ENI of this node, for requests that remove something from it.
pub(crate) struct OwnEni<'a> {
    ec2: &'a Ec2,
    id: &'a str,
    instance: &'a str,
    /// When EC2 last showed it on this node.
    seen: Cell<Option<Instant>>,
}

impl<'a> OwnEni<'a> {
    /// The ENI `id`, which is attached to `instance`, this node, as far as is known.
    pub(crate) fn new(ec2: &'a Ec2, id: &'a str, instance: &'a str) -> Self {
        Self {
            ec2,
            id,
            instance,
            seen: Cell::new(None),
        }
    }

    /// The same for an ENI that EC2 has just shown on this node.
    #[must_use]
    pub(crate) fn seen_now(self) -> Self {
        self.seen.set(Some(Instant::now()));
        self
    }

    /// The ENI as EC2 shows it now.
    ///
    /// # Errors
    /// Those of the description, and [`Kind::NotOurs`](crate::vpc::failure::Kind::NotOurs) when
    /// the ENI is not on this node, or not for pods.
    pub(crate) fn look(&self) -> Outcome<Description> {
        self.seen.set(None);
        let found = self.ec2.eni(self.id)?;
        let is_here = |found: &Description| found.instance_id.as_deref() == Some(self.instance);
        let found = found
            .filter(|found| is_here(found) && eni::is_for_pods(found))
            .ok_or_else(|| Failure::not_ours(self.id))?;
        self.seen.set(Some(Instant::now()));
        Ok(found)
    }

    /// Looks at the ENI unless that was done a moment ago.
    fn look_if_needed(&self) -> Outcome<()> {
        match self.seen.get() {
            Some(seen) if seen.elapsed() < COUNTS => Ok(()),
            _ => self.look().map(drop),
        }
    }

    /// Removes addresses of one family: all of them or none.
    ///
    /// # Errors
    /// [`Kind::NotOurs`](crate::vpc::failure::Kind::NotOurs) when the ENI has left this node;
    /// an earlier attempt may have been carried out.
    pub(crate) fn unassign(&self, addresses: &[IpAddr]) -> Outcome<()> {
        self.ec2.unassign_in(self.id, addresses, Some(self))
    }

    /// Removes prefixes of one family: all of them or none. A prefix is a /28 or a /80 and uses the slot of one address. Source: Amazon EC2 User Guide,
    /// "Prefix delegation for Amazon EC2 network interfaces".
    ///
    /// # Errors
    /// As for [`OwnEni::unassign`].
    pub(crate) fn unassign_prefixes(&self, prefixes: &[Cidr]) -> Outcome<()> {
        match prefixes.first().map(|prefix| prefix.is_ipv4()) {
            Some(true) => self.unassign_prefixes_v4(prefixes),
            Some(false) => self.unassign_prefixes_v6(prefixes),
            None => Ok(()),
        }
    }

    fn unassign_prefixes_v4(&self, prefixes: &[Cidr]) -> Outcome<()> {
        const ACTION: &str = "UnassignPrivateIpAddresses";
        self.ec2.note_batch(ACTION, prefixes.len());
        let request = |client: Client| {
            let request = client.unassign_private_ip_addresses();
            let request = request.network_interface_id(self.id);
            let request = request.set_ipv4_prefixes(Some(texts(prefixes)));
            let once = Attempts::One.configuration();
            request.customize().config_override(once).send()
        };
        let answer = self.ec2.remove(ACTION, Some(self), request);
        journal::change_prefixes(ACTION, self.id, prefixes, answer)
    }

    fn unassign_prefixes_v6(&self, prefixes: &[Cidr]) -> Outcome<()> {
        const ACTION: &str = "UnassignIpv6Addresses";
        self.ec2.note_batch(ACTION, prefixes.len());
        let request = |client: Client| {
            let request = client.unassign_ipv6_addresses();
            let request = request.network_interface_id(self.id);
            let request = request.set_ipv6_prefixes(Some(texts(prefixes)));
            let once = Attempts::One.configuration();
            request.customize().config_override(once).send()
        };
        let answer = self.ec2.remove(ACTION, Some(self), request);
        journal::change_prefixes(ACTION, self.id, prefixes, answer)
    }
}

impl Ec2 {
    /// Removes addresses from an ENI of another node. The request is sent once: before sending
    /// it again, the caller has to look what has become of the ENI.
    pub(crate) fn unassign_once(&self, eni: &str, addresses: &[IpAddr]) -> Outcome<()> {
        self.unassign_in(eni, addresses, None)
    }

    fn unassign_in(
        &self,
        eni: &str,
        addresses: &[IpAddr],
        own: Option<&OwnEni<'_>>,
    ) -> Outcome<()> {
        match addresses.first().copied().map(Family::of) {
            Some(Family::V4) => self.unassign_v4(eni, addresses, own),
            Some(Family::V6) => self.unassign_v6(eni, addresses, own),
            None => Ok(()),
        }
    }

    fn unassign_v4(
        &self,
        eni: &str,
        addresses: &[IpAddr],
        own: Option<&OwnEni<'_>>,
    ) -> Outcome<()> {
        const ACTION: &str = "UnassignPrivateIpAddresses";
        self.note_batch(ACTION, addresses.len());
        let request = |client: Client| {
            let request = client.unassign_private_ip_addresses();
            let request = request.network_interface_id(eni);
            let request = request.set_private_ip_addresses(Some(texts(addresses)));
            let request = request.customize();
            let once = Attempts::One.configuration();
            request.config_override(once).send()
        };
        let answer = self.remove(ACTION, own, request);
        journal::change(ACTION, eni, addresses, answer)
    }

    fn unassign_v6(
        &self,
        eni: &str,
        addresses: &[IpAddr],
        own: Option<&OwnEni<'_>>,
    ) -> Outcome<()> {
        const ACTION: &str = "UnassignIpv6Addresses";
        self.note_batch(ACTION, addresses.len());
        let request = |client: Client| {
            let request = client.unassign_ipv6_addresses();
            let request = request.network_interface_id(eni);
            let request = request.set_ipv6_addresses(Some(texts(addresses)));
            let request = request.customize();
            let once = Attempts::One.configuration();
            request.config_override(once).send()
        };
        let answer = self.remove(ACTION, own, request);
        journal::change(ACTION, eni, addresses, answer)
    }

    /// Sends a request that removes something: for an ENI of this node until it is answered or
    /// too much time has passed, with a look at the ENI before each repetition; otherwise once.
    fn remove<T, E, F>(
        &self,
        action: &'static str,
        own: Option<&OwnEni<'_>>,
        request: impl Fn(Client) -> F,
    ) -> Outcome<T>
    where
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
        E: ProvideErrorMetadata + Error + 'static,
    {
        let Some(own) = own else {
            return self.call(action, Attempts::One, request);
        };
        // The wait for the budget is before this.
        let ask = || {
            own.look_if_needed()?;
            let answer = self.ask(action, &request);
            if answer.is_err() {
                own.seen.set(None);
            }
            answer
        };
        let answer = match &self.rate_limit {
            Some(rate_limit) => rate_limit.call(action, self.deadline.get(), ask),
            None => repeated(self.deadline.get(), ask),
        };
        journal::answered(action, &answer);
        answer
    }
}
