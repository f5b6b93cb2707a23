//! Whether an interface is the device of a record. A container can give any interface
//! that it makes the name, MAC, alias and index of its device; here is what it cannot
//! choose. Nothing here changes a device.

use common::error::{Error, Result};
use common::ifname::IfName;
use common::kernel::netlink::Link;
use common::random;
use common::records::Attachment;

use crate::device::Device;
use crate::sysfs::sysfs_number;

impl Device {
    /// The link among `links` that is this device, whatever it is called now.
    /// Nothing when it is not there, or when it cannot be told from another.
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

    /// The links of the container that look like this device, the likeliest first and the
    /// others in any order. Which one it is can only be told on the host, where
    /// [`Self::is_certainly`] asks; what does not look like it is not disturbed.
    pub fn candidates<'a>(&self, links: &'a [Link], ifname: &IfName) -> Vec<&'a Link> {
        let likeliest = self.among(links, ifname);
        if self.has_bus_identity() {
            return Vec::from_iter(likeliest);
        }
        let is_other = |link: &&Link| likeliest.is_none_or(|l| l.index != link.index);
        let is_alike = |link: &&Link| self.is(link, link.name == ifname.as_str());
        let others = links.iter().filter(is_alike).filter(is_other);
        let mut others: Vec<&Link> = others.collect();
        // Whoever may try only some of them tries others the next time.
        others.sort_by_cached_key(|_| random::number());
        likeliest.into_iter().chain(others).collect()
    }

    /// Whether `link`, which is on the host, is this device and not an imitation: by what
    /// no container can choose.
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
            Some(_) => Ok(sysfs_number(&link.name)? == self.sysfs_number),
            // Where sysfs does not show the host, nothing better is known.
            None => Ok(self.is(link, true)),
        }
    }

    /// A name for the device that nobody else uses, for the moment in which its own one,
    /// and the one that it has in the container, are taken.
    pub fn temporary_name(&self) -> String {
        let hardware = format!("{} {}", self.bus_address, self.permanent_mac);
        let number = self.sysfs_number.unwrap_or_default();
        let identity = format!("{hardware} {number} {}", self.index);
        format!("cni-{:011x}", fnv(identity.as_bytes()) & 0xFFF_FFFF_FFFF)
    }

    /// Whether `link`, to which this device was just moved, is it by all that is seen of it.
    pub fn is_like(&self, link: &Link) -> bool {
        let seen = (&link.kind, &link.mac, &link.bus_address, link.parent);
        seen == (&self.kind, &self.mac, &self.bus_address, self.parent)
    }

    /// The index of a veth's other end, where the host has that: it has one for life.
    pub fn peer_on_host(&self) -> Option<u32> {
        self.parent
            .filter(|_| self.has_parent_here && self.kind == "veth")
    }

    /// The alternative names of `link`, which is the device, that it did not have: they
    /// could be taken on the host, or be the very name that the device is to get. udev
    /// gives a device that appears its usual name as an alternative one.
    pub fn foreign_altnames(&self, link: &Link) -> Vec<String> {
        let is_foreign = |name: &&String| !self.altnames.contains(name);
        link.altnames.iter().filter(is_foreign).cloned().collect()
    }

    fn has_bus_identity(&self) -> bool {
        let has_any = !self.bus_address.is_empty() || !self.permanent_mac.is_empty();
        self.kind.is_empty() && has_any
    }

    /// Whether `link` can be this device. What a container can change (its name,
    /// its MAC, its alias) only counts where the kernel knows nothing better.
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
        // A veth has one other end, and that has no other one.
        let has_one_peer = self.peer_on_host().is_some();
        let is_alike = link.mac == self.mac || has_parent && has_our_name;
        link.parent == self.parent && (is_alike || has_one_peer)
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

/// The 64-bit FNV-1a hash, which another build of the plugin computes too: it may have to
/// find what this one has left under the name.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}

/// A name for a moment that no container can foresee: it could give that name to another
/// interface, and the kernel would refuse it here.
pub fn unforeseen_name() -> String {
    format!("cni-{:011x}", random::number() & 0xFFF_FFFF_FFFF)
}

/// Leaves the links that are `wanted`, where that leaves any.
pub fn narrow(links: &mut Vec<&Link>, wanted: &dyn Fn(&Link) -> bool) {
    if links.iter().any(|link| wanted(link)) {
        links.retain(|link| wanted(link));
    }
}

/// Makes sure that `link` is the attached device. A plugin behind this one may have given it
/// another MAC, which was compared with the result, and another MTU, which is in no result.
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

    /// It must be the same in every build, and no longer than the kernel allows.
    #[test]
    fn a_temporary_name_is_the_same_in_every_build() {
        assert_eq!(fnv(b"foobar"), 0x8594_4171_F739_67E8);
        let device = Device::of_link(link("eth1", "", "0000:00:06.0", "a")).unwrap();
        assert_eq!(device.temporary_name().len(), 15);
    }

    #[test]
    fn a_device_is_recognised_by_its_bus_address_whatever_it_is_called() {
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
    fn a_device_that_cannot_be_told_from_another_is_not_taken() {
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
