//! Finds the one interface of the node that a selector selects, and explains why there is none
//! or more than one.

use std::net::IpAddr;

use super::eni_property::EniProperty;
use super::{MasterSelector, Property};
use crate::address::Cidr;
use crate::attach::inventory::{self, Eni, Inventory};
use crate::error::{Error, Result};
use crate::kernel::netlink::{Link, Netlink};
use crate::kernel::pci::PciAddress;

/// The kinds of interfaces on top of another one, whose MAC they may share.
const UPPER_KINDS: [&str; 5] = ["ipvlan", "ipvtap", "macvlan", "macvtap", "vlan"];

impl MasterSelector {
    /// The one interface of the node that the selector selects.
    ///
    /// # Errors
    /// Code 7 naming the candidates when there is none or more than one, and when the inventory
    /// does not have a property of the selector; 5 or 6 when the inventory cannot be read.
    pub fn find(&self, netlink: &mut Netlink) -> Result<Link> {
        let mut links = netlink.links()?;
        links.retain(|link| !link.loopback && !UPPER_KINDS.contains(&link.kind.as_str()));
        let inventory = self.inventory()?;
        let mut matching: Vec<&Link> = links.iter().collect();
        for property in &self.0 {
            let eni = |link: &Link| inventory.by_mac(link.hardware_mac());
            match property {
                Property::Mac(mac) => matching.retain(|link| link.hardware_mac() == mac),
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

    /// The inventory, as far as the selector needs it: not at all without a property of an ENI.
    /// For an address range it is optional, because the node's addresses show the subnet too.
    fn inventory(&self) -> Result<Inventory> {
        let mut asked = self.of_eni();
        if asked.any(|property| !property.is_in_every_inventory()) {
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

    /// The properties of the ENI in this selector.
    fn of_eni(&self) -> impl Iterator<Item = &EniProperty> {
        self.0.iter().filter_map(|property| match property {
            Property::OfEni(property) => Some(property),
            _ => None,
        })
    }

    /// How each ENI differs from the selector, or, without a property of an ENI, the interfaces
    /// of the node.
    fn why_none(&self, links: &[Link], inventory: &Inventory) -> String {
        if self.of_eni().next().is_none() {
            let links: Vec<String> = links.iter().map(name).collect();
            return format!("candidates: {}", listed(&links, ", "));
        }
        let enis = inventory.enis.iter().map(|eni| self.why_not(eni, links));
        let enis: Vec<String> = enis.chain(why_kept_away(links)).collect();
        format!("ENIs of this node: {}", listed(&enis, "; "))
    }

    /// Why the selector does not select this ENI.
    fn why_not(&self, eni: &Eni, links: &[Link]) -> String {
        let link = links.iter().find(|link| link.hardware_mac() == eni.mac);
        let name = link.map_or_else(|| eni.id.clone(), |l| format!("{} ({})", eni.id, l.name));
        let wrong = self.of_eni().filter(|property| !property.is_of(eni));
        let wrong: Vec<String> = wrong.map(|property| property.actual(eni)).collect();
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

/// Why interfaces are kept from pods although the inventory does not have their ENI any more.
fn why_kept_away(links: &[Link]) -> impl Iterator<Item = String> {
    let staying = |link: &Link| inventory::require_staying(&link.name, link.hardware_mac());
    let refused = links.iter().filter_map(move |link| staying(link).err());
    refused.map(|error| error.to_string())
}

/// The indices of the interfaces whose ENI is in the subnet. Without an inventory, or when it
/// has no such ENI, those of the interfaces with an address in the subnet.
fn in_subnet(
    subnet: Cidr,
    links: &[Link],
    inventory: &Inventory,
    netlink: &mut Netlink,
) -> Result<Vec<u32>> {
    let is_in = |eni: &Eni| eni.subnet_cidrs.contains(&subnet);
    let known = links
        .iter()
        .filter(|link| inventory.by_mac(link.hardware_mac()).is_some_and(is_in));
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

/// The interfaces, each with the properties that distinguish its ENI.
fn why_several(links: &[&Link], inventory: &Inventory) -> String {
    let known = links
        .iter()
        .any(|link| inventory.by_mac(link.hardware_mac()).is_some());
    let links: Vec<String> = links
        .iter()
        .map(|link| match inventory.by_mac(link.hardware_mac()) {
            None => name(link),
            Some(eni) => format!(
                "{} ({}, {}, networkCard {}, deviceIndex {}, {})",
                link.name, eni.mac, eni.id, eni.network_card_index, eni.device_index, eni.subnet_id
            ),
        })
        .collect();
    let candidates = format!("candidates: {}", links.join(", "));
    match known {
        true => {
            format!("{candidates}; add a key to choose one, such as deviceIndex or another tag")
        }
        false => candidates,
    }
}

fn name(link: &Link) -> String {
    format!("{} ({})", link.name, link.hardware_mac())
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
