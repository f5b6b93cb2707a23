//! Functions that set up a VPC directly, without the API. They panic with EC2's error.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use super::change::Change;
use super::error::Ec2Error;
use super::id::{EniId, GroupId, InstanceId, SubnetId, VpcId};
use super::lab::Lab;
use super::world::{InstanceState, NO_MANAGE, Subnet};

impl Lab {
    /// A VPC with this IPv4 range, such as `10.0.0.0/16`.
    #[track_caller]
    pub fn create_vpc(&self, cidr: &str) -> VpcId {
        let cidr: Ipv4Network = parsed(cidr);
        self.set_up(|change| Ok(change.create_vpc(cidr)))
    }

    /// A subnet with this IPv4 range and optionally an IPv6 range.
    #[track_caller]
    pub fn create_subnet(&self, vpc: &VpcId, cidr: &str, ipv6: Option<&str>) -> SubnetId {
        possible(self.try_create_subnet(vpc, cidr, ipv6))
    }

    /// Like [`create_subnet`](Self::create_subnet), but returns EC2's error.
    #[track_caller]
    pub fn try_create_subnet(
        &self,
        vpc: &VpcId,
        cidr: &str,
        ipv6: Option<&str>,
    ) -> Result<SubnetId, Ec2Error> {
        let cidr = Some(parsed::<Ipv4Network>(cidr));
        let ipv6 = ipv6.map(parsed::<Ipv6Network>);
        self.try_set_up(|change| change.create_subnet(vpc.as_str(), cidr, ipv6))
    }

    /// An IPv6-only subnet.
    #[track_caller]
    pub fn create_ipv6_subnet(&self, vpc: &VpcId, cidr: &str) -> SubnetId {
        let cidr = Some(parsed::<Ipv6Network>(cidr));
        self.set_up(|change| change.create_subnet(vpc.as_str(), None, cidr))
    }

    /// Moves the subnet, which must be empty, to another availability zone.
    #[track_caller]
    pub fn set_zone(&self, subnet: &SubnetId, zone: &str) {
        self.change_subnet(subnet, |subnet| subnet.zone = zone.to_owned());
    }

    /// Adds a tag to the subnet.
    #[track_caller]
    pub fn tag_subnet(&self, subnet: &SubnetId, key: &str, value: &str) {
        self.change_subnet(subnet, |subnet| {
            subnet.tags.insert(key.to_owned(), value.to_owned());
        });
    }

    #[track_caller]
    fn change_subnet(&self, subnet: &SubnetId, work: impl FnOnce(&mut Subnet)) {
        self.set_up(|change| {
            change.world.subnet(subnet.as_str())?;
            let found = change.world.subnets.get_mut(subnet);
            found.map(Arc::make_mut).map(work);
            Ok(())
        });
    }

    /// A security group with one tag.
    #[track_caller]
    pub fn create_security_group(&self, vpc: &VpcId, key: &str, value: &str) -> GroupId {
        let tags = BTreeMap::from([(key.to_owned(), value.to_owned())]);
        self.set_up(|change| change.create_group(vpc, value, tags))
    }

    /// Adds an IPv6 range to the subnet; the IPv4 range cannot be changed.
    #[track_caller]
    pub fn add_subnet_cidr(&self, subnet: &SubnetId, cidr: &str) {
        let cidr: Ipv6Network = parsed(cidr);
        self.set_up(|change| change.add_subnet_cidr(subnet, cidr));
    }

    /// Reserves a range, from which EC2 then chooses no addresses; `kind` is `prefix` or
    /// `explicit`.
    #[track_caller]
    pub fn reserve_cidr(&self, subnet: &SubnetId, cidr: &str, kind: &str) {
        let cidr: IpNetwork = parsed(cidr);
        self.set_up(|change| change.reserve_cidr(subnet.as_str(), cidr, kind));
    }

    /// A running instance, with its primary interface at device index 0.
    #[track_caller]
    pub fn run_instance(&self, instance_type: &str, subnet: &SubnetId) -> InstanceId {
        possible(self.try_run_instance(instance_type, subnet))
    }

