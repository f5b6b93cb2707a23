//! host-device on a node and in pods that are namespaces, with a veth as the device
//! and a delegate that is a script. What needs a real PCI device is in `tests/vm`.

mod add;
mod bad_disk;
mod bad_input;
mod check_status_gc;
mod crowd;
mod del;
mod device_info;
mod exchange;
mod failed_add;
mod held;
mod hostile;
mod in_use;
mod keep_addresses;
mod killed;
mod network_state;
mod numbered;
mod path;
mod repeated_del;
mod selectors;
mod stacked;
mod turns;

use fixtures::with;
use harness::{Call, FakeIpam, Namespace, Node, wait_until};
use serde_json::{Value, json};

/// A node with the device `hd0`, a pod, and a delegate.
struct Fixture {
    node: Node,
    pod: Namespace,
    ipam: FakeIpam,
}

/// Everything that an attachment can change, to be compared.
type State = (Vec<Value>, Vec<Value>, Vec<String>, Vec<String>);

impl Fixture {
    /// The device is down, has the MTU 1400 and the MAC 02:00:00:00:00:01.
    fn new() -> Self {
        let mut fixture = Self {
            node: Node::new(),
            pod: Namespace::new(),
            ipam: FakeIpam::new(),
        };
        fixture.add_device("hd0", "02:00:00:00:00:01");
        // A device of the node is older than the pod.
        fixture.pod = Namespace::new();
        fixture
    }

    fn add_device(&self, name: &str, mac: &str) {
        let peer = format!("{name}-peer");
        let veth = [
            "link", "add", name, "mtu", "1400", "address", mac, "type", "veth",
        ];
        self.host(&[&veth[..], &["peer", "name", &peer]].concat());
    }

    /// Runs `ip` on the node.
    #[track_caller]
    fn host(&self, arguments: &[&str]) -> String {
        self.node.netns.ip(arguments)
    }

    /// A call about (`c1`, `net1`) in the pod.
    fn call(&self, command: &str, conf: &Value) -> Call {
        Call::ours("host-device", command)
            .attachment("c1", "net1", &self.pod.path())
            .env("CNI_PATH", &self.ipam.cni_path())
            .conf(conf)
    }

    /// ADD, which must succeed.
    #[track_caller]
    fn add(&self, conf: &Value) -> Value {
        self.node.run(&self.call("ADD", conf)).ok()
    }

    /// DEL, which must succeed.
    #[track_caller]
    fn del(&self, conf: &Value) {
        self.node.run(&self.call("DEL", conf)).ok();
    }

    /// The configuration with the result of its ADD.
    #[track_caller]
    fn attached(&self, conf: &Value) -> Value {
        with(conf, &json!({"prevResult": self.add(conf)}))
    }

    /// Ends the pod, and waits until the kernel has destroyed the veth in it.
    fn end_pod(&mut self) {
        self.pod = Namespace::new();
        wait_until("the pod has ended", || {
            !self.node.netns.links().contains(&"hd0-peer".to_owned())
        });
    }

    /// The files of the records.
    fn records(&self) -> Vec<String> {
        self.node.files()
    }

    fn state(&self) -> State {
        let (host, pod) = (self.node.netns.description(), self.pod.description());
        (host, pod, self.node.files(), self.ipam.reserved())
    }
}

/// A configuration without a delegate.
fn plain(keys: &Value) -> Value {
    let base = json!({"cniVersion": "1.1.0", "name": "lan", "type": "host-device"});
    with(&base, keys)
}

/// A configuration of the device `hd0` with the script as its delegate.
fn conf() -> Value {
    plain(&json!({"device": "hd0", "ipam": {"type": "fake-ipam"}}))
}
