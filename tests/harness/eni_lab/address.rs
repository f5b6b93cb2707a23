//! EC2's rules for assigning and unassigning the addresses of interfaces. All-or-nothing:
//! after an error, the caller discards the copy of the world.

use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::IpNetwork;

use super::change::Change;
use super::error::Ec2Error;
use super::event::Event;
use super::id::EniId;
use super::rules::Repeat;
use super::world::{Due, Eni, Scheduled, Subnet};

/// The addresses that AWS reserves in each range of a subnet: the first four and the
/// last.
const RESERVED_FIRST: u128 = 4;

impl Change<'_> {
    /// Assigns these addresses, all of one family, and returns those that are new.
    pub(super) fn assign(
        &mut self,
        eni: &str,
        requested: &[IpAddr],
        reassign: bool,
    ) -> Result<Vec<IpAddr>, Ec2Error> {
        let eni = self.world.eni(eni)?.clone();
        let subnet = self.world.subnet(eni.subnet.as_str())?.clone();
        for address in requested {
            check_range(&subnet, *address)?;
        }
        let new = self.without_repeated(&eni, requested)?;
        self.check_primaries(&eni, &new, reassign)?;
        self.check_conflicts(&eni, &new, reassign)?;
        self.check_limit(&eni, &new)?;
        for address in &new {
            self.take(&eni, *address);
        }
        Ok(new)
    }

    /// Assigns this number of addresses, chosen by EC2.
    pub(super) fn assign_count(
        &mut self,
        eni: &str,
        count: usize,
        ipv6: bool,
    ) -> Result<Vec<IpAddr>, Ec2Error> {
        let found = self.world.eni(eni)?;
        let subnet = self.world.subnet(found.subnet.as_str())?.clone();
        let chosen: Vec<IpAddr> = self.free(&subnet, ipv6).take(count).collect();
        if chosen.len() < count {
            return Err(no_free_address());
        }
        self.assign(eni, &chosen, false)
    }

    pub(super) fn unassign(&mut self, eni: &str, addresses: &[IpAddr]) -> Result<(), Ec2Error> {
        let found = self.world.eni(eni)?;
        let (id, vpc, primary) = (found.id.clone(), found.vpc.clone(), found.primary());
        if let Some(primary) = primary.filter(|primary| addresses.contains(primary)) {
            self.touch_primary(primary, id);
            let message = format!("The primary IP address {primary} cannot be unassigned");
            return Err(Ec2Error::value(message));
        }
        if addresses.iter().any(|a| !found.addresses.contains(a)) {
            return Err(Ec2Error::value(format!(
                "Some of the specified addresses are not assigned to interface {eni}"
            )));
        }
        if let Some(pinned) = addresses.iter().find(|a| self.rules.pinned.contains(a)) {
            let message = format!("{pinned} cannot be unassigned from interface {eni}");
            return Err(Ec2Error::value(message));
        }
        self.world
            .eni_mut(eni)?
            .addresses
            .retain(|a| !addresses.contains(a));
        for address in addresses {
            self.events.push(Event::Unassigned {
                address: *address,
                vpc: vpc.clone(),
                eni: id.clone(),
                by_instance: self.by.clone(),
            });
        }
        Ok(())
    }

    /// An IPv4 address of the subnet for a new interface.
    pub(super) fn free_ipv4(&self, subnet: &Subnet) -> Result<Ipv4Addr, Ec2Error> {
        match self.free(subnet, false).next() {
            Some(IpAddr::V4(address)) => Ok(address),
            _ => Err(no_free_address()),
        }
    }

    /// The addresses that EC2 may choose: none that is in a reservation.
    pub(super) fn free<'a>(
        &'a self,
        subnet: &'a Subnet,
        ipv6: bool,
    ) -> impl Iterator<Item = IpAddr> + 'a {
        let cidrs = subnet.cidrs().filter(move |c| c.is_ipv6() == ipv6);
        cidrs.flat_map(|c| c.iter()).filter(|address| {
            check_range(subnet, *address).is_ok()
                && !subnet
                    .reservations
                    .iter()
                    .any(|r| r.cidr.contains(*address))
                && self.world.owner(&subnet.vpc, *address).is_none()
        })
    }

    /// The requested addresses that the interface neither has nor is about to get.
    fn without_repeated(&self, eni: &Eni, requested: &[IpAddr]) -> Result<Vec<IpAddr>, Ec2Error> {
        let mut new: Vec<IpAddr> = Vec::new();
        let mut repeated = Vec::new();
        for address in requested {
            let moves_to = self.moves_to(eni, *address);
            let has = match moves_to {
                Some(to) => *to == eni.id,
                None => eni.addresses.contains(address),
            };
            if has {
                repeated.push(*address);
            } else if !new.contains(address) {
                new.push(*address);
            }
        }
        if !repeated.is_empty() && self.rules.repeat_assign == Repeat::Refuse {
            return Err(Ec2Error::value(format!(
                "{} already assigned to interface {}",
                listed(&repeated),
                eni.id
            )));
        }
        Ok(new)
    }

    /// A primary address never becomes a secondary one, not even of its own interface.
    fn check_primaries(
        &mut self,
        eni: &Eni,
        new: &[IpAddr],
        reassign: bool,
    ) -> Result<(), Ec2Error> {
        let primary = new.iter().find_map(|address| {
            let owner = self.world.owner(&eni.vpc, *address)?;
            (owner.primary() == Some(*address)).then(|| (*address, owner.id.clone()))
        });
        let Some((address, owner)) = primary else {
            return Ok(());
        };
        if reassign {
            self.touch_primary(address, owner);
        }
        Err(Ec2Error::value("secondary-addresses"))
    }

    fn touch_primary(&mut self, address: IpAddr, eni: EniId) {
        let by = self.by.clone();
        self.events.push(Event::PrimaryTouched { address, eni, by });
    }

    /// IPv6 addresses cannot be reassigned at all.
    fn check_conflicts(&self, eni: &Eni, new: &[IpAddr], reassign: bool) -> Result<(), Ec2Error> {
        let taken = |address: &&IpAddr| {
            self.world.owner(&eni.vpc, **address).is_some()
                || self.moves_to(eni, **address).is_some()
        };
        let taken: Vec<IpAddr> = new.iter().filter(taken).copied().collect();
        let Some(first) = taken.first() else {
            return Ok(());
        };
        let message = format!("{} assigned, but move is not allowed.", listed(&taken));
        let owner = self.world.owner(&eni.vpc, *first);
        let in_prefix = owner.is_some_and(|o| o.prefixes.iter().any(|p| p.contains(*first)));
        match first {
            _ if in_prefix => Err(Ec2Error::value(message)),
            IpAddr::V6(_) => Err(Ec2Error::bad(&self.rules.ipv6_conflict_code, message)),
            IpAddr::V4(_) if reassign => Ok(()),
            IpAddr::V4(_) => Err(Ec2Error::value(message)),
        }
    }

    /// The primary address counts, and so do addresses that are still to be moved here.
    /// An interface that is not attached has no instance type to limit it.
    fn check_limit(&self, eni: &Eni, new: &[IpAddr]) -> Result<(), Ec2Error> {
        let (Some(instance), Some(first)) = (eni.instance(), new.first()) else {
            return Ok(());
        };
        let limits = self.limits(&self.world.instance(instance.as_str())?.kind)?;
        let ipv6 = first.is_ipv6();
        let own = eni.used(ipv6);
        let coming = self.world.scheduled.iter().filter(
            |s| matches!(&s.what, Due::Move { address, to, .. } if *to == eni.id && address.is_ipv6() == ipv6),
        );
        let limit = if ipv6 { limits.ipv6 } else { limits.ipv4 };
        if own + coming.count() + new.len() <= limit {
            return Ok(());
        }
        let code = if ipv6 {
            &self.rules.ipv6_limit_code
        } else {
            "PrivateIpAddressLimitExceeded"
        };
        let message = format!("{}: Number of private addresses will exceed limit.", eni.id);
        Err(Ec2Error::bad(code, message))
    }

    /// Assigns the address to the interface, now or when a reassignment takes effect.
    fn take(&mut self, eni: &Eni, address: IpAddr) {
        let owner = self.world.owner(&eni.vpc, address);
        let owner = owner.map(|o| (o.id.clone(), self.world.is_running(o.instance())));
        // Of several pending reassignments, the one requested last counts.
        self.world.scheduled.retain(|s| !s.moves(&eni.vpc, address));
        let Some((from, owner_running)) = owner else {
            let to = &eni.id;
            return self.world.finish_move(address, to, to, &mut self.events);
        };
        if from == eni.id {
            return;
        }
        self.events.push(Event::Reassigned {
            address,
            from: from.clone(),
            to: eni.id.clone(),
            by: self.by.clone(),
            owner_running,
        });
        self.world.scheduled.push(Scheduled {
            due: self.now + self.rules.reassign_delay,
            what: Due::Move {
                address,
                vpc: eni.vpc.clone(),
                from,
                to: eni.id.clone(),
            },
        });
        self.world.settle(self.now, &mut self.events);
    }

    /// The interface that an address of this VPC will be moved to.
    fn moves_to(&self, eni: &Eni, address: IpAddr) -> Option<&EniId> {
        let moving = |s: &&Scheduled| s.moves(&eni.vpc, address);
        match &self.world.scheduled.iter().find(moving)?.what {
            Due::Move { to, .. } => Some(to),
            Due::Terminated(_) | Due::Detached(_) => None,
        }
    }
}

