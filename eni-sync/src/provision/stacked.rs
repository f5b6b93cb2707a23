//! Interfaces that use that of an ENI: on top of it on the node, or from the namespace of a pod,
//! as macvlan, ipvlan and VLAN interfaces do. A pod of another plugin has nothing else that tells
//! of it, if neither EC2 nor the metadata show its address yet.

use std::collections::BTreeSet;

use common::error::Result;
use common::kernel::namespaces;
use common::kernel::netlink::{ByNumber, Link, Netlink};
use common::kernel::netns::NetNs;
use host_device::identity::unforeseen_name;

/// Pairs of interfaces: each refers to its other end, which is not below it.
const PAIRS: [&str; 2] = ["veth", "netkit"];
/// The reason why an ENI stays on which the kernel allows no other interface.
const HIDDEN: &str = "an interface in a namespace that cannot be seen is on it";

/// The interfaces that use that of the ENI with this MAC address, in the words of a message. In a
/// namespace that has a number on the node, also those that have its MAC address.
///
/// # Errors
/// Those of the kernel: without its answers, any pod may use the ENI.
pub(super) fn on_eni(mac: &str) -> Result<BTreeSet<String>> {
    let mut netlink = Netlink::open()?;
    let links = netlink.links()?;
    let Some(lower) = Link::of_hardware(&links, mac) else {
        return Ok(BTreeSet::new());
    };
    let mut found = on_node(&links, lower);
    let node = NetNs::own()?;
    let numbers = ByNumber::open()?.map(|mut node| node.numbers());
    let numbers = numbers.transpose()?.unwrap_or_default();
    for number in &numbers {
        let links = netlink.links_of(*number)?;
        // When the kernel lists a link whose lower interface is on the node, the node gets a number
        // of its own.
        let home = netlink.namespace_id(&node)?;
        if home == Some(*number) {
            continue;
        }
        let users = links
            .iter()
            .filter(|link| link.mac == mac || is_above(link, lower, home));
        found.extend(users.map(|link| {
            let place = format!("network namespace {number} of `ip netns list-id`");
            is_used_by(link, &place)
        }));
    }
    for (path, id) in namespaces::visible()? {
        if id.is_same(&node.outer_id()?) {
            continue;
        }
        let Some(netns) = NetNs::open_for_del(&path.to_string_lossy())? else {
            continue;
        };
        let number = netlink.namespace_id(&netns)?;
        if number.is_none_or(|number| !numbers.contains(&number)) {
            let users = without_number(&netns, &node, lower)?;
            let named = users
                .iter()
                .map(|link| is_used_by(link, &format!("{path:?}")));
            found.extend(named);
        }
    }
    Ok(found)
}

/// The reason why the ENI with this MAC address may be used from a namespace that nothing leads to,
/// if there is one. The kernel tells by refusing another interface, which is made and deleted.
///
/// # Errors
/// Code 999 with the kernel's answer.
pub(super) fn hidden_on_eni(mac: &str) -> Result<Option<String>> {
    let mut netlink = Netlink::open()?;
    let links = netlink.links()?;
    let Some(lower) = Link::of_hardware(&links, mac).filter(|link| link.ethernet) else {
        return Ok(None);
    };
    match netlink.probe_exclusive(lower.index, &unforeseen_name()) {
        Ok(true) => Ok(None),
        Ok(false) => Ok(Some(HIDDEN.to_owned())),
        // It has left the node; whoever has moved it is found by that.
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The interfaces of the node that are built on this one, and the one that it is a port of.
fn on_node(links: &[Link], lower: &Link) -> BTreeSet<String> {
    let is_upper = |link: &&Link| {
        let is_controller = lower.controller == Some(link.index);
        is_controller || is_above(link, lower, None)
    };
    let uppers = links.iter().filter(is_upper);
    let named = uppers.map(|link| format!("interface {:?} of the node is on it", link.name));
    named.collect()
}

/// The interfaces on this one in a namespace that has no number on the node.
fn without_number(netns: &NetNs, node: &NetNs, lower: &Link) -> Result<Vec<Link>> {
    let mut netlink = Netlink::open_in(netns)?;
    let mut links = netlink.links()?;
    match netlink.namespace_id(node)? {
        None => links.clear(),
        home => links.retain(|link| is_above(link, lower, home)),
    }
    Ok(links)
}

/// Whether `link` is on `lower`, whose namespace has the number `home` where `link` is; `None` if
/// both are in the same one.
fn is_above(link: &Link, lower: &Link, home: Option<i32>) -> bool {
    let is_pair = PAIRS.contains(&link.kind.as_str());
    link.parent == Some(lower.index) && link.parent_netns_id == home && !is_pair
}

fn is_used_by(link: &Link, place: &str) -> String {
    format!("interface {:?} in {place} is on it", link.name)
}
