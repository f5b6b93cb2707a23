//! Binds a PCI function to a driver for user space, and undoes that. The kernel chooses
//! the driver of a function; `driver_override` determines its choice. Every step can be
//! repeated, also after a process was killed between two steps.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use common::error::{Error, ErrorCode, Result};
use common::kernel::netlink::{Events, Link, Netlink, Subject};
use common::kernel::pci::PciAddress;
use nix::libc::EBUSY;

use crate::device::{Binding, Device};
use crate::options::UserDriver;
use crate::sysfs::{driver_of, interfaces_in, list};

/// The directory of the loaded drivers for PCI functions.
const PCI_DRIVERS: &str = "/sys/bus/pci/drivers";
/// The file by which the kernel is requested to find a driver for a function without one.
const PCI_PROBE: &str = "/sys/bus/pci/drivers_probe";
/// The content of `driver_override` when it is not set.
const NO_OVERRIDE: &str = "(null)";
/// The driver at whose unbinding the kernel waits for the processes that use the device.
const VFIO: &str = "vfio-pci";
/// How long DEL waits while a process of the pod still uses the device.
pub const IN_USE_DEADLINE: Duration = Duration::from_secs(10);
/// How long a kernel driver may take to create its interface.
const INTERFACE: Duration = Duration::from_secs(20);
/// The interval between two checks whether the device is in use; the kernel does not
/// report the end of the use.
const INTERVAL: Duration = Duration::from_millis(20);

/// Makes sure that `driver` is loaded.
///
/// # Errors
/// Code 999 when it is not loaded.
pub fn require_loaded(driver: UserDriver) -> Result<()> {
    let name = driver.as_str();
    if Path::new(PCI_DRIVERS).join(name).exists() {
        return Ok(());
    }
    Err(Error::internal(format!("driver {name:?} is not loaded"))
        .with_details("load its kernel module on this node first"))
}

/// The data that is recorded before the function at `address` is bound to `driver`.
///
/// # Errors
/// Code 5 when the function has no `driver_override`.
pub fn plan(address: &PciAddress, driver: UserDriver) -> Result<Binding> {
    let function = Function::of(address.as_str())?;
    Ok(Binding {
        driver: driver.as_str().to_owned(),
        driver_override: function.driver_override()?,
    })
}

/// Unbinds the device from its kernel driver, and binds it to the driver of its record.
///
/// # Errors
/// Code 5 naming the file that the kernel refuses, 999 when the driver refuses the
/// device. The caller must undo the binding.
pub fn bind(device: &Device, binding: &Binding) -> Result<()> {
    let function = Function::of(&device.pci_id)?;
    function.set_override(&binding.driver)?;
    function.unbind()?;
    function.probe()?;
    if function.driver().as_deref() == Some(&binding.driver) {
        return Ok(());
    }
    let (address, driver) = (&device.pci_id, &binding.driver);
    let why = match driver.as_str() {
        VFIO if !function.directory.join("iommu_group").exists() => {
            "there is no IOMMU, and without one vfio-pci needs its parameter \
             enable_unsafe_noiommu_mode"
        }
        _ => "see the kernel's log for the reason",
    };
    let msg = format!("driver {driver:?} did not take device {address}");
    Err(Error::internal(msg).with_details(why))
}

/// Makes sure that an attached device has the driver that ADD has bound it to.
///
/// # Errors
/// Code 999 naming the driver that it has.
pub fn verify(device: &Device, binding: &Binding) -> Result<()> {
    let found = Function::of(&device.pci_id)?.driver();
    if found.as_deref() == Some(&binding.driver) {
        return Ok(());
    }
    Err(Error::internal(format!(
        "device {} is bound to {:?} instead of {:?}",
        device.pci_id,
        found.unwrap_or_default(),
        binding.driver
    )))
}

/// Whether the device is bound as its record says.
pub fn is_bound(device: &Device, binding: &Binding) -> bool {
    verify(device, binding).is_ok()
}

/// Undoes [`bind`], also if that was interrupted, and returns the interface that the host
/// has then. `None` when the device is gone, or was bound to another driver since.
///
/// # Errors
/// Code 11 when a process still uses the device after `deadline`, or its interface does
/// not appear; 5 or 999 when the kernel refuses.
pub fn unbind(
    netlink: &mut Netlink,
    device: &Device,
    binding: &Binding,
    deadline: Duration,
) -> Result<Option<Link>> {
    let function = Function::of(&device.pci_id)?;
    if !function.directory.exists() {
        return Ok(None);
    }
    let events = Events::open(Subject::Links)?;
    if function.driver().as_deref() == Some(&binding.driver) {
        function.require_unused(deadline)?;
    }
    if function.driver_override()? == binding.driver {
        function.set_override(&binding.driver_override)?;
    }
    if function.driver().as_deref() == Some(&binding.driver) {
        function.unbind()?;
    }
    if function.driver().is_none() {
        function.probe()?;
    }
    match function.driver() {
        Some(driver) if driver == device.driver => {
            function.interface(netlink, &events, INTERFACE).map(Some)
        }
        Some(_) => Ok(None),
        None => Err(Error::internal(format!(
            "no driver was bound to device {} again, which had {:?}",
            device.pci_id, device.driver
        ))),
    }
}

