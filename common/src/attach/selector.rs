//! `masterSelector`: finds the master by properties that are the same on every node. So one
//! network serves nodes whose ENI is eth1, ens6 or enp40s0. The plugins use it, and
//! diagnostics that show what a plugin will find.

mod eni_property;
mod find;

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde_json::Value;

use self::eni_property::EniProperty;
use crate::address::Cidr;
use crate::cni::lenient::read_value;
use crate::error::{Error, Result};
use crate::kernel::netlink::parse_mac;
use crate::kernel::pci::PciAddress;

/// The keys of the section.
const KEYS: [&str; 8] = [
    "mac",
    "pciBusID",
    "subnet",
    "eni",
    "deviceIndex",
    "networkCard",
    "tag",
    "securityGroup",
];

/// The properties of the master: the interface must have all of them. There is at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MasterSelector(Vec<Property>);

/// A property of an interface of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Property {
    /// Its MAC address, in lower case with colons.
    Mac(String),
    /// The PCI address of its device.
    PciBusId(PciAddress),
    /// The address range of its ENI's subnet, or of one of its addresses on the node.
    Subnet(Cidr),
    /// A property of its ENI in the inventory.
    OfEni(EniProperty),
}

/// The keys of the section, not yet validated.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Keys {
    mac: String,
    #[serde(rename = "pciBusID")]
    pci_bus_id: String,
    subnet: String,
    eni: String,
    device_index: Option<i64>,
    network_card: Option<i64>,
    tag: BTreeMap<String, Option<String>>,
    security_group: String,
}

impl MasterSelector {
    /// Reads the section.
    ///
    /// # Errors
    /// Code 7 when there is no key, or naming a key that is unknown or has an invalid value.
    pub fn parse(section: &Value) -> Result<Self> {
        let keys: Keys = read_value(section, "invalid masterSelector").map_err(|error| {
            let msg = format!("invalid masterSelector: {section}");
            Error::config(msg).with_details(error.details)
        })?;
        require_known(section)?;
        let mut properties = Vec::new();
        for (key, text) in [
            ("mac", &keys.mac),
            ("pciBusID", &keys.pci_bus_id),
            ("subnet", &keys.subnet),
            ("eni", &keys.eni),
            ("securityGroup", &keys.security_group),
        ] {
            if !text.is_empty() {
                let property = Property::from_text(key, text);
                properties.push(property.ok_or_else(|| invalid(key, text))?);
            }
        }
        if let Some(index) = keys.device_index {
            let index = EniProperty::DeviceIndex(number("deviceIndex", index)?);
            properties.push(Property::OfEni(index));
        }
        if let Some(card) = keys.network_card {
            let card = EniProperty::NetworkCard(number("networkCard", card)?);
            properties.push(Property::OfEni(card));
        }
        for (tag, value) in keys.tag {
            let Some(value) = value else { continue };
            if tag.is_empty() {
                return Err(invalid("tag", ""));
            }
            properties.push(Property::OfEni(EniProperty::Tag(tag, value)));
        }
        match properties.is_empty() {
            true => Err(Error::config(format!(
                "masterSelector needs at least one of {}",
                known_keys()
            ))),
            false => Ok(Self(properties)),
        }
    }
}

impl Property {
    fn from_text(key: &str, value: &str) -> Option<Self> {
        let id = |prefix: &str, property: fn(String) -> EniProperty| {
            let id = Some(value).filter(|value| value.starts_with(prefix));
            id.map(|id| Self::OfEni(property(id.to_owned())))
        };
        let mac = || value.to_ascii_lowercase().replace('-', ":");
        match key {
            "mac" => parse_mac(value).map(|_| Self::Mac(mac())),
            "pciBusID" => PciAddress::new(value).map(Self::PciBusId),
            "eni" => id("eni-", EniProperty::Id),
            "securityGroup" => id("sg-", EniProperty::SecurityGroup),
            _ => id("subnet-", EniProperty::SubnetId).or_else(|| {
                let cidr = value.parse::<Cidr>().ok()?;
                Some(Self::Subnet(cidr.network()))
            }),
        }
    }
}

/// The keys and their values in a configuration.
impl fmt::Display for MasterSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let properties: Vec<String> = self.0.iter().map(Property::to_string).collect();
        f.write_str(&properties.join(", "))
    }
}

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mac(mac) => write!(f, "mac {mac}"),
            Self::PciBusId(address) => write!(f, "pciBusID {address}"),
            Self::Subnet(cidr) => write!(f, "subnet {cidr}"),
            Self::OfEni(property) => property.fmt(f),
        }
    }
}

/// Refuses unknown keys: if a misspelt key was ignored, the selector would select by its
/// other keys only.
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

fn number(key: &str, number: i64) -> Result<u32> {
    u32::try_from(number).map_err(|_| invalid(key, &number.to_string()))
}

fn invalid(key: &str, value: &str) -> Error {
    Error::config(format!("invalid masterSelector.{key}: {value:?}"))
}
