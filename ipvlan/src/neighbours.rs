//! Other interfaces on the device below an interface: those of attachments with a record, and
//! those of other programs, such as the Go plugin, which are found in the kernel.

use std::io;
use std::path::Path;

use common::address::Cidr;
use common::attach::{Sandbox, Sides};
use common::error::{Error, Errors, Result};
use common::kernel::namespaces;
use common::kernel::netlink::{Link, Netlink};
use common::kernel::netns::{NetNs, OWN};
use common::records::{Attachment, Records};
use common::say;
use nix::libc::EADDRINUSE;

use crate::config::{Flag, Mode};
use crate::device::Device;
use crate::lower_device::{IPVLAN_KINDS, LowerDevice};

/// An interface on the device.
struct Neighbour {
    /// A path of its namespace.
    netns: String,
    link: Link,
}

impl Neighbour {
    fn describe(&self) -> String {
        let name = &self.link.name;
        match self.netns.as_str() {
            OWN => format!("interface {name:?} of the node"),
            path => format!("interface {name:?} in netns {path:?}"),
        }
    }
}

/// Makes sure that no other interface uses the device in another mode or with another flag,
/// because the last interface that is created changes both for all of them. The record of
/// this attachment is written before, so of two attachments at the same time one at most
/// succeeds. Interfaces of other programs are searched only when no attachment uses the
/// device.
///
/// # Errors
/// Code 7 naming the other network, or the other interface.
pub fn refuse_other_use(
    own: &Attachment<Device>,
    (master, in_container): (&Link, bool),
    records: &Records,
    sides: &mut Sides,
) -> Result<()> {
    let device = &own.device;
    let sharing = sharing(own, records)?;
    let (mode, flag, user) = match sharing {
        Some(record) => {
            let used = &record.device;
            let user = format!("network {:?}", record.network);
            (used.mode.number(), used.flag.number(), user)
        }
        None => match on_device(&device.lower, (master, in_container), sides)? {
            None => return Ok(()),
            Some(neighbour) => {
                let mode = neighbour.link.ipvlan_mode.unwrap_or_default();
                let flag = neighbour.link.ipvlan_flags.unwrap_or_default();
                (mode, flag, neighbour.describe())
            }
        },
    };
    if (mode, flag) == (device.mode.number(), device.flag.number()) {
        return Ok(());
    }
    let (mode, flag) = (Mode::describe(mode), Flag::describe(flag));
    Err(Error::config(format!(
        "master {:?} is used in mode {mode} {flag} by {user}, which excludes mode {} {}",
        master.name, device.mode, device.flag
    )))
}

/// Another attachment on the device. A record that cannot be read is logged and skipped.
fn sharing(own: &Attachment<Device>, records: &Records) -> Result<Option<Attachment<Device>>> {
    let mut unreadable = Errors::default();
    let mark = |record: &Attachment<Device>| record.device.lower.mark();
    let shares = |record: &Attachment<Device>| Ok(shares_device(record, own));
    let found = records.find_marked((mark, mark(own)), shares, &mut unreadable);
    if let Err(error) = unreadable.into_result() {
        say!("{error}");
    }
    found
}

/// An interface on the device. The master is one if it is an ipvlan interface itself: then it
/// has the mode of the device, wherever that is.
fn on_device(
    lower: &LowerDevice,
    (master, in_container): (&Link, bool),
    sides: &mut Sides,
) -> Result<Option<Neighbour>> {
    if !IPVLAN_KINDS.contains(&master.kind.as_str()) {
        let found = of_kinds(&IPVLAN_KINDS, lower, sides)?;
        return Ok(found.into_iter().next());
    }
    // The mode may have changed since the master was found.
    let link = sides.socket(in_container).link_by_index(master.index)?;
    let netns = match in_container {
        true => sides.sandbox.netns.path(),
        false => OWN,
    };
    let netns = netns.to_owned();
    Ok(link.map(|link| Neighbour { netns, link }))
}

/// Completes the error of an ADD for which the kernel has reported that another interface on
/// the device has one of the addresses: adds the name of that interface if it is found.
pub fn name_holder(
    error: Error,
    own: &Attachment<Device>,
    addresses: &[Cidr],
    records: &Records,
    sides: &mut Sides,
) -> Error {
    match holder(own, addresses, records, sides) {
        Ok(Some((holder, address))) => {
            let address = address.address();
            let msg = format!("address {address} is in use on the same master by {holder}");
            Error::config(msg).because(&io::Error::from_raw_os_error(EADDRINUSE))
        }
        Ok(None) => error,
        Err(second) => {
            say!("looking for the interface with the address: {second}");
            error
        }
    }
}

/// Whether `record` is another attachment on the device of `own` whose container exists or
/// may exist.
fn shares_device(record: &Attachment<Device>, own: &Attachment<Device>) -> bool {
    let lower = record.device.lower;
    let is_on_device = lower == own.device.lower
        && (!lower.in_container || record.netns_id.is_same(&own.netns_id));
    is_on_device && !record.is_same(own) && record.is_alive().unwrap_or(true)
}

