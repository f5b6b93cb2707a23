//! Decides whether an interface is the device of a record. A container can give any
//! interface that it makes the name, MAC, alias and index of its device, so properties that
//! it cannot choose decide. Nothing here changes a device.

use common::error::{Error, Result};
use common::ifname::IfName;
use common::kernel::netlink::Link;
use common::random;
use common::records::Attachment;

use crate::device::Device;
use crate::sysfs::sysfs_number;

impl Device {
    /// The link among `links` that is this device, whatever its name is. `None` when it is
    /// missing, or when several links can be the device.
    pub fn among<'a>(&self, links: &'a [Link], ifname: &IfName) -> Option<&'a Link> {
        let name = |l: &Link| l.name == ifname.as_str();
        let mut same: Vec<&Link> = links.iter().filter(|l| self.is(l, name(l))).collect();
        // One PCI function may have several ports, each with an interface.
        narrow(&mut same, &|l| l.permanent_mac == self.permanent_mac);
        narrow(&mut same, &|l| l.mac == self.mac);
        narrow(&mut same, &name);
        match same[..] {
            [one] => Some(one),
            _ => None,
        }
    }

    /// The links of the container that look like this device: the most likely one first, and
    /// the others in random order. Only on the host can [`Self::is_certainly`] decide which
    /// one it is, so links that do not look like it are not moved there.
    pub fn candidates<'a>(&self, links: &'a [Link], ifname: &IfName) -> Vec<&'a Link> {
        let likeliest = self.among(links, ifname);
        if self.has_bus_identity() {
            return Vec::from_iter(likeliest);
        }
        let is_other = |link: &&Link| likeliest.is_none_or(|l| l.index != link.index);
        let is_alike = |link: &&Link| self.is(link, link.name == ifname.as_str());
        let others = links.iter().filter(is_alike).filter(is_other);
        let mut others: Vec<&Link> = others.collect();
        // Because only some of them may be tried, the next DEL has to try others.
        others.sort_by_cached_key(|_| random::number());
        likeliest.into_iter().chain(others).collect()
    }

    /// Whether `link`, which is on the host, is this device and not an imitation: by
    /// properties that a container cannot choose.
    ///
    /// # Errors
    /// Code 5 when sysfs cannot be read.
    pub fn is_certainly(&self, link: &Link) -> Result<bool> {
        if link.loopback || link.kind != self.kind {
            return Ok(false);
        }
        if self.has_bus_identity() {
            let is_same_port = link.permanent_mac == self.permanent_mac;
            return Ok(link.bus_address == self.bus_address && is_same_port);
        }
        match self.sysfs_number {
            Some(_) => Ok(sysfs_number(link)? == self.sysfs_number),
            // If sysfs does not show the host, there is no better criterion.
            None => Ok(self.is(link, true)),
        }
    }

    /// A unique name for the device on the host, for the moment in which other interfaces
    /// have its own name and its name in the container.
    pub fn temporary_name(&self) -> String {
        let hardware = format!("{} {}", self.bus_address, self.permanent_mac);
        let number = self.sysfs_number.unwrap_or_default();
        let identity = format!("{hardware} {number} {}", self.index);
        format!("cni-{:011x}", fnv(identity.as_bytes()) & 0xFFF_FFFF_FFFF)
    }

    /// Whether `link`, which was found where this device was just moved to, has the
    /// properties of the device.
    pub fn is_like(&self, link: &Link) -> bool {
        let mac = link.hardware_mac();
        let seen = (&link.kind, mac, &link.bus_address, link.parent);
        let mac = self.hardware_mac();
        seen == (&self.kind, mac, &self.bus_address, self.parent)
    }

    /// The index of a veth's other end, if that is on the host. It never changes.
    pub fn peer_on_host(&self) -> Option<u32> {
        self.parent
            .filter(|_| self.has_parent_here && self.kind == "veth")
    }

    /// The alternative names of `link`, which is the device, that are not recorded. On the
    /// host they could conflict with another interface, or with the device's own name: udev
    /// adds the usual name of a new device as an alternative name.
    pub fn foreign_altnames(&self, link: &Link) -> Vec<String> {
        let is_foreign = |name: &&String| !self.altnames.contains(name);
        link.altnames.iter().filter(is_foreign).cloned().collect()
    }

    /// Whether the kernel says where the hardware is, or which MAC it was manufactured with.
    pub fn has_bus_identity(&self) -> bool {
        let has_any = !self.bus_address.is_empty() || !self.permanent_mac.is_empty();
        self.kind.is_empty() && has_any
    }

    /// Whether `link` can be this device. Properties that a container can change (name, MAC,
    /// alias) are compared only if the kernel has no better ones.
    fn is(&self, link: &Link, has_our_name: bool) -> bool {
        if link.loopback || link.kind != self.kind {
            return false;
        }
        if !self.bus_address.is_empty() {
            return link.bus_address == self.bus_address;
        }
        if !self.permanent_mac.is_empty() {
            return link.permanent_mac == self.permanent_mac;
        }
        let has_parent = self.parent.is_some();
        // The two ends of a veth belong together, so the other end identifies it.
        let has_one_peer = self.peer_on_host().is_some();
        let is_alike = link.mac == self.mac || has_parent && has_our_name;
        link.parent == self.parent && (is_alike || has_one_peer)
    }

    /// The mark of a virtual device's record: its inode in sysfs, which is unique in this boot.
    /// Devices that can return to the host without a DEL have no mark, so that every ADD examines
    /// their records.
    pub fn mark(&self) -> Option<u64> {
        let stays = self.binding.is_none() && !self.is_hardware();
        self.sysfs_number.filter(|_| stays)
    }

    /// Whether the two records are about the same device.
    pub fn is_same_as(&self, other: &Self) -> bool {
        let has_identity = !self.bus_address.is_empty() || !self.permanent_mac.is_empty();
        if self.sysfs_number.is_some() && other.sysfs_number.is_some() {
            return self.sysfs_number == other.sysfs_number;
        }
        self.kind == other.kind
            && self.bus_address == other.bus_address
            && self.permanent_mac == other.permanent_mac
            && (has_identity || self.mac == other.mac)
    }
}

