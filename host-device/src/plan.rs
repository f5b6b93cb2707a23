//! What is recorded of a device before it moves: its identity, and the properties that are
//! restored.

use common::attach::requested_mac::requested_mac;
use common::attach::{Sandbox, Sides};
use common::cni::args::CmdArgs;
use common::error::{Error, ErrorCode, Result};
use common::ifname::IfName;

use crate::config::Config;
use crate::device::{Device, Mode};
use crate::find::find_device;
use crate::options::Options;
use crate::recover::{recover, recover_all, with_recorded_properties};
use crate::restore::Host;
use crate::{device_info, in_use, keep, unrecorded};

/// Finds the device, and makes sure that the container can get it. The caller must have the
/// turn of the devices.
///
/// # Errors
/// Code 7 for a device that must not be taken, 999 when it is missing or the container has an
/// interface of that name.
pub fn plan(args: &CmdArgs, config: &Config, sides: &mut Sides) -> Result<Device> {
    let host = &mut sides.node;
    let taken = recover(host)?;
    let device = find_or_name_device(args, config, host)?;
    device.require_mac(requested_mac(args)?)?;
    require_movable(&device, &mut sides.sandbox, &args.ifname)?;
    let device = plan_return(device, &config.options, host)?;
    let device = with_recorded_properties(taken, device)?;
    let path = config.options.device_info_file.as_deref();
    Ok(device_info::plan(device, path))
}

/// Finds the device. If it is missing, it may be on the node under another name, after a DEL
/// that was killed or after the end of a container into which the Go plugin had moved it.
fn find_or_name_device(args: &CmdArgs, config: &Config, host: &mut Host) -> Result<Device> {
    let find = |host: &mut Host| find_device(host, &config.selector, &config.options);
    let is_missing = |found: &Result<Device>| {
        let error = found.as_ref().err();
        error.is_some_and(|error| error.code != ErrorCode::NETWORK_CONFIG)
    };
    let mut found = find(host);
    if is_missing(&found) && recover_all(host)? {
        found = find(host);
    }
    if is_missing(&found) {
        unrecorded::name_on_host(host, &config.selector, Some(&args.ifname))?;
        found = find(host);
    }
    let device = found?;
    unrecorded::under_own_name(host, device, &args.ifname)
}

/// Makes sure that the device can get the name `ifname` in the container. This must be known
/// before: on a conflict the kernel moves the device first and then refuses the name.
fn require_movable(device: &Device, sandbox: &mut Sandbox, ifname: &IfName) -> Result<()> {
    if device.mode == Mode::Dpdk {
        return Ok(());
    }
    sandbox.require_absent(ifname)?;
    if device.altnames.iter().any(|name| name == ifname.as_str()) {
        return Err(Error::internal(format!(
            "{:?} is an alternative name of host device {:?}, which therefore cannot get this name",
            ifname.as_str(),
            device.name
        )));
    }
    Ok(())
}

/// The device with the properties that the kernel removes when it moves; an ADD that fails
/// restores them.
fn plan_return(device: Device, options: &Options, host: &mut Host) -> Result<Device> {
    let controller = match options.allow_in_use {
        true => in_use::controller(host, &device)?,
        false => None,
    };
    let device = keep::plan(host, device)?;
    // A macvlan on top of it, also in a pod, may have given it another address, which the kernel
    // takes back when the macvlan ends. A port of a bond has the address of that.
    let is_own = device.is_hardware() && options.allow_in_use && controller.is_none();
    let mac = if is_own {
        device.hardware_mac().to_owned()
    } else {
        device.mac.clone()
    };
    Ok(Device {
        mac,
        controller,
        in_use: options.allow_in_use,
        ..device
    })
}