    /// Like [`run_instance`](Self::run_instance), but returns EC2's error.
    pub fn try_run_instance(
        &self,
        instance_type: &str,
        subnet: &SubnetId,
    ) -> Result<InstanceId, Ec2Error> {
        self.try_set_up(|change| change.run_instance(instance_type, subnet.as_str()))
    }

    /// Changes the id of the instance, also in its metadata, to one that another
    /// simulation of EC2 has chosen.
    #[track_caller]
    pub fn set_instance_id(&self, instance: &InstanceId, id: &str) -> InstanceId {
        let new = InstanceId::from(id);
        self.set_up(|change| {
            change.rename_instance(instance, &new);
            Ok(())
        });
        new
    }

    /// A network interface that is not attached, with a primary address that EC2 has
    /// chosen.
    #[track_caller]
    pub fn create_eni(&self, subnet: &SubnetId) -> EniId {
        self.set_up(|change| change.create_eni(subnet.as_str(), None, ""))
    }

    /// Attaches the interface; it is not deleted with its instance, as is EC2's default.
    #[track_caller]
    pub fn attach_eni(&self, eni: &EniId, instance: &InstanceId, device_index: u32) {
        self.attach_eni_to_card(eni, instance, (0, device_index));
    }

    /// Attaches the interface at this network card and this device index on it.
    #[track_caller]
    pub fn attach_eni_to_card(&self, eni: &EniId, instance: &InstanceId, place: (u32, u32)) {
        self.set_up(|change| change.attach_eni(eni.as_str(), instance.as_str(), place));
    }

    /// Sets whether the attached interface is deleted when its instance is terminated.
    #[track_caller]
    pub fn delete_on_termination(&self, eni: &EniId, on: bool) {
        self.set_up(|change| change.delete_on_termination(eni.as_str(), on));
    }

    /// Sets whether the VPC drops packets that are neither from nor to the interface's
    /// addresses.
    #[track_caller]
    pub fn source_dest_check(&self, eni: &EniId, on: bool) {
        self.set_up(|change| {
            change.world.eni_mut(eni.as_str())?.source_dest_check = on;
            Ok(())
        });
    }

    /// Detaches the interface, which keeps its addresses.
    #[track_caller]
    pub fn detach_eni(&self, eni: &EniId) {
        self.set_up(|change| change.detach_eni(eni.as_str()));
    }

    /// Deletes the interface, which must not be attached.
    #[track_caller]
    pub fn delete_eni(&self, eni: &EniId) {
        self.set_up(|change| change.delete_eni(eni.as_str()));
    }

    /// Adds a tag to the interface.
    #[track_caller]
    pub fn tag_eni(&self, eni: &EniId, key: &str, value: &str) {
        self.set_up(|change| {
            let eni = change.world.eni_mut(eni.as_str())?;
            eni.tags.insert(key.to_owned(), value.to_owned());
            Ok(())
        });
    }

    /// Sets who has created the interface; `is_service` for a service of AWS.
    #[track_caller]
    pub fn set_requester(&self, eni: &EniId, id: &str, is_service: bool) {
        self.set_up(|change| {
            let eni = change.world.eni_mut(eni.as_str())?;
            eni.requester = (id.to_owned(), is_service);
            Ok(())
        });
    }

    /// Removes a tag from the interface.
    #[track_caller]
    pub fn untag_eni(&self, eni: &EniId, key: &str) {
        self.set_up(|change| {
            change.world.eni_mut(eni.as_str())?.tags.remove(key);
            Ok(())
        });
    }

    /// Replaces the security groups of the interface.
    #[track_caller]
    pub fn set_groups(&self, eni: &EniId, groups: &[&GroupId]) {
        self.set_up(|change| {
            let groups = groups.iter().map(|group| group.as_str().to_owned());
            change.world.eni_mut(eni.as_str())?.groups = groups.collect();
            Ok(())
        });
    }

    /// Sets the MAC of the interface, to that of an existing device.
    #[track_caller]
    pub fn set_mac(&self, eni: &EniId, mac: &str) {
        self.set_up(|change| {
            change.world.eni_mut(eni.as_str())?.mac = mac.to_lowercase();
            Ok(())
        });
    }

