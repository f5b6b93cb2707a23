//! The log of the VPC, and a check of it for what must never happen (eni-sync's "What
//! must never happen", 2, 3 and 4).

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::id::{EniId, InstanceId, VpcId};
use super::world::PRIMARY;

/// The outcome of a successful call.
pub const OK: &str = "ok";

/// The outcome of a call whose connection was closed before it was carried out.
pub const DROPPED: &str = "dropped";

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A request was decided. Its changes follow as separate entries.
    Called {
        /// The action's name.
        action: String,
        /// The instance whose credentials signed it; `None` for any other key.
        node: Option<InstanceId>,
        /// The network interface that it named, even if that does not exist.
        eni: Option<EniId>,
        /// The addresses that it named, as far as they could be parsed.
        addresses: Vec<IpAddr>,
        /// [`OK`], [`DROPPED`] or the error's code.
        outcome: String,
        /// The state of the network interface before the call.
        target: Option<Target>,
    },
    /// A network interface got an address that no interface had.
    Assigned {
        /// The address.
        address: IpAddr,
        /// The VPC in which it is unique.
        vpc: VpcId,
        /// The interface that has it now.
        eni: EniId,
        /// The instance to which the interface is attached.
        instance: Option<InstanceId>,
    },
    /// A call took an address away from another interface (`AllowReassignment`). The
    /// address itself follows with [`Event::Moved`], at once or after the delay.
    Reassigned {
        /// The address.
        address: IpAddr,
        /// The interface that had it.
        from: EniId,
        /// The interface that gets it.
        to: EniId,
        /// The instance whose credentials signed the call.
        by: Option<InstanceId>,
        /// Whether the instance it was taken from was running.
        owner_running: bool,
    },
    /// A reassigned address is on its new interface.
    Moved {
        /// The address.
        address: IpAddr,
        /// The VPC in which it is unique.
        vpc: VpcId,
        /// The interface that had it.
        from: EniId,
        /// The interface that has it now.
        to: EniId,
    },
    /// An address is free again: because of a call, or because its interface was deleted.
    Unassigned {
        /// The address.
        address: IpAddr,
        /// The VPC in which it was unique.
        vpc: VpcId,
        /// The interface that had it.
        eni: EniId,
        /// The instance whose credentials signed the call.
        by_instance: Option<InstanceId>,
    },
    /// A call asked to unassign a primary address, or to move one to another interface.
    /// EC2 refuses both.
    PrimaryTouched {
        /// The primary address.
        address: IpAddr,
        /// Its interface.
        eni: EniId,
        /// The instance whose credentials signed the call.
        by: Option<InstanceId>,
    },
}

/// A network interface at the moment of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The instance to which it was attached.
    pub instance: Option<InstanceId>,
    /// Whether that instance was running.
    pub running: bool,
    /// Its network card and its device index on that.
    pub place: Option<(u32, u32)>,
    /// Whether it had the tag that keeps the VPC CNI away.
    pub unmanaged: bool,
}

/// The calls that change the addresses of an interface.
pub(super) const MUTATIONS: [&str; 4] = [
    "AssignPrivateIpAddresses",
    "UnassignPrivateIpAddresses",
    "AssignIpv6Addresses",
    "UnassignIpv6Addresses",
];

/// Everything in a log that must never happen, one sentence each. Attempts that EC2
/// refused count too. Rules about the interfaces of another instance apply only to calls
/// of an instance, because only for these the caller is known.
pub fn violations(events: &[Event]) -> Vec<String> {
    let mut owners: BTreeMap<(&VpcId, IpAddr), &EniId> = BTreeMap::new();
    let mut found = Vec::new();
    for event in events {
        found.extend(forbidden(event));
        match event {
            Event::Assigned {
                address, vpc, eni, ..
            } => {
                if let Some(other) = owners.insert((vpc, *address), eni)
                    && other != eni
                {
                    found.push(format!("{address} is on {other} and on {eni}"));
                }
            }
            Event::Moved {
                address,
                vpc,
                from,
                to,
            } => {
                if let Some(other) = owners.insert((vpc, *address), to)
                    && other != from
                {
                    found.push(format!("{address} is on {other} and on {to}"));
                }
            }
            Event::Unassigned { address, vpc, .. } => {
                owners.remove(&(vpc, *address));
            }
            Event::Called { .. } | Event::Reassigned { .. } | Event::PrimaryTouched { .. } => {}
        }
    }
    found
}

/// The violations that a single event shows, regardless of those before it.
fn forbidden(event: &Event) -> Vec<String> {
    match event {
        Event::Called {
            action,
            node,
            eni: Some(eni),
            target: Some(target),
            ..
        } if MUTATIONS.contains(&action.as_str()) => {
            forbidden_call(action, node.as_ref(), eni, target)
        }
        Event::Reassigned {
            address,
            from,
            to,
            owner_running: true,
            ..
        } => vec![format!(
            "{address} was taken from {from}, whose instance was running, to {to}"
        )],
        Event::PrimaryTouched { address, eni, .. } => {
            vec![format!(
                "the primary address {address} of {eni} was touched"
            )]
        }
        _ => Vec::new(),
    }
}

fn forbidden_call(
    action: &str,
    node: Option<&InstanceId>,
    eni: &EniId,
    target: &Target,
) -> Vec<String> {
    let mut found = Vec::new();
    if target.place == Some(PRIMARY) {
        found.push(format!("{action} on {eni}, which is at device index 0"));
    }
    if !target.unmanaged {
        found.push(format!(
            "{action} on {eni}, which has no no_manage=true tag"
        ));
    }
    if let (Some(node), Some(owner)) = (node, &target.instance)
        && node != owner
        && target.running
        && action.starts_with("Unassign")
    {
        found.push(format!(
            "{action} on {eni} by {node}, while it belonged to the running {owner}"
        ));
    }
    found
}
