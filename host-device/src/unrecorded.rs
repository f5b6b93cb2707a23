//! Devices of attachments without a record, which the Go plugin has made before this plugin
//! was installed. The Go plugin stores the device's name in the alias, which the container
//! can change, and so it can the MAC. Properties that only the kernel determines prove a device:
//! hardware by its bus address or its permanent MAC. A virtual device has its other end, or the
//! interface below it, on the node, and is older than the container's namespace: what was made for
//! the container, such as its first interface, is younger.

use std::fs;
use std::path::Path;

use common::attach::turn::Turn;
use common::attach::{Sandbox, sandbox_for_del};
use common::cni::args::CmdArgs;
use common::error::{Error, Result};
use common::ifname::IfName;
use common::kernel::netlink::{Link, LinkChange};
use common::kernel::netns::NetNs;
use common::kernel::pci::PciAddress;
use common::records::{Attachment, boot_id};

use crate::config::DeviceSelector;
use crate::device::{Device, Mode};
use crate::options::Options;
use crate::restore::{Host, restore_name};
use crate::selection;
use crate::{move_out, records};

/// The directory of virtio devices, which are below their PCI function.
const VIRTIO_DEVICES: &str = "/sys/bus/virtio/devices";

/// The index of the loopback interface in every namespace. Source: `LOOPBACK_IFINDEX` of Linux.
const LOOPBACK: u32 = 1;

/// Gives the device of an attachment without a record back: moves it from the container, or
/// restores its name on the node if the kernel has moved it there at the end of the
/// container. Returns whether the node certainly has it.
///
/// # Errors
/// Code 7 naming an interface that may be the device, if nothing proves that: with a success
/// of DEL the device could be lost. 999 with the kernel's answer.
pub fn give_back(args: &CmdArgs) -> Result<bool> {
    let evidence = Evidence::of(args);
    let _devices = Turn::of_devices()?;
    if let Some(mut sandbox) = sandbox_for_del::<Device>(args, None)? {
        if records().has_other::<Device>(args, &sandbox.netns)? {
            return Ok(false);
        }
        let links = unrecorded_links(&mut sandbox)?;
        let of_node = links_of_node(&mut sandbox, &links)?;
        let is_elsewhere = evidence.is_elsewhere(args)?;
        let found = match is_elsewhere {
            true => evidence.proven(&of_node)?,
            false => evidence.find(&sandbox.netns, &of_node)?,
        };
        if let Some(link) = found {
            let mut host = Host::open()?;
            let name = evidence.name_of(link, &mut host)?;
            move_out::move_out_unrecorded(&mut host, &mut sandbox, link, &name)?;
            return Ok(true);
        }
        if !is_elsewhere {
            evidence.require_nothing_left(&of_node)?;
            evidence.require_no_likely_link(&links)?;
        }
    }
    let Some(selector) = &evidence.selector else {
        return Ok(false);
    };
    let mut host = Host::open()?;
    name_on_host(&mut host, selector, Some(&args.ifname))?;
    Ok(is_on_host(&mut host, selector, args))
}

/// Whether the node has the device that `selector` selects, in the state without an
/// attachment. False when it is not found for any reason.
fn is_on_host(host: &mut Host, selector: &DeviceSelector, args: &CmdArgs) -> bool {
    let options = Options::parse(&args.conf.document);
    let binds = options.is_ok_and(|options| options.driver.is_some());
    let found = selection::find(host, selector);
    found.is_ok_and(|device| match device.mode {
        // ADD has bound it, and its former driver is unknown.
        Mode::Dpdk => !binds,
        Mode::Netdev => device.name != args.ifname.as_str(),
    })
}

/// Whether a record under another network's name belongs to the attachment of a DEL: it has
/// the device that the DEL selects, or the MAC of its result.
pub fn is_renamed(args: &CmdArgs, record: &Attachment<Device>) -> bool {
    let evidence = Evidence::of(args);
    let device = &record.device;
    let is_selected = |selector: &DeviceSelector| device.is_selected_by(selector);
    evidence.selector.as_ref().is_some_and(is_selected)
        || !evidence.reported_mac.is_empty() && evidence.reported_mac == device.mac
}

