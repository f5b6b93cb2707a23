//! The ipvlan interface itself: its creation, and how it is
//! compared with what was asked for.

use common::attach::{Release, Sandbox, Sides, sandbox_for_del};
use common::cni::args::CmdArgs;
use common::error::{Error, Result};
use common::ifname::IfName;
use common::kernel::netlink::{Kind, Link, LinkChange, Made, NewLink};
use common::records::Attachment;

use crate::carrier::{Carrier, KIND};
use crate::config::{Flag, Master, Mode, NetConf};
use crate::device::Device;
use crate::master::{by_name, explain};
use crate::neighbours::name_macvlans;
use crate::records;

/// Creates the interface in the container under its final name. Kernels before 6.15
/// look for that name on the node as well, where they are asked from; where it is
/// taken there, the interface begins under the temporary name that the record knows, and
/// what fails from then on leaves something that DEL finds by the record.
///
/// It is asked for in the namespace of the master. Asked for in the container, those
/// kernels would create it on the node and move it, for anybody there to see.
///
/// An error has code 7 and names the master when the kernel says that it is in other use,
/// else 999 and the kernel's answer.
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
            let macvlans = || name_macvlans(&device.carrier, sides);
            return Made::Nothing(explain(error, master, macvlans));
        }
        made => return made,
    };
    made.and_then(|()| rename(device, sandbox, &record.ifname))
}

/// Compares the device that the kernel reports below the new interface with the one that
/// is recorded, and records it where it is another one: DEL goes by the record.
///
/// # Errors
/// As for [`Carrier::below`], and code 5 when the record cannot be written.
pub fn read_back(link: &Link, record: &mut Attachment<Device>, sides: &mut Sides) -> Result<()> {
    if record.device.carrier.carries(link) {
        return Ok(());
    }
    record.device.carrier = Carrier::below(link, true, sides)?;
    records().write(record)
}

/// Gives the interface that has the temporary name its final one.
fn rename(device: &Device, sandbox: &mut Sandbox, ifname: &IfName) -> Result<()> {
    let link = sandbox.require(&device.temporary_name)?;
    let rename = LinkChange {
        name: Some(ifname.as_str()),
        ..LinkChange::default()
    };
    let what = || format!("failed to rename ipvlan to {:?}", ifname.as_str());
    sandbox.netlink.change_link(link.index, rename, what)
}

/// Whether the container has the interface under its name.
///
/// # Errors
/// As for [`sandbox_for_del`], and code 999 when the kernel does not answer.
pub fn is_attached(args: &CmdArgs, record: &Attachment<Device>) -> Result<bool> {
    let Some(mut sandbox) = sandbox_for_del(args, Some(record))? else {
        return Ok(false);
    };
    let link = sandbox.netlink.link_by_name(record.ifname.as_str())?;
    Ok(link.is_some_and(|link| record.device.carrier.carries(&link)))
}

/// Removes the interface from the container, and nothing that only has its name.
///
/// # Errors
/// As for [`is_attached`].
pub fn remove(
    args: &CmdArgs,
    record: &Attachment<Device>,
    release: &mut Release<'_>,
) -> Result<()> {
    let Some(mut sandbox) = sandbox_for_del(args, Some(record))? else {
        return Ok(());
    };
    let device = &record.device;
    // It never has both names.
    for name in [&record.ifname, &device.temporary_name] {
        let link = sandbox.netlink.link_by_name(name.as_str())?;
        if let Some(link) = link.filter(|link| device.carrier.carries(link)) {
            release.before_removal(&mut sandbox.netlink, &link);
            return sandbox.netlink.delete_link(&link);
        }
    }
    Ok(())
}

/// Compares the interface with the configuration and, where there is one, the record: what
/// no plugin behind this one can have changed. Its MTU is not of that kind.
///
/// # Errors
/// Code 999 naming what differs, in the words of the Go plugin where it has some.
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
    let Some(expected) = expected_carrier(conf, device, sides)? else {
        return Ok(());
    };
    let found = Carrier::below(link, true, sides)?;
    // A third namespace has another number for the node than for the container.
    let is_there = found == expected || expected.third_netns.and(found.third_netns).is_some();
    if found.index != expected.index || !is_there {
        return differs(format!(
            "Interface {name} is not on its master: parent index {}, expected {}",
            found.index, expected.index
        ));
    }
    Ok(())
}

/// The device that ADD used: recorded, or below the master that the configuration names.
/// A configuration that names none, and no record, leave nothing to compare with.
fn expected_carrier(
    conf: &NetConf,
    device: Option<&Device>,
    sides: &mut Sides,
) -> Result<Option<Carrier>> {
    let in_container = conf.link_in_container;
    let netlink = sides.socket(in_container);
    let master = match (device, &conf.master) {
        (Some(device), _) => return Ok(Some(device.carrier)),
        (None, Master::Named(name)) => by_name(name, netlink)?,
        (None, Master::Selected(selector)) => selector.find(netlink)?,
        (None, Master::DefaultRoute) => return Ok(None),
    };
    Carrier::of_master(&master, in_container, sides).map(Some)
}
