//! What happened in the VPC, in order, and what of it must never happen
//! (eni-sync's "What must never happen", 2, 3 and 4).

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::id::{EniId, InstanceId, VpcId};
use super::world::PRIMARY;

/// The outcome of a call that EC2 carried out.
pub const OK: &str = "ok";

/// The outcome of a call whose connection was closed before anything was done.
pub const DROPPED: &str = "dropped";

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A request was decided. What it changed follows in entries of its own.
    Called {
        /// The action's name.
        action: String,
        /// The instance whose credentials signed it; none for any other key.
        node: Option<InstanceId>,
        /// The network interface it named, whether that exists or not.
        eni: Option<EniId>,
        /// The addresses it named, as far as they could be read.
        addresses: Vec<IpAddr>,
        /// [`OK`], [`DROPPED`] or the error's code.
        outcome: String,
        /// What the network interface was like before the call.
        target: Option<Target>,
    },
    /// An address came to a network interface that nobody had it on.
    Assigned {
        /// The address.
        address: IpAddr,
        /// Where it is unique.
        vpc: VpcId,
        /// The interface that has it now.
        eni: EniId,
        /// The instance that the interface is attached to.
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
        /// Where it is unique.
        vpc: VpcId,
        /// The interface that had it.
        from: EniId,
        /// The interface that has it now.
        to: EniId,
    },
    /// An address is free again: by a call, or because its interface is gone.
    Unassigned {
        /// The address.
        address: IpAddr,
        /// Where it was unique.
        vpc: VpcId,
        /// The interface that had it.
        eni: EniId,
        /// The instance whose credentials signed the call.
        by_instance: Option<InstanceId>,
    },
    /// A call asked to unassign a primary address, or to take one from its interface.
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
    /// The instance it was attached to.
    pub instance: Option<InstanceId>,
    /// Whether that instance was running.
    pub running: bool,
    /// Its network card and its device index there.
    pub place: Option<(u32, u32)>,
    /// Whether it had the tag that keeps the VPC CNI away.
    pub unmanaged: bool,
}

/// The calls that change which addresses an interface has.
pub(super) const MUTATIONS: [&str; 4] = [
    "AssignPrivateIpAddresses",
    "UnassignPrivateIpAddresses",
    "AssignIpv6Addresses",
    "UnassignIpv6Addresses",
];

/// What a log shows that must never happen, one sentence each. Attempts count, also
/// those that EC2 refused; only calls of an instance are held to what belongs to
/// another instance, because only there it is known who called.
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

/// What is forbidden of a single event, whatever happened before it.
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