/// Restores the name of the device that `selector` selects, if the kernel has moved it to
/// the node under its name in a container, which is `ifname` if known.
///
/// # Errors
/// Code 999 with the kernel's answer.
pub fn name_on_host(
    host: &mut Host,
    selector: &DeviceSelector,
    ifname: Option<&IfName>,
) -> Result<()> {
    if let DeviceSelector::Name(name) = selector
        && (IfName::new(name).is_err() || host.link_by_name(name)?.is_some())
    {
        return Ok(());
    }
    let links = host.links()?;
    let is_wanted = |link: &&Link| {
        // The kernel sets a device down when it moves it; one that is up is in use under its
        // present name.
        let is_left = !link.up || is_name_in_container(&link.name, ifname);
        is_hardware(link)
            && match selector {
                DeviceSelector::Name(name) => link.alias == *name && is_left,
                DeviceSelector::HwAddr(mac) => {
                    link.permanent_mac == *mac && is_name_in_container(&link.name, ifname)
                }
                _ => is_at(selector, link) && is_name_in_container(&link.name, ifname),
            }
    };
    let mut wanted = links.iter().filter(is_wanted);
    let (Some(link), None) = (wanted.next(), wanted.next()) else {
        return Ok(());
    };
    let is_free = |name: &str| {
        !links
            .iter()
            .any(|l| l.name == name || l.altnames.iter().any(|a| a == name))
    };
    if IfName::new(&link.alias).is_err() || !is_free(&link.alias) {
        return Ok(());
    }
    let device = Device {
        name: link.alias.clone(),
        ..Device::default()
    };
    restore_name(host, link, &device)?;
    let change = LinkChange {
        alias: Some(""),
        up: link.up.then_some(true),
        ..LinkChange::default()
    };
    host.change_link(link.index, change, || {
        format!("failed to remove the alias of {:?}", device.name)
    })
}

/// The device with its own name from the alias, where the Go plugin has stored it, if the
/// kernel has moved the device to the node under its name in a container.
///
/// # Errors
/// Code 999 when the kernel does not answer.
pub fn under_own_name(host: &mut Host, device: Device, ifname: &IfName) -> Result<Device> {
    let is_left = device.is_hardware() && is_name_in_container(&device.name, Some(ifname));
    let is_name = IfName::new(&device.alias).is_ok() && device.alias != device.name;
    if !is_left || !is_name || host.link_by_name(&device.alias)?.is_some() {
        return Ok(device);
    }
    Ok(Device {
        name: device.alias,
        alias: String::new(),
        ..device
    })
}

/// Whether a device that the kernel has moved to the node can have this name: that in its
/// container, or `dev` and a number if that name was in use.
fn is_name_in_container(name: &str, ifname: Option<&IfName>) -> bool {
    let number = name.strip_prefix("dev");
    let is_number = number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    is_number || ifname.is_some_and(|ifname| ifname.as_str() == name)
}

/// The links of the container that do not belong to an attachment with a record.
fn unrecorded_links(sandbox: &mut Sandbox) -> Result<Vec<Link>> {
    let mut links = sandbox.netlink.links()?;
    let (boot, id) = (boot_id()?, sandbox.netns.id()?);
    let mut others = records().all::<Device>()?;
    others.retain(|r: &Attachment<Device>| r.netns_id.is_same(&id) && r.boot_id == boot);
    let recorded: Vec<u32> = others
        .iter()
        .filter_map(|r| r.device.among(&links, &r.ifname).map(|link| link.index))
        .collect();
    links.retain(|link| !recorded.contains(&link.index));
    Ok(links)
}

/// Those of `links` that come from the node: hardware, and links whose other end or lower
/// interface is on the node. A container can make neither.
fn links_of_node(sandbox: &mut Sandbox, links: &[Link]) -> Result<Vec<Link>> {
    let host = sandbox.netlink.namespace_id(&NetNs::own()?)?;
    let has_end_on_node =
        |link: &Link| link.parent.is_some() && host.is_some() && link.parent_netns_id == host;
    let of_node = links
        .iter()
        .filter(|link| is_hardware(link) || has_end_on_node(link));
    Ok(of_node.cloned().collect())
}

