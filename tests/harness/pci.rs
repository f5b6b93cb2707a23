//! The PCI devices of the test VM: two e1000e NICs and a virtio one. All tests share them,
//! so the tests that use them run one after the other.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Output;
use std::sync::{Arc, Mutex, Weak};

use crate::{run_tool, wait_until};

/// The address of the first NIC.
pub const NIC: &str = "0000:00:06.0";
/// The name of its interface.
pub const NIC_NAME: &str = "enp0s6";
/// Its MAC.
pub const NIC_MAC: &str = "52:54:00:00:00:06";
/// The address of the second NIC.
pub const OTHER_NIC: &str = "0000:00:07.0";
/// The name of its interface.
pub const OTHER_NAME: &str = "enp0s7";
/// The address of the virtio NIC.
pub const VIRTIO: &str = "0000:00:08.0";
const ALL: [(&str, &str); 3] = [(NIC, NIC_NAME), (OTHER_NIC, OTHER_NAME), (VIRTIO, "enp0s8")];

/// The exclusive use of the machine's devices among test processes, while this value
/// exists.
#[derive(Debug, Clone)]
pub struct Alone {
    _file: Arc<File>,
}

/// The lock file, if this process has the devices.
static HELD: Mutex<Weak<File>> = Mutex::new(Weak::new());

/// Makes sure that no other process of tests uses the machine's devices.
#[track_caller]
pub fn alone() -> Alone {
    let mut held = HELD.lock().expect("no thread panics");
    let _file = held.upgrade().unwrap_or_else(|| {
        let file = File::create("/run/eni-cni-nics").expect("the VM's files can be written");
        let is_locked = file.try_lock().is_ok();
        assert!(
            is_locked,
            "another process has the machine's devices: name this module in `alone` of tests/vm/suite"
        );
        Arc::new(file)
    });
    *held = Arc::downgrade(&_file);
    Alone { _file }
}

/// Makes sure that this is the VM and that its NICs are on the node. Router advertisements
/// of the emulated network are disabled, because with a default route the NICs would be in
/// use.
#[track_caller]
pub fn require_machine() {
    for (address, name) in ALL {
        assert_eq!(
            netdev(address).as_deref(),
            Some(name),
            "this is not the test VM: run `make test`, or `tests/vm/run`"
        );
    }
    for interface in ["default", "enp0s6", "enp0s7", "enp0s8"] {
        let path = format!("/proc/sys/net/ipv6/conf/{interface}/accept_ra");
        write(PathBuf::from(path), "0");
    }
}

/// Restores the drivers, names and properties that the NICs have when the VM starts. The
/// containers that have one must have ended, or be ending.
pub fn reset() {
    let mut changes = Vec::new();
    for (address, name) in ALL {
        bind(address, "");
        wait_until("the NIC has an interface", || netdev(address).is_some());
        let current = netdev(address).unwrap_or_default();
        for altname in ["eni-6", "eni-7", "enp0s6", "hostile"] {
            changes.push(format!("link property del dev {current} altname {altname}"));
        }
        changes.push(format!("link set {current} down"));
        changes.push(format!("link set {current} mtu 1500 alias \"\""));
        changes.push(format!("link set {current} name {name}"));
        changes.push(format!("address flush dev {name}"));
    }
    // Errors are ignored, because most of the changes are not needed.
    ip_batch(&changes);
}

/// Makes all these changes with one `ip` process, and continues after errors. Starting a
/// process for each change would take most of the time.
pub fn ip_batch(changes: &[String]) -> Output {
    let script = r#"printf '%s\n' "$@" | ip -force -batch -"#;
    let script = ["-c", script, "sh"].into_iter();
    run_tool(
        "sh",
        &Vec::from_iter(script.chain(changes.iter().map(String::as_str))),
    )
}

/// The directory of a PCI device.
pub fn pci_device(address: &str) -> PathBuf {
    PathBuf::from("/sys/bus/pci/devices").join(address)
}

/// The name of the interface of a PCI device on the host.
pub fn netdev(address: &str) -> Option<String> {
    let device = pci_device(address);
    let mut directories = vec![device.join("net")];
    for entry in fs::read_dir(&device).ok()?.flatten() {
        if entry.file_name().to_string_lossy().starts_with("virtio") {
            directories.push(entry.path().join("net"));
        }
    }
    let mut names = directories.iter().filter_map(|directory| {
        let entry = fs::read_dir(directory).ok()?.flatten().next()?;
        Some(entry.file_name().to_string_lossy().into_owned())
    });
    names.next()
}

/// The driver of a PCI device; empty when it has none.
pub fn driver(address: &str) -> String {
    let target = fs::read_link(pci_device(address).join("driver")).unwrap_or_default();
    let name = target.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The `driver_override` of a PCI device.
pub fn driver_override(address: &str) -> String {
    let path = pci_device(address).join("driver_override");
    let text = fs::read_to_string(path).expect("it is readable");
    text.trim().to_owned()
}

/// Writes to a file of the kernel.
#[track_caller]
pub fn write(path: PathBuf, text: &str) {
    fs::write(&path, text).unwrap_or_else(|cause| panic!("cannot write {path:?}: {cause}"));
}

/// Unbinds a PCI device from its driver, if it has one.
pub fn unbind(address: &str) {
    let device = pci_device(address);
    if device.join("driver").exists() {
        write(device.join("driver/unbind"), address);
    }
}

/// Binds a device to the driver `wanted`, or to the one that the kernel chooses when that
/// is empty.
pub fn bind(address: &str, wanted: &str) {
    let is_own =
        driver_override(address) == "(null)" && pci_device(address).join("driver").exists();
    if wanted.is_empty() && is_own {
        return;
    }
    unbind(address);
    let overridden = pci_device(address).join("driver_override");
    write(overridden, &format!("{wanted}\n"));
    write(PathBuf::from("/sys/bus/pci/drivers_probe"), address);
    if !wanted.is_empty() {
        assert_eq!(driver(address), wanted, "is the module loaded?");
    }
}
