//! The state of the node's ENIs: the inventory, the interfaces, the records of host-device and
//! the ledger. Only reads.

use std::collections::HashMap;

use common::attach::inventory::{Eni, Inventory};
use common::error::Result;
use common::kernel::netlink::{Link, Netlink};
use common::kernel::pci::PciAddress;
use host_device::device::Device as Attached;
use host_device::sysfs::driver_of;

use crate::ledger::{Entry, Ledger, Prefix, State};
use crate::registration::prefixes::supply::Slots;
use crate::registration::subnets::Free;
use crate::vpc::ec2::Family;

/// The drivers for user space; a device that is bound to one has no interface.
const USER_DRIVERS: [&str; 3] = ["vfio-pci", "uio_pci_generic", "igb_uio"];

/// The state of the ENIs.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// Whether there is an inventory of the ENIs.
    pub(crate) is_known: bool,
    pub(crate) enis: Vec<Eni>,
    /// The interfaces of the node, by MAC address.
    pub(crate) links: HashMap<String, Interface>,
    /// The PCI addresses of the devices that pods have, by MAC address.
    pub(crate) attached: HashMap<String, String>,
    /// The addresses of each ENI.
    pub(crate) ledger: HashMap<String, Vec<Entry>>,
    /// The prefixes of each ENI.
    pub(crate) prefixes: HashMap<String, Vec<Prefix>>,
    /// Why EC2 assigns no addresses at this time.
    pub(crate) refusal: Option<String>,
    /// How many free addresses the subnets have, where that is known.
    pub(crate) free: Free,
}

/// A hardware interface of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) is_up: bool,
    /// Its PCI address, if it has one.
    pub(crate) pci: Option<String>,
}

impl Facts {
    /// Reads the state, apart from `refusal` and `free`, which the agent adds.
    ///
    /// # Errors
    /// Code 5 or 6 naming a file, 999 when the kernel does not list its links.
    pub(crate) fn read(ledger: &Ledger) -> Result<Self> {
        let inventory = Inventory::read()?;
        let is_known = inventory.is_some();
        let enis = inventory.unwrap_or_default().enis;
        let (mut entries, mut prefixes) = (HashMap::new(), HashMap::new());
        // Without it, how many addresses of a prefix pods can have is not known.
        ledger.excluded()?;
        for eni in &enis {
            let ledger = ledger.of_attached(eni)?;
            entries.insert(eni.id.clone(), ledger.read()?);
            prefixes.insert(eni.id.clone(), ledger.read_prefixes()?);
        }
        Ok(Self {
            links: interfaces(&enis)?,
            attached: attached()?,
            ledger: entries,
            prefixes,
            is_known,
            enis,
            ..Self::default()
        })
    }

    /// The slots of an ENI in one family.
    pub(crate) fn slots(&self, eni: &Eni, family: Family) -> Slots {
        let entries = self.ledger.get(&eni.id).map_or(&[][..], Vec::as_slice);
        let prefixes = self.prefixes.get(&eni.id).map_or(&[][..], Vec::as_slice);
        Slots::of(eni, entries, prefixes, family)
    }

    /// The number of addresses of a family that pods have on an ENI.
    pub(crate) fn held(&self, eni: &Eni, family: Family) -> usize {
        let entries = self.ledger.get(&eni.id).into_iter().flatten();
        let is_held =
            |entry: &&Entry| entry.state == State::Held && Family::of(entry.address) == family;
        entries.filter(is_held).count()
    }
}

/// The interfaces of ENIs. Links on top of them, which may have the same MAC address, are left
/// out.
fn interfaces(enis: &[Eni]) -> Result<HashMap<String, Interface>> {
    let links = Netlink::open()?.links()?;
    let found = enis.iter().filter_map(|eni| {
        let link = Link::of_hardware(&links, &eni.mac)?;
        let interface = Interface {
            pci: PciAddress::of_link(link).map(|address| address.to_string()),
            name: link.name.clone(),
            is_up: link.up,
        };
        Some((eni.mac.clone(), interface))
    });
    Ok(found.collect())
}

/// The devices that host-device has moved to pods and not returned.
fn attached() -> Result<HashMap<String, String>> {
    let records = host_device::records().all::<Attached>()?;
    Ok(by_mac(records.into_iter().map(|record| record.device)))
}

/// The PCI addresses of the devices that are not back, by the MAC address of their ENI: a pod may
/// have set another one.
fn by_mac(devices: impl Iterator<Item = Attached>) -> HashMap<String, String> {
    let away = devices.filter(|device| !device.returned && !device.pci_id.is_empty());
    let by_mac = away.map(|device| (device.hardware_mac().to_lowercase(), device.pci_id));
    by_mac.filter(|(mac, _)| !mac.is_empty()).collect()
}

/// The NUMA node of a device, if the kernel knows it.
pub(crate) fn numa(pci: &str) -> Option<i64> {
    let directory = PciAddress::new(pci)?.directory();
    let text = std::fs::read_to_string(directory.join("numa_node")).ok()?;
    // -1 stands for unknown.
    text.trim().parse().ok().filter(|node| *node >= 0)
}

/// Whether a device is bound to a driver for user space, and so has no interface.
pub(crate) fn is_for_user_space(pci: &str) -> bool {
    let directory = PciAddress::new(pci).map(|address| address.directory());
    let driver = directory.and_then(|directory| driver_of(&directory).ok());
    driver.is_some_and(|driver| USER_DRIVERS.contains(&driver.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_counts_for_the_eni_of_its_permanent_address_only() {
        let device = |pci: &str, [permanent, present]: [&str; 2]| Attached {
            pci_id: pci.to_owned(),
            permanent_mac: permanent.to_owned(),
            mac: present.to_owned(),
            ..Attached::default()
        };
        // A pod had given the first one the address of the second one.
        let devices = [
            device("0000:00:06.0", ["0A", "0b"]),
            device("0000:00:07.0", ["0b", "0b"]),
            device("0000:00:08.0", ["", "0c"]),
            device("0000:00:09.0", ["", ""]),
        ];
        let devices = || devices.clone().into_iter();
        let expected = [
            ("0a", "0000:00:06.0"),
            ("0b", "0000:00:07.0"),
            ("0c", "0000:00:08.0"),
        ];
        let expected = expected.map(|(mac, pci)| (mac.to_owned(), pci.to_owned()));
        assert_eq!(by_mac(devices()), HashMap::from(expected.clone()));
        assert_eq!(by_mac(devices().rev()), HashMap::from(expected));
    }
}
