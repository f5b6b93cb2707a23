//! The test VM itself as a node, with the PCI devices that it has: two e1000e NICs and
//! a virtio one. The tests share them, so they run one after the other.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Output;

use harness::{Call, FakeIpam, Namespace, Node, is_up, run_tool, wait_until};
use serde_json::{Value, json};

use crate::host_device::with;

pub(crate) const NIC: &str = "0000:00:06.0";
pub(crate) const NIC_NAME: &str = "enp0s6";
pub(crate) const NIC_MAC: &str = "52:54:00:00:00:06";
pub(crate) const OTHER_NIC: &str = "0000:00:07.0";
pub(crate) const OTHER_NAME: &str = "enp0s7";
pub(crate) const VIRTIO: &str = "0000:00:08.0";
const ALL: [(&str, &str); 3] = [(NIC, NIC_NAME), (OTHER_NIC, OTHER_NAME), (VIRTIO, "enp0s8")];

/// The machine as a node, a pod, and a delegate. When it is dropped, the NICs are as
/// they were.
pub(crate) struct Machine {
    pub(crate) node: Node,
    pub(crate) pod: Option<Namespace>,
    pub(crate) ipam: FakeIpam,
    _alone: File,
}

/// Makes sure that no other process of tests uses the NICs, as long as the file lives.
pub(crate) fn alone() -> File {
    let file = File::create("/run/eni-cni-nics").expect("the VM's files can be written");
    file.try_lock()
        .expect("another process has the NICs: name this module in `alone` of tests/vm/suite");
    file
}

impl Machine {
    /// The NIC has an alternative name and an MTU of its own, and is up. It learns no default
    /// route from the emulated network: it would be in use.
    pub(crate) fn new() -> Self {
        let alone = alone();
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
        let machine = Self {
            node: Node::of_machine(),
            pod: Some(Namespace::new()),
            ipam: FakeIpam::new(),
            _alone: alone,
        };
        let made = ip_batch(&[
            format!("link property add dev {NIC_NAME} altname eni-6"),
            format!("link set {NIC_NAME} mtu 1400 alias uplink up"),
        ]);
        assert!(made.status.success(), "{made:?}");
        machine
    }

    pub(crate) fn pod(&self) -> &Namespace {
        self.pod.as_ref().expect("the pod lives")
    }

    #[track_caller]
    pub(crate) fn host(&self, arguments: &[&str]) -> String {
        self.node.netns.ip(arguments)
    }

    pub(crate) fn call(&self, command: &str, conf: &Value) -> Call {
        let netns = self.pod.as_ref().map_or(String::new(), Namespace::path);
        Call::ours("host-device", command)
            .attachment("c1", "net1", &netns)
            .env("CNI_PATH", &self.ipam.cni_path())
            .conf(conf)
    }

    #[track_caller]
    pub(crate) fn add(&self, conf: &Value) -> Value {
        self.node.run(&self.call("ADD", conf)).ok()
    }

    #[track_caller]
    pub(crate) fn del(&self, conf: &Value) {
        self.node.run(&self.call("DEL", conf)).ok();
    }

    /// Ends the pod, and waits until the kernel has put the NIC on the host.
    pub(crate) fn end_pod(&mut self) {
        self.pod = None;
        wait_until("the NIC is back on the host", || netdev(NIC).is_some());
    }

    /// Makes sure that the NIC is what `new` has made it.
    #[track_caller]
    pub(crate) fn has_nic_back(&self) {
        let nic = self.node.netns.link(NIC_NAME);
        let nic = nic.unwrap_or_else(|| panic!("the NIC is called {:?}", netdev(NIC)));
        let altnames = &nic["altnames"];
        assert_eq!(nic["mtu"], 1400);
        assert_eq!(nic["address"], NIC_MAC);
        assert_eq!(nic["ifalias"], "uplink");
        assert_eq!(altnames, &json!(["eni-6"]));
        assert!(is_up(&nic), "{nic}");
    }

    /// Makes sure that nothing of an attachment is left.
    #[track_caller]
    pub(crate) fn is_clean(&self) {
        self.has_nic_back();
        assert!(self.ipam.reserved().is_empty());
        assert!(self.node.files().is_empty());
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.pod = None;
        let mut changes = Vec::new();
        for (address, name) in ALL {
            bind(address, "");
            wait_until("the NIC has an interface", || netdev(address).is_some());
            let current = netdev(address).unwrap_or_default();
            for altname in ["eni-6", "enp0s6", "hostile"] {
                changes.push(format!("link property del dev {current} altname {altname}"));
            }
            changes.push(format!("link set {current} down"));
            changes.push(format!("link set {current} mtu 1500 alias \"\""));
            changes.push(format!("link set {current} name {name}"));
        }
        // Most of it is so already.
        ip_batch(&changes);
    }
}

/// Lets one `ip` do all of this, as far as it can be done: to start one takes longest.
fn ip_batch(changes: &[String]) -> Output {
    let script = r#"printf '%s\n' "$@" | ip -force -batch -"#;
    let script = ["-c", script, "sh"].into_iter();
    run_tool(
        "sh",
        &Vec::from_iter(script.chain(changes.iter().map(String::as_str))),
    )
}

pub(crate) fn pci_device(address: &str) -> PathBuf {
    PathBuf::from("/sys/bus/pci/devices").join(address)
}

/// The name of the interface of a PCI device on the host.
pub(crate) fn netdev(address: &str) -> Option<String> {
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

pub(crate) fn driver(address: &str) -> String {
    let target = fs::read_link(pci_device(address).join("driver")).unwrap_or_default();
    let name = target.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

pub(crate) fn write(path: PathBuf, text: &str) {
    fs::write(&path, text).unwrap_or_else(|cause| panic!("cannot write {path:?}: {cause}"));
}

pub(crate) fn unbind(address: &str) {
    let device = pci_device(address);
    if device.join("driver").exists() {
        write(device.join("driver/unbind"), address);
    }
}

/// Binds a device to a driver; to the kernel's own choice when that is empty.
pub(crate) fn bind(address: &str, wanted: &str) {
    let overridden = pci_device(address).join("driver_override");
    let current = fs::read_to_string(&overridden).unwrap_or_default();
    let is_own = current.trim() == "(null)" && pci_device(address).join("driver").exists();
    if wanted.is_empty() && is_own {
        return;
    }
    unbind(address);
    write(overridden, &format!("{wanted}\n"));
    write(PathBuf::from("/sys/bus/pci/drivers_probe"), address);
    if !wanted.is_empty() {
        assert_eq!(driver(address), wanted, "is the module loaded?");
    }
}

/// What Multus makes of the published network `hostcni-conf`: it adds the name.
pub(crate) fn hostcni_conf() -> Value {
    json!({
        "cniVersion": "0.3.1", "type": "host-device", "pciBusID": NIC, "name": "hostcni-conf",
    })
}

/// The same in the newest version with a delegate.
pub(crate) fn conf() -> Value {
    let keys = json!({"cniVersion": "1.1.0", "ipam": {"type": "fake-ipam"}});
    with(&hostcni_conf(), &keys)
}