/// Whether a link of the namespace is certainly older than the namespace, whose loopback interface was
/// made with it.
fn is_older_than(netns: &NetNs, link: &Link) -> Result<bool> {
    let number = netns.sysfs_number_of(link.index)?;
    let loopback = netns.sysfs_number_of(LOOPBACK)?;
    Ok(number
        .zip(loopback)
        .is_some_and(|(own, of_loopback)| own < of_loopback))
}

fn is_hardware(link: &Link) -> bool {
    let has_identity = !link.bus_address.is_empty() || !link.permanent_mac.is_empty();
    link.kind.is_empty() && !link.loopback && has_identity
}

/// Whether the link has the bus address that the selector names. The bus address of a virtio
/// device is not that of its PCI function, which is found in sysfs.
fn is_at(selector: &DeviceSelector, link: &Link) -> bool {
    if link.bus_address.is_empty() {
        return false;
    }
    let device = Path::new(VIRTIO_DEVICES).join(&link.bus_address);
    let function = fs::canonicalize(device).ok();
    let function = function
        .as_deref()
        .and_then(Path::parent)
        .and_then(Path::file_name);
    let function = function.and_then(|name| PciAddress::new(&name.to_string_lossy()));
    let function = function.or_else(|| PciAddress::new(&link.bus_address));
    selector.is_bus_address(&link.bus_address)
        || function.is_some() && selector.pci_address() == function
}

/// The evidence about the device in the input of a DEL.
struct Evidence {
    ifname: IfName,
    selector: Option<DeviceSelector>,
    /// The MAC of the interface in the result of ADD.
    reported_mac: String,
}

impl Evidence {
    /// Reads the evidence. A key that cannot be read proves nothing; DEL must not fail
    /// because of it.
    fn of(args: &CmdArgs) -> Self {
        let document = &args.conf.document;
        let result = document.prev_result(args.conf.version).ok().flatten();
        let reported = result.and_then(|result| {
            let index = result.find_interface(args.ifname.as_str(), &args.netns)?;
            Some(result.interfaces.get(index)?.mac.to_ascii_lowercase())
        });
        Self {
            ifname: args.ifname.clone(),
            selector: DeviceSelector::from_document(document).ok().flatten(),
            reported_mac: reported.unwrap_or_default(),
        }
    }

    /// Whether the configured device is on the node, or another attachment has it: a DEL may be
    /// repeated. What looks like the device in the container is another interface then, such as
    /// the pod's first one, whose other end is on the node as well.
    fn is_elsewhere(&self, args: &CmdArgs) -> Result<bool> {
        let Some(selector) = &self.selector else {
            return Ok(false);
        };
        if is_on_host(&mut Host::open()?, selector, args) {
            return Ok(true);
        }
        let has_it = |record: &Attachment<Device>| {
            let device = &record.device;
            let is_living = || record.is_alive().unwrap_or(true);
            Ok(!device.returned && device.is_selected_by(selector) && is_living())
        };
        Ok(records().find(has_it)?.is_some())
    }

