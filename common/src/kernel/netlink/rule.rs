//! Routing policy rules, as far as source routing needs them: `from ADDRESS lookup
//! TABLE`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::RouteHeader;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};

use super::address::family;
use super::{Change, Netlink};
use crate::error::{Error, Result};

/// A rule that selects packets by their source address only, and sends them to one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceRule {
    /// The address.
    pub source: IpAddr,
    /// The routing table.
    pub table: u32,
    /// The priority, lower first. The kernel puts a new rule without one before all others
    /// except that of the table `local`.
    pub priority: Option<u32>,
}

/// The rules of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// The rules with a source address of one host, a table and no other condition.
    pub from_sources: Vec<SourceRule>,
    /// The tables that any rule uses.
    pub tables: BTreeSet<u32>,
}

impl Change {
    /// Adds a rule.
    pub fn add_rule(rule: &SourceRule) -> Self {
        Self::new(
            RouteNetlinkMessage::NewRule(to_message(rule)),
            NLM_F_CREATE | NLM_F_EXCL,
            format!("failed to add rule '{}'", describe(rule)),
        )
    }
}

impl Netlink {
    /// The rules of both families.
    ///
    /// # Errors
    /// Code 999 when the kernel does not answer.
    pub fn rules(&mut self) -> Result<Rules> {
        // The family is not specified: so a family that the kernel does not have is not an
        // error.
        let replies = self
            .dump(&RouteNetlinkMessage::GetRule(RuleMessage::default()))
            .map_err(|cause| Error::internal("failed to list the rules").because(&cause))?;
        let mut rules = Rules::default();
        for reply in replies {
            if let RouteNetlinkMessage::NewRule(message) = reply {
                rules.tables.insert(table_of(&message));
                rules.from_sources.extend(to_source_rule(&message));
            }
        }
        Ok(rules)
    }

    /// Deletes a rule; a missing rule is success.
    ///
    /// # Errors
    /// Code 999 with the kernel's answer.
    pub fn delete_rule(&mut self, rule: &SourceRule) -> Result<()> {
        let failed = format!("failed to delete rule '{}'", describe(rule));
        let message = RouteNetlinkMessage::DelRule(to_message(rule));
        match self.apply(&[Change::new(message, 0, failed)]) {
            Err(error) if error.is_not_found() => Ok(()),
            outcome => outcome,
        }
    }
}

fn describe(rule: &SourceRule) -> String {
    format!("from {} lookup {}", rule.source, rule.table)
}

pub(super) fn to_message(rule: &SourceRule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family(rule.source);
    message.header.src_len = bits(rule.source);
    message.header.action = RuleAction::ToTable;
    // The header has one byte for the table; a larger number goes into the attribute alone.
    message.header.table = u8::try_from(rule.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    message.attributes.push(RuleAttribute::Source(rule.source));
    message.attributes.push(RuleAttribute::Table(rule.table));
    let priority = rule.priority.map(RuleAttribute::Priority);
    message.attributes.extend(priority);
    message
}

/// The table that a rule uses; 0 when it has another action.
fn table_of(message: &RuleMessage) -> u32 {
    let attribute = message.attributes.iter().find_map(|a| match a {
        RuleAttribute::Table(table) => Some(*table),
        _ => None,
    });
    attribute.unwrap_or(u32::from(message.header.table))
}

pub(super) fn to_source_rule(message: &RuleMessage) -> Option<SourceRule> {
    let header = &message.header;
    let (mut source, mut priority) = (None, 0);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Source(address) => source = Some(*address),
            RuleAttribute::Priority(number) => priority = *number,
            RuleAttribute::Destination(_)
            | RuleAttribute::Iifname(_)
            | RuleAttribute::Oifname(_)
            | RuleAttribute::FwMark(_)
            | RuleAttribute::UidRange(_)
            | RuleAttribute::IpProtocol(_)
            | RuleAttribute::SourcePortRange(_)
            | RuleAttribute::DestinationPortRange(_) => return None,
            _ => {}
        }
    }
    let source = source.filter(|address| bits(*address) == header.src_len)?;
    let is_plain = header.action == RuleAction::ToTable && header.tos == 0;
    is_plain.then(|| SourceRule {
        source,
        table: table_of(message),
        priority: Some(priority),
    })
}

/// The length of an address in bits.
fn bits(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}
