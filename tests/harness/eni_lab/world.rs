//! The objects of the simulated VPC. A world is cheap to copy. A call changes a copy,
//! which replaces the original only if the whole call succeeds, and former worlds are
//! kept for delayed descriptions.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use super::error::Ec2Error;
use super::event::{Event, Target};
use super::id::{EniId, GroupId, InstanceId, SubnetId, VpcId};
use super::{SECURITY_GROUP, ZONE};

/// The tag that keeps the VPC CNI away from an interface.
pub(super) const NO_MANAGE: &str = "node.k8s.amazonaws.com/no_manage";

#[derive(Debug)]
pub(super) struct Vpc {
    pub(super) id: VpcId,
    pub(super) cidr: Ipv4Network,
}

#[derive(Debug, Clone)]
pub(super) struct Subnet {
    pub(super) id: SubnetId,
    pub(super) vpc: VpcId,
    /// `None` in an IPv6-only subnet.
    pub(super) cidr: Option<Ipv4Network>,
    pub(super) ipv6: Vec<Ipv6Network>,
    pub(super) reservations: Vec<Reservation>,
    pub(super) zone: String,
    pub(super) tags: BTreeMap<String, String>,
}

impl Subnet {
    pub(super) fn cidrs(&self) -> impl Iterator<Item = IpNetwork> + '_ {
        let ipv6 = self.ipv6.iter().copied().map(IpNetwork::V6);
        self.cidr.map(IpNetwork::V4).into_iter().chain(ipv6)
    }
}

#[derive(Debug)]
pub(super) struct Group {
    pub(super) id: GroupId,
    pub(super) vpc: VpcId,
    pub(super) name: String,
    pub(super) tags: BTreeMap<String, String>,
}

