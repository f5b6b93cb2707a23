//! What EC2 answers, in our own types.

use std::error::Error;
use std::fmt::Debug;
use std::net::IpAddr;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ec2::types::NetworkInterface;
use common::address::{Cidr, parse_address};
use common::inventory::{Eni, NO_MANAGE_TAG};

use crate::failure::{Failure, Kind, causes, chain};

/// The family of addresses that one call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
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
    /// The index of the attachment.
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
    /// Whether the address is one of the ENI's.
    pub(crate) fn has(&self, address: IpAddr) -> bool {
        self.primary.contains(&address) || self.secondary.contains(&address)
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

/// What EC2 says of an ENI.
pub(super) fn description(eni: &NetworkInterface) -> Description {
    let attachment = eni.attachment();
    let tagged = eni
        .tag_set()
        .iter()
        .any(|tag| tag.key() == Some(NO_MANAGE_TAG) && tag.value() == Some("true"));
    let mut primary = Vec::new();
    let mut secondary = Vec::new();
    let v4 = eni.private_ip_addresses().iter();
    let v4 = v4.map(|a| (a.private_ip_address(), a.primary() == Some(true)));
    let v6 = eni.ipv6_addresses().iter();
    let v6 = v6.map(|a| (a.ipv6_address(), a.is_primary_ipv6() == Some(true)));
    for (text, is_primary) in v4.chain(v6) {
        let list = if is_primary {
            &mut primary
        } else {
            &mut secondary
        };
        list.extend(text.and_then(|text| parse_address(text).ok()));
    }
    let v4 = eni.ipv4_prefixes().iter().filter_map(|p| p.ipv4_prefix());
    let v6 = eni.ipv6_prefixes().iter().filter_map(|p| p.ipv6_prefix());
    Description {
        id: eni.network_interface_id().unwrap_or_default().to_owned(),
        mac: eni.mac_address().unwrap_or_default().to_lowercase(),
        instance_id: attachment.and_then(|a| a.instance_id()).map(str::to_owned),
        device_index: attachment
            .and_then(|a| a.device_index())
            .and_then(|index| u32::try_from(index).ok())
            .unwrap_or(0),
        subnet_id: eni.subnet_id().unwrap_or_default().to_owned(),
        vpc_id: eni.vpc_id().unwrap_or_default().to_owned(),
        no_manage: tagged,
        source_dest_check: eni.source_dest_check() != Some(false),
        delete_on_termination: attachment.and_then(|a| a.delete_on_termination()) == Some(true),
        primary,
        secondary,
        prefixes: v4.chain(v6).filter_map(|text| text.parse().ok()).collect(),
    }
}

/// What EC2 answers instead of doing what it was asked.
pub(super) fn failure<E, R>(action: &'static str, cause: &SdkError<E, R>) -> Failure
where
    E: ProvideErrorMetadata + Error + 'static,
    R: Debug + 'static,
{
    if let (Some(code), message) = (cause.code(), cause.message()) {
        let answer = format!("{code}: {}", message.unwrap_or_default());
        let kind = Failure::kind_of(code);
        return Failure {
            action,
            kind,
            code: code.to_owned(),
            answer,
        };
    }
    let is_about_credentials = causes(cause)
        .iter()
        .any(|cause| cause.is::<CredentialsError>());
    let kind = match is_about_credentials {
        true => Kind::Credentials,
        false => Kind::Unanswered,
    };
    let answer = chain(cause);
    Failure {
        action,
        kind,
        code: format!("{kind:?}"),
        answer,
    }
}
