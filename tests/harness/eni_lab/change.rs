//! Changes of what exists: VPCs, subnets, instances and interfaces. For addresses see
//! `address.rs`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use super::error::Ec2Error;
use super::event::Event;
use super::id::{EniId, GroupId, InstanceId, SubnetId, VpcId};
use super::limits::{Limits, TABLE};
use super::rules::Rules;
use super::world::{
    Attachment, Due, Eni, Group, Instance, InstanceState, NO_MANAGE, PRIMARY, Place, Reservation,
    Scheduled, Subnet, Vpc, World,
};
use super::{ACCOUNT, SECURITY_GROUP, ZONE};

/// The tag by which the VPC CNI recognises its interfaces. Source: amazon-vpc-cni-k8s,
/// `pkg/awsutils/awsutils.go`.
pub(super) const VPC_CNI: &str = "node.k8s.amazonaws.com/instance_id";

/// A change that is not yet complete: a copy of the world, and the events for the log.
pub(super) struct Change<'a> {
    pub(super) world: World,
    pub(super) rules: &'a Rules,
    pub(super) now: Instant,
    /// The instance whose credentials signed the call.
    pub(super) by: Option<InstanceId>,
    pub(super) events: Vec<Event>,
}

impl Change<'_> {
    pub(super) fn create_vpc(&mut self, cidr: Ipv4Network) -> VpcId {
        let id = VpcId::from(self.world.next_id("vpc").as_str());
        let vpc = Vpc {
            id: id.clone(),
            cidr,
        };
        self.world.vpcs.insert(id.clone(), Arc::new(vpc));
        id
    }

    pub(super) fn create_subnet(
        &mut self,
        vpc: &str,
        cidr: Option<Ipv4Network>,
        ipv6: Option<Ipv6Network>,
    ) -> Result<SubnetId, Ec2Error> {
        let vpc = self.world.vpc(vpc)?.id.clone();
        if let Some(cidr) = cidr {
            self.check_cidr(&vpc, cidr)?;
        }
        let id = SubnetId::from(self.world.next_id("subnet").as_str());
        let subnet = Subnet {
            id: id.clone(),
            vpc,
            cidr,
            ipv6: ipv6.into_iter().collect(),
            reservations: Vec::new(),
            zone: ZONE.to_owned(),
            tags: BTreeMap::new(),
        };
        self.world.subnets.insert(id.clone(), Arc::new(subnet));
        Ok(id)
    }

    /// The IPv4 range of a subnet must be a part of the VPC's, and must not overlap another
    /// subnet's.
    fn check_cidr(&self, vpc: &VpcId, cidr: Ipv4Network) -> Result<(), Ec2Error> {
        let whole = self.world.vpc(vpc.as_str())?.cidr;
        let inside = cidr.is_subnet_of(whole) && (16..=28).contains(&cidr.prefix());
        if !inside || cidr.network() != cidr.ip() {
            let message = format!("The CIDR '{cidr}' is invalid.");
            return Err(Ec2Error::bad("InvalidSubnet.Range", message));
        }
        let others = self.world.subnets.values().filter(|s| s.vpc == *vpc);
        if others.filter_map(|s| s.cidr).any(|c| c.overlaps(cidr)) {
            let message = format!("The CIDR '{cidr}' conflicts with another subnet");
            return Err(Ec2Error::bad("InvalidSubnet.Conflict", message));
        }
        Ok(())
    }

    /// A security group of a VPC.
    pub(super) fn create_group(
        &mut self,
        vpc: &VpcId,
        name: &str,
        tags: BTreeMap<String, String>,
    ) -> Result<GroupId, Ec2Error> {
        let vpc = self.world.vpc(vpc.as_str())?.id.clone();
        let id = GroupId::from(self.world.next_id("sg").as_str());
        let group = Group {
            id: id.clone(),
            vpc,
            name: name.to_owned(),
            tags,
        };
        self.world.groups.insert(id.clone(), Arc::new(group));
        Ok(id)
    }

    /// A subnet has one IPv4 range and any number of IPv6 ranges.
    pub(super) fn add_subnet_cidr(
        &mut self,
        subnet: &SubnetId,
        cidr: Ipv6Network,
    ) -> Result<(), Ec2Error> {
        self.world.subnet(subnet.as_str())?;
        if let Some(subnet) = self.world.subnets.get_mut(subnet) {
            Arc::make_mut(subnet).ipv6.push(cidr);
        }
        Ok(())
    }

    pub(super) fn reserve_cidr(
        &mut self,
        subnet: &str,
        cidr: IpNetwork,
        kind: &str,
    ) -> Result<Reservation, Ec2Error> {
        let found = self.world.subnet(subnet)?;
        if !found.cidrs().any(|c| c.contains(cidr.ip())) {
            let message = format!("The CIDR '{cidr}' is not in the subnet's range");
            return Err(Ec2Error::value(message));
        }
        if !["prefix", "explicit"].contains(&kind) {
            let message = format!("Value ({kind}) for parameter reservationType is invalid.");
            return Err(Ec2Error::value(message));
        }
        if found.reservations.iter().any(|r| overlap(r.cidr, cidr)) {
            let message = format!("The CIDR '{cidr}' overlaps with another reservation");
            return Err(Ec2Error::value(message));
        }
        let reservation = Reservation {
            id: self.world.next_id("scr"),
            cidr,
            kind: kind.to_owned(),
        };
        if let Some(subnet) = self.world.subnets.get_mut(&SubnetId::from(subnet)) {
            Arc::make_mut(subnet).reservations.push(reservation.clone());
        }
        Ok(reservation)
    }

    /// An instance that is running immediately, with its primary interface at device index 0.
    pub(super) fn run_instance(
        &mut self,
        kind: &str,
        subnet: &str,
    ) -> Result<InstanceId, Ec2Error> {
        self.limits(kind)?;
        let eni = self.create_eni(subnet, None, "")?;
        let id = InstanceId::from(self.world.next_id("i").as_str());
        let instance = Instance {
            id: id.clone(),
            kind: kind.to_owned(),
            subnet: SubnetId::from(subnet),
            state: InstanceState::Running,
            launched: SystemTime::now(),
        };
        self.world.instances.insert(id.clone(), Arc::new(instance));
        self.attach_eni(eni.as_str(), id.as_str(), PRIMARY)?;
        self.delete_on_termination(eni.as_str(), true)?;
        Ok(id)
    }

    pub(super) fn rename_instance(&mut self, old: &InstanceId, new: &InstanceId) {
        if let Some(mut instance) = self.world.instances.remove(old) {
            Arc::make_mut(&mut instance).id = new.clone();
            self.world.instances.insert(new.clone(), instance);
        }
        for eni in self.world.enis.values_mut() {
            let attachment = &mut Arc::make_mut(eni).attachment;
            if let Some(attachment) = attachment.as_mut().filter(|a| a.instance == *old) {
                attachment.instance = new.clone();
            }
        }
    }

    /// An interface with a primary address. In an IPv6-only subnet it has an IPv6 address
    /// instead: such a subnet must assign one on creation. Source: Amazon VPC User Guide, "Subnet
    /// settings".
    pub(super) fn create_eni(
        &mut self,
        subnet: &str,
        primary: Option<Ipv4Addr>,
        description: &str,
    ) -> Result<EniId, Ec2Error> {
        let found = self.world.subnet(subnet)?.clone();
        let primary = match primary {
            Some(address) => {
                super::address::check_range(&found, IpAddr::V4(address))?;
                if self.world.owner(&found.vpc, IpAddr::V4(address)).is_some() {
                    let message = format!("Address {address} is in use.");
                    return Err(Ec2Error::bad("InvalidIPAddress.InUse", message));
                }
                Some(address)
            }
            None if found.cidr.is_none() => None,
            None => Some(self.free_ipv4(&found)?),
        };
        let id = EniId::from(self.world.next_id("eni").as_str());
        let [.., high, middle, low] = self.world.serial.to_be_bytes();
        let first = match primary {
            Some(_) => None,
            None => self.free(&found, true).next(),
        };
        let eni = Eni {
            id: id.clone(),
            subnet: found.id,
            vpc: found.vpc,
            zone: found.zone,
            groups: vec![SECURITY_GROUP.to_owned()],
            mac: format!("02:1a:b0:{high:02x}:{middle:02x}:{low:02x}"),
            primary,
            addresses: first.into_iter().collect(),
            prefixes: Vec::new(),
            tags: BTreeMap::new(),
            description: description.to_owned(),
            requester: (ACCOUNT.to_owned(), false),
            attachment: None,
            source_dest_check: true,
        };
        self.world.enis.insert(id.clone(), Arc::new(eni));
        Ok(id)
    }

    pub(super) fn attach_eni(
        &mut self,
        eni: &str,
        instance: &str,
        place: Place,
    ) -> Result<String, Ec2Error> {
        let found = self.world.eni(eni)?;
        if found.attachment.is_some() {
            let message = format!("Interface: [{eni}] in use.");
            return Err(Ec2Error::bad("InvalidNetworkInterface.InUse", message));
        }
        let instance = self.world.instance(instance)?.clone();
        if instance.state != InstanceState::Running {
            let message = format!("Instance '{}' is not 'running'.", instance.id);
            return Err(Ec2Error::bad("IncorrectState", message));
        }
        if self.world.zone(&instance) != found.zone {
            let message = "You may not attach a network interface to an instance if they are not in \
                           the same availability zone";
            return Err(Ec2Error::bad("InvalidParameterCombination", message));
        }
        self.check_place(&instance, place)?;
        let (network_card, device_index) = place;
        let id = self.world.next_id("eni-attach");
        let attachment = Attachment {
            id: id.clone(),
            instance: instance.id.clone(),
            network_card,
            device_index,
            delete_on_termination: false,
            is_detaching: false,
            since: self.now,
            time: SystemTime::now(),
        };
        let found = self.world.eni_mut(eni)?;
        found.attachment = Some(attachment);
        let is_for_pods = found
            .tags
            .get(NO_MANAGE)
            .is_some_and(|value| value == "true");
        if self.rules.vpc_cni.contains(&instance.id) && place != PRIMARY && !is_for_pods {
            let owner = instance.id.to_string();
            found.tags.insert(VPC_CNI.to_owned(), owner);
        }
        Ok(id)
    }

    /// The VPC CNI of an instance takes the first free device index, in the subnet of the
    /// instance; nothing happens when the instance has reached its limit.
    pub(super) fn attach_for_vpc_cni(&mut self, instance: &InstanceId) -> Result<(), Ec2Error> {
        let subnet = self.world.instance(instance.as_str())?.subnet.clone();
        let eni = self.create_eni(subnet.as_str(), None, &format!("aws-K8S-{instance}"))?;
        let owner = instance.to_string();
        let made = self.world.eni_mut(eni.as_str())?;
        made.requester = (format!("AROA0EXAMPLE:{instance}"), false);
        made.tags.insert(VPC_CNI.to_owned(), owner);
        let used = self.world.attached(instance);
        let index = (0..).find(|index| !used.contains_key(&(0, *index)));
        let place = (0, index.unwrap_or(0));
        let attached = self.attach_eni(eni.as_str(), instance.as_str(), place);
        if attached.is_err() {
            return self.delete_eni(eni.as_str());
        }
        self.delete_on_termination(eni.as_str(), true)
    }

    /// Each network card has its own device indexes and its own limit.
    fn check_place(&self, instance: &Instance, place: Place) -> Result<(), Ec2Error> {
        let (card, index) = place;
        let limits = self.limits(&instance.kind)?;
        let others = self.world.attached(&instance.id);
        if others.contains_key(&place) {
            return Err(Ec2Error::value(format!(
                "Instance '{}' already has an interface attached at device index '{index}'.",
                instance.id
            )));
        }
        if usize::try_from(card).is_ok_and(|card| card >= limits.cards) {
            return Err(Ec2Error::value(format!(
                "Network card index '{card}' is out of range for {}",
                instance.kind
            )));
        }
        let count = others.keys().filter(|place| place.0 == card).count();
        if count >= limits.interfaces / limits.cards {
            let message = format!(
                "Interface count {} exceeds the limit for {}",
                count + 1,
                instance.kind
            );
            return Err(Ec2Error::bad("AttachmentLimitExceeded", message));
        }
        Ok(())
    }

    pub(super) fn delete_on_termination(&mut self, eni: &str, on: bool) -> Result<(), Ec2Error> {
        let Some(attachment) = &mut self.world.eni_mut(eni)?.attachment else {
            let message = format!("Interface '{eni}' is not attached");
            return Err(Ec2Error::bad("IncorrectState", message));
        };
        attachment.delete_on_termination = on;
        Ok(())
    }

    pub(super) fn detach_eni(&mut self, eni: &str) -> Result<(), Ec2Error> {
        let found = self.world.eni_mut(eni)?;
        if found
            .attachment
            .as_ref()
            .is_some_and(|a| a.place() == PRIMARY)
        {
            let message = "The network interface at device index 0 cannot be detached.";
            return Err(Ec2Error::bad("OperationNotPermitted", message));
        }
        if let Some(attachment) = &mut found.attachment {
            attachment.is_detaching = true;
            let what = Due::Detached(attachment.id.clone());
            let due = self.now + self.rules.detaching;
            self.world.scheduled.push(Scheduled { due, what });
            self.world.settle(self.now, &mut self.events);
        }
        Ok(())
    }

    pub(super) fn delete_eni(&mut self, eni: &str) -> Result<(), Ec2Error> {
        if self.world.eni(eni)?.attachment.is_some() {
            let message = format!("Network interface '{eni}' is currently in use.");
            return Err(Ec2Error::bad("InvalidParameterValue", message));
        }
        let by = self.by.clone();
        self.world
            .remove_eni(&EniId::from(eni), by.as_ref(), &mut self.events);
        Ok(())
    }

    /// The instance shuts down for [`Rules::shutting_down`], and is then terminated.
    pub(super) fn terminate_instance(&mut self, id: &str) -> Result<(), Ec2Error> {
        self.world.instance(id)?;
        let id = InstanceId::from(id);
        if let Some(instance) = self.world.instances.get_mut(&id)
            && instance.state == InstanceState::Running
        {
            Arc::make_mut(instance).state = InstanceState::ShuttingDown;
            self.world.scheduled.push(Scheduled {
                due: self.now + self.rules.shutting_down,
                what: Due::Terminated(id),
            });
            self.world.settle(self.now, &mut self.events);
        }
        Ok(())
    }

    /// The limits of an instance of this type.
    pub(super) fn limits(&self, kind: &str) -> Result<Limits, Ec2Error> {
        limits_of(self.rules, kind).ok_or_else(|| {
            let message = format!("The following supplied instance types do not exist: [{kind}]");
            Ec2Error::bad("InvalidInstanceType", message)
        })
    }
}

fn overlap(one: IpNetwork, other: IpNetwork) -> bool {
    one.contains(other.network()) || other.contains(one.network())
}

/// The limits of an instance type, from the rules or from EC2's table.
pub(super) fn limits_of(rules: &Rules, kind: &str) -> Option<Limits> {
    let known = || TABLE.iter().find(|t| t.0 == kind).map(|t| t.1);
    rules.limit_overrides.get(kind).copied().or_else(known)
}
