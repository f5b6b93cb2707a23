//! Who else is on the device that carries an interface: the attachments that the records
//! know, and the interfaces of others, such as those of Go's plugin, that the kernel shows.

use std::io;
use std::path::Path;

use common::address::Cidr;
use common::attach::{Sandbox, Sides};
use common::error::{Error, Result};
use common::kernel::namespaces;
use common::kernel::netlink::{Link, Netlink};
use common::kernel::netns::{NetNs, OWN};
use common::records::{Attachment, Records};
use common::say;
use nix::libc::EADDRINUSE;

use crate::carrier::{BESIDE, Carrier};
use crate::config::{Flag, Mode};
use crate::device::Device;

/// An interface on the device.
struct Neighbour {
    /// A path of the namespace that it is in.
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

/// Makes sure that nobody uses the device in another mode or with another flag: the last
/// interface to be created would change both for all of them. The own record is written
/// before this is asked, so of two attachments at the same time at most one goes on. Only
/// where there is no living attachment, somebody else's interface can be the first.
///
/// # Errors
/// Code 7 naming the other network, or the other interface.
pub fn refuse_other_use(
    own: &Attachment<Device>,
    master: &Link,
    records: &Records,
    sides: &mut Sides,
) -> Result<()> {
    let device = &own.device;
    let beside = records.find(|record| Ok(is_beside(record, own)))?;
    let (mode, flag, user) = match beside {
        Some(record) => {
            let used = &record.device;
            let user = format!("network {:?}", record.network);
            (used.mode.number(), used.flag.number(), user)
        }
        None => match of_kinds(&BESIDE, &device.carrier, sides)?.first() {
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

/// The error of an ADD to whose addresses the kernel has said that another interface on the
/// device has one, with the name of that interface where it can be found.
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
            say!("looking for who has the address: {second}");
            error
        }
    }
}

/// Whether both are on one device, and the first one's container lives, for all that can be
/// seen: one that is hidden does not keep others from the device.
fn is_beside(record: &Attachment<Device>, own: &Attachment<Device>) -> bool {
    let carrier = record.device.carrier;
    let is_on_device = carrier == own.device.carrier
        && (!carrier.in_container || record.netns_id.is_same(&own.netns_id));
    is_on_device && !record.is_same(own) && record.is_alive().unwrap_or(true)
}

/// Who has one of these addresses on the device, and which.
fn holder(
    own: &Attachment<Device>,
    addresses: &[Cidr],
    records: &Records,
    sides: &mut Sides,
) -> Result<Option<(String, Cidr)>> {
    for record in records.all::<Device>()? {
        if is_beside(&record, own)
            && let Some(address) = address_of(record.ifname.as_str(), &record.netns, addresses)
        {
            let (ifname, network) = (record.ifname.as_str(), &record.network);
            let container = &record.container_id;
            let holder =
                format!("interface {ifname:?} of container {container} in network {network:?}");
            return Ok(Some((holder, address)));
        }
    }
    for neighbour in of_kinds(&BESIDE, &own.device.carrier, sides)? {
        let found = address_of(&neighbour.link.name, &neighbour.netns, addresses);
        if let Some(address) = found {
            return Ok(Some((neighbour.describe(), address)));
        }
    }
    Ok(None)
}

/// Which of these addresses the interface `name` in the namespace at `netns` has.
/// An error is reported, and hides the name of the holder only.
fn address_of(name: &str, netns: &str, addresses: &[Cidr]) -> Option<Cidr> {
    let look = || {
        let mut netlink = Sandbox::open(netns)?.netlink;
        match netlink.link_by_name(name)? {
            Some(link) if BESIDE.contains(&link.kind.as_str()) => netlink.addresses(link.index),
            _ => Ok(Vec::new()),
        }
    };
    let present = look().unwrap_or_else(|error| {
        say!("looking for who has the address: {error}");
        Vec::new()
    });
    let has = |wanted: &&Cidr| {
        let mut present = present.iter();
        present.any(|found| found.cidr.address() == wanted.address())
    };
    addresses.iter().find(has).copied()
}

/// The macvlan interfaces on the master, where they are what keeps ipvlan from it.
pub fn name_macvlans(carrier: &Carrier, sides: &mut Sides) -> String {
    let found = of_kinds(&["macvlan", "macvtap"], carrier, sides).unwrap_or_else(|error| {
        say!("looking for macvlan interfaces: {error}");
        Vec::new()
    });
    let names: Vec<String> = found.iter().map(Neighbour::describe).collect();
    match names.is_empty() {
        true => "it is in another use already, such as macvlan".to_owned(),
        false => format!("it has macvlan interfaces already: {}", names.join(", ")),
    }
}

/// The interfaces of these kinds on the device, in every namespace that can be seen. One that
/// cannot be looked into is reported: who hides an interface only loses its protection.
fn of_kinds(kinds: &[&str], carrier: &Carrier, sides: &mut Sides) -> Result<Vec<Neighbour>> {
    // Nothing here leads into a third namespace.
    if carrier.third_netns.is_some() {
        return Ok(Vec::new());
    }
    let node = NetNs::own()?;
    let Sandbox { netns, netlink } = &mut sides.sandbox;
    let wanted = Wanted {
        kinds,
        index: carrier.index,
        home: if carrier.in_container { netns } else { &node },
    };
    let mut found = wanted.among(&mut sides.node, &node)?;
    found.extend(wanted.among(netlink, netns)?);
    if carrier.in_container {
        return Ok(found);
    }
    let known = [node.id()?, netns.id()?];
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

/// Which interfaces are looked for.
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

    /// Those in the namespace `netns`, which the socket is in.
    fn among(&self, netlink: &mut Netlink, netns: &NetNs) -> Result<Vec<Neighbour>> {
        let mut links = Vec::new();
        for kind in self.kinds {
            links.extend(netlink.links_of_kind(kind)?);
        }
        links.retain(|link| link.parent == Some(self.index));
        if links.is_empty() {
            return Ok(Vec::new());
        }
        let is_home = netns.id()?.is_same(&self.home.id()?);
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