/// The interface on the device that has one of these addresses, as text, and the address.
fn holder(
    own: &Attachment<Device>,
    addresses: &[Cidr],
    records: &Records,
    sides: &mut Sides,
) -> Result<Option<(String, Cidr)>> {
    for record in records.all::<Device>()? {
        if shares_device(&record, own)
            && let Some(address) = address_of(record.ifname.as_str(), &record.netns, addresses)
        {
            let (ifname, network) = (record.ifname.as_str(), &record.network);
            let container = &record.container_id;
            let holder =
                format!("interface {ifname:?} of container {container} in network {network:?}");
            return Ok(Some((holder, address)));
        }
    }
    for neighbour in of_kinds(&IPVLAN_KINDS, &own.device.lower, sides)? {
        let found = address_of(&neighbour.link.name, &neighbour.netns, addresses);
        if let Some(address) = found {
            return Ok(Some((neighbour.describe(), address)));
        }
    }
    Ok(None)
}

/// The first of these addresses that the interface `name` in the namespace at `netns` has. An
/// error is only logged: its only effect is a message without the name of the interface.
fn address_of(name: &str, netns: &str, addresses: &[Cidr]) -> Option<Cidr> {
    let list = || {
        let mut netlink = Sandbox::open(netns)?.netlink;
        match netlink.link_by_name(name)? {
            Some(link) if IPVLAN_KINDS.contains(&link.kind.as_str()) => {
                netlink.addresses(link.index)
            }
            _ => Ok(Vec::new()),
        }
    };
    let present = list().unwrap_or_else(|error| {
        say!("looking for the interface with the address: {error}");
        Vec::new()
    });
    let has = |wanted: &&Cidr| {
        let mut present = present.iter();
        present.any(|found| found.cidr.address() == wanted.address())
    };
    addresses.iter().find(has).copied()
}

/// The reason why the master cannot have ipvlan interfaces: its macvlan interfaces, if some
/// are found.
pub fn name_macvlans(lower: &LowerDevice, sides: &mut Sides) -> String {
    let found = of_kinds(&["macvlan", "macvtap"], lower, sides).unwrap_or_else(|error| {
        say!("looking for macvlan interfaces: {error}");
        Vec::new()
    });
    let names: Vec<String> = found.iter().map(Neighbour::describe).collect();
    match names.is_empty() {
        true => "it is already used in another way, such as by macvlan".to_owned(),
        false => format!("it has macvlan interfaces already: {}", names.join(", ")),
    }
}

/// The interfaces of these kinds on the device, which is on the node or in the container, in
/// every visible namespace. A namespace that cannot be examined is only logged: an interface in
/// it is not protected then.
fn of_kinds(kinds: &[&str], lower: &LowerDevice, sides: &mut Sides) -> Result<Vec<Neighbour>> {
    // A third namespace cannot be reached from here.
    if lower.third_netns.is_some() {
        return Ok(Vec::new());
    }
    let node = NetNs::own()?;
    let Sandbox { netns, netlink } = &mut sides.sandbox;
    let wanted = Wanted {
        kinds,
        index: lower.index,
        home: if lower.in_container { netns } else { &node },
    };
    let mut found = wanted.among(&mut sides.node, &node)?;
    found.extend(wanted.among(netlink, netns)?);
    // A device in the container can have interfaces of other pods, too: host-device moves one
    // with them if its network has `allowInUse`.
    let known = [node.outer_id()?, netns.outer_id()?];
    for (path, id) in namespaces::visible()? {
        if known.iter().any(|known| known.is_same(&id)) || id.device != known[0].device {
            continue;
        }
        match wanted.in_netns(&path) {
            Ok(more) => found.extend(more),
            Err(error) if error.is_not_found() => {}
            Err(error) => say!("looking for interfaces on the master in {path:?}: {error}"),
        }
    }
    Ok(found)
}

/// The interfaces to be searched for.
struct Wanted<'a> {
    kinds: &'a [&'a str],
    /// The index of the device below them.
    index: u32,
    /// The namespace of that device.
    home: &'a NetNs,
}

impl Wanted<'_> {
    fn in_netns(&self, path: &Path) -> Result<Vec<Neighbour>> {
        let Sandbox { netns, mut netlink } = Sandbox::open(&path.to_string_lossy())?;
        self.among(&mut netlink, &netns)
    }

    /// The matching interfaces in the namespace `netns`, which the socket is in.
    fn among(&self, netlink: &mut Netlink, netns: &NetNs) -> Result<Vec<Neighbour>> {
        let mut links = Vec::new();
        for kind in self.kinds {
            links.extend(netlink.links_of_kind(kind)?);
        }
        links.retain(|link| link.parent == Some(self.index));
        if links.is_empty() {
            return Ok(Vec::new());
        }
        let is_home = netns.outer_id()?.is_same(&self.home.outer_id()?);
        let home = match is_home {
            true => None,
            false => netlink.namespace_id(self.home)?,
        };
        links.retain(|link| link.parent_netns_id == home && (is_home || home.is_some()));
        let neighbour = |link| Neighbour {
            netns: netns.path().to_owned(),
            link,
        };
        Ok(links.into_iter().map(neighbour).collect())
    }
}
