//! Takes a device out of a namespace whose path is gone, but which a process, a mount or a
//! descriptor still keeps alive. Otherwise a virtual device would end together with it. What this
//! namespace is cannot be told by its number, which another pod may have by now, so nothing is
//! changed in it before the device itself was found there.

use common::attach::turn::Turn;
use common::attach::{Sandbox, sandbox_by_number};
use common::error::Result;
use common::kernel::netns::Numbered;
use common::records::{Attachment, boot_id};

use crate::device::Device;
use crate::move_out::{move_out, numbered};
use crate::restore::{Host, another_attachment_has_it};

/// Moves the device of a record from such a namespace to the host, and restores it there. False
/// when it is in none.
///
/// # Errors
/// Code 8 when a namespace or a process cannot be examined, else as for
/// [`move_out`].
pub fn take_out(host: &mut Host, record: &Attachment<Device>) -> Result<bool> {
    if record.boot_id != boot_id()? {
        return Ok(false);
    }
    // All processes are examined for that, so no turn is held meanwhile.
    let Some(mut sandbox) = sandbox_by_number(record)? else {
        return Ok(false);
    };
    let _devices = Turn::of_devices()?;
    if another_attachment_has_it(record)? || !is_inside(&mut sandbox, record)? {
        return Ok(false);
    }
    move_out(host, &mut sandbox, record)
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