/// The 64-bit FNV-1a hash. It is the same in every build, because another build of the
/// plugin may have to find the device by this name.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}

/// A random name for a moment. If a container could predict it, it could give the name to
/// another interface, and the kernel would refuse the name.
pub fn unforeseen_name() -> String {
    format!("cni-{:011x}", random::number() & 0xFFF_FFFF_FFFF)
}

/// Keeps only the links for which `wanted` is true, if there are any.
pub fn narrow(links: &mut Vec<&Link>, wanted: &dyn Fn(&Link) -> bool) {
    if links.iter().any(|link| wanted(link)) {
        links.retain(|link| wanted(link));
    }
}

/// Makes sure that `link` is the attached device. MAC and MTU are not compared: a later
/// plugin in the chain may have changed them, and the MAC was compared with the result
/// before.
///
/// # Errors
/// Code 999 naming both.
pub fn verify(link: &Link, record: Option<&Attachment<Device>>) -> Result<()> {
    let is_other = |r: &Attachment<Device>| {
        let as_attached = Link {
            mac: r.device.mac.clone(),
            ..link.clone()
        };
        let links = std::slice::from_ref(&as_attached);
        r.device.among(links, &r.ifname).is_none()
    };
    match record.filter(|record| is_other(record)) {
        Some(record) => Err(Error::internal(format!(
            "Interface {} is not the host device {:?} that was attached",
            link.name, record.device.name
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selection::tests::link;

    #[test]
    fn a_temporary_name_is_the_same_in_every_build_and_short_enough() {
        assert_eq!(fnv(b"foobar"), 0x8594_4171_F739_67E8);
        let device = Device::of_link(link("eth1", "", "0000:00:06.0", "a")).unwrap();
        assert_eq!(device.temporary_name().len(), 15);
    }

    #[test]
    fn a_device_is_recognised_by_its_bus_address_whatever_its_name() {
        let recorded = Device::of_link(link("eth1", "", "0000:00:06.0", "a")).unwrap();
        let net1 = IfName::new("net1").unwrap();
        let mut found = link("dev7", "", "0000:00:06.0", "a");
        found.mac = "02:00:00:00:00:99".into();
        let other = link("net1", "", "0000:00:07.0", "b");
        let above = link("net1.5", "vlan", "", "a");
        let links = [other.clone(), found, above];
        let name = recorded.among(&links, &net1).map(|l| l.name.as_str());
        assert_eq!(name, Some("dev7"));
        assert_eq!(recorded.among(&[other], &net1), None);
    }

    #[test]
    fn a_device_that_cannot_be_distinguished_from_another_is_not_taken() {
        let recorded = Device::of_link(link("eth1", "", "0000:00:06.0", "")).unwrap();
        let net1 = IfName::new("net1").unwrap();
        let twins = [
            link("p0", "", "0000:00:06.0", ""),
            link("p1", "", "0000:00:06.0", ""),
        ];
        assert_eq!(recorded.among(&twins, &net1), None);
        let port = link("net1", "", "0000:00:06.0", "");
        let links = [port, twins[0].clone()];
        let name = recorded.among(&links, &net1).map(|l| l.name.as_str());
        assert_eq!(name, Some("net1"));
    }
}
