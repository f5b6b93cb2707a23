//! `masterSelector`: finds the master by what does not change from node to node. One
//! network then serves nodes whose ENI is eth1, ens6 or enp40s0. The plugin finds it so,
//! and whoever wants to say what the plugin will find.

use std::fmt;
use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;

use crate::address::Cidr;
use crate::attach::inventory::{self, Eni, Inventory};
use crate::cni::lenient::read_value;
use crate::error::{Error, Result};
use crate::kernel::netlink::{Link, Netlink, parse_mac};
use crate::kernel::pci::PciAddress;

/// Interfaces of these kinds are on top of another one, whose MAC they may share.
const UPPER_KINDS: [&str; 5] = ["ipvlan", "ipvtap", "macvlan", "macvtap", "vlan"];

/// The keys of the section.
const KEYS: [&str; 5] = ["mac", "pciBusID", "subnet", "eni", "deviceIndex"];

/// What the master is to be recognised by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MasterSelector {
    /// Its MAC address, in lower case with colons.
    Mac(String),
    /// The PCI address of the device.
    PciBusId(PciAddress),
    /// The subnet of the ENI: its range, or an address of the node in it.
    Subnet(Cidr),
    /// The subnet of the ENI, by its id.
    SubnetId(String),
    /// The ENI's id.
    Eni(String),
    /// The index of the ENI's attachment.
    DeviceIndex(u32),
}

/// The section as written.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Keys {
    mac: String,
    #[serde(rename = "pciBusID")]
    pci_bus_id: String,
    subnet: String,
    eni: String,
    device_index: Option<i64>,
}

impl MasterSelector {
    /// The selector that the section describes.
    ///
    /// # Errors
    /// Code 7 naming key and value when there is not exactly one key, or its value
    /// cannot be right.
    pub fn parse(section: &Value) -> Result<Self> {
        let keys: Keys = read_value(section, "invalid masterSelector").map_err(|error| {
            let msg = format!("invalid masterSelector: {section}");
            Error::config(msg).with_details(error.details)
        })?;
        require_known(section)?;
        let texts = [
            ("mac", &keys.mac),
            ("pciBusID", &keys.pci_bus_id),
            ("subnet", &keys.subnet),
            ("eni", &keys.eni),
        ];
        let given: Vec<_> = texts
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .collect();
        match (given.as_slice(), keys.device_index) {
            ([(key, value)], None) => Self::from_text(key, value),
            ([], Some(index)) => u32::try_from(index)
                .map(Self::DeviceIndex)
                .map_err(|_| invalid("deviceIndex", &index.to_string())),
            _ => {
                let mut names: Vec<&str> = given.iter().map(|(key, _)| *key).collect();
                names.extend(keys.device_index.map(|_| "deviceIndex"));
                let has = names.join(" ");
                Err(Error::config(format!(
                    "masterSelector needs exactly one of {}, but has [{has}]",
                    known_keys()
                )))
            }
        }
    }

    fn from_text(key: &str, value: &str) -> Result<Self> {
        let parsed = match key {
            "mac" => {
                parse_mac(value).map(|_| Self::Mac(value.to_ascii_lowercase().replace('-', ":")))
            }
            "pciBusID" => PciAddress::new(value).map(Self::PciBusId),
            "eni" => value
                .starts_with("eni-")
                .then(|| Self::Eni(value.to_owned())),
            _ if value.starts_with("subnet-") => Some(Self::SubnetId(value.to_owned())),
            _ => value
                .parse::<Cidr>()
                .ok()
                .map(|cidr| Self::Subnet(cidr.network())),
        };
        parsed.ok_or_else(|| invalid(key, value))
    }

    /// The one interface of the node that the selector means.
    ///
    /// # Errors
    /// Code 7 naming the candidates when there is none or more than one, 5 or 6 when
    /// the inventory cannot be read.
    pub fn find(&self, netlink: &mut Netlink) -> Result<Link> {
        let mut links = netlink.links()?;
        links.retain(|link| !link.loopback && !UPPER_KINDS.contains(&link.kind.as_str()));
        let matching = self.matching(&links, netlink)?;
        match matching.as_slice() {
            [link] => Ok((*link).clone()),
            [] => Err(
                Error::config(format!("no interface matches masterSelector {self}"))
                    .with_details(format!(
                        "candidates: {}",
                        describe(&links.iter().collect::<Vec<_>>())
                    ))
                    .not_found(),
            ),
            several => Err(Error::config(format!(
                "several interfaces match masterSelector {self}"
            ))
            .with_details(format!("candidates: {}", describe(several)))),
        }
    }

