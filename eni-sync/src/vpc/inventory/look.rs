//! What EC2 says of the ENIs of this node at one moment, and the inventory that is made of it.
//! Writes nothing.

use std::collections::{BTreeMap, BTreeSet};

use common::address::Cidr;
use common::attach::inventory::{Eni, Inventory, NETWORK_TAG, is_known_to_leave};
use common::error::Result;
use common::files::file::Edition;
use common::kernel::netlink::{Link, Netlink};
use common::say;

use super::{edition, read_back};
use crate::vpc::clients::Aws;
use crate::vpc::ec2::{Description, Limits};
use crate::vpc::failure::Failure;
use crate::vpc::imds::Identity;

/// What EC2 says of the ENIs of this node.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    /// Which instance the node is.
    pub(crate) identity: Identity,
    /// Its ENIs.
    pub(crate) enis: Vec<Description>,
    /// What instances of its type can have.
    pub(crate) limits: Limits,
    /// The ranges of the subnets of the ENIs.
    pub(crate) cidrs: BTreeMap<String, Vec<Cidr>>,
    /// The edition of the inventory file before the look.
    pub(crate) edition: Option<Edition>,
    /// The interfaces of the ENIs before the look.
    pub(crate) interfaces: Interfaces,
    /// How many free IPv4 addresses the subnets have.
    pub(crate) free: BTreeMap<String, usize>,
}

impl Look {
    /// The same with the limits that EC2 has told, if it has.
    pub(super) fn with(self, limits: Option<Limits>) -> Self {
        Self {
            limits: limits.unwrap_or(self.limits),
            ..self
        }
    }

    /// The inventory of these answers.
    pub(crate) fn inventory(&self) -> Inventory {
        let (identity, interfaces) = (self.identity.clone(), &self.interfaces);
        compose(
            identity,
            (&self.enis, interfaces),
            &self.limits,
            &self.cidrs,
        )
    }
}

/// Which interfaces the ENIs have. Read before EC2 is asked: an ENI that leaves and comes back
/// while EC2 answers then has another one than is written down.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interfaces {
    links: Vec<Link>,
    earlier: Option<Inventory>,
}

impl Interfaces {
    /// The interfaces at this moment.
    pub(crate) fn read() -> Self {
        let links = Netlink::open().and_then(|mut netlink| netlink.links());
        Self {
            // An interface that is not known now is another one when it is.
            links: links.unwrap_or_default(),
            // Who uses the file names what is wrong with it.
            earlier: Inventory::read().unwrap_or_default(),
        }
    }

    /// The index of the interface of an ENI. An interface that is in a pod had it before, if the
    /// attachment is the same; 0 if it is not known.
    fn index(&self, eni: &Description) -> u32 {
        let known = index_of(&self.links, &eni.mac);
        let known = known.or_else(|| self.earlier(eni).map(|known| known.interface_index));
        known.unwrap_or(0)
    }

    /// Whether a description shows the attachment of an earlier interface. It may be older than the
    /// present one, so its time says nothing: only another attachment has a time again.
    fn may_be_former(&self, eni: &Description) -> bool {
        self.earlier(eni).is_some_and(|known| {
            let is_other = known.interface_index != 0 && known.interface_index != self.index(eni);
            is_other || known.may_be_former && known.attach_time == 0
        })
    }

    /// The ENI in the inventory of before, if it has the same attachment there.
    fn earlier(&self, eni: &Description) -> Option<&Eni> {
        let attachment = eni.attachment_id.as_deref()?;
        let mut earlier = self.earlier.iter().flat_map(|earlier| &earlier.enis);
        earlier.find(|known| known.id == eni.id && known.attachment_id == attachment)
    }
}

/// Asks EC2 for the ENIs of this node, and, for as long as that may take, for the limits of its
/// type.
///
/// # Errors
/// Those of [`described`].
pub(crate) fn look(aws: &Aws) -> Result<Look> {
    let look = described(aws, aws.imds()?.identity()?)?;
    let limits = aws.ec2(&look.identity.region)?;
    let limits = limits.limits(&look.identity.instance_type);
    Ok(look.with(learned(limits)))
}

/// Asks EC2 for the ENIs of this node only. The limits of its type are those that are known.
///
/// # Errors
/// Those of [`described`].
pub(crate) fn look_without_limits(aws: &Aws) -> Result<Look> {
    described(aws, aws.imds()?.identity()?)
}

