//! New interfaces on another one: how they are created, and what the kernel says when it is
//! asked for one.

use std::os::fd::{AsFd, AsRawFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, IpVlanFlags, LinkAttribute, LinkInfo, LinkMessage};
use nix::libc::{EBUSY, EINVAL, EOPNOTSUPP};
use rtnetlink::{LinkIpVlan, LinkMacVlan};

use super::{Change, Made, Netlink};
use crate::error::Result;
use crate::kernel::netns::NetNs;

/// The mode in which a macvlan interface has its device for itself. Source: `linux/if_link.h`.
const PASSTHRU: u32 = 8;

/// An interface to be created on another one.
#[derive(Clone, Copy, Debug)]
pub struct NewLink<'a> {
    /// Its name.
    pub name: &'a str,
    /// The index of the interface below it, in the namespace of the socket.
    pub lower: u32,
    /// The namespace to create it in, when it is not the socket's own.
    pub netns: Option<&'a NetNs>,
    /// What it is.
    pub kind: Kind,
    /// The MTU in bytes; that of the interface below it when not given.
    pub mtu: Option<u32>,
}

/// A kind of interface on another one, as the kernel numbers modes and flags.
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
    /// Creates an interface, down, in the namespace and under the name that it is to have.
    /// What fails has code 999 and the kernel's answer; see [`crate::error::Error::is_exists`] for a taken
    /// name.
    pub fn create_link(&mut self, new: NewLink<'_>) -> Made<()> {
        let kind = match new.kind {
            Kind::Ipvlan { .. } => "ipvlan",
            Kind::Macvlan { .. } => "macvlan",
        };
        self.make(new.request(format!("failed to create {kind} {:?}", new.name)))
    }

    /// Whether the kernel has ipvlan. Where that is a module, the kernel loads it.
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
            // A request without a master is invalid where the kind is known.
            Err(error) if error.errno() == Some(EINVAL) => Ok(true),
            Err(error) if error.errno() == Some(EOPNOTSUPP) => Ok(false),
            outcome => outcome.map(|()| true),
        }
    }

    /// Whether nothing else receives what the Ethernet device with this index receives, in
    /// any namespace: a macvlan of mode passthru, which is `name` for a moment, can be made on
    /// it. A kernel without macvlan has nobody to tell of.
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
