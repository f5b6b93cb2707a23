//! A property of an ENI in the inventory, and the value that an ENI has for it.

use std::fmt;

use crate::attach::inventory::Eni;

/// A property that the selector requires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum EniProperty {
    /// Its id.
    Id(String),
    /// The id of its subnet.
    SubnetId(String),
    /// The index of its attachment on its network card.
    DeviceIndex(u32),
    /// The network card of its attachment.
    NetworkCard(u32),
    /// A tag with its value.
    Tag(String, String),
    /// The id of one of its security groups.
    SecurityGroup(String),
}

impl EniProperty {
    /// Whether the inventories of all versions have this property.
    pub(super) fn is_in_every_inventory(&self) -> bool {
        matches!(self, Self::Id(_) | Self::SubnetId(_) | Self::DeviceIndex(_))
    }

    /// Whether the ENI has this property.
    pub(super) fn is_of(&self, eni: &Eni) -> bool {
        match self {
            Self::Id(id) => eni.id == *id,
            Self::SubnetId(id) => eni.subnet_id == *id,
            Self::DeviceIndex(index) => eni.device_index == *index,
            Self::NetworkCard(card) => eni.network_card_index == *card,
            Self::Tag(key, value) => eni.tags.get(key) == Some(value),
            Self::SecurityGroup(group) => eni.security_groups.contains(group),
        }
    }

    /// The value that the ENI has instead.
    pub(super) fn actual(&self, eni: &Eni) -> String {
        match self {
            Self::Id(_) => "another id".to_owned(),
            Self::SubnetId(_) => format!("subnet {}", eni.subnet_id),
            Self::DeviceIndex(_) => format!("deviceIndex {}", eni.device_index),
            Self::NetworkCard(_) => format!("networkCard {}", eni.network_card_index),
            Self::Tag(key, _) => match eni.tags.get(key) {
                Some(value) => format!("tag {key}={value}"),
                None => format!("no tag {key}"),
            },
            Self::SecurityGroup(_) => format!("securityGroup {}", eni.security_groups.join(" ")),
        }
    }
}

/// The key and its value in a configuration.
impl fmt::Display for EniProperty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "eni {id}"),
            Self::SubnetId(id) => write!(f, "subnet {id}"),
            Self::DeviceIndex(index) => write!(f, "deviceIndex {index}"),
            Self::NetworkCard(card) => write!(f, "networkCard {card}"),
            Self::Tag(key, value) => write!(f, "tag {key}={value}"),
            Self::SecurityGroup(group) => write!(f, "securityGroup {group}"),
        }
    }
}
