//! Restores a device on the host, after it was identified: name, alternative names, MAC, MTU,
//! alias, flags, queue length and group, GSO and GRO limits, parameters, whether it was up, and
//! driver, addresses and routes. XDP programs of the pod are removed. Settings of `ethtool` and
//! `tc` are not restored.

use std::time::Duration;

use common::error::{Error, Errors, Result};
use common::kernel::netlink::{Link, LinkChange, Netlink};
use common::records::{Attachment, boot_id};
use common::say;

use crate::device::Binding;
use crate::device::{Controller, Device};
use crate::driver;
use crate::elsewhere::is_elsewhere;
use crate::parameters;

/// The node's side of a transfer: a netlink socket on the host.
pub type Host = Netlink;

/// Where a device is, if its container does not have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whereabouts {
    /// On the host, restored.
    OnHost,
    /// In a namespace that cannot be examined.
    Elsewhere,
    /// Another attachment has it, or it does not exist any more: there is nothing to give
    /// back.
    NotOurs,
}

/// Makes sure that `link` can get the name `name` on the host. `index` is its index if it is
/// on the host already, where it may have the name itself. If a device of another attachment
/// has the name, given by a container, that one is renamed.
///
/// # Errors
/// Code 999 naming the interface that keeps the name, or with the kernel's answer.
pub fn make_free(host: &mut Host, name: &str, link: &Link, index: Option<u32>) -> Result<()> {
    let holder = host.link_by_name(name)?;
    let Some(holder) = holder.filter(|holder| Some(holder.index) != index) else {
        return Ok(());
    };
    if displace(host, name, &holder)? {
        return Ok(());
    }
    Err(Error::internal(format!(
        "cannot give {:?} its name {name:?} on the host back",
        link.name
    ))
    .with_details(format!(
        "interface {:?} with index {} has it now",
        holder.name, holder.index
    )))
}

/// Removes `name` from `holder` if that is the device of an attachment with another name on
/// the host, which it gets when the attachment ends. Otherwise two devices with each other's
/// names would block each other for ever.
fn displace(host: &mut Host, name: &str, holder: &Link) -> Result<bool> {
    let boot = boot_id()?;
    let owner = crate::records().find::<Device>(|record| {
        let device = &record.device;
        let is_foreign = device.name != name && !device.altnames.iter().any(|n| n == name);
        let is_owed = record.boot_id == boot && device.is_owed();
        Ok(is_owed && is_foreign && device.is_certainly(holder)?)
    })?;
    let Some(owner) = owner else {
        return Ok(false);
    };
    if holder.name == name {
        let temporary = owner.device.temporary_name();
        rename(host, holder, &temporary, LinkChange::default())?;
    } else {
        let names = [name.to_owned()];
        host.delete_altnames(holder.index, &names)?;
    }
    Ok(true)
}

/// Renames `link`, together with the other changes of `change`.
fn rename(host: &mut Host, link: &Link, name: &str, change: LinkChange<'_>) -> Result<()> {
    let what = || format!("failed to rename {:?} to {name:?}", link.name);
    let down = LinkChange {
        up: Some(false),
        ..LinkChange::default()
    };
    if link.up {
        // Kernels before 6.2 rename only interfaces that are down.
        host.change_link(link.index, down, what)?;
    }
    let rename = LinkChange {
        name: Some(name),
        ..change
    };
    host.change_link(link.index, rename, what)
}

/// Restores the device if it is on the host already: the kernel has moved it there, as it
/// does with hardware, or a DEL was interrupted.
pub fn restore_on_host(host: &mut Host, record: &Attachment<Device>) -> Result<Whereabouts> {
    let device = &record.device;
    if record.boot_id != boot_id()? || another_attachment_has_it(record)? {
        return Ok(Whereabouts::NotOurs);
    }
    // This is read before the host is searched, so that a device that arrives meanwhile is
    // not missed.
    let whereabouts = match is_elsewhere(host, device)? {
        true => Whereabouts::Elsewhere,
        false => Whereabouts::NotOurs,
    };
    let links = host.links()?;
    let Some(link) = on_host(&links, record)? else {
        return Ok(whereabouts);
    };
    make_free(host, &device.name, link, Some(link.index))?;
    restore(host, link, device)?;
    Ok(Whereabouts::OnHost)
}

