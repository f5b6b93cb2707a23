//! Interfaces on top of a device, in namespaces other than the node's. A container with the
//! permission to create namespaces can move interfaces that it has made on its device into
//! one of them. They would continue to use the device when another container has it, because
//! a move of the device does not affect them.

use common::attach::Sandbox;
use common::error::{Error, ErrorCode, Result};
use common::kernel::netlink::Link;
use common::kernel::netns::NetNs;

use crate::identity::unforeseen_name;

/// The kinds of interfaces that use the one below them in any namespace.
const KINDS: [&str; 6] = ["vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "macsec"];
/// How many namespaces of a container are examined at most, more than it needs. Examining
/// them takes time, in which no other device of the node can be moved.
const MOST_NAMESPACES: usize = 128;
/// How many interfaces are deleted in one of these at most. The kernel needs time for each,
/// and cannot delete several of another namespace at once.
const MOST_AT_ONCE: usize = 64;

/// Deletes the interfaces on top of `link` in the container, whose interfaces are `links`,
/// and those that it has moved into other namespaces.
///
/// # Errors
/// Code 11 when there are too many namespaces or interfaces in them, 999 with the kernel's
/// answer.
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

/// Deletes the interfaces on top of `link` in the namespace with this id (`nsid`) in the
/// container's namespace.
fn remove_from(sandbox: &mut Sandbox, link: &Link, namespace: i32) -> Result<()> {
    let links = sandbox.netlink.links_of(namespace)?;
    // When the kernel listed a link whose lower interface is in the container, it assigned an
    // id to the container's namespace.
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

/// Whether `child` uses `link`. `netns` is the id of the namespace of `link`; `None` when
/// both are in the same one.
fn is_stacked_on(child: &Link, link: &Link, netns: Option<i32>) -> bool {
    let is_above = child.parent == Some(link.index) && child.parent_netns_id == netns;
    is_above && KINDS.contains(&child.kind.as_str())
}

/// Makes sure that no interface is on top of `link` in a namespace that cannot be examined. A
/// macvlan in mode passthru is created and deleted for that: the kernel refuses it if the
/// device has a macvlan, ipvlan or macsec interface or is a port of a bridge. VLAN interfaces
/// are not detected.
///
/// # Errors
/// Code 11 when there is one, 999 with the kernel's answer.
pub fn require_unused(sandbox: &mut Sandbox, link: &Link) -> Result<()> {
    let is_port = !link.port_kind.is_empty() && link.port_kind != "vrf";
    if is_port || !link.ethernet {
        // A port cannot have such interfaces, and neither can a device that is not Ethernet.
        return Ok(());
    }
    match sandbox
        .netlink
        .probe_exclusive(link.index, &unforeseen_name())
    {
        Ok(true) => Ok(()),
        Ok(false) => {
            let msg = format!("{:?} is still used by another interface", link.name);
            let details = "a container that had the device has made an interface on it and moved that \
                           to another network namespace; it ends with that namespace";
            Err(Error::new(ErrorCode::TRY_AGAIN, msg).with_details(details))
        }
        // The container has just moved the device. The next search for it reports that.
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}
