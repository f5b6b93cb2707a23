//! A pod with an interface, and a neighbour on the same link.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};

use harness::{Call, FakeIpam, Namespace, Node, Output, wait_until};
use serde_json::{Value, json};

use crate::host_device::with;

/// The addresses that the delegate gives to the pod.
pub(super) const OWN_IPV4: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 5);
pub(super) const OWN_IPV6: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 5);

/// The neighbour has the addresses 10.9.0.1 and 10.9.0.66, and hears who says that it has
/// an address.
pub(crate) struct Fixture {
    plugin: &'static str,
    device: &'static str,
    pub(super) node: Node,
    pub(super) pod: Namespace,
    pub(super) sibling: Namespace,
    pub(super) ipam: FakeIpam,
}

impl Fixture {
    /// For `plugin`, whose device or master on the node is `hd0`.
    pub(crate) fn new(plugin: &'static str) -> Self {
        let fixture = Self {
            plugin,
            device: "hd0",
            node: Node::new(),
            pod: Namespace::new(),
            sibling: Namespace::new(),
            ipam: FakeIpam::new(),
        };
        let node = &fixture.node.netns;
        let sibling = fixture.sibling.path();
        // Where both ends have one index, the kernel takes a second to tell IPv6 that the
        // carrier has come, and the neighbour hears nothing before.
        let ends = ["hd0", "index", "77", "type", "veth", "peer", "name", "r0"];
        node.ip(&[&["link", "add"], &ends[..], &["netns", &sibling]].concat());
        node.ip(&["link", "set", "hd0", "up"]);
        fixture.sibling.run(|| {
            for parameter in ["ipv6/conf/r0/accept_dad=0", "ipv4/conf/r0/arp_accept=1"] {
                let (name, value) = parameter.split_once('=').expect("it has a value");
                fs::write(format!("/proc/sys/net/{name}"), value).expect("it is writable");
            }
        });
        fixture.sibling.ip(&["link", "set", "r0", "up"]);
        for address in ["10.9.0.1/24", "10.9.0.66/24"] {
            fixture
                .sibling
                .ip(&["address", "add", address, "dev", "r0"]);
        }
        let ips = json!([
            {"address": "10.9.0.5/24", "gateway": "10.9.0.1"}, {"address": "fd09::5/64"},
        ]);
        fixture
            .ipam
            .answer(&json!({"ips": ips, "routes": [{"dst": "10.8.0.0/16"}]}));
        fixture
    }

    /// For host-device, with a macvlan on `hd0` as the device, which has no carrier.
    pub(super) fn without_carrier() -> Self {
        let fixture = Self::new("host-device");
        // Later, a macvlan would not notice it at once.
        fixture.sibling.ip(&["link", "set", "r0", "down"]);
        let macvlan = ["link", "add", "link", "hd0", "mv0", "type", "macvlan"];
        fixture.node.netns.ip(&macvlan);
        Self {
            device: "mv0",
            ..fixture
        }
    }

    /// The delegate gives an address of IPv4 alone.
    pub(super) fn without_ipv6(self) -> Self {
        let ips = json!([{"address": "10.9.0.5/24", "gateway": "10.9.0.1"}]);
        self.ipam
            .answer(&json!({"ips": ips, "routes": [{"dst": "10.8.0.0/16"}]}));
        self
    }

    pub(super) fn run(&self, command: &str, keys: &Value) -> Output {
        let conf = json!({
            "cniVersion": "1.1.0", "name": "lan", "type": self.plugin,
            "device": self.device, "master": self.device, "ipam": {"type": "fake-ipam"},
        });
        let call = Call::ours(self.plugin, command)
            .attachment("c1", "net1", &self.pod.path())
            .env("CNI_PATH", &self.ipam.cni_path())
            .conf(&with(&conf, keys));
        self.node.run(&call)
    }

    #[track_caller]
    pub(super) fn add(&self, keys: &Value) -> Value {
        self.run("ADD", keys).ok()
    }

    /// Waits until the pod has handled what the neighbour has sent before, which it does in
    /// the order in which it came.
    pub(super) fn await_handling(&self) {
        let local = || {
            let link = self.pod.link("net1").expect("it is there");
            let infos = link["addr_info"].as_array().cloned().unwrap_or_default();
            let local = infos.into_iter().find(|info| info["scope"] == "link");
            local.and_then(|info| info["local"].as_str().map(str::to_owned))
        };
        wait_until("the kernel has made a link-local address", || {
            local().is_some()
        });
        let to = format!("{}%r0", local().expect("it has one"));
        self.sibling.tool("ping", &["-c", "1", "-w", "30", &to]);
    }

    /// Waits until the neighbour knows where the pod's IPv4 address is.
    pub(super) fn knows_the_ipv4_address(&self) {
        let link = self.pod.link("net1").expect("it is there");
        let mac = link["address"].as_str().expect("it has one");
        wait_until("the neighbour knows the address", || {
            let known = self.sibling.ip(&["neighbour", "show", "10.9.0.5"]);
            known.contains(&format!("lladdr {mac}"))
        });
    }
}
