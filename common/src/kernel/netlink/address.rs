//! Addresses on links.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::libc::EADDRNOTAVAIL;

use super::{Change, Link, Netlink};
use crate::address::Cidr;
use crate::error::{Error, Result};

/// The longest IPv4 prefix that still has a broadcast address.
const LAST_PREFIX_WITH_BROADCAST: u8 = 30;

/// Whether the kernel verifies that no other node has an IPv6 address before it uses the
/// address (duplicate address detection, RFC 4862).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dad {
    /// No: address management guarantees that the address is unique, and detection would
    /// delay a pod by 1 to 2 s.
    #[default]
    Off,
    /// Yes.
    On,
}

/// An address as the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelAddress {
    /// The index of its link.
    pub link: u32,
    /// The address with its prefix length.
    pub cidr: Cidr,
    /// The state of its duplicate address detection.
    pub state: AddressState,
    /// Whether its scope is global (`universe`), and not that of the link or the host.
    pub is_global: bool,
    /// Whether its lifetime is limited, as of an address by DHCP or by router
    /// advertisements.
    pub is_leased: bool,
}

/// The result of duplicate address detection for an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressState {
    /// It can be used.
    Usable,
    /// Detection has not ended, or not begun because the link has no carrier.
    Tentative,
    /// Another node has the address.
    DadFailed,
}

fn message_of(link: &Link, cidr: Cidr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = link.index;
    message.header.prefix_len = cidr.prefix();
    message.header.family = family(cidr.address());
    message
        .attributes
        .push(AddressAttribute::Local(cidr.address()));
    message
}

impl Change {
    fn remove_address(link: &Link, cidr: Cidr) -> Self {
        let message = message_of(link, cidr);
        let failed = format!("failed to remove IP addr {cidr} from {:?}", link.name);
        Self::new(RouteNetlinkMessage::DelAddress(message), 0, failed)
    }

    /// Adds an address to a link. With [`Dad::Off`] an IPv6 address is usable at once.
    pub fn add_address(link: &Link, cidr: Cidr, dad: Dad) -> Self {
        let mut message = message_of(link, cidr);
        let attributes = &mut message.attributes;
        attributes.push(AddressAttribute::Address(cidr.address()));
        match cidr.last() {
            IpAddr::V4(last) if cidr.prefix() <= LAST_PREFIX_WITH_BROADCAST => {
                attributes.push(AddressAttribute::Broadcast(last));
            }
            IpAddr::V4(_) => {}
            IpAddr::V6(_) if dad == Dad::Off => message.header.flags = AddressHeaderFlags::Nodad,
            IpAddr::V6(_) => {}
        }
        Self::new(
            RouteNetlinkMessage::NewAddress(message),
            NLM_F_CREATE | NLM_F_EXCL,
            format!("failed to add IP addr {cidr} to {:?}", link.name),
        )
    }
}

impl Netlink {
    /// Removes the addresses of a link, except the link-local ones of IPv6 (`fe80::/10`),
    /// which every link with IPv6 needs. The kernel removes secondary addresses together
    /// with the primary one.
    ///
    /// # Errors
    /// Code 999 with the kernel's answer; a missing link is success.
    pub fn remove_addresses(&mut self, link: &Link) -> Result<()> {
        let is_needed = |address: IpAddr| match address {
            IpAddr::V4(_) => false,
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        let mut present = self.addresses(link.index)?;
        present.retain(|found| !is_needed(found.cidr.address()));
        for found in &present {
            match self.apply(&[Change::remove_address(link, found.cidr)]) {
                Err(error) if error.is_not_found() => return Ok(()),
                Err(error) if error.errno() != Some(EADDRNOTAVAIL) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Adds an address to a link; see [`Change::add_address`].
    ///
    /// # Errors
    /// Code 999 with the kernel's answer, with the text of the Go plugins.
    pub fn add_address(&mut self, link: &Link, cidr: Cidr, dad: Dad) -> Result<()> {
        self.apply(&[Change::add_address(link, cidr, dad)])
    }

    /// The addresses of a link, both families.
    ///
    /// # Errors
    /// Code 999 when the kernel does not answer.
    pub fn addresses(&mut self, index: u32) -> Result<Vec<KernelAddress>> {
        let mut found = self.dump_addresses(index)?;
        found.retain(|address| address.link == index);
        Ok(found)
    }

    /// The addresses of all links, both families.
    ///
    /// # Errors
    /// Code 999 when the kernel does not answer.
    pub fn all_addresses(&mut self) -> Result<Vec<KernelAddress>> {
        self.dump_addresses(0)
    }

    /// The addresses of all links, both families, in an untrusted namespace, whose
    /// processes can add and remove addresses at any time. At most `most` addresses are
    /// read.
    ///
    /// # Errors
    /// Code 999 when there are more, or when they change during every try to list them.
    /// The rest of the answer makes the socket unusable, so it is consumed.
    pub fn into_addresses(mut self, most: usize) -> Result<Vec<KernelAddress>> {
        self.most = most;
        self.dump_addresses(0)
    }

    fn dump_addresses(&mut self, index: u32) -> Result<Vec<KernelAddress>> {
        // Without this option, and before Linux 4.20, the kernel ignores the index and
        // lists all addresses.
        self.socket.set_netlink_get_strict_chk(true).ok();
        let mut message = AddressMessage::default();
        message.header.index = index;
        let replies = self
            .dump(&RouteNetlinkMessage::GetAddress(message))
            .map_err(|cause| Error::internal("failed to list the addresses").because(&cause))?;
        Ok(replies.into_iter().filter_map(to_address).collect())
    }
}

/// The kernel's number for the family of `address`.
pub(super) fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

pub(super) fn to_address(message: RouteNetlinkMessage) -> Option<KernelAddress> {
    let RouteNetlinkMessage::NewAddress(message) = message else {
        return None;
    };
    let find = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| {
        message.attributes.iter().find_map(wanted)
    };
    // An IPv6 address has the attribute `local` only if it has a peer.
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
    let state = match message.header.flags {
        // An address whose detection has failed is also marked as tentative.
        flags if flags.contains(AddressHeaderFlags::Dadfailed) => AddressState::DadFailed,
        flags if flags.contains(AddressHeaderFlags::Tentative) => AddressState::Tentative,
        _ => AddressState::Usable,
    };
    let cidr = Cidr::new(address, message.header.prefix_len)?;
    Some(KernelAddress {
        link: message.header.index,
        cidr,
        state,
        is_global: message.header.scope == AddressScope::Universe,
        is_leased: !message.header.flags.contains(AddressHeaderFlags::Permanent),
    })
}
