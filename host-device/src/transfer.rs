//! Moves a device into the container. Module `give_back` moves it back.

use std::io;

use common::attach::Sandbox;
use common::cni::args::Delegates;
use common::error::{Error, Result};
use common::kernel::netlink::{Link, LinkChange, Made};
use common::records::Attachment;
use common::say;
use nix::libc::EINVAL;

use crate::device::{Device, Mode};
use crate::give_back::give_back;
use crate::restore::Host;
use crate::{driver, stacked};

/// Moves the device into the container and renames it, in one step. Returns its link there,
/// which is down and has no addresses. A device for user space is not moved (`None`), and
/// is bound to its driver if the configuration says so.
pub fn move_in(
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
        // If the Go plugin executes the DEL, it reads the device's name from the alias.
        alias: Some(&device.name),
        ..LinkChange::default()
    };
    host.change_link(device.index, change, what)
        .map_err(|error| explain(error, device))?;
    let link = sandbox.require(&record.ifname)?;
    if !device.is_like(&link) {
        let msg = format!("{:?} was replaced at that moment", record.ifname.as_str());
        return Err(Error::internal(msg).with_details("the container has another interface there"));
    }
    if device.is_hardware() && !device.in_use {
        stacked::require_unused(sandbox, &link)?;
    }
    Ok(Some(link))
}

/// Explains why the kernel does not move the device. Source: `dev_change_net_namespace` of
/// Linux, which returns EINVAL only for such devices.
fn explain(error: Error, device: &Device) -> Error {
    if error.errno() != Some(EINVAL) {
        return error;
    }
    let msg = format!(
        "device {:?} cannot leave the node: the kernel keeps devices of its kind, such as \
         bridges, in the namespace that they were made in",
        device.name
    );
    Error::config(msg).because(&io::Error::from_raw_os_error(EINVAL))
}

/// Gives a device back to the host after its move has failed with `error`. The delegate is
/// not called, because it has not reserved addresses yet.
pub fn undo_move_in<T>(host: &mut Host, record: &Attachment<Device>, error: Error) -> Made<T> {
    let args = record.del_args(&Delegates::default());
    match args.and_then(|args| give_back(host, record, &args, None)) {
        Ok(()) => Made::Nothing(error),
        Err(later) => {
            say!("cleaning up after a failure: {later}");
            Made::Perhaps(error)
        }
    }
}
