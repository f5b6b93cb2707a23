//! Restores devices that the kernel has moved to the host because the namespace of their container
//! has ended before DEL: every ADD that searches for a device does so. A virtual device ends with
//! its namespace. It can be on the host after a DEL that was killed, and is restored when an ADD
//! searches for it.

use std::collections::HashMap;
use std::time::Duration;

use common::error::{Errors, Result};
use common::records::{Attachment, Survey, boot_id};
use common::say;

use crate::device::Device;
use crate::elsewhere::is_hardware_elsewhere;
use crate::records;
use crate::restore::{Host, Whereabouts, rebind, restore_on_host};
use crate::sysfs::{interfaces, sysfs_number_at};

/// The records of the node's attachments, with marks of virtual devices.
pub type Taken = Survey<Device>;

/// Restores every device that the kernel has moved to the host because its container's namespace
/// has ended, so that it can be found by its name again. The records are kept until their DEL,
/// which has to release the addresses. Virtual devices are not restored.
///
/// # Errors
/// Code 5 when the records cannot be read or written, 999 when the kernel does not answer.
pub fn recover(host: &mut Host) -> Result<Taken> {
    let mut unreadable = Errors::default();
    let mut taken = records().survey(
        |record: &Attachment<Device>| record.device.mark(),
        &mut unreadable,
    )?;
    if let Err(error) = unreadable.into_result() {
        say!("{error}");
    }
    recover_each(host, &mut taken.unmarked)?;
    Ok(taken)
}

/// As [`recover`] for all devices, virtual ones included, by reading every record. For callers
/// that do not find a device. Returns true if a device was restored, which may be the missing one.
///
/// # Errors
/// As for [`recover`].
pub fn recover_all(host: &mut Host) -> Result<bool> {
    let mut all = records().all()?;
    recover_each(host, &mut all)
}

/// Restores the devices of these records that are on the host. Returns whether there were any.
fn recover_each(host: &mut Host, records_of: &mut [Attachment<Device>]) -> Result<bool> {
    let boot = boot_id()?;
    let mut interfaces = Interfaces::default();
    let mut is_any = false;
    for record in records_of {
        let device = &record.device;
        if !device.is_owed() || !may_be_on_host(record, &boot, &mut interfaces)? {
            continue;
        }
        let restored = match &device.binding {
            // This ADD does not wait for a process that still uses another device.
            Some(binding) => rebind(host, record, (binding, Duration::ZERO)),
            None => restore_on_host(host, record).map(|found| found == Whereabouts::OnHost),
        };
        match restored {
            Ok(true) => {
                *record = returned(record);
                records().write(record)?;
                is_any = true;
            }
            Ok(false) => {}
            // It is a device of another attachment, so this ADD does not depend on it.
            Err(error) => say!("recovering {:?}: {error}", device.name),
        }
    }
    Ok(is_any)
}

/// Whether the host can have the device of this attachment: its container has ended, or has moved
/// the device to a namespace that has ended, or its DEL was killed. A virtual device can be there
/// for the last reason only, and under one of its names.
fn may_be_on_host(
    record: &Attachment<Device>,
    boot: &str,
    interfaces: &mut Interfaces,
) -> Result<bool> {
    let device = &record.device;
    if device.binding.is_none() && !device.is_hardware() {
        let names = [&device.name, record.ifname.as_str()];
        return interfaces.have(device, names);
    }
    match record.is_alive_in(boot) {
        Ok(false) => Ok(true),
        Ok(true) => Ok(device.binding.is_none() && !is_hardware_elsewhere(device)),
        Err(error) => {
            say!("recovering {:?}: {error}", device.name);
            Ok(false)
        }
    }
}

/// The interfaces of the host, which are listed once for all records, with the inodes in sysfs of
/// those that were compared. They are listed only if a record has a virtual device.
#[derive(Default)]
struct Interfaces(Option<HashMap<String, Option<Option<u64>>>>);

impl Interfaces {
    /// Whether the host has a virtual device, under one of these names or its temporary one.
    ///
    /// # Errors
    /// Code 5 when sysfs cannot be read.
    fn have(&mut self, device: &Device, names: [&str; 2]) -> Result<bool> {
        if device.sysfs_number.is_none() {
            return Ok(false);
        }
        let listed = match &mut self.0 {
            Some(listed) => listed,
            unknown => unknown.insert(interfaces()?.into_iter().map(|n| (n, None)).collect()),
        };
        for name in [names[0], names[1], &device.temporary_name()] {
            let Some(known) = listed.get_mut(name) else {
                continue;
            };
            let number = match *known {
                Some(number) => number,
                None => *known.insert(sysfs_number_at(name)?),
            };
            if number == device.sysfs_number {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The device with the properties of an earlier record, if it was not restored since: when
/// [`recover`] could not restore its name, the next DEL still has to.
///
/// # Errors
/// Code 5 when the records cannot be read.
pub fn with_recorded_properties(taken: Taken, device: Device) -> Result<Device> {
    let all = match device.mark() {
        Some(mark) if taken.has(mark) => records().all()?,
        _ => taken.unmarked,
    };
    let is_earlier = |was: &Device| !was.returned && was.is_same_as(&device);
    let is_known = device.is_hardware() || device.sysfs_number.is_some();
    let of_device = |r: &Attachment<Device>| is_known && is_earlier(&r.device);
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
            offload: was.offload.or(device.offload),
            controller: was.controller.or(device.controller),
            parameters: was.parameters,
            network: match was.network.is_empty() {
                true => device.network,
                false => was.network,
            },
            ..device
        },
        None => device,
    })
}

/// The record of an attachment, changed to say that its device is back on the host.
pub fn returned(record: &Attachment<Device>) -> Attachment<Device> {
    let mut record = record.clone();
    record.device.returned = true;
    record
}