    /// The attachment's device among `links`, which come from the node, if one is proven.
    fn proven<'a>(&self, links: &'a [Link]) -> Result<Option<&'a Link>> {
        let proven: Vec<&Link> = links.iter().filter(|link| self.is_proven(link)).collect();
        one_of(&proven)
    }

    /// The attachment's device among `links`, which come from the node: one that is proven,
    /// otherwise one that looks like it and has the attachment's interface name, otherwise
    /// one that looks like it.
    fn find<'a>(&self, netns: &NetNs, links: &'a [Link]) -> Result<Option<&'a Link>> {
        if let Some(link) = self.proven(links)? {
            return Ok(Some(link));
        }
        let mut likely = Vec::new();
        for link in links.iter().filter(|link| self.is_likely(link)) {
            if is_hardware(link) || is_older_than(netns, link)? {
                likely.push(link);
            }
        }
        let is_named = |link: &&&Link| link.name == self.ifname.as_str();
        let named: Vec<&Link> = likely.iter().filter(is_named).copied().collect();
        one_of(if named.is_empty() { &likely } else { &named })
    }

    /// Whether the link is certainly the attachment's device, whatever its name is.
    fn is_proven(&self, link: &Link) -> bool {
        let mac = &link.permanent_mac;
        let is_selected = match &self.selector {
            Some(DeviceSelector::HwAddr(hwaddr)) => hwaddr == mac,
            Some(selector) => is_at(selector, link),
            None => false,
        };
        is_hardware(link) && (is_selected || !mac.is_empty() && self.reported_mac == *mac)
    }

    /// Whether the link looks like the attachment's device: it has the alias or MAC that the
    /// Go plugin gives the configured device, or the MAC of the result.
    fn is_likely(&self, link: &Link) -> bool {
        let is_configured = match &self.selector {
            Some(DeviceSelector::Name(name)) => link.alias == *name,
            Some(DeviceSelector::HwAddr(mac)) => link.mac == *mac && !link.alias.is_empty(),
            _ => false,
        };
        is_configured || !self.reported_mac.is_empty() && self.reported_mac == link.mac
    }

    /// The name for the device on the node: the configured one, or the one in its alias; if
    /// neither is possible, its present name.
    fn name_of(&self, link: &Link, host: &mut Host) -> Result<String> {
        if let Some(DeviceSelector::Name(name)) = &self.selector
            && IfName::new(name).is_ok()
            && !link.altnames.contains(name)
        {
            return Ok(name.clone());
        }
        let is_name = IfName::new(&link.alias).is_ok();
        if is_name && host.link_by_name(&link.alias)?.is_none() {
            return Ok(link.alias.clone());
        }
        Ok(link.name.clone())
    }

    /// Makes sure that no interface is left in the container that may be the attachment's
    /// device.
    fn require_nothing_left(&self, links: &[Link]) -> Result<()> {
        let is_candidate = |link: &&Link| {
            let is_marked = IfName::new(&link.alias).is_ok();
            link.name == self.ifname.as_str() && (is_hardware(link) || is_marked)
        };
        let Some(link) = links.iter().find(is_candidate) else {
            return Ok(());
        };
        let alias = &link.alias;
        Err(undecided(link).with_details(format!(
            "there is no record of the attachment, and neither configuration nor prevResult \
             says that it is the device that its alias calls {alias:?}; name the device in the \
             configuration, or move it to the node by hand"
        )))
    }

    /// Makes sure that the interface of the attachment is not likely to be its device while the
    /// node does not have that. Nothing proves where a virtual device without another end, such
    /// as a tap, comes from.
    fn require_no_likely_link(&self, links: &[Link]) -> Result<()> {
        let is_candidate = |link: &&Link| link.name == self.ifname.as_str() && self.is_likely(link);
        let Some(link) = links.iter().find(is_candidate) else {
            return Ok(());
        };
        let device = match &self.selector {
            Some(DeviceSelector::Name(name)) => name,
            _ => &link.alias,
        };
        if IfName::new(device).is_err() || Host::open()?.link_by_name(device)?.is_some() {
            return Ok(());
        }
        Err(undecided(link).with_details(format!(
            "there is no record of the attachment, the node has no {device:?}, and nothing proves \
             where an interface of kind {kind:?} comes from; move it to the node by hand, or \
             remove it",
            kind = link.kind
        )))
    }
}

fn undecided(link: &Link) -> Error {
    let name = &link.name;
    Error::config(format!(
        "cannot tell whether interface {name:?} is the host device to give back"
    ))
}

/// The one link that was found, if any was.
///
/// # Errors
/// Code 7 naming them, when there are several.
fn one_of<'a>(found: &[&'a Link]) -> Result<Option<&'a Link>> {
    match *found {
        [] => Ok(None),
        [link] => Ok(Some(link)),
        _ => {
            let names: Vec<&str> = found.iter().map(|link| link.name.as_str()).collect();
            let msg = "cannot tell which interface of the container is the host device";
            Err(Error::config(msg).with_details(names.join(", ")))
        }
    }
}
