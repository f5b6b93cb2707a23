//! Whether a device may be taken from the node for a program in user space: what the
//! node itself lives on, or what others have built on, is refused before anything is
//! touched.

use std::fs;
use std::path::Path;

use common::attachment::{Records, boot_id};
use common::error::{Error, Result};
use common::netlink::Netlink;
use common::pci::{PciAddress, device_directory};
use serde::Deserialize;

use crate::config::DeviceSelector;
use crate::device::{self, Device, Mode, driver_of, interfaces_in, list};
use crate::driver;
use crate::options::UserDriver;

/// How the class of every network controller begins (PCI Code and ID Assignment,
/// base class 02h).
const NETWORK_CLASS: &str = "0x02";

/// The part of an ipvlan attachment's record that says what it is built on.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct IpvlanDevice {
    master_index: u32,
    link_in_container: bool,
}

/// Finds the device that is to be bound to `driver`, and what to record of it. One
/// that is bound to it already is left as it is, by ADD and by DEL.
///
/// # Errors
/// Code 7 with the reason for which the device must not be taken, 999 when it or the
/// driver is missing.
pub(crate) fn find(
    netlink: &mut Netlink,
    selector: &DeviceSelector,
    wanted: UserDriver,
) -> Result<Device> {
    let known = selector.pci_address();
    if let Some(address) = &known {
        require_network_function(address, wanted)?;
    }
    let device = match (selector, known) {
        // The directory has no interface any more when the device is bound already.
        (DeviceSelector::KernelPath(_), Some(address)) => {
            device::find(netlink, &DeviceSelector::Pci(address))?
        }
        _ => device::find(netlink, selector)?,
    };
    let Some(address) = PciAddress::new(&device.pci_id) else {
        let why = format!("{:?} is no PCI device", device.name);
        return Err(refused(&why, wanted));
    };
    if device.mode == Mode::Dpdk {
        return require_driver(device, wanted);
    }
    require_network_function(&address, wanted)?;
    require_single_interface(&address, wanted)?;
    require_spare(netlink, &device, wanted)?;
    driver::require_loaded(wanted)?;
    let binding = driver::plan(&address, wanted)?;
    Ok(Device {
        mode: Mode::Dpdk,
        driver: driver_of(&address.directory()).unwrap_or_default(),
        binding: Some(binding),
        ..device
    })
}

fn refused(why: &str, wanted: UserDriver) -> Error {
    Error::config(format!("cannot use driver {:?}: {why}", wanted.as_str()))
}

/// A device that somebody has bound by hand is taken as it is, or not at all.
fn require_driver(device: Device, wanted: UserDriver) -> Result<Device> {
    if device.driver == wanted.as_str() {
        return Ok(device);
    }
    let why = format!("{} is bound to {:?}", device.pci_id, device.driver);
    Err(refused(&why, wanted))
}

fn require_network_function(address: &PciAddress, wanted: UserDriver) -> Result<()> {
    // A function that does not exist is reported when it is looked for.
    match fs::read_to_string(address.directory().join("class")) {
        Ok(class) if !class.starts_with(NETWORK_CLASS) => {
            let why = format!("{address} is no network device");
            Err(refused(&why, wanted).with_details(format!("its class is {}", class.trim())))
        }
        _ => Ok(()),
    }
}

/// Only one interface can be recorded, and virtual functions end with their parent.
fn require_single_interface(address: &PciAddress, wanted: UserDriver) -> Result<()> {
    let directory = address.directory();
    let interfaces = interfaces_in(&directory)?;
    if interfaces.len() > 1 {
        let why = format!("{address} has the interfaces {}", interfaces.join(", "));
        return Err(refused(&why, wanted));
    }
    let functions = fs::read_to_string(directory.join("sriov_numvfs")).unwrap_or_default();
    match functions.trim() {
        "" | "0" => Ok(()),
        number => {
            let why = format!("{address} has {number} virtual functions");
            Err(refused(&why, wanted))
        }
    }
}

/// Makes sure that neither the node nor another interface needs the device.
fn require_spare(netlink: &mut Netlink, device: &Device, wanted: UserDriver) -> Result<()> {
    let name = &device.name;
    let is_through = |hops: &[(u32, _)]| hops.iter().any(|(index, _)| *index == device.index);
    let routes = netlink.routes()?;
    let mut defaults = routes.iter().filter(|route| route.dst.is_default());
    if let Some(route) = defaults.find(|route| is_through(&route.next_hops)) {
        let why = format!("{name:?} carries a default route of this node");
        let details = format!("{} in table {}", route.dst, route.table);
        return Err(refused(&why, wanted).with_details(details));
    }
    let interface = device_directory(name);
    let entries = list(interface.parent().unwrap_or(Path::new("/"))).unwrap_or_default();
    if let Some(upper) = entries.iter().find_map(|e| e.strip_prefix("upper_")) {
        let why = format!("interface {upper:?} is built on {name:?}");
        return Err(refused(&why, wanted));
    }
    require_no_ipvlan(device, wanted)
}

/// sysfs does not show what is above a device in another namespace; the records of
/// our own ipvlan plugin do.
fn require_no_ipvlan(device: &Device, wanted: UserDriver) -> Result<()> {
    for record in Records::of("ipvlan").all::<IpvlanDevice>()? {
        let upper = &record.device;
        if upper.master_index == device.index && !upper.link_in_container && record.is_alive()? {
            let why = format!(
                "container {} has an ipvlan interface on {:?}",
                record.container_id, device.name
            );
            return Err(refused(&why, wanted));
        }
    }
    Ok(())
}

/// Makes sure that no other attachment has bound the device: its DEL would take it
/// away again.
///
/// # Errors
/// Code 999 naming the container that has it.
pub(crate) fn require_unheld(device: &Device, records: &Records) -> Result<()> {
    if device.mode != Mode::Dpdk || device.binding.is_some() {
        return Ok(());
    }
    let boot = boot_id()?;
    let all = records.all::<Device>()?;
    let mut holders = all.iter().filter(|record| {
        let is_bound = record.device.binding.is_some() && record.device.is_owed();
        is_bound && record.boot_id == boot && record.device.pci_id == device.pci_id
    });
    match holders.next() {
        None => Ok(()),
        Some(record) => Err(Error::internal(format!(
            "device {} is attached already",
            device.pci_id
        ))
        .with_details(format!(
            "container {} has it as {:?}",
            record.container_id,
            record.ifname.as_str()
        ))),
    }
}
