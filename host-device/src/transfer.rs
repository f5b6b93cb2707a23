//! The way of a device into the container and back. What it gets back on the host is
//! for `restore`.

use std::time::{Duration, Instant};

use common::args::{CmdArgs, IfName};
use common::attachment::{Attachment, Records, boot_id, sandbox_for_del};
use common::error::{Error, ErrorCode, Result};
use common::interface::Sandbox;
use common::netlink::{Events, Link, LinkChange, Subject};
use common::netns::NetNs;
use common::turn::Turn;

use crate::device::{Device, Mode};
use crate::driver;
use crate::elsewhere::is_elsewhere;
use crate::restore::{Host, Whereabouts, rebind, restore_on_host, restore_properties};

/// How long the kernel may take to put a device on the host after its namespace has
/// ended, which it does in the background.
const RETURN: Duration = Duration::from_secs(5);
/// The kinds of interfaces that use the one below them wherever it is.
const STACKED: [&str; 6] = ["vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "macsec"];

/// Makes sure that the device can be called `ifname` in the container. This must be
/// known before: on a clash the kernel moves the device and then refuses the name.
pub(crate) fn require_movable(
    device: &Device,
    sandbox: &mut Sandbox,
    ifname: &IfName,
) -> Result<()> {
    if device.mode == Mode::Dpdk {
        return Ok(());
    }
    sandbox.require_absent(ifname)?;
    if device.altnames.iter().any(|name| name == ifname.as_str()) {
        return Err(Error::internal(format!(
            "{:?} is an alternative name of host device {:?}, which therefore cannot be called so",
            ifname.as_str(),
            device.name
        )));
    }
    Ok(())
}

/// Moves the device into the container under its name there, in one step, and
/// returns it as it is then: down and without addresses. A device for user space
/// stays where it is, and is bound to its driver if the configuration says so.
pub(crate) fn move_in(
    host: &mut Host,
    sandbox: &mut Sandbox,
    record: &Attachment<Device>,
) -> Result<Option<Link>> {
    let device = &record.device;
    if device.mode == Mode::Dpdk {
        if let Some(binding) = &device.binding {
            driver::bind(device, binding)?;
        }
        return Ok(None);
    }
    let what = || {
        format!(
            "failed to move {:?} into netns {:?} as {:?}",
            device.name,
            record.netns,
            record.ifname.as_str()
        )
    };
    let change = LinkChange {
        netns: Some(&sandbox.netns),
        name: Some(record.ifname.as_str()),
        // The Go plugin finds the device's name here, should it have to do the DEL.
        alias: Some(&device.name),
        ..LinkChange::default()
    };
    host.netlink.change_link(device.index, change, what)?;
    sandbox.require(&record.ifname).map(Some)
}

/// Makes sure that the host has the device, if it still exists: it is in the
/// container's namespace, or on the host, where the kernel puts it when that ends.
/// Until a device is what it was, no ADD finds it; a bound one is protected by its
/// record, because its driver can take long.
pub(crate) fn give_back(
    host: &mut Host,
    records: &Records,
    record: &Attachment<Device>,
    args: &CmdArgs,
) -> Result<()> {
    let device = &record.device;
    if !device.is_owed() {
        return Ok(());
    }
    if let Some(binding) = &device.binding {
        let all = records.all()?;
        return rebind(host, &all, record, (binding, driver::PATIENCE)).map(drop);
    }
    if try_give_back(host, records, record, args)? != Whereabouts::Elsewhere {
        return Ok(());
    }
    let events = Events::open(Subject::Links)?;
    let deadline = Instant::now() + RETURN;
    while try_give_back(host, records, record, args)? == Whereabouts::Elsewhere {
        if !events.wait(deadline)? {
            return Err(out_of_reach(device));
        }
    }
    Ok(())
}

/// Looks for the device in the container and on the host, and gives it back from there.
fn try_give_back(
    host: &mut Host,
    records: &Records,
    record: &Attachment<Device>,
    args: &CmdArgs,
) -> Result<Whereabouts> {
    let device = &record.device;
    let _devices = Turn::of_devices()?;
    if let Some(mut sandbox) = sandbox_for_del(args, Some(record))? {
        let links = sandbox.netlink.links()?;
        let own = without_decoys(&mut sandbox, &links, device)?;
        if let Some(link) = device.among(&own, &record.ifname) {
            move_out(host, &mut sandbox, link, &links, device)?;
            return Ok(Whereabouts::OnHost);
        }
    }
    restore_on_host(host, &records.all()?, record)
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

/// The error of a DEL that must come again: the record, and with it the way back of the
/// device's name, would be lost.
fn out_of_reach(device: &Device) -> Error {
    let msg = format!("cannot give host device {:?} back yet", device.name);
    let details = "it is in a network namespace that is neither the host's nor the container's; \
                   it comes back when that ends";
    Error::new(ErrorCode::TRY_AGAIN, msg).with_details(details)
}

/// Whether the attachment is in use: its namespace lives, and has the device unless
/// that stays on the host anyway.
pub(crate) fn is_attached(record: &Attachment<Device>, args: &CmdArgs) -> Result<bool> {
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

/// Gives back what it was to every device that the kernel has put on the host
/// because its container's namespace ended, so that it can be found by its name
/// again. The records stay until their DEL, which has the address to release. Returns
/// all of them as they are then.
pub(crate) fn recover(host: &mut Host, records: &Records) -> Result<Vec<Attachment<Device>>> {
    let mut all = records.all::<Device>()?;
    let boot = boot_id()?;
    for position in 0..all.len() {
        let record = &all[position];
        let device = &record.device;
        if !device.is_owed() || !device.outlives_namespaces() {
            continue;
        }
        let is_alive = record.is_alive_in(&boot);
        if is_alive && !has_lost(device) {
            continue;
        }
        let restored = match &device.binding {
            // Whoever still uses it does not keep this ADD from another device.
            Some(binding) => rebind(host, &all, record, (binding, Duration::ZERO)),
            None => restore_on_host(host, &all, record).map(|found| found == Whereabouts::OnHost),
        };
        match restored {
            // The DEL of a container that lives is to look again.
            Ok(true) if !is_alive => {
                let record = returned(record);
                records.write(&record)?;
                all[position] = record;
            }
            Ok(_) => {}
            // It is another attachment's device; whether this ADD can be served does
            // not depend on it.
            Err(error) => eprintln!("recovering {:?}: {error}", device.name),
        }
    }
    Ok(all)
}

/// Whether the container of this attachment cannot have the device any more, although
/// it lives: it has moved the device on, and the kernel has put it on the host.
fn has_lost(device: &Device) -> bool {
    device.binding.is_none() && device.is_hardware() && !is_elsewhere(device)
}

/// The device with what it was before an attachment that it has not come back from as
/// it was: when [`recover`] could not give it its name, the next DEL still has to.
pub(crate) fn as_before(all: Vec<Attachment<Device>>, device: Device) -> Result<Device> {
    let is_earlier = |was: &Device| !was.returned && was.is_same_as(&device);
    let of_device = |r: &Attachment<Device>| device.is_hardware() && is_earlier(&r.device);
    let mut earlier = Vec::from_iter(all.into_iter().filter(of_device));
    if !earlier.is_empty() {
        let boot = boot_id()?;
        earlier.retain(|record| record.boot_id == boot);
    }
    Ok(match earlier.into_iter().next() {
        Some(Attachment { device: was, .. }) => Device {
            name: was.name,
            altnames: was.altnames,
            alias: was.alias,
            mac: was.mac,
            mtu: was.mtu,
            up: was.up,
            settings: was.settings,
            controller: was.controller.or(device.controller),
            kept: if was.kept.is_empty() {
                device.kept
            } else {
                was.kept
            },
            ..device
        },
        None => device,
    })
}

/// The record of an attachment whose device the host has back.
pub(crate) fn returned(record: &Attachment<Device>) -> Attachment<Device> {
    let mut record = record.clone();
    record.device.returned = true;
    record
}

/// Moves a device that the Go plugin has attached back under `name`. What else it
/// was is not known.
pub(crate) fn move_out_unrecorded(
    host: &mut Host,
    sandbox: &mut Sandbox,
    link: &Link,
    name: &str,
) -> Result<()> {
    let device = Device {
        name: name.to_owned(),
        altnames: link.altnames.clone(),
        ..Device::default()
    };
    let links = sandbox.netlink.links()?;
    send_back(host, sandbox, link, &links, &device)
}

fn move_out(
    host: &mut Host,
    sandbox: &mut Sandbox,
    link: &Link,
    links: &[Link],
    device: &Device,
) -> Result<()> {
    send_back(host, sandbox, link, links, device)?;
    if let Some(link) = host.netlink.link_by_name(&device.name)? {
        restore_properties(&mut host.netlink, &link, device);
    }
    Ok(())
}

/// Moves `link` to the host under the device's name and alias, in one step, and without
/// what the container, which has these `links`, has made on it.
fn send_back(
    host: &mut Host,
    sandbox: &mut Sandbox,
    link: &Link,
    links: &[Link],
    device: &Device,
) -> Result<()> {
    host.require_free(&device.name, link, None)?;
    // They would go on using the device, whoever has it next.
    for child in links.iter().filter(|child| is_stacked_on(child, link)) {
        sandbox.netlink.delete_link(child)?;
    }
    // Names that the container has added could be taken on the host, or be the very
    // name the device is to get: the kernel would refuse the move for ever.
    let foreign = link
        .altnames
        .iter()
        .filter(|n| !device.altnames.contains(n));
    let foreign: Vec<String> = foreign.cloned().collect();
    sandbox.netlink.delete_altnames(link.index, &foreign)?;
    let host = NetNs::own()?;
    let change = LinkChange {
        netns: Some(&host),
        name: Some(&device.name),
        alias: Some(&device.alias),
        ..LinkChange::default()
    };
    sandbox.netlink.change_link(link.index, change, || {
        format!(
            "failed to move {:?} back to the host as {:?}",
            link.name, device.name
        )
    })
}

/// Whether `child` uses `link`, which is in the same namespace.
fn is_stacked_on(child: &Link, link: &Link) -> bool {
    let is_above = child.parent == Some(link.index) && child.parent_netns_id.is_none();
    is_above && STACKED.contains(&child.kind.as_str())
}

/// Makes sure that an attached device still has the driver that ADD has bound it to.
pub(crate) fn verify_binding(device: &Device) -> Result<()> {
    match &device.binding {
        Some(binding) => driver::verify(device, binding),
        None => Ok(()),
    }
}
