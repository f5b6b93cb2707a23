//! Parses the first message of a datagram, in the way of every dump. It is compiled for the
//! fuzz targets only, which need it without a kernel.

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::rule::RuleMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::address::to_address;
use super::link::to_link;
use super::route::{FAMILIES, to_route};
use super::rule::{to_message, to_source_rule};
use super::{KernelAddress, KernelRoute, Link, SourceRule, messages_of};

/// A parsed message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A link.
    Link(Link),
    /// An address on a link.
    Address(KernelAddress),
    /// A unicast route.
    Route(KernelRoute),
    /// A rule with only a source address and a table.
    Rule(SourceRule),
}

impl Reply {
    /// Parses these bytes; `None` when they are not a message, or one of a kind that is not
    /// used.
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

    /// The message with which a rule is sent to the kernel.
    pub fn rule_bytes(rule: &SourceRule) -> Vec<u8> {
        let message: RuleMessage = to_message(rule);
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::NewRule(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }
}
