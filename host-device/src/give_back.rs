//! The way of a device back from the container. What it gets back on the host is for
//! `restore`.

use std::time::{Duration, Instant};

use common::attach::turn::Turn;
use common::attach::{Release, Sandbox, sandbox_for_del};
use common::cni::args::CmdArgs;
use common::error::{Error, ErrorCode, Result};
use common::kernel::netlink::{Events, Link, LinkChange, Subject};
use common::kernel::netns::NetNs;
use common::records::Attachment;

use crate::device::{Device, Mode};
use crate::identity::unforeseen_name;
use crate::restore::{Host, Whereabouts, make_free, rebind, restore, restore_on_host};
use crate::{driver, stacked};

/// How long the kernel may take to put a device on the host after its namespace has
/// ended, which it does in the background.
const RETURN: Duration = Duration::from_secs(5);
/// How long it may take to destroy a virtual device then, on a busy node: what is still
/// there afterwards is in a namespace that lives.
const END: Duration = Duration::from_secs(30);
/// More links than a container has that look like its device. Each is moved to the host
/// and back, so a container that makes more of them does not keep a DEL busy.
const MOST_CANDIDATES: usize = 32;

/// Ends what an attachment has of the device: the host gets it back, unless it has it already.
/// A delegate that needs it releases its addresses before.
///
/// # Errors
/// Code 11 when it cannot come back yet, 999 with the kernel's answer.
pub fn remove(
    args: &CmdArgs,
    record: &Attachment<Device>,
    release: &mut Release<'_>,
) -> Result<()> {
    require_unused(record, args)?;
    let mut host = Host::open()?;
    let mut sandbox = None;
    if release.needs_link()
        && let Some((mut container, link)) = find_in_container(&mut host, record, args)?
    {
        // No turn is held meanwhile: a delegate can take long.
        release.before_removal(&mut container.netlink, &link);
        sandbox = Some(container);
    }
    give_back(&mut host, record, args, sandbox)
}

/// Whether the attachment is in use: its namespace lives, and has the device unless
/// that stays on the host anyway.
///
/// # Errors
/// As for [`sandbox_for_del`], and code 999 when the kernel does not answer.
pub fn is_attached(args: &CmdArgs, record: &Attachment<Device>) -> Result<bool> {
    let Some(mut sandbox) = sandbox_for_del(args, Some(record))? else {
        return Ok(false);
    };
    let device = &record.device;
    if let Some(binding) = &device.binding {
        return Ok(!device.returned && driver::is_bound(device, binding));
    }
    let links = sandbox.netlink.links()?;
    Ok(device.among(&links, &record.ifname).is_some() || device.mode == Mode::Dpdk)
}

/// Makes sure that the host has the device, if it still exists: it is in the
/// container's namespace, or on the host, where the kernel puts it when that ends.
/// Until a device is what it was, no ADD finds it; a bound one is protected by its
/// record, because its driver can take long. `sandbox` is the container's namespace where
/// it is open already.
///
/// # Errors
/// As for [`remove`].
pub fn give_back(
    host: &mut Host,
    record: &Attachment<Device>,
    args: &CmdArgs,
    sandbox: Option<Sandbox>,
) -> Result<()> {
    let device = &record.device;
    if !device.is_owed() {
        return Ok(());
    }
    if let Some(binding) = &device.binding {
        return rebind(host, record, (binding, driver::PATIENCE)).map(drop);
    }
    let (mut whereabouts, is_waited_for) = try_give_back(host, record, args, sandbox)?;
    let events = match whereabouts {
        Whereabouts::Elsewhere if is_waited_for => Events::open(Subject::Links)?,
        Whereabouts::Elsewhere => return Err(out_of_reach(device)),
        _ => return Ok(()),
    };
    let patience = if device.is_hardware() { RETURN } else { END };
    let deadline = Instant::now() + patience;
    loop {
        (whereabouts, _) = try_give_back(host, record, args, None)?;
        if whereabouts != Whereabouts::Elsewhere {
            return Ok(());
        }
        if !events.wait(deadline)? {
            return Err(out_of_reach(device));
        }
    }
}

/// Makes sure that the hardware that a container has is used by nothing else: what it had
/// made on the device, and hidden, would go on using it.
fn require_unused(record: &Attachment<Device>, args: &CmdArgs) -> Result<()> {
    let device = &record.device;
    if !device.is_hardware() || !device.is_owed() || device.in_use {
        return Ok(());
    }
    let Some(mut sandbox) = sandbox_for_del(args, Some(record))? else {
        return Ok(());
    };
    let links = sandbox.netlink.links()?;
    match device.among(&links, &record.ifname) {
        Some(link) => {
            stacked::remove(&mut sandbox, link, &links)?;
            stacked::require_unused(&mut sandbox, link)
        }
        None => Ok(()),
    }
}

/// The device in the container, if it is there under the attachment's name and can come
/// back: the host has its name free.
///
/// # Errors
/// Code 999 when the kernel does not answer.
fn find_in_container(
    host: &mut Host,
    record: &Attachment<Device>,
    args: &CmdArgs,
) -> Result<Option<(Sandbox, Link)>> {
    let device = &record.device;
    if !device.is_owed() || device.binding.is_some() {
        return Ok(None);
    }
    let Some(mut sandbox) = sandbox_for_del(args, Some(record))? else {
        return Ok(None);
    };
    let links = sandbox.netlink.links()?;
    let own = without_decoys(&mut sandbox, &links, device)?;
    let found = device.among(&own, &record.ifname).cloned();
    let found = found.filter(|link| link.name == record.ifname.as_str());
    match found {
        Some(link) if host.link_by_name(&device.name)?.is_none() => Ok(Some((sandbox, link))),
        _ => Ok(None),
    }
}

