//! The way of a device into the container and back, and what it gets back on the
//! host: its name, alternative names, MAC, MTU, alias and whether it was up.

use std::time::Duration;

use common::args::{CmdArgs, IfName};
use common::attachment::{Attachment, Records, boot_id, sandbox_for_del};
use common::error::{Error, Result};
use common::interface::Sandbox;
use common::netlink::{Link, LinkChange, Netlink};
use common::netns::NetNs;

use crate::device::{Device, Mode};
use crate::driver::{self, Binding};

/// The node's side of a transfer: its namespace and a socket in it.
pub(crate) struct Host {
    netns: NetNs,
    /// A netlink socket on the host.
    pub(crate) netlink: Netlink,
}

impl Host {
    /// The namespace that the plugin was started in.
    pub(crate) fn open() -> Result<Self> {
        Ok(Self {
            netns: NetNs::own()?,
            netlink: Netlink::open()?,
        })
    }

    /// Makes sure that `link` can get the name `name` on the host. `index` is its
    /// index there, when it is there already: it may have the name as another one.
    fn require_free(&mut self, name: &str, link: &Link, index: Option<u32>) -> Result<()> {
        let holder = self.netlink.link_by_name(name)?;
        let Some(holder) = holder.filter(|holder| Some(holder.index) != index) else {
            return Ok(());
        };
        Err(Error::internal(format!(
            "cannot give {:?} its name {name:?} on the host back",
            link.name
        ))
        .with_details(format!(
            "interface {:?} with index {} has it now",
            holder.name, holder.index
        )))
    }
}

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
    if let Some(mut sandbox) = sandbox_for_del(args, Some(record))? {
        let links = sandbox.netlink.links()?;
        if let Some(link) = device.among(&links, &record.ifname) {
            return move_out(host, &mut sandbox, link, device);
        }
    }
    restore_on_host(host, &records.all()?, record).map(drop)
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
    let has_device = device.among(&links, &record.ifname).is_some();
    Ok(has_device || device.mode == Mode::Dpdk)
}

/// Gives back what it was to every device that the kernel has put on the host
/// because its container's namespace ended, so that it can be found by its name
/// again. The records stay until their DEL, which has the address to release.
pub(crate) fn recover(host: &mut Host, records: &Records) -> Result<()> {
    let all = records.all::<Device>()?;
    for record in &all {
        if !record.device.is_owed() || record.is_alive()? {
            continue;
        }
        let restored = match &record.device.binding {
            // Whoever still uses it does not keep this ADD from another device.
            Some(binding) => rebind(host, &all, record, (binding, Duration::ZERO)),
            None => restore_on_host(host, &all, record),
        };
        match restored {
            Ok(true) => records.write(&returned(record))?,
            Ok(false) => {}
            // It is another attachment's device; whether this ADD can be served does
            // not depend on it.
            Err(error) => eprintln!("recovering {:?}: {error}", record.device.name),
        }
    }
    Ok(())
}

