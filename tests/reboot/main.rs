//! The machine is really started anew between ADD and DEL: the test VM loses its power,
//! and another one begins with what had reached the disk that is `/var/lib/cni`. Needs root, QEMU
//! and the packages of `tests/prepare tests`. `make test-reboot` runs it.

use std::env;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use fixtures::with;
use harness::pci::{NIC, NIC_NAME, OTHER_NIC, driver, netdev};
use harness::{Call, Namespace, Network, attachment_files, repository, run_tool};
use nix::unistd::sync;
use serde_json::{Value, json};

/// The number of the boot that this process is to be in; without it, it starts them.
const BOOT: &str = "REBOOT_TEST_BOOT";
const STATE: &str = "/var/lib/cni";

/// Runs the test of this name in the VM once for each of the boots, which share a disk
/// and nothing else. In there, it is the boot that is run.
fn boots(test: &str, boots: &[fn()]) {
    if let Ok(number) = env::var(BOOT) {
        let number: usize = number.parse().expect("the boot is a number");
        return boots[number]();
    }
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let disk = directory.path().join("disk");
    let made = run_tool(
        "mke2fs",
        &["-q", "-t", "ext4", &disk.display().to_string(), "64M"],
    );
    assert!(made.status.success(), "{made:?}");
    for number in 0..boots.len() {
        let output = Command::new(repository().join("tests/vm/run"))
            .arg(env::current_exe().expect("this program has a path"))
            .args([test, "--exact", "--nocapture"])
            .env("VM_DISK", &disk)
            .env(BOOT, number.to_string())
            .output()
            .expect("the VM's script can be executed");
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        // A name that is no test's would be a success as well.
        let is_done = output.status.success() && text.contains("1 passed");
        assert!(is_done, "boot {number}: {}\n{text}{errors}", output.status);
    }
}

/// A network with as many addresses as it will have pods at a time.
fn network(name: &str, plugin: &Value, last: u8) -> Network {
    let range = json!({
        "subnet": "10.8.0.0/24", "rangeStart": "10.8.0.11", "rangeEnd": format!("10.8.0.{last}"),
    });
    let ipam = json!({"ipam": {"type": "host-local", "ranges": [[range]]}});
    let list = json!({"cniVersion": "1.1.0", "name": name, "plugins": [with(plugin, &ipam)]});
    Network::from_conf(&list)
}

/// Two pods share the virtio NIC.
fn pods() -> Network {
    network("pods", &json!({"type": "ipvlan", "master": "enp0s8"}), 12)
}

/// One pod has a NIC of its own.
fn nic() -> Network {
    network("nic", &json!({"type": "host-device", "pciBusID": NIC}), 11)
}

/// One pod has a NIC for user space.
fn dpdk() -> Network {
    let plugin = json!({"type": "host-device", "pciBusID": OTHER_NIC, "driver": "vfio-pci"});
    network("dpdk", &plugin, 11)
}

/// An attachment's container, in the namespace of that name, as every boot has one.
#[derive(Clone, Copy)]
struct Pod {
    id: &'static str,
    netns: &'static str,
}

impl Pod {
    /// A new namespace with this name.
    fn start(id: &'static str, netns: &'static str) -> Self {
        let pod = Self { id, netns };
        host().ip(&["netns", "add", netns]);
        pod
    }

    fn path(self) -> String {
        format!("/run/netns/{}", self.netns)
    }

    /// The address of the range. The emulated network announces another one.
    fn address(self) -> Option<String> {
        let addresses = Namespace::at(self.path()).addresses("net1");
        addresses.into_iter().find(|address| address.contains('.'))
    }

    fn call(self, network: &Network, command: &str, result: &Value) -> Call {
        let call = network.call(&network.plugins[0], command, result);
        call.attachment(self.id, "net1", &self.path())
    }

    #[track_caller]
    fn attach(self, network: &Network) -> Value {
        self.call(network, "ADD", &Value::Null).run().ok()
    }

    /// Makes sure that there is no address for another pod.
    #[track_caller]
    fn finds_no_address(self, network: &Network) {
        let error = self.call(network, "ADD", &Value::Null).run().error();
        assert!(error.msg.contains("no IP addresses available"), "{error:?}");
    }

    #[track_caller]
    fn check(self, network: &Network, result: &Value) {
        self.call(network, "CHECK", result).run().ok();
    }

    #[track_caller]
    fn detach(self, network: &Network) {
        self.call(network, "DEL", &Value::Null).run().ok();
    }

    /// The DEL of containerd for a pod of an earlier boot.
    #[track_caller]
    fn detach_without_namespace(self, network: &Network) {
        let call = self.call(network, "DEL", &Value::Null);
        call.env("CNI_NETNS", "").run().ok();
    }
}

fn host() -> Namespace {
    Namespace::of_thread()
}

/// The machine as it is after every start: no NIC is up, and none is to learn a route.
fn power_on() -> Vec<String> {
    for interface in ["default", NIC_NAME, "enp0s7", "enp0s8"] {
        let path = format!("/proc/sys/net/ipv6/conf/{interface}/accept_ra");
        fs::write(path, "0").expect("this is the test VM");
    }
    host().ip(&["link", "set", "enp0s8", "up"]);
    host().links()
}

/// What the plugins have on the disk of attachments.
fn kept() -> Vec<String> {
    attachment_files(Path::new(STATE))
}

