//! The first message of a datagram, from its bytes to our types, as every dump reads it. Only
//! the fuzz targets need it without a kernel, so it is only compiled for them.

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::rule::RuleMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::address::to_address;
use super::link::to_link;
use super::route::{FAMILIES, to_route};
use super::rule::{to_message, to_source_rule};
use super::{KernelAddress, KernelRoute, Link, SourceRule, messages_of};

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A link.
    Link(Link),
    /// An address on a link.
    Address(KernelAddress),
    /// A unicast route.
    Route(KernelRoute),
    /// A rule that is about a source address alone.
    Rule(SourceRule),
}

impl Reply {
    /// What these bytes say; nothing when they are no message, or one that is not used.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let message = messages_of(bytes).ok()?.into_iter().next()?;
        let NetlinkPayload::InnerMessage(inner) = message.payload else {
            return None;
        };
        match inner {
            RouteNetlinkMessage::NewRoute(message) => {
                let [v4, v6] = FAMILIES;
                let any = match message.header.address_family {
                    AddressFamily::Inet6 => v6,
                    _ => v4,
                };
                to_route(&message, any).map(Self::Route)
            }
            RouteNetlinkMessage::NewRule(message) => to_source_rule(&message).map(Self::Rule),
            other => match to_link(other.clone()) {
                Some(link) => Some(Self::Link(link)),
                None => to_address(other).map(Self::Address),
            },
        }
    }

    /// The bytes in which the kernel is told of a rule.
    pub fn rule_bytes(rule: &SourceRule) -> Vec<u8> {
        let message: RuleMessage = to_message(rule);
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::NewRule(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }
}
