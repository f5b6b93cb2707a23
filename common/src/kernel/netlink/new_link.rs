//! Creates interfaces on top of another one, and probes what the kernel would create.

use std::os::fd::{AsFd, AsRawFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, IpVlanFlags, LinkAttribute, LinkInfo, LinkMessage};
use nix::libc::{EBUSY, EINVAL, EOPNOTSUPP};
use rtnetlink::{LinkIpVlan, LinkMacVlan};

use super::{Change, Made, Netlink};
use crate::error::Result;
use crate::kernel::netns::NetNs;

/// The macvlan mode in which the interface has its device exclusively. Source: `linux/if_link.h`.
const PASSTHRU: u32 = 8;

/// An interface to be created on another one.
#[derive(Clone, Copy, Debug)]
pub struct NewLink<'a> {
    /// Its name.
    pub name: &'a str,
    /// The index of the interface below it, in the namespace of the socket.
    pub lower: u32,
    /// The namespace to create it in; that of the socket when not given.
    pub netns: Option<&'a NetNs>,
    /// Its kind.
    pub kind: Kind,
    /// The MTU in bytes; that of the interface below it when not given.
    pub mtu: Option<u32>,
}

/// A kind of interface on top of another one. Modes and flags are the kernel's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `ipvlan`.
    Ipvlan {
        /// The mode.
        mode: u16,
        /// The flags.
        flags: u16,
    },
    /// `macvlan`.
    Macvlan {
        /// The mode.
        mode: u32,
    },
}

impl NewLink<'_> {
    fn request(&self, failed: String) -> Change {
        let NewLink {
            name, lower, kind, ..
        } = *self;
        let mut message = match kind {
            Kind::Ipvlan { mode, flags } => LinkIpVlan::new(name, lower, mode.into())
                .flag(IpVlanFlags::from_bits_retain(flags))
                .build(),
            Kind::Macvlan { mode } => LinkMacVlan::new(name, lower, mode.into()).build(),
        };
        let attributes = &mut message.attributes;
        let netns = self.netns.map(|netns| netns.as_fd().as_raw_fd());
        attributes.extend(netns.map(LinkAttribute::NetNsFd));
        attributes.extend(self.mtu.map(LinkAttribute::Mtu));
        let message = RouteNetlinkMessage::NewLink(message);
        Change::new(message, NLM_F_CREATE | NLM_F_EXCL, failed)
    }
}

impl Netlink {
    /// Creates an interface in its namespace and with its name. It is down. A failure has code 999
    /// and the kernel's answer; [`crate::error::Error::is_exists`] is true when the name is in use.
    pub fn create_link(&mut self, new: NewLink<'_>) -> Made<()> {
        let kind = match new.kind {
            Kind::Ipvlan { .. } => "ipvlan",
            Kind::Macvlan { .. } => "macvlan",
        };
        self.make(new.request(format!("failed to create {kind} {:?}", new.name)))
    }

    /// Whether the kernel has ipvlan. If that is a module, the kernel loads it.
    ///
    /// # Errors
    /// Code 999 with the kernel's answer.
    pub fn has_ipvlan(&mut self) -> Result<bool> {
        let mut message = LinkMessage::default();
        let info = LinkInfo::Kind(InfoKind::IpVlan);
        message.attributes.push(LinkAttribute::LinkInfo(vec![info]));
        let request = Change::new(
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
            "failed to ask the kernel for ipvlan".to_owned(),
        );
        match self.apply(&[request]) {
            // If the kernel has the kind, the request is invalid because it has no master.
            Err(error) if error.errno() == Some(EINVAL) => Ok(true),
            Err(error) if error.errno() == Some(EOPNOTSUPP) => Ok(false),
            outcome => outcome.map(|()| true),
        }
    }

    /// Whether no other interface, in any namespace, receives the packets of the Ethernet device
    /// with this index: then a macvlan in mode passthru can be created on it. It is created with
    /// `name` and deleted at once. True for a kernel without macvlan, which cannot report another
    /// user.
    ///
    /// # Errors
    /// Code 999 with the kernel's answer.
    pub fn probe_exclusive(&mut self, index: u32, name: &str) -> Result<bool> {
        let create = NewLink {
            name,
            lower: index,
            netns: None,
            kind: Kind::Macvlan { mode: PASSTHRU },
            mtu: None,
        };
        let mut delete = LinkMessage::default();
        delete
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        let failed = format!("failed to see whether the link with index {index} is in use");
        let changes = [
            create.request(failed.clone()),
            Change::new(RouteNetlinkMessage::DelLink(delete), 0, failed),
        ];
        match self.apply(&changes) {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(EOPNOTSUPP) => Ok(true),
            Err(error) if matches!(error.errno(), Some(EBUSY | EINVAL)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