/// The device with what it was before an attachment that it has not come back from as
/// it was: when [`recover`] could not give it its name, the next DEL still has to.
pub(crate) fn as_before(records: &Records, device: Device) -> Result<Device> {
    let boot = boot_id()?;
    let all = records.all::<Device>()?;
    let mut earlier = all.into_iter().filter(|record| {
        let is_owed = !record.device.returned && record.boot_id == boot;
        is_owed && device.is_hardware() && record.device.is_same_as(&device)
    });
    Ok(match earlier.next() {
        Some(Attachment { device: was, .. }) => Device {
            name: was.name,
            altnames: was.altnames,
            alias: was.alias,
            mac: was.mac,
            mtu: was.mtu,
            up: was.up,
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
    send_back(host, sandbox, link, &device)
}

fn move_out(host: &mut Host, sandbox: &mut Sandbox, link: &Link, device: &Device) -> Result<()> {
    send_back(host, sandbox, link, device)?;
    if let Some(link) = host.netlink.link_by_name(&device.name)? {
        restore_properties(&mut host.netlink, &link, device);
    }
    Ok(())
}

/// Moves `link` to the host under the device's name and alias, in one step.
fn send_back(host: &mut Host, sandbox: &mut Sandbox, link: &Link, device: &Device) -> Result<()> {
    host.require_free(&device.name, link, None)?;
    // Names that the container has added could be taken on the host, or be the very
    // name the device is to get: the kernel would refuse the move for ever.
    let foreign = link
        .altnames
        .iter()
        .filter(|n| !device.altnames.contains(n));
    let foreign: Vec<String> = foreign.cloned().collect();
    sandbox.netlink.delete_altnames(link.index, &foreign)?;
    let change = LinkChange {
        netns: Some(&host.netns),
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

/// Restores the device where the kernel has put it on the host itself; true when it
/// is there and ours. The kernel does that with hardware only, and destroys other
/// interfaces: one that looks the same was made by somebody else since.
fn restore_on_host(
    host: &mut Host,
    all: &[Attachment<Device>],
    record: &Attachment<Device>,
) -> Result<bool> {
    let device = &record.device;
    if record.boot_id != boot_id()? || !device.is_hardware() && !record.is_alive()? {
        return Ok(false);
    }
    if has_rival(all, record)? {
        return Ok(false);
    }
    let links = host.netlink.links()?;
    let Some(link) = device.among(&links, &record.ifname) else {
        return Ok(false);
    };
    restore_name(host, link, device)?;
    restore_properties(&mut host.netlink, link, device);
    Ok(true)
}

/// Gives a device that ADD has bound for user space back to its kernel driver, and
/// its interface what it was; true when the host has it. A new boot has forgotten
/// the binding.
fn rebind(
    host: &mut Host,
    all: &[Attachment<Device>],
    record: &Attachment<Device>,
    (binding, patience): (&Binding, Duration),
) -> Result<bool> {
    let device = &record.device;
    if record.boot_id != boot_id()? || has_rival(all, record)? {
        return Ok(false);
    }
    let Some(link) = driver::unbind(&mut host.netlink, device, binding, patience)? else {
        return Ok(false);
    };
    restore_name(host, &link, device)?;
    restore_properties(&mut host.netlink, &link, device);
    Ok(true)
}

/// Makes sure that an attached device still has the driver that ADD has bound it to.
pub(crate) fn verify_binding(device: &Device) -> Result<()> {
    match &device.binding {
        Some(binding) => driver::verify(device, binding),
        None => Ok(()),
    }
}

/// Whether another attachment that is in use has the same device.
fn has_rival(all: &[Attachment<Device>], record: &Attachment<Device>) -> Result<bool> {
    let device = &record.device;
    for other in all {
        let is_bound = device.binding.is_some() || other.device.binding.is_some();
        let is_same = other.device.is_same_as(device)
            || is_bound && !device.pci_id.is_empty() && device.pci_id == other.device.pci_id;
        if !other.device.returned && is_same && is_rival(other, record)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether `other` is the record of another attachment, which is in use.
fn is_rival(other: &Attachment<Device>, record: &Attachment<Device>) -> Result<bool> {
    let key = |r: &Attachment<Device>| {
        let attachment = (r.container_id.clone(), r.ifname.clone());
        (r.network.clone(), attachment)
    };
    Ok(key(other) != key(record) && other.is_alive()?)
}

fn restore_name(host: &mut Host, link: &Link, device: &Device) -> Result<()> {
    if link.name == device.name {
        return Ok(());
    }
    host.require_free(&device.name, link, Some(link.index))?;
    if link.altnames.contains(&device.name) {
        // udev gives a device that appears its usual name as an alternative one.
        let name = std::slice::from_ref(&device.name);
        host.netlink.delete_altnames(link.index, name)?;
    }
    let what = || format!("failed to rename {:?} to {:?}", link.name, device.name);
    let down = LinkChange {
        up: Some(false),
        ..LinkChange::default()
    };
    if link.up {
        // Kernels before 6.2 rename only what is down.
        host.netlink.change_link(link.index, down, what)?;
    }
    let rename = LinkChange {
        name: Some(&device.name),
        ..LinkChange::default()
    };
    host.netlink.change_link(link.index, rename, what)
}

/// Restores what differs of `link`, which is on the host and has its name. A property
/// that the kernel refuses is only reported: the host has the device, and to fail
/// would keep the address reserved for ever.
fn restore_properties(netlink: &mut Netlink, link: &Link, device: &Device) {
    let mac = mac_bytes(&device.mac);
    let none = LinkChange::default();
    let changes = [
        (link.alias != device.alias).then_some(LinkChange {
            alias: Some(&device.alias),
            ..none
        }),
        (link.mac != device.mac && !mac.is_empty()).then_some(LinkChange {
            mac: Some(&mac),
            ..none
        }),
        (link.mtu != device.mtu).then_some(LinkChange {
            mtu: Some(device.mtu),
            ..none
        }),
    ];
    let what = || format!("failed to restore {:?}", device.name);
    for change in changes.into_iter().flatten() {
        report(netlink.change_link(link.index, change, what));
    }
    let missing = device
        .altnames
        .iter()
        .filter(|n| !link.altnames.contains(n));
    let missing: Vec<String> = missing.cloned().collect();
    report(netlink.add_altnames(link.index, &missing));
    if device.up {
        let up = LinkChange {
            up: Some(true),
            ..none
        };
        report(netlink.change_link(link.index, up, what));
    }
    // Routes need an interface that is up.
    device.kept.restore(netlink, link.index, &device.name);
}

fn report(outcome: Result<()>) {
    if let Err(error) = outcome {
        eprintln!("{error}");
    }
}

/// The bytes of a hardware address as the record has it; none when it is no address.
fn mac_bytes(text: &str) -> Vec<u8> {
    let bytes = text.split(':').map(|part| u8::from_str_radix(part, 16));
    bytes.collect::<Result<_, _>>().unwrap_or_default()
}