#[derive(Debug, Clone)]
pub(super) struct Reservation {
    pub(super) id: String,
    pub(super) cidr: IpNetwork,
    pub(super) kind: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InstanceState {
    Running,
    ShuttingDown,
    Terminated,
    Stopped,
}

impl InstanceState {
    /// The code and the name in `instanceState`.
    pub(super) fn code_and_name(self) -> (u16, &'static str) {
        match self {
            Self::Running => (16, "running"),
            Self::ShuttingDown => (32, "shutting-down"),
            Self::Terminated => (48, "terminated"),
            Self::Stopped => (80, "stopped"),
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Instance {
    pub(super) id: InstanceId,
    pub(super) kind: String,
    pub(super) subnet: SubnetId,
    pub(super) state: InstanceState,
    pub(super) launched: SystemTime,
}

#[derive(Debug, Clone)]
pub(super) struct Attachment {
    pub(super) id: String,
    pub(super) instance: InstanceId,
    pub(super) network_card: u32,
    pub(super) device_index: u32,
    pub(super) delete_on_termination: bool,
    pub(super) is_detaching: bool,
    pub(super) since: Instant,
    pub(super) time: SystemTime,
}

impl Attachment {
    pub(super) fn place(&self) -> Place {
        (self.network_card, self.device_index)
    }
}

/// The position of an attached interface: the network card and the device index on it.
pub(super) type Place = (u32, u32);

/// The position of the primary interface of an instance.
pub(super) const PRIMARY: Place = (0, 0);

#[derive(Debug, Clone)]
pub(super) struct Eni {
    pub(super) id: EniId,
    pub(super) subnet: SubnetId,
    pub(super) vpc: VpcId,
    pub(super) zone: String,
    pub(super) groups: Vec<String>,
    pub(super) mac: String,
    /// `None` in an IPv6-only subnet.
    pub(super) primary: Option<Ipv4Addr>,
    /// Secondary IPv4 addresses and all IPv6 addresses, in the order of their assignment.
    pub(super) addresses: Vec<IpAddr>,
    /// The prefixes that are delegated to it, /28 and /80.
    pub(super) prefixes: Vec<IpNetwork>,
    pub(super) tags: BTreeMap<String, String>,
    pub(super) description: String,
    /// Who has created it, and whether that is a service of AWS.
    pub(super) requester: (String, bool),
    pub(super) attachment: Option<Attachment>,
    pub(super) source_dest_check: bool,
}

impl Eni {
    /// The primary address.
    pub(super) fn primary(&self) -> Option<IpAddr> {
        self.primary.map(IpAddr::V4)
    }

    /// All single addresses, the primary one first.
    pub(super) fn all(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.primary()
            .into_iter()
            .chain(self.addresses.iter().copied())
    }

    pub(super) fn ipv4(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().copied().filter(IpAddr::is_ipv4)
    }

    pub(super) fn ipv6(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().copied().filter(IpAddr::is_ipv6)
    }

    /// Whether the VPC delivers packets for the address to it.
    pub(super) fn covers(&self, address: IpAddr) -> bool {
        self.all().any(|own| own == address)
            || self.prefixes.iter().any(|prefix| prefix.contains(address))
    }

    /// The number of used slots of a family: each address and each prefix uses one.
    pub(super) fn used(&self, ipv6: bool) -> usize {
        let prefixes = self.prefixes.iter().filter(|p| p.is_ipv6() == ipv6);
        let own = self.all().filter(|address| address.is_ipv6() == ipv6);
        own.count() + prefixes.count()
    }

    pub(super) fn instance(&self) -> Option<&InstanceId> {
        self.attachment.as_ref().map(|a| &a.instance)
    }

    pub(super) fn status(&self) -> &'static str {
        if self.attachment.is_some() {
            "in-use"
        } else {
            "available"
        }
    }
}

/// A delayed change.
#[derive(Debug, Clone)]
pub(super) struct Scheduled {
    pub(super) due: Instant,
    pub(super) what: Due,
}

#[derive(Debug, Clone)]
pub(super) enum Due {
    Move {
        address: IpAddr,
        vpc: VpcId,
        from: EniId,
        to: EniId,
    },
    Terminated(InstanceId),
    /// The end of this attachment.
    Detached(String),
}

impl Scheduled {
    /// Whether this moves this address of this VPC.
    pub(super) fn moves(&self, of: &VpcId, moving: IpAddr) -> bool {
        matches!(&self.what, Due::Move { address, vpc, .. } if vpc == of && *address == moving)
    }
}

/// All objects.
#[derive(Debug, Clone, Default)]
pub(super) struct World {
    pub(super) vpcs: BTreeMap<VpcId, Arc<Vpc>>,
    pub(super) subnets: BTreeMap<SubnetId, Arc<Subnet>>,
    /// The security groups except the one that every VPC has.
    pub(super) groups: BTreeMap<GroupId, Arc<Group>>,
    pub(super) instances: BTreeMap<InstanceId, Arc<Instance>>,
    pub(super) enis: BTreeMap<EniId, Arc<Eni>>,
    pub(super) scheduled: Vec<Scheduled>,
    /// The client tokens of interfaces that were created, each with its request.
    pub(super) client_tokens: BTreeMap<String, (String, EniId)>,
    pub(super) serial: u64,
}

impl World {
    /// Makes all attachments older.
    pub(super) fn age(&mut self, by: Duration) {
        for eni in self.enis.values_mut() {
            if let Some(attachment) = &mut Arc::make_mut(eni).attachment {
                attachment.time = attachment.time.checked_sub(by).unwrap_or(attachment.time);
            }
        }
    }

    pub(super) fn vpc(&self, id: &str) -> Result<&Vpc, Ec2Error> {
        let found = self.vpcs.get(&VpcId::from(id));
        found
            .map(Arc::as_ref)
            .ok_or_else(|| Ec2Error::not_found("InvalidVpcID.NotFound", "vpc", id))
    }

    pub(super) fn subnet(&self, id: &str) -> Result<&Subnet, Ec2Error> {
        let found = self.subnets.get(&SubnetId::from(id));
        found
            .map(Arc::as_ref)
            .ok_or_else(|| Ec2Error::not_found("InvalidSubnetID.NotFound", "subnet", id))
    }

    /// The VPC of a security group; `None` for the group that every VPC has.
    pub(super) fn vpc_of_group(&self, id: &str) -> Result<Option<&VpcId>, Ec2Error> {
        if id == SECURITY_GROUP {
            return Ok(None);
        }
        let found = self.groups.get(&GroupId::from(id));
        found
            .map(|group| Some(&group.vpc))
            .ok_or_else(|| Ec2Error::not_found("InvalidGroup.NotFound", "security group", id))
    }

    /// The availability zone of an instance: that of its subnet.
    pub(super) fn zone(&self, instance: &Instance) -> &str {
        let subnet = self.subnets.get(&instance.subnet);
        subnet.map_or(ZONE, |subnet| subnet.zone.as_str())
    }

    pub(super) fn instance(&self, id: &str) -> Result<&Instance, Ec2Error> {
        let found = self.instances.get(&InstanceId::from(id));
        found
            .map(Arc::as_ref)
            .ok_or_else(|| Ec2Error::not_found("InvalidInstanceID.NotFound", "instance", id))
    }

    pub(super) fn eni(&self, id: &str) -> Result<&Eni, Ec2Error> {
        let found = self.enis.get(&EniId::from(id));
        found.map(Arc::as_ref).ok_or_else(|| no_eni(id))
    }

    pub(super) fn eni_mut(&mut self, id: &str) -> Result<&mut Eni, Ec2Error> {
        let found = self.enis.get_mut(&EniId::from(id));
        found.map(Arc::make_mut).ok_or_else(|| no_eni(id))
    }

    /// The interface of the VPC that has the address: primary, secondary or in a prefix.
    pub(super) fn owner(&self, vpc: &VpcId, address: IpAddr) -> Option<&Eni> {
        let has = |eni: &&Arc<Eni>| eni.vpc == *vpc && eni.covers(address);
        self.enis.values().find(has).map(Arc::as_ref)
    }

    /// The interfaces of an instance by network card and device index.
    pub(super) fn attached<'a>(&'a self, instance: &InstanceId) -> BTreeMap<Place, &'a Eni> {
        let enis = self.enis.values().filter_map(|eni| {
            let attachment = eni.attachment.as_ref()?;
            (attachment.instance == *instance).then_some((attachment.place(), eni.as_ref()))
        });
        enis.collect()
    }

