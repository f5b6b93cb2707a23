//! Moves a device from a container to the host, where it is proven to be the device of the record.
//! What a container has made to look like it is moved back.

use common::attach::Sandbox;
use common::error::{Error, ErrorCode, Result};
use common::kernel::netlink::{Link, LinkChange};
use common::kernel::netns::{NetNs, Numbered};
use common::records::Attachment;

use crate::device::Device;
use crate::identity::unforeseen_name;
use crate::restore::{Host, make_free, restore};
use crate::stacked;

/// How many links that look like the device one DEL tries, more than a container normally has.
/// Each one is moved to the host and back, so a container with more of them could make DEL
/// slow.
const MOST_CANDIDATES: usize = 32;

/// Moves a device that the Go plugin has attached back to the host, under `name`. Its other
/// properties are unknown.
///
/// # Errors
/// As for [`move_out`].
pub fn move_out_unrecorded(
    host: &mut Host,
    sandbox: &mut Sandbox,
    link: &Link,
    name: &str,
) -> Result<()> {
    let device = Device {
        name: name.to_owned(),
        altnames: link.altnames.clone(),
        mac: link.mac.clone(),
        mtu: link.mtu,
        kind: link.kind.clone(),
        parent: link.parent,
        bus_address: link.bus_address.clone(),
        permanent_mac: link.permanent_mac.clone(),
        ..Device::default()
    };
    let links = sandbox.netlink.links()?;
    match send_back(host, sandbox, (link, &links), &device, &link.name)? {
        Some(arrived) => restore(host, &arrived, &device),
        None => Err(not_proven(&device)),
    }
}

/// Moves the device from the container to the host, and restores it there. False when the
/// container does not have it.
///
/// # Errors
/// Code 11 when that has to be tried again, 999 with the kernel's answer.
pub fn move_out(
    host: &mut Host,
    sandbox: &mut Sandbox,
    record: &Attachment<Device>,
) -> Result<bool> {
    let device = &record.device;
    let links = sandbox.netlink.links()?;
    // A veth has one other end, and if that is on the node, only the node can have moved it.
    let is_told_by_peer = device.peer_on_host().is_some();
    if is_told_by_peer && move_likeliest(host, sandbox, record, &links)? {
        return Ok(true);
    }
    match numbered(sandbox, &links, device)? {
        Numbered::Index(index) => {
            let found = links.iter().find(|link| link.index == index);
            // The container has moved it to another namespace, or back, meanwhile.
            let link = found.ok_or_else(|| not_proven(device))?;
            match move_if_proven(host, sandbox, record, (link, &links))? {
                true => Ok(true),
                false => Err(not_proven(device)),
            }
        }
        Numbered::Nowhere => Ok(false),
        Numbered::Unknown if is_told_by_peer => Ok(false),
        Numbered::Unknown => move_likeliest(host, sandbox, record, &links),
    }
}

/// Moves what looks like the device to the host, one link after the other, until it is the
/// device. Returns whether one was.
fn move_likeliest(
    host: &mut Host,
    sandbox: &mut Sandbox,
    record: &Attachment<Device>,
    links: &[Link],
) -> Result<bool> {
    let device = &record.device;
    let own = without_decoys(sandbox, links, device)?;
    let candidates = device.candidates(&own, &record.ifname);
    for link in candidates.iter().take(MOST_CANDIDATES) {
        if move_if_proven(host, sandbox, record, (link, links))? {
            return Ok(true);
        }
    }
    match candidates.len() > MOST_CANDIDATES {
        true => Err(hidden(device, candidates.len())),
        false => Ok(false),
    }
}

/// Moves `link`, one of the container's `links`, to the host and restores it there, if it is
/// the device. Returns whether it is.
fn move_if_proven(
    host: &mut Host,
    sandbox: &mut Sandbox,
    record: &Attachment<Device>,
    (link, links): (&Link, &[Link]),
) -> Result<bool> {
    let device = &record.device;
    let ifname = record.ifname.as_str();
    let Some(arrived) = send_back(host, sandbox, (link, links), device, ifname)? else {
        return Ok(false);
    };
    restore(host, &arrived, device)?;
    Ok(true)
}

/// Finds the virtual device among the container's `links` by its inode in sysfs, even if the
/// container has changed its name and MAC, or the node has moved its other end or the
/// interface below it. Without a recorded inode it is unknown.
///
/// # Errors
/// As for [`NetNs::find_sysfs_number`].
pub fn numbered(sandbox: &Sandbox, links: &[Link], device: &Device) -> Result<Numbered> {
    let Some(number) = device.sysfs_number else {
        return Ok(Numbered::Unknown);
    };
    let same_kind = links.iter().filter(|link| link.kind == device.kind);
    let indexes: Vec<u32> = same_kind.map(|link| link.index).collect();
    match indexes.is_empty() {
        true => Ok(Numbered::Nowhere),
        false => sandbox.netns.find_sysfs_number(number, &indexes),
    }
}

