//! The ipvlan interface itself: its master on this node, its creation, and how it is
//! recognised as ours.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;

use common::args::{CmdArgs, IfName};
use common::attachment::{Attachment, Records};
use common::error::{Error, Result};
use common::interface::Sandbox;
use common::netlink::{Link, LinkChange, Made, Netlink, NewIpvlan};
use common::netns::NetNs;
use common::pci::PciAddress;
use common::result::AddResult;
use nix::libc::EBUSY;
use serde::{Deserialize, Serialize};

use crate::config::{Flag, Master, Mode, NetConf};

/// The kind by which the kernel calls ipvlan interfaces.
const KIND: &str = "ipvlan";

/// What the attachment's record keeps of the interface.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Device {
    /// The index of the master in its namespace.
    pub(crate) master_index: u32,
    /// The MAC of the master.
    pub(crate) master_mac: String,
    /// The mode.
    pub(crate) mode: Mode,
    /// The flag.
    #[serde(default)]
    pub(crate) flag: Flag,
    /// Whether the master is inside the container.
    pub(crate) link_in_container: bool,
    /// The PCI address of the master; empty when it is no PCI device.
    #[serde(default)]
    pub(crate) pci_id: String,
    /// The name that the interface has for a moment on kernels that need one.
    pub(crate) temporary_name: IfName,
}

impl Device {
    /// The record of an interface that is about to be created.
    ///
    /// # Errors
    /// None in practice: the temporary name is a valid one.
    pub(crate) fn of(conf: &NetConf, master: &Link, args: &CmdArgs) -> Result<Self> {
        Ok(Self {
            master_index: master.index,
            master_mac: master.mac.clone(),
            mode: conf.mode,
            flag: conf.flag,
            link_in_container: conf.link_in_container,
            pci_id: pci_id(master, conf.link_in_container),
            temporary_name: temporary_name(args)?,
        })
    }
}

/// Finds the master and makes sure that it can carry what the configuration asks.
///
/// # Errors
/// Code 7 naming the master when it is missing, down, a loopback, or has a smaller
/// MTU than the one asked for.
pub(crate) fn find_master(conf: &NetConf, netlink: &mut Netlink) -> Result<Link> {
    let master = match &conf.master {
        Master::Named(name) => by_name(name, netlink)?,
        Master::Selected(selector) => selector.find(netlink)?,
        Master::DefaultRoute => by_default_route(netlink)?,
    };
    let name = &master.name;
    if master.loopback {
        return Err(Error::config(format!(
            "master {name:?} is a loopback interface"
        )));
    }
    if !master.up {
        return Err(Error::config(format!("master {name:?} is down")));
    }
    match conf.mtu {
        Some(mtu) if mtu > master.mtu => Err(Error::config(format!(
            "invalid MTU {mtu}, master {name:?} has {}",
            master.mtu
        ))),
        _ => Ok(master),
    }
}

/// The PCI address of the master, for the result; empty when it is no PCI device.
/// sysfs shows the node's interfaces, so of a master that is in the container only
/// counts what netlink tells.
fn pci_id(master: &Link, link_in_container: bool) -> String {
    let address = match link_in_container {
        true => PciAddress::new(&master.bus_address),
        false => PciAddress::of_link(master),
    };
    address.map_or(String::new(), |address| address.to_string())
}

/// Makes sure that no living attachment uses the master in another mode or with
/// another flag: the kernel has one of each for all interfaces of a master, and the
/// last one to be created would change it for all of them. The own record is written
/// before this is asked, so of two attachments at the same time at most one goes on.
///
/// # Errors
/// Code 7 naming the other network.
pub(crate) fn refuse_other_use(
    own: &Attachment<Device>,
    master: &Link,
    records: &Records,
) -> Result<()> {
    let other = records.find(|record: &Attachment<Device>| {
        Ok(shares_master(record, own) && !record.is_same(own) && record.is_alive()?)
    })?;
    let (Some(other), device) = (other, &own.device) else {
        return Ok(());
    };
    let used = &other.device;
    if (used.mode, used.flag) == (device.mode, device.flag) {
        return Ok(());
    }
    Err(Error::config(format!(
        "master {:?} is used in mode {} {} by network {:?}, which excludes mode {} {}",
        master.name, used.mode, used.flag, other.network, device.mode, device.flag
    )))
}