/// The device among the links of the host. The kernel destroys a virtual device with its
/// namespace, so a link that only looks the same was made later.
fn on_host<'a>(links: &'a [Link], record: &Attachment<Device>) -> Result<Option<&'a Link>> {
    let device = &record.device;
    if device.is_hardware() || device.sysfs_number.is_none() && record.is_alive()? {
        return Ok(device.among(links, &record.ifname));
    }
    for link in links.iter().filter(|_| device.sysfs_number.is_some()) {
        if device.is_certainly(link)? {
            return Ok(Some(link));
        }
    }
    Ok(None)
}

/// Binds a device that ADD has bound for user space to its kernel driver again, and restores
/// its interface. True when the host has it. After a reboot there is nothing to do, because
/// the kernel has forgotten the binding.
pub fn rebind(
    host: &mut Host,
    record: &Attachment<Device>,
    (binding, deadline): (&Binding, Duration),
) -> Result<bool> {
    let device = &record.device;
    if record.boot_id != boot_id()? || another_attachment_has_it(record)? {
        return Ok(false);
    }
    let Some(link) = driver::unbind(host, device, binding, deadline)? else {
        return Ok(false);
    };
    make_free(host, &device.name, &link, Some(link.index))?;
    restore(host, &link, device)?;
    Ok(true)
}

/// Whether another attachment that exists has the same device.
///
/// # Errors
/// Code 5 or 8 when the records, or the namespace of one, cannot be examined.
pub fn another_attachment_has_it(record: &Attachment<Device>) -> Result<bool> {
    let device = &record.device;
    let has_it = |other: &Attachment<Device>| {
        let is_bound = device.binding.is_some() || other.device.binding.is_some();
        let is_same = other.device.is_same_as(device)
            || is_bound && !device.pci_id.is_empty() && device.pci_id == other.device.pci_id;
        Ok(!other.device.returned && is_same && is_other_and_exists(other, record)?)
    };
    let own = device.mark();
    if own.is_none() && !device.kind.is_empty() {
        // Without its number, a virtual device can be that of any record.
        return Ok(crate::records().find(has_it)?.is_some());
    }
    let mut unreadable = Errors::default();
    let mark = |other: &Attachment<Device>| other.device.mark();
    let found = crate::records().find_marked((mark, own), has_it, &mut unreadable);
    report(unreadable.into_result());
    Ok(found?.is_some())
}

/// Whether `other` is the record of another attachment that exists.
fn is_other_and_exists(other: &Attachment<Device>, record: &Attachment<Device>) -> Result<bool> {
    let key = |r: &Attachment<Device>| {
        let attachment = (r.container_id.clone(), r.ifname.clone());
        (r.network.clone(), attachment)
    };
    Ok(key(other) != key(record) && other.is_alive()?)
}

/// Restores the properties of `link`, which is certainly the device and on the host. Its name
/// must be free there. Only an error about the name is returned. All others are logged,
/// because they would keep the address reserved for ever although the host has the device.
pub fn restore(host: &mut Host, link: &Link, device: &Device) -> Result<()> {
    restore_properties(host, link, device);
    restore_parameters(host, link, device)?;
    let rest = LinkChange {
        alias: (link.alias != device.alias).then_some(&device.alias),
        up: (device.up && device.controller.is_none()).then_some(true),
        ..LinkChange::default()
    };
    if link.name == device.name {
        change_singly(host, link, device, rest);
    } else if rename(host, link, &device.name, rest).is_err() {
        // The kernel does not say which change it has refused, so they are made one by one.
        rename(host, link, &device.name, LinkChange::default())?;
        change_singly(host, link, device, rest);
    }
    if let Some(controller) = &device.controller {
        report(restore_controller(host, link, controller));
        let up = LinkChange {
            up: device.up.then_some(true),
            ..LinkChange::default()
        };
        change_singly(host, link, device, up);
    }
    restore_altnames(host, link, device);
    // Routes need an interface that is up.
    let network = &device.network;
    for error in network.restore(host, link.index, &device.name) {
        say!("{error}");
    }
    Ok(())
}

