//! The one interface of the node that a selector means, and why there is none or more than one.

use std::net::IpAddr;

use super::eni_property::EniProperty;
use super::{MasterSelector, Property};
use crate::address::Cidr;
use crate::attach::inventory::{self, Eni, Inventory};
use crate::error::{Error, Result};
use crate::kernel::netlink::{Link, Netlink};
use crate::kernel::pci::PciAddress;

/// Interfaces of these kinds are on top of another one, whose MAC they may share.
const UPPER_KINDS: [&str; 5] = ["ipvlan", "ipvtap", "macvlan", "macvtap", "vlan"];

impl MasterSelector {
    /// The one interface of the node that the selector means.
    ///
    /// # Errors
    /// Code 7 naming the candidates when there is none or more than one, and when the inventory
    /// does not tell what is asked for; 5 or 6 when it cannot be read.
    pub fn find(&self, netlink: &mut Netlink) -> Result<Link> {
        let mut links = netlink.links()?;
        links.retain(|link| !link.loopback && !UPPER_KINDS.contains(&link.kind.as_str()));
        let inventory = self.inventory()?;
        let mut matching: Vec<&Link> = links.iter().collect();
        for property in &self.0 {
            let eni = |link: &Link| inventory.by_mac(&link.mac);
            match property {
                Property::Mac(mac) => matching.retain(|link| link.mac == *mac),
                Property::PciBusId(address) => {
                    matching.retain(|link| PciAddress::of_link(link).as_ref() == Some(address));
                }
                Property::OfEni(wanted) => {
                    matching.retain(|link| eni(link).is_some_and(|eni| wanted.is_of(eni)));
                }
                Property::Subnet(subnet) => {
                    let inside = in_subnet(*subnet, &links, &inventory, netlink)?;
                    matching.retain(|link| inside.contains(&link.index));
                }
            }
        }
        match matching.as_slice() {
            [link] => Ok((*link).clone()),
            [] => Err(
                Error::config(format!("no interface matches masterSelector {self}"))
                    .with_details(self.why_none(&links, &inventory))
                    .not_found(),
            ),
            several => Err(Error::config(format!(
                "several interfaces match masterSelector {self}"
            ))
            .with_details(why_several(several, &inventory))),
        }
    }

    /// What the selector has to know of the ENIs. One that asks for nothing of them needs no
    /// inventory, and a range can be told by the addresses of the node.
    fn inventory(&self) -> Result<Inventory> {
        let mut asked = self.of_eni();
        if asked.any(|property| !property.is_always_told()) {
            return Inventory::read_whole()?.ok_or_else(missing_inventory);
        }
        if self.of_eni().next().is_some() {
            return Inventory::read()?.ok_or_else(missing_inventory);
        }
        let has_range = |property: &Property| matches!(property, Property::Subnet(_));
        match self.0.iter().any(has_range) {
            true => Ok(Inventory::read()?.unwrap_or_default()),
            false => Ok(Inventory::default()),
        }
    }

    /// What is asked of the ENI.
    fn of_eni(&self) -> impl Iterator<Item = &EniProperty> {
        self.0.iter().filter_map(|property| match property {
            Property::OfEni(property) => Some(property),
            _ => None,
        })
    }

    /// What each ENI has that the selector does not ask for, or the interfaces where it asks
    /// nothing of an ENI.
    fn why_none(&self, links: &[Link], inventory: &Inventory) -> String {
        if self.of_eni().next().is_none() {
            let links: Vec<String> = links.iter().map(name).collect();
            return format!("candidates: {}", listed(&links, ", "));
        }
        let enis = inventory.enis.iter();
        let enis: Vec<String> = enis.map(|eni| self.why_not(eni, links)).collect();
        format!("ENIs of this node: {}", listed(&enis, "; "))
    }

    /// Why the selector does not mean this ENI.
    fn why_not(&self, eni: &Eni, links: &[Link]) -> String {
        let link = links.iter().find(|link| link.mac == eni.mac);
        let name = link.map_or_else(|| eni.id.clone(), |l| format!("{} ({})", eni.id, l.name));
        let wrong = self.of_eni().filter(|property| !property.is_of(eni));
        let wrong: Vec<String> = wrong.map(|property| property.instead(eni)).collect();
        match (wrong.is_empty(), link) {
            (false, _) => format!("{name} has {}", wrong.join(", ")),
            (true, None) => format!(
                "{name} matches, but its interface is not on the node: a pod has it, or it is not \
                 attached yet"
            ),
            (true, Some(_)) => {
                let others = self.0.iter().filter(|p| !matches!(p, Property::OfEni(_)));
                let others: Vec<String> = others.map(Property::to_string).collect();
                format!("{name} does not have {}", others.join(", "))
            }
        }
    }
}

/// The interfaces of the ENIs whose subnet this is; where the inventory knows none, or there is
/// no inventory, those with an address in it.
fn in_subnet(
    subnet: Cidr,
    links: &[Link],
    inventory: &Inventory,
    netlink: &mut Netlink,
) -> Result<Vec<u32>> {
    let is_in = |eni: &Eni| eni.subnet_cidrs.contains(&subnet);
    let known = links
        .iter()
        .filter(|link| inventory.by_mac(&link.mac).is_some_and(is_in));
    let known: Vec<u32> = known.map(|link| link.index).collect();
    if !known.is_empty() {
        return Ok(known);
    }
    let mut inside = Vec::new();
    for link in links {
        let addresses = netlink.addresses(link.index)?;
        let mut addresses = addresses.iter().map(|a| a.cidr.address());
        if addresses.any(|address: IpAddr| subnet.contains(address)) {
            inside.push(link.index);
        }
    }
    Ok(inside)
}

/// The interfaces, each with what tells its ENI from the others.
fn why_several(links: &[&Link], inventory: &Inventory) -> String {
    let known = links
        .iter()
        .any(|link| inventory.by_mac(&link.mac).is_some());
    let links: Vec<String> = links
        .iter()
        .map(|link| match inventory.by_mac(&link.mac) {
            None => name(link),
            Some(eni) => format!(
                "{} ({}, {}, networkCard {}, deviceIndex {}, {})",
                link.name,
                link.mac,
                eni.id,
                eni.network_card_index,
                eni.device_index,
                eni.subnet_id
            ),
        })
        .collect();
    let candidates = format!("candidates: {}", links.join(", "));
    match known {
        true => format!("{candidates}; ask for more, such as deviceIndex or another tag"),
        false => candidates,
    }
}

fn name(link: &Link) -> String {
    format!("{} ({})", link.name, link.mac)
}

fn listed(texts: &[String], between: &str) -> String {
    match texts.is_empty() {
        true => "none".to_owned(),
        false => texts.join(between),
    }
}

fn missing_inventory() -> Error {
    let msg = format!(
        "masterSelector needs {}, which eni-sync writes",
        inventory::PATH
    );
    Error::config(msg)
        .with_details("there is no such file")
        .not_found()
}
