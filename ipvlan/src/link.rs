//! The ipvlan interface: its creation, its removal, and its comparison with configuration
//! and record.

use std::net::IpAddr;

use common::attach::{Kept, Release, Sandbox, Sides, sandbox_at_end, sandbox_for_del};
use common::cni::args::CmdArgs;
use common::error::{Error, ErrorCode, Result};
use common::ifname::IfName;
use common::kernel::netlink::{KernelAddress, Kind, Link, LinkChange, Made, Netlink, NewLink};
use common::kernel::netns::STILL_THERE;
use common::records::Attachment;

use crate::config::{Flag, Master, Mode, NetConf};
use crate::device::Device;
use crate::lower_device::{KIND, LowerDevice};
use crate::master::{by_name, explain};
use crate::neighbours::name_macvlans;
use crate::records;

/// Creates the interface in the container under its final name. Kernels before 6.15
/// require that the name is free in the namespace of the request, too. If an interface of
/// the node has it, the interface is created under the temporary name of the record and
/// then renamed. When the renaming fails, DEL finds the interface by the record.
///
/// The request is sent in the namespace of the master. If it was sent in the container,
/// those kernels would create the interface on the node, where other programs see it, and
/// then move it.
///
/// An error has code 7 and names the master when the kernel reports that it is used in
/// another way; otherwise it has code 999 and the kernel's answer.
pub fn create(
    conf: &NetConf,
    master: &Link,
    record: &Attachment<Device>,
    sides: &mut Sides,
) -> Made<()> {
    let device = &record.device;
    let Sides { node, sandbox } = sides;
    let (netlink, netns) = match conf.link_in_container {
        true => (&mut sandbox.netlink, None),
        false => (node, Some(&sandbox.netns)),
    };
    let new = NewLink {
        name: record.ifname.as_str(),
        lower: master.index,
        netns,
        kind: Kind::Ipvlan {
            mode: conf.mode.number(),
            flags: conf.flag.number(),
        },
        mtu: conf.mtu,
    };
    let temporary = NewLink {
        name: device.temporary_name.as_str(),
        ..new
    };
    let made = match netlink.create_link(new) {
        Made::Nothing(error) if error.is_exists() => netlink.create_link(temporary),
        Made::Nothing(error) => {
            let macvlans = || name_macvlans(&device.lower, sides);
            return Made::Nothing(explain(error, master, macvlans));
        }
        made => return made,
    };
    made.and_then(|()| rename(device, sandbox, &record.ifname))
}

/// Reads the device below the new interface from the kernel, and corrects the record if
/// that has another one, because DEL uses the record.
///
/// # Errors
/// As for [`LowerDevice::below`], and code 5 when the record cannot be written.
pub fn read_back(link: &Link, record: &mut Attachment<Device>, sides: &mut Sides) -> Result<()> {
    if record.device.lower.is_below(link) {
        return Ok(());
    }
    record.device.lower = LowerDevice::below(link, true, sides)?;
    records().write(record)
}

/// Renames the interface from its temporary name to its final one.
fn rename(device: &Device, sandbox: &mut Sandbox, ifname: &IfName) -> Result<()> {
    let link = sandbox.require(&device.temporary_name)?;
    let rename = LinkChange {
        name: Some(ifname.as_str()),
        ..LinkChange::default()
    };
    let what = || format!("failed to rename ipvlan to {:?}", ifname.as_str());
    sandbox.netlink.change_link(link.index, rename, what)
}

/// Whether the container has the interface, under its recorded name.
///
/// # Errors
/// As for [`sandbox_for_del`], and code 999 when the kernel does not answer.
pub fn is_attached(args: &CmdArgs, record: &Attachment<Device>) -> Result<bool> {
    let Some(mut sandbox) = sandbox_for_del(args, Some(record))? else {
        return Ok(false);
    };
    let link = sandbox.netlink.link_by_name(record.ifname.as_str())?;
    Ok(link.is_some_and(|link| record.device.lower.is_below(&link)))
}

/// Removes the interface from the container, also from a namespace that lives on without its
/// path. Another interface with its name is not removed.
///
/// # Errors
/// As for [`sandbox_at_end`], and code 999 when the kernel does not answer.
pub fn remove(
    args: &CmdArgs,
    record: &Attachment<Device>,
    release: &mut Release<'_>,
) -> Result<()> {
    let Some(mut sandbox) = sandbox_at_end(args, record)? else {
        return remove_by_number(args, record);
    };
    let device = &record.device;
    // It has only one of these names.
    for name in [&record.ifname, &device.temporary_name] {
        let link = sandbox.netlink.link_by_name(name.as_str())?;
        if let Some(link) = link.filter(|link| device.lower.is_below(link)) {
            release.before_removal(&mut sandbox.netlink, &link);
            return sandbox.netlink.delete_link(&link);
        }
    }
    Ok(())
}