/// Looks for the device in the container and on the host, and gives it back from there.
/// Also says whether it can come back by itself soon: a virtual one cannot, while the
/// container lives.
fn try_give_back(
    host: &mut Host,
    record: &Attachment<Device>,
    args: &CmdArgs,
    sandbox: Option<Sandbox>,
) -> Result<(Whereabouts, bool)> {
    let _devices = Turn::of_devices()?;
    let sandbox = match sandbox {
        None => sandbox_for_del(args, Some(record))?,
        open => open,
    };
    let is_waited_for = sandbox.is_none() || record.device.is_hardware();
    if let Some(mut sandbox) = sandbox
        && move_out(host, &mut sandbox, record)?
    {
        return Ok((Whereabouts::OnHost, false));
    }
    let whereabouts = restore_on_host(host, record)?;
    Ok((whereabouts, is_waited_for))
}

/// Moves a device that the Go plugin has attached back under `name`. What else it
/// was is not known.
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

/// Moves the device from the container to the host and restores it there; false when
/// the container does not have it.
fn move_out(host: &mut Host, sandbox: &mut Sandbox, record: &Attachment<Device>) -> Result<bool> {
    let device = &record.device;
    let links = sandbox.netlink.links()?;
    // It has one other end, which only the node can have moved since.
    let is_told_by_peer = device.peer_on_host().is_some();
    if device.sysfs_number.is_none() || is_told_by_peer {
        let own = without_decoys(sandbox, &links, device)?;
        let candidates = device.candidates(&own, &record.ifname);
        for link in candidates.iter().take(MOST_CANDIDATES) {
            if move_if_proven(host, sandbox, record, (link, &links))? {
                return Ok(true);
            }
        }
        if candidates.len() > MOST_CANDIDATES {
            return Err(hidden(device, candidates.len()));
        }
    }
    match numbered(sandbox, &links, device)? {
        None => Ok(false),
        Some(link) => match move_if_proven(host, sandbox, record, (link, &links))? {
            true => Ok(true),
            // The container has moved it on at this moment.
            false => Err(not_proven(device)),
        },
    }
}

/// Moves `link`, one of the container's `links`, to the host and restores it there, if it is
/// the device.
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

/// The virtual device among the container's `links`, whatever the container has made of its
/// name and its MAC, and wherever the node has moved its other end or what is below it.
fn numbered<'a>(sandbox: &Sandbox, links: &'a [Link], device: &Device) -> Result<Option<&'a Link>> {
    let Some(number) = device.sysfs_number else {
        return Ok(None);
    };
    if !links.iter().any(|link| link.kind == device.kind) {
        return Ok(None);
    }
    let index = sandbox.netns.index_of_sysfs_number(number)?;
    Ok(links.iter().find(|link| Some(link.index) == index))
}

/// Moves `link` to the host, without what the container, which has these `links`, has
/// made on it, and returns what has arrived there when that is the device. The container
/// may have given the link's index to another one by then; that goes back to it, and has
/// got nothing of the device: until then it has the name `ifname`.
fn send_back(
    host: &mut Host,
    sandbox: &mut Sandbox,
    (link, links): (&Link, &[Link]),
    device: &Device,
    ifname: &str,
) -> Result<Option<Link>> {
    make_free(host, &device.name, link, None)?;
    // They would go on using the device, whoever has it next.
    stacked::remove(sandbox, link, links)?;
    let foreign = device.foreign_altnames(link);
    sandbox.netlink.delete_altnames(link.index, &foreign)?;
    // To keep its name costs the kernel nothing.
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
        // The container has moved it on, or has deleted it.
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

/// The links of the container that can be the device. Whoever may make links can make
/// one with any name, MAC, alias and index, but not with its other end on the host.
fn without_decoys(sandbox: &mut Sandbox, links: &[Link], device: &Device) -> Result<Vec<Link>> {
    let mut own = links.to_vec();
    if device.has_parent_here {
        // To list a link with its other end on the host has numbered the host.
        let host = sandbox.netlink.namespace_id(&NetNs::own()?)?;
        own.retain(|link| host.is_some() && link.parent_netns_id == host);
    }
    Ok(own)
}

/// A name for the device on the host until it gets its own: the one by which others find it
/// should this process be killed, unless a killed one has left something under that.
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

/// Moves what is not the device back into the container that it has come from.
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

/// The error of a DEL that must come again: the record, and with it the way back of the
/// device's name, would be lost.
fn out_of_reach(device: &Device) -> Error {
    let msg = format!("cannot give host device {:?} back yet", device.name);
    let details = "it is in a network namespace that is neither the host's nor the container's; \
                   it comes back when that ends";
    Error::new(ErrorCode::TRY_AGAIN, msg).with_details(details)
}

/// The error of a DEL that must come again, because something has changed under it.
fn not_proven(device: &Device) -> Error {
    let msg = format!("cannot give host device {:?} back yet", device.name);
    let details = "what has come to the host from the container is another interface, or was \
                   renamed at that moment";
    Error::new(ErrorCode::TRY_AGAIN, msg).with_details(details)
}

/// The error of a DEL that must come again, because the container has more links that look
/// like its device than one DEL tries.
fn hidden(device: &Device, count: usize) -> Error {
    let msg = format!(
        "cannot find host device {:?} in the container yet",
        device.name
    );
    let details = format!("{count} interfaces there look like it; each DEL tries some of them");
    Error::new(ErrorCode::TRY_AGAIN, msg).with_details(details)
}