/// Moves `link` to the host, after deleting the interfaces that the container has made on it
/// (`links` are those of the container). Returns the link on the host if it is the device. The
/// container may have given the index to another interface meanwhile. That one is moved back
/// to the container, and gets none of the device's properties.
fn send_back(
    host: &mut Host,
    sandbox: &mut Sandbox,
    (link, links): (&Link, &[Link]),
    device: &Device,
    ifname: &str,
) -> Result<Option<Link>> {
    make_free(host, &device.name, link, None)?;
    // They would continue to use the device, which another container may get next.
    stacked::remove(sandbox, link, links)?;
    let foreign = device.foreign_altnames(link);
    sandbox.netlink.delete_altnames(link.index, &foreign)?;
    // Without a change of its name the kernel has less work.
    let mut name = match link.name == ifname {
        true => ifname.to_owned(),
        false => free_name(host, device)?,
    };
    let mut moved = move_to_host(sandbox, link, &name);
    if name == ifname && moved.as_ref().is_err_and(Error::is_exists) {
        // The host has an interface of that name.
        name = free_name(host, device)?;
        moved = move_to_host(sandbox, link, &name);
    }
    match moved {
        // The container has moved or deleted it meanwhile.
        Err(error) if error.is_not_found() => return Ok(None),
        outcome => outcome?,
    }
    let Some(arrived) = host.link_by_name(&name)? else {
        return Err(not_proven(device));
    };
    if device.is_certainly(&arrived)? {
        return Ok(Some(arrived));
    }
    return_to(sandbox, host, &arrived)?;
    Ok(None)
}

/// The links of the container that can be the device. The container can make links with any
/// name, MAC, alias and index, but not with the other end on the host.
///
/// # Errors
/// Code 999 when the kernel does not answer.
pub fn without_decoys(sandbox: &mut Sandbox, links: &[Link], device: &Device) -> Result<Vec<Link>> {
    let mut own = links.to_vec();
    if device.has_parent_here {
        // When the kernel listed a link with its other end on the host, it assigned an id to
        // the host's namespace.
        let host = sandbox.netlink.namespace_id(&NetNs::own()?)?;
        own.retain(|link| host.is_some() && link.parent_netns_id == host);
    }
    Ok(own)
}

/// A name for the device on the host until it gets its own. It is the one by which other
/// processes find the device if this one is killed, unless an interface with that name exists
/// already.
fn free_name(host: &mut Host, device: &Device) -> Result<String> {
    let temporary = device.temporary_name();
    let holder = host.link_by_name(&temporary)?;
    Ok(holder.map_or(temporary, |_| unforeseen_name()))
}

fn move_to_host(sandbox: &mut Sandbox, link: &Link, name: &str) -> Result<()> {
    let host = NetNs::own()?;
    let change = LinkChange {
        netns: Some(&host),
        name: Some(name),
        ..LinkChange::default()
    };
    let what = || format!("failed to move {:?} back to the host", link.name);
    sandbox.netlink.change_link(link.index, change, what)
}

/// Moves a link that is not the device back into its container.
fn return_to(sandbox: &Sandbox, host: &mut Host, link: &Link) -> Result<()> {
    let name = unforeseen_name();
    let change = LinkChange {
        netns: Some(&sandbox.netns),
        name: Some(&name),
        ..LinkChange::default()
    };
    let what = || {
        let container = sandbox.netns.path();
        format!("failed to move {:?} back to {container:?}", link.name)
    };
    host.change_link(link.index, change, what)
}

/// The error of a DEL that must be repeated, because the container has changed its interfaces
/// meanwhile.
fn not_proven(device: &Device) -> Error {
    let msg = format!("cannot give host device {:?} back yet", device.name);
    let details = "the interface that was moved from the container is another one, or was \
                   renamed at that moment";
    Error::new(ErrorCode::TRY_AGAIN, msg).with_details(details)
}

/// The error of a DEL that must be repeated, because the container has more links that look
/// like its device than one DEL tries.
fn hidden(device: &Device, count: usize) -> Error {
    let msg = format!(
        "cannot find host device {:?} in the container yet",
        device.name
    );
    let details = format!("{count} interfaces there look like it; each DEL tries some of them");
    Error::new(ErrorCode::TRY_AGAIN, msg).with_details(details)
}