    /// Attaches an interface like a node group for Multus: with the tag, at the next
    /// device index, and deleted with its instance.
    #[track_caller]
    pub fn multus_eni(&self, instance: &InstanceId, subnet: &SubnetId) -> EniId {
        possible(self.try_multus_eni(instance, subnet))
    }

    /// Like [`multus_eni`](Self::multus_eni), but returns EC2's error.
    pub fn try_multus_eni(
        &self,
        instance: &InstanceId,
        subnet: &SubnetId,
    ) -> Result<EniId, Ec2Error> {
        self.try_set_up(|change| {
            let eni = change.create_eni(subnet.as_str(), None, "multus")?;
            let tags = &mut change.world.eni_mut(eni.as_str())?.tags;
            tags.insert(NO_MANAGE.to_owned(), "true".to_owned());
            let used = change.world.attached(instance);
            let index = (0..).find(|index| !used.contains_key(&(0, *index)));
            let place = (0, index.unwrap_or(0));
            change.attach_eni(eni.as_str(), instance.as_str(), place)?;
            change.delete_on_termination(eni.as_str(), true)?;
            Ok(eni)
        })
    }

    /// Terminates the instance, which takes `Rules::shutting_down`.
    #[track_caller]
    pub fn terminate_instance(&self, instance: &InstanceId) {
        self.set_up(|change| change.terminate_instance(instance.as_str()));
    }

    /// Stops the instance. It keeps its interfaces and their addresses.
    #[track_caller]
    pub fn stop_instance(&self, instance: &InstanceId) {
        self.set_up(|change| {
            change.world.instance(instance.as_str())?;
            if let Some(instance) = change.world.instances.get_mut(instance) {
                Arc::make_mut(instance).state = InstanceState::Stopped;
            }
            Ok(())
        });
    }

    /// Assigns addresses, all of one family, to the interface, not as an instance.
    #[track_caller]
    pub fn assign(&self, eni: &EniId, addresses: &[IpAddr]) {
        self.set_up(|change| change.assign(eni.as_str(), addresses, false));
    }

    /// Moves addresses to the interface from any other, like `AllowReassignment`, not as
    /// an instance.
    #[track_caller]
    pub fn take(&self, eni: &EniId, addresses: &[IpAddr]) {
        self.set_up(|change| change.assign(eni.as_str(), addresses, true));
    }

    /// Delegates a prefix, such as `10.0.4.128/28`, to the interface, not as an instance.
    #[track_caller]
    pub fn assign_prefix(&self, eni: &EniId, prefix: &str) {
        self.set_up(|change| change.assign_prefixes(eni.as_str(), &[parsed(prefix)]));
    }

    /// Unassigns a prefix from the interface, not as an instance.
    #[track_caller]
    pub fn unassign_prefix(&self, eni: &EniId, prefix: &str) {
        self.set_up(|change| change.unassign_prefixes(eni.as_str(), &[parsed(prefix)]));
    }

    /// Unassigns addresses from the interface, not as an instance.
    #[track_caller]
    pub fn unassign(&self, eni: &EniId, addresses: &[IpAddr]) {
        self.set_up(|change| change.unassign(eni.as_str(), addresses));
    }

    #[track_caller]
    fn set_up<T>(&self, work: impl FnOnce(&mut Change<'_>) -> Result<T, Ec2Error>) -> T {
        possible(self.try_set_up(work))
    }

    fn try_set_up<T>(
        &self,
        work: impl FnOnce(&mut Change<'_>) -> Result<T, Ec2Error>,
    ) -> Result<T, Ec2Error> {
        self.shared.update(|state| {
            let mut change = state.change(None);
            let result = work(&mut change)?;
            let (world, events) = (change.world, change.events);
            state.commit(world, events);
            Ok(result)
        })
    }
}

#[track_caller]
fn possible<T>(done: Result<T, Ec2Error>) -> T {
    done.unwrap_or_else(|error| panic!("setting up the VPC: {error}"))
}

#[track_caller]
fn parsed<T: std::str::FromStr>(text: &str) -> T {
    text.parse()
        .unwrap_or_else(|_| panic!("{text:?} is not a range of this family"))
}
