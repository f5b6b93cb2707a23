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
    let is_eni = |link: &Link| enis.iter().any(|eni| eni.mac == link.hardware_mac());
    let is_upper = |link: &Link| link.parent.is_some() && link.parent_netns_id.is_none();
    let mut found = HashMap::new();
    for link in Netlink::open()?.links()? {
        if !is_eni(&link) || (is_upper(&link) && link.kind != "veth") {
            continue;
        }
        let mac = link.hardware_mac().to_owned();
        let interface = Interface {
            pci: PciAddress::of_link(&link).map(|address| address.to_string()),
            name: link.name,
            is_up: link.up,
        };
        found.insert(mac, interface);
    }
    Ok(found)
}

/// The devices that host-device has moved to pods and not returned.
fn attached() -> Result<HashMap<String, String>> {
    let records = host_device::records().all::<Attached>()?;
    let devices = records.into_iter().map(|record| record.device);
    let devices = devices.filter(|device| !device.returned && !device.pci_id.is_empty());
    let macs = |device: Attached| {
        let both = [
            device.mac.to_lowercase(),
            device.permanent_mac.to_lowercase(),
        ];
        both.map(|mac| (mac, device.pci_id.clone()))
    };
    Ok(devices.flat_map(macs).collect())
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