    pub(super) fn is_running(&self, instance: Option<&InstanceId>) -> bool {
        instance
            .and_then(|id| self.instances.get(id))
            .is_some_and(|i| i.state == InstanceState::Running)
    }

    /// The state of an interface for the log.
    pub(super) fn target(&self, eni: &str) -> Option<Target> {
        let eni = self.eni(eni).ok()?;
        Some(Target {
            instance: eni.instance().cloned(),
            running: self.is_running(eni.instance()),
            place: eni.attachment.as_ref().map(Attachment::place),
            unmanaged: eni.tags.get(NO_MANAGE).is_some_and(|v| v == "true"),
        })
    }

    /// A new identifier with this prefix, as long as those of AWS.
    pub(super) fn next_id(&mut self, prefix: &str) -> String {
        self.serial += 1;
        format!("{prefix}-0ab{:014x}", self.serial)
    }

    /// Applies every delayed change that is due.
    pub(super) fn settle(&mut self, now: Instant, events: &mut Vec<Event>) {
        while let Some(index) = self.first_due(now) {
            match self.scheduled.remove(index).what {
                Due::Move {
                    address, from, to, ..
                } => self.finish_move(address, &from, &to, events),
                Due::Terminated(instance) => self.finish_termination(&instance, events),
                Due::Detached(attachment) => self.finish_detachment(&attachment),
            }
        }
    }

    fn finish_detachment(&mut self, id: &str) {
        let mut enis = self.enis.values_mut();
        let has_it = |eni: &&mut Arc<Eni>| eni.attachment.as_ref().is_some_and(|a| a.id == id);
        if let Some(eni) = enis.find(has_it) {
            Arc::make_mut(eni).attachment = None;
        }
    }

    /// When the next delayed change is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.scheduled.iter().map(|s| s.due).min()
    }

    fn first_due(&self, now: Instant) -> Option<usize> {
        let due = self.scheduled.iter().enumerate().filter(|s| s.1.due <= now);
        due.min_by_key(|s| s.1.due).map(|s| s.0)
    }

    /// Meanwhile both interfaces may have been deleted, and the address may be free or
    /// assigned to another one.
    pub(super) fn finish_move(
        &mut self,
        address: IpAddr,
        from: &EniId,
        to: &EniId,
        events: &mut Vec<Event>,
    ) {
        let Some(target) = self.enis.get(to) else {
            return;
        };
        let (vpc, instance) = (target.vpc.clone(), target.instance().cloned());
        match self.owner(&vpc, address).map(|eni| eni.id.clone()) {
            Some(owner) if owner == *from => {
                if let Ok(eni) = self.eni_mut(from.as_str()) {
                    eni.addresses.retain(|a| *a != address);
                }
                events.push(Event::Moved {
                    address,
                    vpc,
                    from: from.clone(),
                    to: to.clone(),
                });
            }
            Some(_) => return,
            None => events.push(Event::Assigned {
                address,
                vpc,
                eni: to.clone(),
                instance,
            }),
        }
        if let Ok(eni) = self.eni_mut(to.as_str()) {
            eni.addresses.push(address);
        }
    }

    /// Interfaces with `DeleteOnTermination` are deleted, the others become available.
    pub(super) fn finish_termination(&mut self, instance: &InstanceId, events: &mut Vec<Event>) {
        if let Some(instance) = self.instances.get_mut(instance) {
            Arc::make_mut(instance).state = InstanceState::Terminated;
        }
        let attached: Vec<(EniId, bool)> = self
            .attached(instance)
            .values()
            .filter_map(|eni| {
                Some((
                    eni.id.clone(),
                    eni.attachment.as_ref()?.delete_on_termination,
                ))
            })
            .collect();
        for (eni, delete) in attached {
            if delete {
                self.remove_eni(&eni, None, events);
            } else if let Ok(eni) = self.eni_mut(eni.as_str()) {
                eni.attachment = None;
            }
        }
    }

    /// Deletes an interface, which frees its addresses.
    pub(super) fn remove_eni(
        &mut self,
        id: &EniId,
        by: Option<&InstanceId>,
        events: &mut Vec<Event>,
    ) {
        let Some(eni) = self.enis.remove(id) else {
            return;
        };
        let freed = eni.addresses.iter().map(|address| Event::Unassigned {
            address: *address,
            vpc: eni.vpc.clone(),
            eni: id.clone(),
            by_instance: by.cloned(),
        });
        events.extend(freed);
    }
}

fn no_eni(id: &str) -> Ec2Error {
    Ec2Error::not_found("InvalidNetworkInterfaceID.NotFound", "networkInterface", id)
}
