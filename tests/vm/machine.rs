//! The test VM itself as a node, with a pod and a delegate: what the tests of its PCI devices
//! start with. Each module has the NICs or the runtimes to itself, so their tests follow each other.

use fixtures::with;
mod conformance;
mod device_plugin;
mod driver;
mod examples;
mod exchange;
mod hostile;
mod ipam;
mod nic_faults;
mod passthru;
mod pci;
mod runtimes;
mod stacked;

use harness::pci::ip_batch;
pub(crate) use harness::pci::{
    Alone, NIC, NIC_MAC, NIC_NAME, OTHER_NAME, OTHER_NIC, VIRTIO, alone, bind, driver, netdev,
    pci_device, unbind, write,
};
use harness::{Call, FakeIpam, Namespace, Node, is_up, wait_until};
use serde_json::{Value, json};

/// The machine as a node, a pod, and a delegate. When it is dropped, the NICs are as
/// they were.
pub(crate) struct Machine {
    pub(crate) node: Node,
    pub(crate) pod: Option<Namespace>,
    pub(crate) ipam: FakeIpam,
}

impl Machine {
    /// The NIC has an alternative name and an MTU of its own, and is up. It learns no default
    /// route from the emulated network: it would be in use.
    pub(crate) fn new() -> Self {
        let node = Node::of_machine();
        harness::pci::require_machine();
        let machine = Self {
            node,
            pod: Some(Namespace::new()),
            ipam: FakeIpam::new(),
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
        harness::pci::reset();
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