/// Restores the parameters. The device must be down, as it is after its move. The container
/// may have given it the name of a directory with the parameters of all interfaces, so it is
/// renamed then.
fn restore_parameters(host: &mut Host, link: &Link, device: &Device) -> Result<()> {
    let mut name = link.name.clone();
    if parameters::are_of_all(&name) {
        name = device.temporary_name();
        rename(host, link, &name, LinkChange::default())?;
    }
    parameters::restore(link, &name, &device.parameters);
    Ok(())
}

/// Renames `link`, which is on the host, to the device's name, if that is free.
pub fn restore_name(host: &mut Host, link: &Link, device: &Device) -> Result<()> {
    if link.name == device.name {
        return Ok(());
    }
    make_free(host, &device.name, link, Some(link.index))?;
    if link.altnames.contains(&device.name) {
        // udev adds the usual name of a new device as an alternative name.
        let name = std::slice::from_ref(&device.name);
        host.delete_altnames(link.index, name)?;
    }
    rename(host, link, &device.name, LinkChange::default())
}

/// Makes each of these changes, even if the one before has failed.
fn change_singly(netlink: &mut Netlink, link: &Link, device: &Device, change: LinkChange<'_>) {
    let what = || format!("failed to restore {:?}", device.name);
    let alias = change.alias.map(|alias| LinkChange {
        alias: Some(alias),
        ..LinkChange::default()
    });
    let up = change.up.map(|up| LinkChange {
        up: Some(up),
        ..LinkChange::default()
    });
    for change in [alias, up].into_iter().flatten() {
        report(netlink.change_link(link.index, change, what));
    }
}

/// Restores the properties of `link` that differ and do not depend on its name.
fn restore_properties(netlink: &mut Netlink, link: &Link, device: &Device) {
    let mac = mac_bytes(&device.mac);
    let none = LinkChange::default();
    let offload = device.offload.unwrap_or(link.offload);
    // The driver may refuse the MTU as long as there is one.
    let programs = link
        .offload
        .programs_beyond(&offload)
        .map(|mode| LinkChange {
            no_program: Some(mode),
            ..none
        });
    let changes = [
        (link.mac != device.mac && !mac.is_empty()).then_some(LinkChange {
            mac: Some(&mac),
            ..none
        }),
        (link.mtu != device.mtu).then_some(LinkChange {
            mtu: Some(device.mtu),
            ..none
        }),
        device
            .settings
            .filter(|settings| *settings != link.settings)
            .map(|settings| LinkChange {
                settings: Some(settings),
                ..none
            }),
        offload
            .has_other_lengths(&link.offload)
            .then_some(LinkChange {
                lengths: Some(offload),
                ..none
            }),
    ];
    let what = || format!("failed to restore {:?}", device.name);
    for change in programs.chain(changes.into_iter().flatten()) {
        report(netlink.change_link(link.index, change, what));
    }
    let foreign = device.foreign_altnames(link);
    report(netlink.delete_altnames(link.index, &foreign));
}

/// Adds the missing alternative names to the link.
fn restore_altnames(netlink: &mut Netlink, link: &Link, device: &Device) {
    let missing = device
        .altnames
        .iter()
        .filter(|n| !link.altnames.contains(n));
    let missing: Vec<String> = missing.cloned().collect();
    report(netlink.add_altnames(link.index, &missing));
}

/// Makes the device a port of its former controller again. A bond accepts only interfaces
/// that are down.
fn restore_controller(netlink: &mut Netlink, link: &Link, was: &Controller) -> Result<()> {
    let found = netlink.link_by_name(&was.name)?;
    let Some(found) = found.filter(|found| found.kind == was.kind) else {
        let msg = format!("cannot make {:?} a port of {:?} again", link.name, was.name);
        return Err(Error::internal(msg).with_details("there is no such interface"));
    };
    let change = LinkChange {
        controller: Some(found.index),
        ..LinkChange::default()
    };
    netlink.change_link(link.index, change, || {
        format!("failed to make {:?} a port of {:?}", link.name, was.name)
    })
}

fn report(outcome: Result<()>) {
    if let Err(error) = outcome {
        say!("{error}");
    }
}

/// The bytes of a recorded hardware address; empty when it is not one.
fn mac_bytes(text: &str) -> Vec<u8> {
    let bytes = text.split(':').map(|part| u8::from_str_radix(part, 16));
    bytes.collect::<Result<_, _>>().unwrap_or_default()
}