fn shares_master(one: &Attachment<Device>, other: &Attachment<Device>) -> bool {
    let key = |record: &Attachment<Device>| {
        let device = &record.device;
        // Indices are counted by namespace.
        let netns = device.link_in_container.then_some(record.netns_id);
        (device.master_index, device.master_mac.clone(), netns)
    };
    key(one) == key(other)
}

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
pub(crate) fn create(
    conf: &NetConf,
    master: &Link,
    record: &Attachment<Device>,
    node: &mut Netlink,
    sandbox: &mut Sandbox,
) -> Made {
    let device = &record.device;
    let (netlink, netns) = match conf.link_in_container {
        true => (&mut sandbox.netlink, None),
        false => (node, Some(&sandbox.netns)),
    };
    let new = NewIpvlan {
        name: &record.ifname,
        master: master.index,
        netns,
        mode: conf.mode.number(),
        flags: conf.flag.number(),
        mtu: conf.mtu,
    };
    let temporary = NewIpvlan {
        name: &device.temporary_name,
        ..new
    };
    match netlink.create_ipvlan(new) {
        Made::Nothing(error) if error.is_exists() => {}
        Made::Nothing(error) => return Made::Nothing(explain(error, master)),
        made => return made,
    }
    match netlink.create_ipvlan(temporary) {
        Made::Done => match rename(device, sandbox, &record.ifname) {
            Ok(()) => Made::Done,
            Err(error) => Made::Perhaps(error),
        },
        made => made,
    }
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

/// A name that no other attachment's interface has, on the node or in the container.
fn temporary_name(args: &CmdArgs) -> Result<IfName> {
    let mut hasher = DefaultHasher::new();
    (&args.conf.network, &args.container_id, &args.ifname).hash(&mut hasher);
    IfName::new(&format!("ipv{:012x}", hasher.finish() & 0xffff_ffff_ffff))
}

/// Whether `link` is the interface that `device` records.
pub(crate) fn is_ours(link: &Link, device: &Device) -> bool {
    link.kind == KIND && link.parent == Some(device.master_index)
}

/// Whether the result of ADD, which the runtime passes on DEL, shows that `link` is
/// an attachment's although nobody recorded it: one that a Go plugin made.
pub(crate) fn is_reported(link: &Link, prev_result: &AddResult, netns: &str) -> bool {
    link.kind == KIND && prev_result.find_interface(&link.name, netns).is_some()
}

/// Compares the interface with the configuration and, where there is one, the record.
///
/// # Errors
/// Code 999 naming what differs, in the words of the Go plugin where it has some.
pub(crate) fn verify(
    link: &Link,
    conf: &NetConf,
    device: Option<&Device>,
    sandbox: &mut Sandbox,
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
    if conf.mtu.is_some_and(|mtu| mtu != link.mtu) {
        let expected = conf.mtu.unwrap_or_default();
        return differs(format!(
            "Interface {name} MTU {} does not match expected value: {expected}",
            link.mtu
        ));
    }
    let host = NetNs::own()?;
    let (expected, netns_id) = if conf.link_in_container {
        (expected_master(conf, device, &mut sandbox.netlink)?, None)
    } else {
        (
            expected_master(conf, device, &mut Netlink::open()?)?,
            sandbox.netlink.namespace_id(&host)?,
        )
    };
    match expected {
        Some(index) if link.parent != Some(index) || link.parent_netns_id != netns_id => {
            differs(format!(
                "Interface {name} is not on its master: parent index {:?}, expected {index}",
                link.parent
            ))
        }
        _ => Ok(()),
    }
}

/// The index of the master that ADD used: recorded, or named by the configuration.
/// A configuration that names none, and no record, leave nothing to compare with.
fn expected_master(
    conf: &NetConf,
    device: Option<&Device>,
    netlink: &mut Netlink,
) -> Result<Option<u32>> {
    match (device, &conf.master) {
        (Some(device), _) => Ok(Some(device.master_index)),
        (None, Master::Named(name)) => by_name(name, netlink).map(|master| Some(master.index)),
        (None, Master::Selected(selector)) => {
            selector.find(netlink).map(|master| Some(master.index))
        }
        (None, Master::DefaultRoute) => Ok(None),
    }
}

fn by_name(name: &str, netlink: &mut Netlink) -> Result<Link> {
    let found = netlink.link_by_name(name)?;
    found.ok_or_else(|| {
        Error::config(format!("failed to lookup master {name:?}")).with_details("Link not found")
    })
}

/// The link that the main table's default route leaves through.
fn by_default_route(netlink: &mut Netlink) -> Result<Link> {
    const MAIN: u32 = 254;
    let routes = netlink.routes()?;
    let defaults = routes
        .iter()
        .filter(|route| route.dst.is_default() && route.table == MAIN);
    let index = defaults
        .flat_map(|route| &route.next_hops)
        .map(|(index, _)| *index)
        .next();
    let link = match index {
        Some(index) => netlink.link_by_index(index)?,
        None => None,
    };
    link.ok_or_else(|| Error::config("no default route interface found"))
}

fn explain(error: Error, master: &Link) -> Error {
    if error.errno() != Some(EBUSY) {
        return error;
    }
    let use_ = match master.port_kind.as_str() {
        "" => "it has macvlan interfaces already".to_owned(),
        kind => format!("it is a port of a {kind}"),
    };
    Error::config(format!(
        "master {:?} cannot have ipvlan interfaces: {use_}",
        master.name
    ))
    .because(&io::Error::from_raw_os_error(EBUSY))
}
