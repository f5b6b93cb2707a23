//! What a device gets back on the host: its name, alternative names, MAC, MTU, alias,
//! flags, queue and group, whether it was up, and the driver, addresses and routes that
//! an attachment took. What only `ethtool` and `tc` show is left as the pod has made it.

use std::time::Duration;

use common::attachment::{Attachment, boot_id};
use common::error::{Error, Result};
use common::netlink::{Link, LinkChange, Netlink};

use crate::device::Device;
use crate::driver::{self, Binding};
use crate::elsewhere::is_elsewhere;
use crate::in_use::Controller;

/// The node's side of a transfer.
pub(crate) struct Host {
    /// A netlink socket on the host.
    pub(crate) netlink: Netlink,
}

impl Host {
    /// The namespace that the plugin was started in.
    pub(crate) fn open() -> Result<Self> {
        let netlink = Netlink::open()?;
        Ok(Self { netlink })
    }

    /// Makes sure that `link` can get the name `name` on the host. `index` is its
    /// index there, when it is there already: it may have the name as another one.
    pub(crate) fn require_free(
        &mut self,
        name: &str,
        link: &Link,
        index: Option<u32>,
    ) -> Result<()> {
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

/// Where a device is that its container does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whereabouts {
    /// On the host, as it was.
    OnHost,
    /// In a namespace that cannot be looked into.
    Elsewhere,
    /// Another attachment has it, or nobody: then there is nothing to give back.
    NotOurs,
}

/// Restores the device where the kernel has put it on the host itself. The kernel does
/// that with hardware only, and destroys other interfaces: one that looks the same was
/// made by somebody else since.
pub(crate) fn restore_on_host(
    host: &mut Host,
    all: &[Attachment<Device>],
    record: &Attachment<Device>,
) -> Result<Whereabouts> {
    let device = &record.device;
    if record.boot_id != boot_id()? || !device.is_hardware() && !record.is_alive()? {
        return Ok(Whereabouts::NotOurs);
    }
    if has_rival(all, record)? {
        return Ok(Whereabouts::NotOurs);
    }
    // Asked before the host is searched: a device that arrives meanwhile is not missed.
    let whereabouts = match is_elsewhere(device) {
        true => Whereabouts::Elsewhere,
        false => Whereabouts::NotOurs,
    };
    let links = host.netlink.links()?;
    let Some(link) = device.among(&links, &record.ifname) else {
        return Ok(whereabouts);
    };
    restore_name(host, link, device)?;
    restore_properties(&mut host.netlink, link, device);
    Ok(Whereabouts::OnHost)
}

/// Gives a device that ADD has bound for user space back to its kernel driver, and
/// its interface what it was; true when the host has it. A new boot has forgotten
/// the binding.
pub(crate) fn rebind(
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

pub(crate) fn restore_name(host: &mut Host, link: &Link, device: &Device) -> Result<()> {
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
pub(crate) fn restore_properties(netlink: &mut Netlink, link: &Link, device: &Device) {
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
        device
            .settings
            .filter(|settings| *settings != link.settings)
            .map(|settings| LinkChange {
                settings: Some(settings),
                ..none
            }),
    ];
    let what = || format!("failed to restore {:?}", device.name);
    for change in changes.into_iter().flatten() {
        report(netlink.change_link(link.index, change, what));
    }
    // The one that was the device's own name is gone by now.
    let foreign = link
        .altnames
        .iter()
        .filter(|n| !device.altnames.contains(n) && **n != device.name);
    let foreign: Vec<String> = foreign.cloned().collect();
    report(netlink.delete_altnames(link.index, &foreign));
    let missing = device
        .altnames
        .iter()
        .filter(|n| !link.altnames.contains(n));
    let missing: Vec<String> = missing.cloned().collect();
    report(netlink.add_altnames(link.index, &missing));
    if let Some(controller) = &device.controller {
        report(restore_controller(netlink, link, controller));
    }
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

/// Makes the device a port of what it was a port of. A bond only takes what is down.
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
        eprintln!("{error}");
    }
}

/// The bytes of a hardware address as the record has it; none when it is no address.
fn mac_bytes(text: &str) -> Vec<u8> {
    let bytes = text.split(':').map(|part| u8::from_str_radix(part, 16));
    bytes.collect::<Result<_, _>>().unwrap_or_default()
}
