//! Gives a device back to the host: from the container, or where the kernel has moved it. Module
//! `move_out` moves it, and module `restore` restores its properties on the host.

use std::time::{Duration, Instant};

use common::attach::turn::Turn;
use common::attach::{Release, Sandbox, sandbox_for_del};
use common::cni::args::CmdArgs;
use common::error::{Error, ErrorCode, Result};
use common::kernel::netlink::{Events, Link, Subject};
use common::records::Attachment;

use crate::device::{Device, Mode};
use crate::move_out::{move_out, without_decoys};
use crate::restore::{Host, Whereabouts, rebind, restore_on_host};
use crate::{driver, held, stacked};

/// How long the kernel may take to move a device to the host after its namespace has ended,
/// which it does in the background.
const RETURN: Duration = Duration::from_secs(5);
/// How long the kernel may take to destroy a virtual device then, on a busy node. A device
/// that still exists afterwards is in a namespace that exists.
const END: Duration = Duration::from_secs(30);

/// Gives the device of an attachment back to the host, unless the host has it already. A
/// delegate that needs the interface releases its addresses before.
///
/// # Errors
/// Code 11 when it cannot be given back yet, 999 with the kernel's answer.
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
        // No turn is held meanwhile, because a delegate can take long.
        release.before_removal(&mut container.netlink, &link);
        sandbox = Some(container);
    }
    give_back(&mut host, record, args, sandbox)
}

/// Whether the attachment exists: its namespace exists and has the device, or the device is
/// one for user space, which stays on the host.
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

/// Makes sure that the host has the device, if it still exists: it is in the container's
/// namespace, or on the host, where the kernel moves it when that ends. The turn of the
/// devices keeps other ADDs from finding the device before it is restored. A device that was
/// bound for user space is protected by its record instead, because its driver can take long.
/// `sandbox` is the container's namespace, if it is open already.
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
        return rebind(host, record, (binding, driver::IN_USE_DEADLINE)).map(drop);
    }
    let (mut whereabouts, has_ended) = try_give_back(host, record, args, sandbox)?;
    if has_ended && whereabouts != Whereabouts::OnHost && held::take_out(host, record)? {
        return Ok(());
    }
    // The kernel may move it to the host soon. A virtual device stays while the container exists.
    let is_waited_for = has_ended || device.is_hardware();
    let events = match whereabouts {
        Whereabouts::Elsewhere if is_waited_for => Events::open(Subject::Links)?,
        Whereabouts::Elsewhere => return Err(out_of_reach(device)),
        _ => return Ok(()),
    };
    let time_limit = if device.is_hardware() { RETURN } else { END };
    let deadline = Instant::now() + time_limit;
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

/// Makes sure that no other interface uses the hardware device of a container: an interface
/// that the container has made on the device and moved elsewhere would continue to use it.
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

/// The device in the container, if it has the attachment's interface name there and its own
/// name is free on the host.
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

/// Searches for the device in the container and on the host, and restores it. Also returns
/// whether the container has ended, as far as the paths of its namespace tell.
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
    let has_ended = sandbox.is_none();
    if let Some(mut sandbox) = sandbox
        && move_out(host, &mut sandbox, record)?
    {
        return Ok((Whereabouts::OnHost, false));
    }
    let whereabouts = restore_on_host(host, record)?;
    Ok((whereabouts, has_ended))
}

/// The error of a DEL that must be repeated: a success would remove the record, which has the
/// name of the device.
fn out_of_reach(device: &Device) -> Error {
    let msg = format!("cannot give host device {:?} back yet", device.name);
    let details = "it is in a network namespace that is neither the host's nor the container's; \
                   it comes back when that ends";
    Error::new(ErrorCode::TRY_AGAIN, msg).with_details(details)
}