/// Refuses addresses outside of the subnet, and those that AWS reserves.
pub(super) fn check_range(subnet: &Subnet, address: IpAddr) -> Result<(), Ec2Error> {
    let Some(cidr) = subnet.cidrs().find(|c| c.contains(address)) else {
        return Err(Ec2Error::value(format!(
            "Address {address} does not fall within the subnet's address range"
        )));
    };
    let offset = number(address) - number(cidr.network());
    if offset < RESERVED_FIRST || address == cidr.broadcast() {
        return Err(Ec2Error::value(format!(
            "Address {address} is in subnet's reserved address range"
        )));
    }
    Ok(())
}

/// The number of addresses of the IPv4 range that AWS does not reserve; 0 without such a
/// range.
pub(super) fn usable(subnet: &Subnet) -> u128 {
    let cidr = subnet.cidr.map(IpNetwork::V4);
    cidr.map_or(0, |cidr| {
        number(cidr.broadcast()) - number(cidr.network()) - RESERVED_FIRST
    })
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// `[10.0.4.70, 10.0.4.71]`, as EC2 lists addresses in its messages.
fn listed(addresses: &[IpAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    format!("[{}]", texts.join(", "))
}

fn no_free_address() -> Ec2Error {
    Ec2Error::bad(
        "InsufficientFreeAddressesInSubnet",
        "The specified subnet does not have enough free addresses to satisfy the request.",
    )
}
