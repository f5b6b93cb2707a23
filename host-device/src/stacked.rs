//! Interfaces above a device, in namespaces that are not the node's: a container that may
//! make namespaces can move what it has made on its device into one of them, and would go on
//! using the device, whoever has it next. To move a device tells them nothing.

use common::attach::Sandbox;
use common::error::{Error, ErrorCode, Result};
use common::kernel::netlink::Link;
use common::kernel::netns::NetNs;

use crate::identity::unforeseen_name;

/// The kinds of interfaces that use the one below them wherever it is.
const KINDS: [&str; 6] = ["vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "macsec"];
/// More namespaces than a container has any use for. To look into each takes time, in which
/// no other device of the node can be moved.
const MOST_NAMESPACES: usize = 128;
/// So many interfaces are deleted in one of these. The kernel takes its time for each, and
/// has no way to delete many of another namespace at once.
const MOST_AT_ONCE: usize = 64;

/// Deletes the interfaces above `link` that the container has, which has these `links`, and
/// those that it has moved into other namespaces.
///
/// # Errors
/// Code 11 when there are too many of these, 999 with the kernel's answer.
pub fn remove(sandbox: &mut Sandbox, link: &Link, links: &[Link]) -> Result<()> {
    let is_above = |child: &&Link| is_stacked_on(child, link, None);
    let above: Vec<&Link> = links.iter().filter(is_above).collect();
    sandbox.netlink.delete_links(&above)?;
    let mut others = sandbox.netlink.namespace_ids()?;
    // The other end of a veth is on the node.
    others.retain(|id| link.kind != "veth" || link.parent_netns_id != Some(*id));
    if others.is_empty() {
        return Ok(());
    }
    let host = sandbox.netlink.namespace_id(&NetNs::own()?)?;
    others.retain(|id| Some(*id) != host);
    if others.len() > MOST_NAMESPACES {
        let msg = format!("cannot look for interfaces above {:?}", link.name);
        let details = format!("the container knows {} namespaces", others.len());
        return Err(Error::new(ErrorCode::TRY_AGAIN, msg).with_details(details));
    }
    others
        .into_iter()
        .try_for_each(|id| remove_from(sandbox, link, id))
}

/// Deletes what is above `link` in the namespace that the container knows by this number.
fn remove_from(sandbox: &mut Sandbox, link: &Link, namespace: i32) -> Result<()> {
    let links = sandbox.netlink.links_of(namespace)?;
    // To list a link that is above one here has numbered the container itself.
    let own = sandbox.netlink.namespace_id(&sandbox.netns)?;
    if own.is_none() || own == Some(namespace) {
        return Ok(());
    }
    let above = links.iter().filter(|child| is_stacked_on(child, link, own));
    let above: Vec<&Link> = above.collect();
    for child in above.iter().take(MOST_AT_ONCE) {
        sandbox.netlink.delete_link_of(namespace, child)?;
    }
    match above.len().checked_sub(MOST_AT_ONCE) {
        None | Some(0) => Ok(()),
        Some(left) => {
            let msg = format!("{left} interfaces above {:?} are left to delete", link.name);
            let details = "the container has made them and moved them on; each DEL deletes some";
            Err(Error::new(ErrorCode::TRY_AGAIN, msg).with_details(details))
        }
    }
}

/// Whether `child` uses `link`, which is in the namespace `netns`, or in its own.
fn is_stacked_on(child: &Link, link: &Link, netns: Option<i32>) -> bool {
    let is_above = child.parent == Some(link.index) && child.parent_netns_id == netns;
    is_above && KINDS.contains(&child.kind.as_str())
}

/// Makes sure that no interface is above `link` in a namespace that cannot be looked into.
/// Of those that receive what the device receives (macvlan, ipvlan, macsec and the port of a
/// bridge) a macvlan of mode passthru wants to be the only one, so one is made and deleted. A
/// VLAN is not seen so.
///
/// # Errors
/// Code 11 when there is one, 999 with the kernel's answer.
pub fn require_unused(sandbox: &mut Sandbox, link: &Link) -> Result<()> {
    let is_port = !link.port_kind.is_empty() && link.port_kind != "vrf";
    if is_port || !link.ethernet {
        // A port excludes the others. What is no Ethernet device carries none of them.
        return Ok(());
    }
    match sandbox
        .netlink
        .probe_exclusive(link.index, &unforeseen_name())
    {
        Ok(true) => Ok(()),
        Ok(false) => {
            let msg = format!("{:?} is still used by another interface", link.name);
            let details = "a container that had the device has made one on it and moved it into \
                           a network namespace of its own; it goes when that ends";
            Err(Error::new(ErrorCode::TRY_AGAIN, msg).with_details(details))
        }
        // The container has just moved it on. Who looks for it next says so.
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}