    fn matching<'a>(&self, links: &'a [Link], netlink: &mut Netlink) -> Result<Vec<&'a Link>> {
        let of_enis = |wanted: &dyn Fn(&Eni) -> bool| -> Result<Vec<&'a Link>> {
            let inventory = Inventory::read()?.ok_or_else(no_inventory)?;
            Ok(links_of(links, &inventory, wanted))
        };
        match self {
            Self::Mac(mac) => Ok(links.iter().filter(|link| link.mac == *mac).collect()),
            Self::PciBusId(address) => {
                let is_at = |link: &&Link| PciAddress::of_link(link).as_ref() == Some(address);
                Ok(links.iter().filter(is_at).collect())
            }
            Self::Eni(id) => of_enis(&|eni| eni.id == *id),
            Self::DeviceIndex(index) => of_enis(&|eni| eni.device_index == *index),
            Self::SubnetId(id) => of_enis(&|eni| eni.subnet_id == *id),
            Self::Subnet(subnet) => in_subnet(*subnet, links, netlink),
        }
    }
}

/// As it is written in a configuration.
impl fmt::Display for MasterSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mac(mac) => write!(f, "mac {mac}"),
            Self::PciBusId(address) => write!(f, "pciBusID {address}"),
            Self::Subnet(cidr) => write!(f, "subnet {cidr}"),
            Self::SubnetId(id) => write!(f, "subnet {id}"),
            Self::Eni(id) => write!(f, "eni {id}"),
            Self::DeviceIndex(index) => write!(f, "deviceIndex {index}"),
        }
    }
}

/// A key that is misspelt would select nothing, or be passed over beside another one.
fn require_known(section: &Value) -> Result<()> {
    let keys = section.as_object().into_iter().flatten();
    let is_known = |key: &str| KEYS.iter().any(|known| known.eq_ignore_ascii_case(key));
    let mut unknown = keys.filter(|(key, value)| !value.is_null() && !is_known(key));
    match unknown.next() {
        None => Ok(()),
        Some((key, _)) => {
            let msg = format!("masterSelector has the unknown key {key:?}");
            Err(Error::config(msg).with_details(format!("its keys are {}", known_keys())))
        }
    }
}

fn known_keys() -> String {
    let [first @ .., last] = KEYS;
    format!("{} and {last}", first.join(", "))
}

/// The ENIs whose subnet this is; where the inventory knows none, or there is no
/// inventory, the interfaces with an address in it.
fn in_subnet<'a>(subnet: Cidr, links: &'a [Link], netlink: &mut Netlink) -> Result<Vec<&'a Link>> {
    let inventory = Inventory::read()?.unwrap_or_default();
    let known = links_of(links, &inventory, &|eni| eni.subnet_cidrs.contains(&subnet));
    if !known.is_empty() {
        return Ok(known);
    }
    let mut matching = Vec::new();
    for link in links {
        let addresses: Vec<IpAddr> = netlink
            .addresses(link.index)?
            .iter()
            .map(|a| a.cidr.address())
            .collect();
        if addresses
            .into_iter()
            .any(|address| subnet.contains(address))
        {
            matching.push(link);
        }
    }
    Ok(matching)
}

/// The interfaces of the ENIs that are wanted. A name in the inventory may be of
/// yesterday; a MAC is not.
fn links_of<'a>(
    links: &'a [Link],
    inventory: &Inventory,
    wanted: &dyn Fn(&Eni) -> bool,
) -> Vec<&'a Link> {
    let macs: Vec<&str> = inventory
        .enis
        .iter()
        .filter(|eni| wanted(eni))
        .map(|eni| eni.mac.as_str())
        .collect();
    links
        .iter()
        .filter(|link| macs.contains(&link.mac.as_str()))
        .collect()
}

fn describe(links: &[&Link]) -> String {
    let texts: Vec<String> = links
        .iter()
        .map(|link| format!("{} ({})", link.name, link.mac))
        .collect();
    if texts.is_empty() {
        "none".to_owned()
    } else {
        texts.join(", ")
    }
}

fn no_inventory() -> Error {
    let msg = format!(
        "masterSelector needs {}, which eni-sync writes",
        inventory::PATH
    );
    Error::config(msg)
        .with_details("there is no such file")
        .not_found()
}

fn invalid(key: &str, value: &str) -> Error {
    Error::config(format!("invalid masterSelector.{key}: {value:?}"))
}
