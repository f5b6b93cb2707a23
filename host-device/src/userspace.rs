//! Whether a device can be bound to a driver for user space. A device that is not a network
//! device, or has several interfaces, is refused before anything is changed. Module `in_use`
//! decides whether the node uses it.

use std::fs;

use common::cni::args::CmdArgs;
use common::error::{Error, Errors, Result};
use common::kernel::netlink::Netlink;
use common::kernel::pci::PciAddress;
use common::records::{Attachment, Records, boot_id};

use crate::config::DeviceSelector;
use crate::device::{Device, Mode};
use crate::driver;
use crate::options::{Options, UserDriver};
use crate::selection;
use crate::sysfs::{driver_of, interfaces_in};

/// The start of the class of every network controller (PCI Code and ID Assignment, base class
/// 02h).
const NETWORK_CLASS: &str = "0x02";

/// Finds the device that is to be bound to `wanted`, with the data to record. A device that
/// has this driver already is not changed by ADD and DEL.
///
/// # Errors
/// Code 7 with the reason why the device must not be taken, 999 when the device or the driver
/// is missing.
pub fn find(
    netlink: &mut Netlink,
    selector: &DeviceSelector,
    wanted: UserDriver,
) -> Result<Device> {
    let known = selector.pci_address();
    if let Some(address) = &known {
        require_network_function(address, wanted)?;
    }
    let device = match (selector, known) {
        // If the device is bound already, its directory has no interface.
        (DeviceSelector::KernelPath(_), Some(address)) => {
            selection::find(netlink, &DeviceSelector::Pci(address))?
        }
        _ => selection::find(netlink, selector)?,
    };
    let Some(address) = PciAddress::new(&device.pci_id) else {
        let why = format!("{:?} is not a PCI device", device.name);
        return Err(refused(&why, wanted));
    };
    if device.mode == Mode::Dpdk {
        return require_driver(device, wanted);
    }
    require_network_function(&address, wanted)?;
    require_single_interface(&address, wanted)?;
    driver::require_loaded(wanted)?;
    let binding = driver::plan(&address, wanted)?;
    Ok(Device {
        mode: Mode::Dpdk,
        driver: driver_of(&address.directory()).unwrap_or_default(),
        binding: Some(binding),
        ..device
    })
}

/// The start of the message when a device is refused.
pub fn refusal(wanted: UserDriver) -> String {
    format!("cannot use driver {:?}", wanted.as_str())
}

fn refused(why: &str, wanted: UserDriver) -> Error {
    Error::config(format!("{}: {why}", refusal(wanted)))
}

/// A device that an administrator has bound is accepted with its driver, or refused.
fn require_driver(device: Device, wanted: UserDriver) -> Result<Device> {
    if device.driver == wanted.as_str() {
        return Ok(device);
    }
    let why = format!("{} is bound to {:?}", device.pci_id, device.driver);
    Err(refused(&why, wanted))
}

fn require_network_function(address: &PciAddress, wanted: UserDriver) -> Result<()> {
    // A missing function is reported by the search for it.
    match fs::read_to_string(address.directory().join("class")) {
        Ok(class) if !class.starts_with(NETWORK_CLASS) => {
            let why = format!("{address} is not a network device");
            Err(refused(&why, wanted).with_details(format!("its class is {}", class.trim())))
        }
        _ => Ok(()),
    }
}

/// Makes sure that the function has one interface at most, because only one can be recorded,
/// and no virtual functions, which would end with their parent.
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

/// Makes sure that no other attachment has bound the device, because the DEL of that one
/// would unbind it.
///
/// # Errors
/// Code 999 naming the container that has it, 5 naming a record that cannot be read.
pub fn require_unheld(device: &Device, records: &Records) -> Result<()> {
    if device.mode != Mode::Dpdk || device.binding.is_some() {
        return Ok(());
    }
    let boot = boot_id()?;
    let mut unreadable = Errors::default();
    let mark = |record: &Attachment<Device>| record.device.mark();
    // What is bound has no mark.
    let has_bound = |record: &Attachment<Device>| {
        let is_bound = record.device.binding.is_some() && record.device.is_owed();
        Ok(is_bound && record.boot_id == boot && record.device.pci_id == device.pci_id)
    };
    match records.find_marked((mark, None), has_bound, &mut unreadable)? {
        // An unreadable record may be about this device.
        None => unreadable.into_result(),
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

/// Verifies an attachment whose device has no interface: the device must still have the
/// driver that ADD has bound it to. False when the device has an interface.
///
/// # Errors
/// Code 6 or 7 when there is no record and the configuration is invalid, 999 when the device
/// has another driver.
pub fn verify(args: &CmdArgs, record: Option<&Attachment<Device>>) -> Result<bool> {
    let Some(record) = record else {
        let document = &args.conf.document;
        let binds = Options::parse(document)?.driver.is_some();
        return Ok(binds || selection::is_dpdk(&DeviceSelector::required(document)?));
    };
    let device = &record.device;
    if device.mode != Mode::Dpdk {
        return Ok(false);
    }
    match &device.binding {
        Some(binding) => driver::verify(device, binding).map(|()| true),
        None => Ok(true),
    }
}
