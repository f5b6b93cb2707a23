//! Takes a device out of a namespace whose path is gone, but which a process, a mount or a
//! descriptor still keeps alive. Otherwise a virtual device would end together with it. What this
//! namespace is cannot be told by its number, which another pod may have by now, so nothing is
//! changed in it before the device itself was found there. While nothing leads into a namespace that
//! the kernel still has, and which has the device or may have it, DEL fails and is repeated.

use std::time::Duration;

use common::attach::turn::Turn;
use common::attach::{Kept, Sandbox, sandbox_by_number};
use common::error::{Error, ErrorCode, Result};
use common::kernel::netlink::Link;
use common::kernel::netns::{Numbered, STILL_THERE};
use common::records::{Attachment, boot_id};

use crate::device::Device;
use crate::move_out::{move_out, numbered};
use crate::restore::{Host, another_attachment_has_it};

/// How long a namespace may take to end after its last process.
const END: Duration = Duration::from_secs(5);

/// Moves the device of a record from such a namespace to the host, and restores it there. False
/// when it is in none.
///
/// # Errors
/// Code 8 when a namespace or a process cannot be examined, 11 while a virtual device may be in a
/// namespace that nothing leads to, else as for [`move_out`].
pub fn take_out(host: &mut Host, record: &Attachment<Device>) -> Result<bool> {
    if record.boot_id != boot_id()? {
        return Ok(false);
    }
    // All processes are examined for that, so no turn is held meanwhile.
    let Some(mut sandbox) = sandbox_by_number(record)? else {
        return require_ended(host, record).map(|()| false);
    };
    let _devices = Turn::of_devices()?;
    if another_attachment_has_it(record)? || !is_inside(&mut sandbox, record)? {
        return Ok(false);
    }
    move_out(host, &mut sandbox, record)
}

/// Makes sure that a virtual device is in no namespace that the kernel still has although nothing
/// leads there: with a success of DEL it would be lost, because it ends with the namespace and nobody
/// would know of it. Hardware comes back from there, and of a veth the other end tells where it is.
fn require_ended(host: &mut Host, record: &Attachment<Device>) -> Result<()> {
    let device = &record.device;
    let tells_itself = device.is_hardware() || device.peer_on_host().is_some();
    if tells_itself || another_attachment_has_it(record)? {
        return Ok(());
    }
    let Some(kept) = Kept::of(record)? else {
        return Ok(());
    };
    let may_be_it = |link: &Link| {
        // The pod can have changed all of the device but its kind. What is in another pod's
        // namespace, if that has the number now, must not be waited for, so this one's device must
        // have its index, which it usually keeps, or its MAC address.
        let is_alike = link.index == device.index || link.mac == device.mac;
        link.kind == device.kind && (kept.is_certain() || is_alike)
    };
    let may_have_it = kept.links(host)?.iter().any(may_be_it);
    if !may_have_it || kept.await_end(END)? {
        return Ok(());
    }
    let msg = format!("cannot give host device {:?} back yet", device.name);
    let details = format!(
        "netns {:?} may exist without its path: {STILL_THERE}",
        record.netns
    );
    Err(Error::new(ErrorCode::TRY_AGAIN, msg).with_details(details))
}

/// Whether the device is certainly in the namespace: by its number in sysfs, or by its address on
/// the bus. No pod can make another interface that has them.
fn is_inside(sandbox: &mut Sandbox, record: &Attachment<Device>) -> Result<bool> {
    let device = &record.device;
    let links = sandbox.netlink.links()?;
    if device.has_bus_identity() {
        return Ok(device.among(&links, &record.ifname).is_some());
    }
    Ok(matches!(
        numbered(sandbox, &links, device)?,
        Numbered::Index(_)
    ))
}