/// The same for the instance with this identity.
///
/// # Errors
/// Code 11 without metadata, credentials or an answer, 100 without permission.
pub(super) fn described(aws: &Aws, identity: Identity) -> Result<Look> {
    let (edition, interfaces) = (edition(), Interfaces::read());
    let ec2 = aws.ec2(&identity.region)?;
    let what = format!("list the ENIs of {}", identity.instance_id);
    let failed = |failure: Failure| failure.error(&what);
    let found = ec2
        .enis_of_instance(&identity.instance_id)
        .map_err(failed)?;
    let subnets = ec2.described_subnets(&subnets(&found)).map_err(failed)?;
    let count = |free| usize::try_from(free).unwrap_or(usize::MAX);
    let free = subnets.iter();
    let free = free.map(|subnet| (subnet.id.clone(), count(subnet.free)));
    Ok(Look {
        limits: known_limits(&identity),
        identity,
        enis: found,
        edition,
        interfaces,
        free: free.collect(),
        cidrs: subnets.into_iter().map(|s| (s.id, s.cidrs)).collect(),
    })
}

/// The limits of the instance type, if EC2 tells them soon.
///
/// # Errors
/// Those of [`Aws::ec2`].
pub(super) fn limits(aws: &Aws, identity: &Identity) -> Result<Option<Limits>> {
    let ec2 = aws.ec2(&identity.region)?;
    Ok(learned(ec2.limits_soon(&identity.instance_type)))
}

fn learned(answer: std::result::Result<Limits, Failure>) -> Option<Limits> {
    answer
        .inspect_err(|failure| {
            say!(
                "{}",
                failure.error("learn how many addresses an ENI can have")
            );
        })
        .ok()
}

/// The limits in the written inventory; 0 without one. They serve an early and clear error when
/// an ENI is full; EC2 refuses in any case.
fn known_limits(identity: &Identity) -> Limits {
    let written = read_back().filter(|written| written.instance_type == identity.instance_type);
    let Some(written) = written else {
        return Limits::default();
    };
    let eni = written.enis.first();
    Limits {
        ipv4: eni.map_or(0, |eni| eni.ipv4_limit),
        ipv6: eni.map_or(0, |eni| eni.ipv6_limit),
        interfaces: written.interface_limits,
    }
}

/// Whether an inventory has the limits of the instance type.
pub(super) fn has_limits(inventory: &Inventory) -> bool {
    inventory.enis.iter().all(|eni| eni.ipv4_limit > 0)
}

/// Writes limits into an inventory, and returns whether that has changed it.
pub(super) fn set_limits(inventory: &mut Inventory, limits: &Limits) -> bool {
    let before = inventory.clone();
    for eni in &mut inventory.enis {
        (eni.ipv4_limit, eni.ipv6_limit) = (limits.ipv4, limits.ipv6);
    }
    inventory.interface_limits.clone_from(&limits.interfaces);
    *inventory != before
}

/// The subnets of ENIs, each once.
pub(crate) fn subnets(found: &[Description]) -> Vec<String> {
    let subnets: BTreeSet<&String> = found.iter().map(|eni| &eni.subnet_id).collect();
    subnets.into_iter().cloned().collect()
}

/// Makes the inventory of the answers of IMDS and EC2.
pub(crate) fn compose(
    identity: Identity,
    (found, interfaces): (&[Description], &Interfaces),
    limits: &Limits,
    cidrs: &BTreeMap<String, Vec<Cidr>>,
) -> Inventory {
    // The interface names are only for people; the inventory can be used without them.
    let links = Netlink::open().and_then(|mut netlink| netlink.links());
    let links = links.unwrap_or_default();
    let eni = |eni: &Description| Eni {
        id: eni.id.clone(),
        mac: eni.mac.clone(),
        interface: interface_of(&links, &eni.mac),
        network_card_index: eni.network_card,
        device_index: eni.device_index,
        attachment_id: eni.attachment_id.clone().unwrap_or_default(),
        attach_time: if interfaces.may_be_former(eni) {
            0
        } else {
            eni.attach_time
        },
        may_be_former: interfaces.may_be_former(eni),
        interface_index: interfaces.index(eni),
        subnet_id: eni.subnet_id.clone(),
        subnet_cidrs: cidrs.get(&eni.subnet_id).cloned().unwrap_or_default(),
        vpc_id: eni.vpc_id.clone(),
        no_manage: eni.no_manage,
        network: eni.tags.get(NETWORK_TAG).cloned().unwrap_or_default(),
        tags: eni.tags.clone(),
        description: eni.description.clone(),
        requester_id: eni.requester_id.clone(),
        requester_managed: eni.requester_managed,
        security_groups: eni.security_groups.clone(),
        primary_addresses: eni.primary.clone(),
        prefixes: eni.prefixes.clone(),
        ipv4_limit: limits.ipv4,
        ipv6_limit: limits.ipv6,
    };
    let stays = |eni: &&Description| !is_known_to_leave(&eni.mac);
    Inventory {
        enis: found.iter().filter(stays).map(eni).collect(),
        interface_limits: limits.interfaces.clone(),
        region: identity.region,
        instance_id: identity.instance_id,
        instance_type: identity.instance_type,
    }
}

