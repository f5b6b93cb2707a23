//! What EC2 says of ENIs and subnets, in our own types. Pure: nothing here knows the SDK.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use common::address::Cidr;
use common::attach::inventory::{Eni, NETWORK_TAG, is_primary};
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
    /// The id of the attachment.
    pub(crate) attachment_id: Option<String>,
    /// When it was attached, in seconds since 1970 by EC2's clock; 0 if that is not known.
    pub(crate) attach_time: u64,
    /// Whether it is being detached: it is still shown on the instance, and will not stay.
    pub(crate) is_detaching: bool,
    /// Its subnet.
    pub(crate) subnet_id: String,
    /// Its VPC.
    pub(crate) vpc_id: String,
    /// Its tags.
    pub(crate) tags: BTreeMap<String, String>,
    /// Its description in EC2.
    pub(crate) description: String,
    /// Who had it created: an account, a role with its session, or a service.
    pub(crate) requester_id: String,
    /// Whether a service of AWS manages it.
    pub(crate) requester_managed: bool,
    /// Whether it is tagged so that the VPC CNI leaves it alone.
    pub(crate) no_manage: bool,
    /// The ids of its security groups.
    pub(crate) security_groups: Vec<String>,
    /// Whether the VPC drops packets that are not from or to its addresses.
    pub(crate) source_dest_check: bool,
    /// Whether it is deleted with its instance.
    pub(crate) delete_on_termination: bool,
    /// Its primary addresses, which cannot be unassigned.
    pub(crate) primary: Vec<IpAddr>,
    /// Its secondary addresses, which can be assigned and unassigned.
    pub(crate) secondary: Vec<IpAddr>,
    /// The prefixes that are delegated to it.
    pub(crate) prefixes: Vec<Cidr>,
}

impl Description {
    /// An ENI that is to be created: only its network tag and its place on an instance are
    /// known.
    pub(crate) fn planned(instance: String, network: &str, place: Place) -> Self {
        Self {
            id: String::new(),
            mac: String::new(),
            instance_id: Some(instance),
            network_card: place.network_card,
            device_index: place.device_index,
            attachment_id: None,
            attach_time: 0,
            is_detaching: false,
            subnet_id: String::new(),
            vpc_id: String::new(),
            tags: BTreeMap::from([(NETWORK_TAG.to_owned(), network.to_owned())]),
            description: String::new(),
            requester_id: String::new(),
            requester_managed: false,
            no_manage: true,
            security_groups: Vec::new(),
            source_dest_check: true,
            delete_on_termination: true,
            primary: Vec::new(),
            secondary: Vec::new(),
            prefixes: Vec::new(),
        }
    }

    /// Whether the address is one of the ENI's own; not whether one of its prefixes has it.
    pub(crate) fn has(&self, address: IpAddr) -> bool {
        self.primary.contains(&address) || self.secondary.contains(&address)
    }

    /// Whether it is the primary ENI of an instance.
    pub(crate) fn is_primary(&self) -> bool {
        self.instance_id.is_some() && is_primary(self.network_card, self.device_index)
    }

    /// Where it is attached.
    pub(crate) fn place(&self) -> Place {
        Place {
            network_card: self.network_card,
            device_index: self.device_index,
        }
    }

    /// The value of its network tag, by which a configuration names it.
    pub(crate) fn network(&self) -> Option<&str> {
        self.tags.get(NETWORK_TAG).map(String::as_str)
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

    /// How many slots of a family are used, by addresses and by prefixes.
    pub(crate) fn used(&self, family: Family) -> usize {
        let addresses = self.primary.iter().chain(&self.secondary);
        let addresses = addresses.filter(|address| Family::of(**address) == family);
        let prefixes = self.prefixes.iter().map(|prefix| prefix.address());
        let prefixes = prefixes.filter(|address| Family::of(*address) == family);
        addresses.count() + prefixes.count()
    }
}

/// How many addresses an ENI of an instance type can have, and how many ENIs the instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Private IPv4 addresses, the primary included.
    pub(crate) ipv4: u32,
    /// IPv6 addresses.
    pub(crate) ipv6: u32,
    /// ENIs of each network card, by its index.
    pub(crate) interfaces: Vec<u32>,
}

/// Where an ENI is attached to an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Place {
    /// The network card.
    pub(crate) network_card: u32,
    /// The index on that card.
    pub(crate) device_index: u32,
}

/// A choice of subnets or security groups in a configuration: by id, or by tags.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Choice {
    /// Those with one of these ids.
    Ids(Vec<String>),
    /// Those that have all of these tags.
    Tags(BTreeMap<String, String>),
}

/// A subnet that an ENI can be created in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subnet {
    /// Its id.
    pub(crate) id: String,
    /// Its VPC.
    pub(crate) vpc_id: String,
    /// Its availability zone.
    pub(crate) zone: String,
    /// Its address ranges, both families.
    pub(crate) cidrs: Vec<Cidr>,
    /// How many IPv4 addresses it has left.
    pub(crate) free: u32,
}

/// An ENI that EC2 is asked to create. A request that is repeated with the same token returns
/// the same ENI.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewEni {
    /// The client token, by which EC2 recognises a repeated request.
    pub(crate) token: String,
    /// Its subnet.
    pub(crate) subnet_id: String,
    /// Its security groups, by their ids.
    pub(crate) groups: Vec<String>,
    /// Its tags.
    pub(crate) tags: BTreeMap<String, String>,
    /// Its primary address; without one EC2 chooses.
    pub(crate) primary: Option<Ipv4Addr>,
    /// Its description, which the EC2 console shows.
    pub(crate) description: String,
}

/// A CIDR reservation of a subnet: EC2 assigns its addresses only to requests that name them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reservation {
    /// The addresses.
    pub(crate) cidr: Cidr,
    /// Whether single addresses of it can be assigned, and not only whole prefixes.
    pub(crate) is_explicit: bool,
}
