//! Prefixes that are delegated to interfaces: /28 and /80, each in one slot. Source:
//! Amazon EC2 User Guide, "Prefix delegation for Amazon EC2 network interfaces".

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::change::Change;
use super::error::Ec2Error;
use super::world::{Eni, Subnet};

/// The length of a prefix in each family.
const IPV4_LENGTH: u8 = 28;
const IPV6_LENGTH: u8 = 80;

impl Change<'_> {
    /// Delegates these prefixes, all of one family, to the interface.
    pub(super) fn assign_prefixes(
        &mut self,
        eni: &str,
        prefixes: &[IpNetwork],
    ) -> Result<(), Ec2Error> {
        let found = self.world.eni(eni)?.clone();
        let subnet = self.world.subnet(found.subnet.as_str())?.clone();
        for prefix in prefixes {
            self.check_prefix(&subnet, *prefix)?;
        }
        self.check_slots(&found, prefixes)?;
        let eni = self.world.eni_mut(eni)?;
        eni.prefixes.extend(prefixes);
        Ok(())
    }

    /// Delegates this number of prefixes, chosen by EC2, and returns them.
    pub(super) fn assign_prefix_count(
        &mut self,
        eni: &str,
        count: usize,
        ipv6: bool,
    ) -> Result<Vec<IpNetwork>, Ec2Error> {
        let found = self.world.eni(eni)?;
        let subnet = self.world.subnet(found.subnet.as_str())?.clone();
        // Ranges reserved for prefixes come first; ranges reserved for addresses are never
        // used.
        let reservation = |prefix: &IpNetwork| {
            let mut reservations = subnet.reservations.iter();
            reservations.find(|r| r.cidr.contains(prefix.network()))
        };
        let is_kind = |prefix: &IpNetwork, kind: &str| {
            reservation(prefix).is_some_and(|reservation| reservation.kind == kind)
        };
        let is_free = |p: &IpNetwork| self.check_prefix(&subnet, *p).is_ok();
        let free = prefixes_of(&subnet, ipv6).filter(is_free);
        let mut free: Vec<IpNetwork> = free.filter(|p| !is_kind(p, "explicit")).collect();
        free.sort_by_key(|prefix| !is_kind(prefix, "prefix"));
        let chosen: Vec<IpNetwork> = free.into_iter().take(count).collect();
        if chosen.len() < count {
            return Err(Ec2Error::bad(
                "InsufficientCidrBlocks",
                "The specified subnet does not have enough free cidr blocks to satisfy the request.",
            ));
        }
        self.assign_prefixes(eni, &chosen)?;
        Ok(chosen)
    }

    /// Unassigns prefixes from the interface.
    pub(super) fn unassign_prefixes(
        &mut self,
        eni: &str,
        prefixes: &[IpNetwork],
    ) -> Result<(), Ec2Error> {
        let found = self.world.eni_mut(eni)?;
        if prefixes.iter().any(|p| !found.prefixes.contains(p)) {
            let message = "Some of the specified prefixes are not assigned to interface";
            return Err(Ec2Error::value(format!("{message} {eni}")));
        }
        found.prefixes.retain(|p| !prefixes.contains(p));
        Ok(())
    }

    /// A prefix must have the right length, be in the subnet, and have no address that is
    /// assigned.
    fn check_prefix(&self, subnet: &Subnet, prefix: IpNetwork) -> Result<(), Ec2Error> {
        let length = if prefix.is_ipv6() {
            IPV6_LENGTH
        } else {
            IPV4_LENGTH
        };
        let cidr = subnet.cidrs().find(|cidr| cidr.contains(prefix.network()));
        let is_whole = prefix.prefix() == length && prefix.network() == prefix.ip();
        let Some(cidr) = cidr.filter(|_| is_whole) else {
            return Err(Ec2Error::value(format!(
                "The prefix {prefix} is not a prefix of the subnet"
            )));
        };
        let is_reserved = [cidr.network(), cidr.broadcast()]
            .iter()
            .any(|address| prefix.contains(*address));
        let is_taken = |eni: &Eni| {
            eni.vpc == subnet.vpc
                && (eni.all().any(|address| prefix.contains(address))
                    || eni.prefixes.contains(&prefix))
        };
        if is_reserved || self.world.enis.values().any(|eni| is_taken(eni)) {
            return Err(Ec2Error::value(format!("The prefix {prefix} is not free")));
        }
        Ok(())
    }

    fn check_slots(&self, eni: &Eni, prefixes: &[IpNetwork]) -> Result<(), Ec2Error> {
        let (Some(instance), Some(first)) = (eni.instance(), prefixes.first()) else {
            return Ok(());
        };
        let limits = self.limits(&self.world.instance(instance.as_str())?.kind)?;
        let limit = if first.is_ipv6() {
            limits.ipv6
        } else {
            limits.ipv4
        };
        let code = if first.is_ipv6() {
            &self.rules.ipv6_limit_code
        } else {
            "PrivateIpAddressLimitExceeded"
        };
        match eni.used(first.is_ipv6()) + prefixes.len() <= limit {
            true => Ok(()),
            false => Err(Ec2Error::bad(
                code,
                format!("{}: Number of private addresses will exceed limit.", eni.id),
            )),
        }
    }
}

/// The prefixes of a family in a subnet; of IPv6 only the first 4096, which are enough for
/// every test.
fn prefixes_of(subnet: &Subnet, ipv6: bool) -> impl Iterator<Item = IpNetwork> + '_ {
    let cidrs = subnet.cidrs().filter(move |cidr| cidr.is_ipv6() == ipv6);
    cidrs.flat_map(|cidr| {
        let (step, length) = match cidr {
            IpNetwork::V4(_) => (1_u128 << 4, IPV4_LENGTH),
            IpNetwork::V6(_) => (1_u128 << 48, IPV6_LENGTH),
        };
        let at = move |number: u128| match cidr.network() {
            IpAddr::V4(first) => {
                let offset = u32::try_from(number * step).ok()?;
                Some(IpAddr::V4(first.to_bits().checked_add(offset)?.into()))
            }
            IpAddr::V6(first) => Some(IpAddr::V6((first.to_bits() + number * step).into())),
        };
        let addresses = (0..4096).map_while(at);
        let inside = addresses.take_while(move |address| cidr.contains(*address));
        inside.filter_map(move |address| IpNetwork::new(address, length).ok())
    })
}