/// Attaches pods to everything there is.
fn attach_to_everything() {
    power_on();
    host().ip(&["link", "set", NIC_NAME, "mtu", "1400", "alias", "before"]);
    let [c1, c2] = [("c1", "a"), ("c2", "b")].map(|(id, netns)| Pod::start(id, netns));
    c1.attach(&pods());
    c2.attach(&pods());
    Pod::start("c3", "c").attach(&nic());
    Pod::start("c4", "d").attach(&dpdk());
    Pod::start("c5", "e").finds_no_address(&pods());
    assert_eq!(netdev(NIC), None);
    assert_eq!(driver(OTHER_NIC), "vfio-pci");
    let reserved = kept()
        .iter()
        .filter(|file| file.starts_with("networks/"))
        .count();
    assert_eq!(reserved, 4, "{:?}", kept());
}

/// Attaches new pods, ends the old ones with the DELs that come `late`, and then the new
/// ones.
fn attach_anew(late: fn(Pod, &Network)) {
    let links = power_on();
    assert_eq!(driver(OTHER_NIC), "e1000e");
    // One old pod is ended at once, which leaves the others' addresses to ADD.
    let old = |id, netns| Pod { id, netns };
    old("c1", "a").detach_without_namespace(&pods());
    let attached = attach_to_everything_again();

    // What comes late takes nothing from the new ones.
    late(old("c2", "b"), &pods());
    late(old("c3", "c"), &nic());
    late(old("c4", "d"), &dpdk());
    assert_eq!(netdev(NIC), None);
    assert_eq!(driver(OTHER_NIC), "vfio-pci");
    for (pod, result, network) in &attached {
        pod.check(network, result);
    }

    for (pod, _, network) in &attached {
        pod.detach(network);
    }
    assert_eq!(host().links(), links);
    let device = host().link(NIC_NAME).expect("the NIC is back");
    assert_eq!(device["mtu"], 1500, "it is what this boot has made it");
    assert_eq!(driver(OTHER_NIC), "e1000e");
    assert!(kept().is_empty(), "{:?}", kept());
}

/// Attaches new pods to everything there is, in namespaces with the names of old ones.
fn attach_to_everything_again() -> [(Pod, Value, Network); 4] {
    let pairs = [("d1", "a"), ("d2", "b"), ("d3", "c"), ("d4", "d")];
    let [d1, d2, d3, d4] = pairs.map(|(id, netns)| Pod::start(id, netns));
    let attached = [(d1, pods()), (d2, pods()), (d3, nic()), (d4, dpdk())]
        .map(|(pod, network)| (pod, pod.attach(&network), network));
    Pod::start("d5", "e").finds_no_address(&pods());
    let mut addresses = [d1, d2].map(Pod::address);
    addresses.sort();
    let both = ["10.8.0.11/24", "10.8.0.12/24"].map(|address| Some(address.to_owned()));
    assert_eq!(addresses, both);
    attached
}

#[test]
fn after_a_power_cut_everything_is_free_and_late_dels_change_nothing() {
    let before = || {
        attach_to_everything();
        sync();
    };
    // The old namespaces' names are those of the new ones.
    let after = || attach_anew(Pod::detach);
    boots(
        "after_a_power_cut_everything_is_free_and_late_dels_change_nothing",
        &[before, after],
    );
}

/// The worst that a file system does: somebody else's `fsync` brings the names of all
/// files to the disk, and the kernel has not got to their contents.
#[test]
fn after_a_power_cut_that_emptied_every_file_everything_is_free() {
    let before = || {
        fs::write("/proc/sys/vm/dirty_writeback_centisecs", "0").expect("this is the test VM");
        attach_to_everything();
        let other = File::create(Path::new(STATE).join(".other")).expect("the disk is writable");
        other.sync_all().expect("the disk is writable");
    };
    let after = || {
        for file in kept() {
            let length = fs::metadata(Path::new(STATE).join(&file))
                .expect("it is there")
                .len();
            assert_eq!(length, 0, "{file}");
        }
        assert_eq!(kept().len(), 8, "four reservations and four records");
        // No record is left that could tell the old namespaces from the new ones.
        attach_anew(Pod::detach_without_namespace);
    };
    boots(
        "after_a_power_cut_that_emptied_every_file_everything_is_free",
        &[before, after],
    );
}

#[test]
fn after_a_power_cut_gc_removes_what_no_runtime_knows() {
    let before = || {
        attach_to_everything();
        sync();
    };
    let after = || {
        power_on();
        let d1 = Pod::start("d1", "a");
        let result = d1.attach(&pods());
        let valid = json!([{"containerID": "d1", "ifname": "net1"}]);
        for (network, valid) in [(pods(), valid), (nic(), json!([])), (dpdk(), json!([]))] {
            let plugin = with(
                &network.plugins[0],
                &json!({"cni.dev/valid-attachments": valid}),
            );
            network.call(&plugin, "GC", &Value::Null).run().ok();
        }
        d1.check(&pods(), &result);
        assert_eq!(
            kept(),
            [
                "eni-cni/ipvlan/pods/d1:net1.json",
                "networks/pods/10.8.0.11"
            ]
        );
        assert_eq!(driver(OTHER_NIC), "e1000e");
    };
    boots(
        "after_a_power_cut_gc_removes_what_no_runtime_knows",
        &[before, after],
    );
}