/// A PCI function in sysfs.
struct Function {
    address: PciAddress,
    directory: PathBuf,
}

impl Function {
    fn of(pci_id: &str) -> Result<Self> {
        let address = PciAddress::new(pci_id)
            .ok_or_else(|| Error::internal(format!("{pci_id:?} is not a PCI address")))?;
        Ok(Self {
            directory: address.directory(),
            address,
        })
    }

    fn driver(&self) -> Option<String> {
        driver_of(&self.directory).ok()
    }

    fn driver_override(&self) -> Result<String> {
        let path = self.directory.join("driver_override");
        let text = fs::read_to_string(&path)
            .map_err(|cause| Error::io(format!("failed to read {path:?}"), &cause))?;
        match text.trim() {
            NO_OVERRIDE => Ok(String::new()),
            name => Ok(name.to_owned()),
        }
    }

    /// Sets `driver_override`; an empty text removes it.
    fn set_override(&self, driver: &str) -> Result<()> {
        write(
            &self.directory.join("driver_override"),
            &format!("{driver}\n"),
        )
    }

    /// Unbinds the function from its driver, if it has one.
    fn unbind(&self) -> Result<()> {
        match write(&self.directory.join("driver/unbind"), self.address.as_str()) {
            Err(error) if error.is_not_found() => Ok(()),
            outcome => outcome,
        }
    }

    fn probe(&self) -> Result<()> {
        write(Path::new(PCI_PROBE), self.address.as_str())
    }

    /// Waits until no process uses the function through VFIO. Otherwise the kernel would
    /// wait inside `unbind` without a deadline, and this process could not be
    /// interrupted. A group can be opened by one process at a time, so opening it shows
    /// whether it is in use.
    fn require_unused(&self, deadline: Duration) -> Result<()> {
        let Some(path) = self.vfio_group() else {
            return Ok(());
        };
        let end = Instant::now() + deadline;
        loop {
            match OpenOptions::new().read(true).write(true).open(&path) {
                Err(cause) if cause.raw_os_error() == Some(EBUSY) => {
                    if Instant::now() >= end {
                        let msg = format!("device {} is still in use", self.address);
                        let details = format!("a process has {path:?} open");
                        return Err(Error::new(ErrorCode::TRY_AGAIN, msg).with_details(details));
                    }
                }
                // If the file is missing, no process can have it open.
                _ => return Ok(()),
            }
            thread::sleep(INTERVAL);
        }
    }

    /// The file by which a program uses the function, if the function is the only one of
    /// its group that VFIO has. With several functions in a group, the file does not show
    /// which one is used.
    fn vfio_group(&self) -> Option<PathBuf> {
        let group = fs::canonicalize(self.directory.join("iommu_group")).ok()?;
        let members = list(&group.join("devices")).ok()?;
        let is_vfio = |name: &&String| {
            let function = group.join("devices").join(name);
            driver_of(&function).is_ok_and(|driver| driver == VFIO)
        };
        if members.iter().filter(is_vfio).count() != 1 {
            return None;
        }
        let number = group.file_name()?.to_string_lossy().into_owned();
        let prefix = match fs::read_to_string(group.join("name")) {
            Ok(name) if name.trim() == "vfio-noiommu" => "noiommu-",
            _ => "",
        };
        Some(Path::new("/dev/vfio").join(format!("{prefix}{number}")))
    }

    /// Waits for the function's interface, which its driver creates.
    fn interface(
        &self,
        netlink: &mut Netlink,
        events: &Events,
        deadline: Duration,
    ) -> Result<Link> {
        let end = Instant::now() + deadline;
        loop {
            // If the directory is missing, there is no interface yet.
            for name in interfaces_in(&self.directory).unwrap_or_default() {
                if let Some(link) = netlink.link_by_name(&name)? {
                    return Ok(link);
                }
            }
            if !events.wait(end)? {
                let msg = format!("device {} has no interface yet", self.address);
                return Err(Error::new(ErrorCode::TRY_AGAIN, msg));
            }
        }
    }
}

/// Writes to a file of sysfs, which must exist.
fn write(path: &Path, text: &str) -> Result<()> {
    let written = OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file: fs::File| file.write_all(text.as_bytes()));
    written.map_err(|cause: io::Error| {
        Error::io(format!("failed to write {text:?} to {path:?}"), &cause)
    })
}
