//! What EC2 says of ENIs and subnets, in our own types. Pure: nothing here knows the SDK.

use std::net::IpAddr;

use common::address::Cidr;
use common::attach::inventory::{Eni, is_primary};
use serde::{Deserialize, Serialize};

/// The family of addresses that one call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Family {
    #[serde(rename = "ipv4")]
    V4,
    #[serde(rename = "ipv6")]
    V6,
}

impl Family {
    pub(crate) const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub(crate) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The name of the family for people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// How many addresses of the family an ENI can have; 0 when EC2 has not said.
    pub(crate) fn limit(self, eni: &Eni) -> usize {
        let limit = match self {
            Self::V4 => eni.ipv4_limit,
            Self::V6 => eni.ipv6_limit,
        };
        usize::try_from(limit).unwrap_or(usize::MAX)
    }
}

/// What EC2 says of an ENI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Description {
    /// Its id.
    pub(crate) id: String,
    /// Its MAC address, in lower case with colons.
    pub(crate) mac: String,
    /// The instance it is attached to.
    pub(crate) instance_id: Option<String>,
    /// The network card of the attachment.
    pub(crate) network_card: u32,
    /// The index of the attachment on that card.
    pub(crate) device_index: u32,
    /// Its subnet.
    pub(crate) subnet_id: String,
    /// Its VPC.
    pub(crate) vpc_id: String,
    /// Whether it is tagged so that the VPC CNI leaves it alone.
    pub(crate) no_manage: bool,
    /// Whether the VPC drops packets that are not from or to its addresses.
    pub(crate) source_dest_check: bool,
    /// Whether it is deleted with its instance.
    pub(crate) delete_on_termination: bool,
    /// The addresses it cannot be without.
    pub(crate) primary: Vec<IpAddr>,
    /// The addresses that can be assigned and unassigned.
    pub(crate) secondary: Vec<IpAddr>,
    /// The prefixes that are delegated to it.
    pub(crate) prefixes: Vec<Cidr>,
}

impl Description {
    /// Whether the address is one of the ENI's own; not whether one of its prefixes has it.
    pub(crate) fn has(&self, address: IpAddr) -> bool {
        self.primary.contains(&address) || self.secondary.contains(&address)
    }

    /// Whether it is the primary ENI of an instance.
    pub(crate) fn is_primary(&self) -> bool {
        self.instance_id.is_some() && is_primary(self.network_card, self.device_index)
    }

    /// The prefix of the ENI that an address is in.
    pub(crate) fn prefix_of(&self, address: IpAddr) -> Option<Cidr> {
        let mut prefixes = self.prefixes.iter();
        prefixes.find(|prefix| prefix.contains(address)).copied()
    }

    /// Whether the VPC delivers what is sent to the address to this ENI.
    pub(crate) fn covers(&self, address: IpAddr) -> bool {
        self.has(address) || self.prefix_of(address).is_some()
    }

    /// How many of the addresses that the ENI can have in a family it has.
    pub(crate) fn used(&self, family: Family) -> usize {
        let addresses = self.primary.iter().chain(&self.secondary);
        let addresses = addresses.filter(|address| Family::of(**address) == family);
        let prefixes = self.prefixes.iter().map(|prefix| prefix.address());
        let prefixes = prefixes.filter(|address| Family::of(*address) == family);
        addresses.count() + prefixes.count()
    }
}

/// How many addresses an ENI of an instance type can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Private IPv4 addresses, the primary included.
    pub(crate) ipv4: u32,
    /// IPv6 addresses.
    pub(crate) ipv6: u32,
}

/// Addresses of a subnet that EC2 gives to nobody who does not ask for them by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reservation {
    /// The addresses.
    pub(crate) cidr: Cidr,
    /// Whether single addresses of it can be assigned, and not only whole prefixes.
    pub(crate) is_explicit: bool,
}
