//! Finds the device that a configuration selects, and verifies that it may be taken: for ADD,
//! STATUS and `eni-sync doctor`.

use common::attach::Configuration;
use common::cni::args::ConfArgs;
use common::error::{Error, ErrorCode, Errors, Result};

use crate::config::{DeviceSelector, is_device_per_container};
use crate::device::Device;
use crate::options::Options;
use crate::restore::Host;
use crate::{in_use, records, selection, userspace};

/// Finds the device. The error for a missing device names the container that has it. A device
/// that is in use is an error, unless the configuration allows that.
pub fn find_device(
    host: &mut Host,
    selector: &DeviceSelector,
    options: &Options,
) -> Result<Device> {
    let found = match options.driver {
        Some(driver) => userspace::find(host, selector, driver),
        None => selection::find(host, selector),
    };
    let device = found.map_err(|error| {
        if error.code == ErrorCode::NETWORK_CONFIG {
            return error;
        }
        // An error here is only a detail of the error that is returned in any case.
        let mut unreadable = Errors::default();
        let records = records().all_readable::<Device>(&mut unreadable);
        let records = records.unwrap_or_default();
        let mut holders = records.iter().filter(|r| {
            !r.device.returned && r.device.is_selected_by(selector) && r.is_alive().unwrap_or(false)
        });
        match holders.next() {
            // This error is not `not_found`: the device exists, and waiting for its ENI to be
            // attached would be useless.
            Some(r) => Error::new(error.code, error.msg).with_details(format!(
                "container {} has it as {:?}",
                r.container_id,
                r.ifname.as_str()
            )),
            None => match unreadable.into_result() {
                Err(cause) => error.with_details(cause.to_string()),
                Ok(()) => error,
            },
        }
    })?;
    userspace::require_unheld(&device, &records())?;
    if device.has_interface() && !options.allow_in_use {
        let refusal = match options.driver {
            Some(driver) => userspace::refusal(driver),
            None => format!("cannot take host device {:?}", device.name),
        };
        in_use::require_spare(host, &device, &refusal)?;
    }
    Ok(device)
}

/// Examines a configuration for STATUS, without the delegate. Returns the device; `None` when
/// the runtime passes a device for each container.
///
/// # Errors
/// Code 6 or 7 for an invalid configuration or a device that must not be taken, 50 when the
/// device is missing.
pub fn examine(conf: &ConfArgs, host: &mut Host) -> Result<Option<Device>> {
    Configuration::of(conf)?;
    let options = Options::parse(&conf.document)?;
    let Some(selector) = selector_for_status(conf)? else {
        return Ok(None);
    };
    let device = find_device(host, &selector, &options);
    device.map(Some).map_err(|error| match error.code {
        ErrorCode::NETWORK_CONFIG => error,
        _ => error.with_code(ErrorCode::UNAVAILABLE),
    })
}

/// The device to search for; `None` when the runtime passes a device for each container.
fn selector_for_status(conf: &ConfArgs) -> Result<Option<DeviceSelector>> {
    match DeviceSelector::from_document(&conf.document)? {
        None if !is_device_per_container(&conf.document) => {
            DeviceSelector::required(&conf.document).map(Some)
        }
        selector => Ok(selector),
    }
}