pub(super) fn interface_of(links: &[Link], mac: &str) -> String {
    let found = Link::of_hardware(links, mac);
    found.map(|link| link.name.clone()).unwrap_or_default()
}

/// The index of the interface with this MAC address.
pub(super) fn index_of(links: &[Link], mac: &str) -> Option<u32> {
    Link::of_hardware(links, mac).map(|link| link.index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vpc::ec2::Place;
    use crate::vpc::eni::tests::eni;

    /// The inventory of an ENI that EC2 describes with this time, where `earlier` was before.
    fn composed(time: u64, earlier: Eni) -> Eni {
        let place = Place {
            network_card: 0,
            device_index: 1,
        };
        let described = Description {
            id: earlier.id.clone(),
            mac: earlier.mac.clone(),
            attachment_id: Some(earlier.attachment_id.clone()),
            attach_time: time,
            ..Description::planned("i-1".to_owned(), "pods", place)
        };
        let text = r#"{"region": "r", "instanceId": "i-1", "instanceType": "t"}"#;
        let interfaces = Interfaces {
            links: Vec::new(),
            earlier: Some(Inventory {
                enis: vec![earlier],
                ..Inventory::default()
            }),
        };
        let identity = serde_json::from_str(text).unwrap();
        let (limits, cidrs) = (Limits::default(), BTreeMap::new());
        compose(identity, (&[described], &interfaces), &limits, &cidrs)
            .enis
            .remove(0)
    }

    #[test]
    fn an_interface_is_known_by_the_address_it_was_made_with_if_it_tells_that() {
        let link = |index, name: &str, [permanent, present]: [&str; 2]| Link {
            index,
            name: name.to_owned(),
            permanent_mac: permanent.to_owned(),
            mac: present.to_owned(),
            ..Link::default()
        };
        // A pod has given the first one the address of the second one.
        let mut links = vec![link(3, "eth1", ["a", "b"]), link(5, "eth2", ["b", "b"])];
        let of_kind = |kind: &str, link: Link| Link {
            kind: kind.to_owned(),
            ..link
        };
        // On top of an interface there are others with its address, or with that of a device which
        // was attached later, or is in a pod.
        for (index, mac) in [(4, "b"), (7, "c")] {
            links.push(Link {
                parent: Some(3),
                ..of_kind("vlan", link(index, "above", ["a", mac]))
            });
        }
        links.insert(0, of_kind("bond", link(2, "bond0", ["", "d"])));
        links.push(link(8, "eth3", ["", "d"]));
        links.push(of_kind("veth", link(9, "veth0", ["", "e"])));
        let found = |mac| (index_of(&links, mac), interface_of(&links, mac));
        assert_eq!(found("a"), (Some(3), "eth1".to_owned()));
        assert_eq!(found("b"), (Some(5), "eth2".to_owned()));
        assert_eq!(found("c"), (None, String::new()));
        assert_eq!(found("d"), (Some(8), "eth3".to_owned()));
        assert_eq!(found("e"), (Some(9), "veth0".to_owned()));
        assert_eq!(found("f"), (None, String::new()));
    }

    #[test]
    fn a_time_that_one_description_lacks_is_taken_from_the_next_one() {
        let without = composed(0, eni());
        assert_eq!((without.attach_time, without.may_be_former), (0, false));
        assert_eq!(composed(7, without).attach_time, 7);
    }

    #[test]
    fn the_time_of_a_former_attachment_is_never_taken() {
        let former = Eni {
            attach_time: 0,
            may_be_former: true,
            ..eni()
        };
        let again = composed(7, former.clone());
        assert_eq!((again.attach_time, again.may_be_former), (0, true));
        // A version that did not write down why.
        let mut written = serde_json::to_value(former).unwrap();
        written.as_object_mut().unwrap().remove("mayBeFormer");
        let earlier: Eni = serde_json::from_value(written).unwrap();
        assert_eq!(composed(7, earlier).attach_time, 0);
    }
}
