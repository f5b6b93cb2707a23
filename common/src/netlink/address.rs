//! Addresses on links.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::Netlink;
use crate::address::Cidr;
use crate::error::{Error, Result};

/// The longest IPv4 prefix that still has a broadcast address.
const LAST_PREFIX_WITH_BROADCAST: u8 = 30;

impl Netlink {
    /// Adds an address to a link. An IPv6 address is usable at once: it is added
    /// without duplicate address detection, because the network that hands it out
    /// guarantees that it is unique, and detection would cost a pod 1 to 2 s.
    ///
    /// # Errors
    /// Code 999 with the kernel's answer, in the words of the Go plugins.
    pub fn add_address(&mut self, index: u32, ifname: &str, cidr: Cidr) -> Result<()> {
        let mut message = AddressMessage::default();
        message.header.index = index;
        message.header.prefix_len = cidr.prefix();
        message.header.family = family(cidr.address());
        let attributes = &mut message.attributes;
        attributes.push(AddressAttribute::Local(cidr.address()));
        attributes.push(AddressAttribute::Address(cidr.address()));
        match cidr.last() {
            IpAddr::V4(last) if cidr.prefix() <= LAST_PREFIX_WITH_BROADCAST => {
                attributes.push(AddressAttribute::Broadcast(last));
            }
            IpAddr::V4(_) => {}
            IpAddr::V6(_) => message.header.flags = AddressHeaderFlags::Nodad,
        }
        self.acknowledged(
            RouteNetlinkMessage::NewAddress(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
        .map_err(|cause| {
            Error::internal(format!("failed to add IP addr {cidr} to {ifname:?}")).because(&cause)
        })
    }

    /// The addresses of a link, both families.
    ///
    /// # Errors
    /// Code 999 when the kernel does not answer.
    pub fn addresses(&mut self, index: u32) -> Result<Vec<Cidr>> {
        let replies = self.address_messages(index)?;
        Ok(replies.iter().filter_map(to_cidr).collect())
    }

    /// The addresses of a link with global scope, both families: not those that the
    /// kernel has made for the link alone.
    ///
    /// # Errors
    /// Code 999 when the kernel does not answer.
    pub fn global_addresses(&mut self, index: u32) -> Result<Vec<Cidr>> {
        let replies = self.address_messages(index)?;
        let global = replies
            .iter()
            .filter(|message| message.header.scope == AddressScope::Universe);
        Ok(global.filter_map(to_cidr).collect())
    }

    fn address_messages(&mut self, index: u32) -> Result<Vec<AddressMessage>> {
        let mut message = AddressMessage::default();
        message.header.index = index;
        let replies = self
            .dump(&RouteNetlinkMessage::GetAddress(message))
            .map_err(|cause| Error::internal("failed to list the addresses").because(&cause))?;
        let of_link = |reply| match reply {
            RouteNetlinkMessage::NewAddress(message) if message.header.index == index => {
                Some(message)
            }
            _ => None,
        };
        Ok(replies.into_iter().filter_map(of_link).collect())
    }

    /// The link of the namespace that has `address`, with any prefix.
    ///
    /// # Errors
    /// Code 999 when the kernel does not answer.
    pub fn has_address(&mut self, index: u32, address: IpAddr) -> Result<bool> {
        Ok(self
            .addresses(index)?
            .iter()
            .any(|cidr| cidr.address() == address))
    }
}

/// The kernel's number for the family of `address`.
pub(super) fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn to_cidr(message: &AddressMessage) -> Option<Cidr> {
    let find = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| {
        message.attributes.iter().find_map(wanted)
    };
    // IPv6 has no local attribute unless the address is a peer's.
    let address = find(|a| match a {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    })
    .or_else(|| {
        find(|a| match a {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })?;
    Cidr::new(address, message.header.prefix_len)
}