/// Removes the interface from a namespace that nothing leads to any more, while the kernel still has
/// it. Otherwise another pod would get an address that the interface still has.
///
/// The namespace can end at any moment, and its number be that of the next pod's. So an interface is
/// left alone that has none of the attachment's addresses, where these are known: then no other pod
/// can get an address that is in use.
fn remove_by_number(args: &CmdArgs, record: &Attachment<Device>) -> Result<()> {
    let Some(kept) = Kept::of(record)? else {
        return Ok(());
    };
    let mut node = Netlink::open()?;
    let Some(link) = find_by_number(&kept, record, &mut node)? else {
        return Ok(());
    };
    let known = addresses(args, record);
    if !known.is_empty() {
        let on_link = |a: &KernelAddress| a.link == link.index && known.contains(&a.cidr.address());
        if !kept.addresses()?.iter().any(on_link) {
            return Ok(());
        }
    }
    match kept.is_certain() {
        true => kept.delete(&mut node, &link),
        false => Err(still_there(record)),
    }
}

/// The addresses of the attachment, as the runtime or the record knows them.
fn addresses(args: &CmdArgs, record: &Attachment<Device>) -> Vec<IpAddr> {
    let mut known = args.conf.document.known_addresses(args.conf.version);
    let recorded = record.source_routing.iter();
    known.extend(recorded.flat_map(|policy| &policy.sources));
    known
}

fn find_by_number(
    kept: &Kept,
    record: &Attachment<Device>,
    node: &mut Netlink,
) -> Result<Option<Link>> {
    let device = &record.device;
    let names = [record.ifname.as_str(), device.temporary_name.as_str()];
    let mut links = kept.links(node)?.into_iter();
    Ok(links.find(|link| names.contains(&link.name.as_str()) && device.lower.is_below(link)))
}

/// The error of a DEL that must be repeated.
fn still_there(record: &Attachment<Device>) -> Error {
    let (ifname, netns) = (record.ifname.as_str(), &record.netns);
    let msg = format!("cannot remove interface {ifname:?} yet");
    let details = format!("netns {netns:?} may exist without its path: {STILL_THERE}");
    Error::new(ErrorCode::TRY_AGAIN, msg).with_details(details)
}

/// Compares the interface with the configuration and, if there is one, the record. Only
/// properties that a later plugin in the chain cannot have changed are compared, so the
/// MTU is not.
///
/// # Errors
/// Code 999 naming the difference, with the text of the Go plugin if it has one.
pub fn verify(
    link: &Link,
    conf: &NetConf,
    device: Option<&Device>,
    sides: &mut Sides,
) -> Result<()> {
    let name = &link.name;
    let differs = |msg: String| Err(Error::internal(msg));
    let Some(mode) = link.ipvlan_mode.filter(|_| link.kind == KIND) else {
        return differs(format!(
            "Error: Container interface {name} not of type ipvlan"
        ));
    };
    if mode != conf.mode.number() {
        let found = Mode::describe(mode);
        return differs(format!(
            "Container IPVlan mode {found} does not match expected value: {}",
            conf.mode
        ));
    }
    let flags = link.ipvlan_flags.unwrap_or_default();
    if flags != conf.flag.number() {
        let found = Flag::describe(flags);
        return differs(format!(
            "Container IPVlan flag {found} does not match expected value: {}",
            conf.flag
        ));
    }
    let Some(expected) = expected_lower_device(conf, device, sides)? else {
        return Ok(());
    };
    let found = LowerDevice::below(link, true, sides)?;
    // The id of a third namespace differs between node and container, so only its
    // existence is compared.
    let is_there = found == expected || expected.third_netns.and(found.third_netns).is_some();
    if found.index != expected.index || !is_there {
        return differs(format!(
            "Interface {name} is not on its master: parent index {}, expected {}",
            found.index, expected.index
        ));
    }
    Ok(())
}

/// The device that ADD used: the recorded one, or the one of the configured master.
/// `None` without a record and a configured master.
fn expected_lower_device(
    conf: &NetConf,
    device: Option<&Device>,
    sides: &mut Sides,
) -> Result<Option<LowerDevice>> {
    let in_container = conf.link_in_container;
    let netlink = sides.socket(in_container);
    let master = match (device, &conf.master) {
        (Some(device), _) => return Ok(Some(device.lower)),
        (None, Master::Named(name)) => by_name(name, netlink)?,
        (None, Master::Selected(selector)) => selector.find(netlink)?,
        (None, Master::DefaultRoute) => return Ok(None),
    };
    LowerDevice::of_master(&master, in_container, sides).map(Some)
}
