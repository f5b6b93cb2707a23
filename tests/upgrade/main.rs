//! From an earlier version of the programs to the newest and back, while pods run. `make
//! test-upgrade` builds the earlier ones, of a commit of this repository, and runs these tests,
//! in the VM where this kernel lacks ipvlan. Needs root, the packages of `tests/prepare tests`, QEMU
//! then, and the history of the repository, which a clone may lack: `make test` leaves it out.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use harness::vpc::{DEADLINE, Vpc, VpcNode, eventually};
use harness::{Agent, Call, Host, Network, Node, Pod, attachment_files, our_plugin};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The programs that `make install` puts into the directory of the plugins.
const PROGRAMS: [&str; 4] = ["eni-sync", "host-device", "host-local", "ipvlan"];

/// The directory with the programs of the earlier version.
fn earlier() -> PathBuf {
    let directory = std::env::var_os("EARLIER");
    directory.expect("`make test-upgrade` sets EARLIER").into()
}

/// The directory with the programs of this version.
fn newest() -> PathBuf {
    let program = our_plugin("eni-sync");
    program.parent().unwrap().to_owned()
}

/// A node with one version of the programs in its directory of plugins.
struct Installed {
    node: VpcNode,
    plugins: TempDir,
}

impl Installed {
    fn new(vpc: &Vpc, version: &Path) -> Self {
        let node = vpc.node();
        node.node.netns.ip(&["link", "set", "vpc", "up"]);
        node.add_device();
        let installed = Self {
            node,
            plugins: tempfile::tempdir().unwrap(),
        };
        installed.install(version);
        installed
    }

    /// Puts a version over the one before, as an installation does: by a rename.
    fn install(&self, version: &Path) {
        for name in PROGRAMS {
            let new = self.plugins.path().join(format!(".{name}.new"));
            symlink(version.join(name), &new).unwrap();
            fs::rename(&new, self.plugins.path().join(name)).unwrap();
        }
    }

    fn network(&self, name: &str, plugins: &Value) -> Network {
        let conf = json!({ "cniVersion": "1.0.0", "name": name, "plugins": plugins });
        let mut network = Network::from_conf(&conf);
        network.environment = self.node.environment();
        let path = self.plugins.path().display().to_string();
        network.environment.push(("CNI_PATH".to_owned(), path));
        network
    }

    /// One network for each way in which a pod gets an address: from the VPC by the end of the
    /// list, by an agent that watches, from its pool; and a device of the node.
    fn networks(&self) -> [Network; 4] {
        let ipvlan = |ipam: &Value| json!({ "type": "ipvlan", "master": "ens6", "ipam": ipam });
        let local = |start: &str, end: &str| {
            json!({
                "type": "host-local",
                "ranges": [[{ "subnet": "10.0.4.0/24", "rangeStart": start, "rangeEnd": end }]],
            })
        };
        let named = ipvlan(&local("10.0.4.20", "10.0.4.29"));
        let watched = ipvlan(&local("10.0.4.30", "10.0.4.39"));
        let pooled = ipvlan(&json!({ "type": "host-local", "rangesFile": "/run/ranges.json" }));
        let device = json!({
            "type": "host-device", "device": "dev7",
            "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.9.0.0/24" }]] },
        });
        [
            self.network(
                "named",
                &json!([named, { "type": "eni-sync", "cooldownSeconds": 0 }]),
            ),
            self.network("watched", &json!([watched])),
            self.network("pooled", &json!([pooled])),
            self.network("device", &json!([device])),
        ]
    }

    fn start_agent(&self) -> Agent {
        let configuration = json!({
            "networks": [{ "name": "watched", "master": "ens6", "cooldownSeconds": 0 }],
            "pools": [{
                "name": "pooled", "master": "ens6", "rangesFile": "/run/ranges.json",
                "cooldownSeconds": 0, "low": 2, "high": 2,
                "ranges": [{ "start": "10.0.4.100", "end": "10.0.4.109" }],
            }],
        });
        Agent::start(self, &configuration)
    }

    /// Attaches a pod to each network, and waits until the VPC has the address of each.
    fn attach(&self, name: &str, networks: &[Network]) -> Vec<Attached> {
        let attach = |network: &Network| {
            let pod = Pod::new(&format!("{name}-{}", network.name));
            let result = network.attach(&self.node.node, &pod, "net1");
            let attached = Attached {
                network: network.clone(),
                pod,
                result,
            };
            if network.name != "device" {
                let address = attached.address();
                let is_there = |_: &_| self.node.addresses().contains(&address);
                assert!(self.node.lab.wait_until(DEADLINE, is_there), "{address}");
            }
            attached
        };
        networks.iter().map(attach).collect()
    }
}

impl Host for Installed {
    fn node(&self) -> &Node {
        &self.node.node
    }

    fn run_directory(&self) -> &Path {
        self.node.run_directory()
    }

    fn eni_sync(&self) -> Call {
        let call = self.node.call("").without("CNI_COMMAND");
        call.of_program(self.plugins.path().join("eni-sync"))
    }
}

/// A pod in a network.
struct Attached {
    network: Network,
    pod: Pod,
    result: Value,
}

impl Attached {
    fn address(&self) -> String {
        let address = self.result["ips"][0]["address"].as_str().unwrap();
        address.split('/').next().unwrap().to_owned()
    }

    #[track_caller]
    fn check(&self, node: &Node) {
        let checked = self.network.check(node, &self.pod, "net1", &self.result);
        checked.unwrap_or_else(|output| panic!("{}: {output}", self.network.name));
    }

    #[track_caller]
    fn detach(&self, node: &Node) {
        self.network.detach(node, &self.pod, "net1", &self.result);
        assert_eq!(self.pod.netns.links(), ["lo"], "{}", self.network.name);
    }
}

/// Whether the agent that ends does so before the other one starts.
#[derive(Clone, Copy)]
enum Order {
    TakeOver,
    StopFirst,
}

/// Pods of one version, of which another one is installed while they run: it checks them,
/// attaches others, and ends all of them, and nothing is left of any.
fn change(from: &Path, to: &Path, order: Order) {
    let vpc = Vpc::new();
    let installed = Installed::new(&vpc, from);
    let node = &installed.node;
    let links = node.node.netns.links();
    let networks = installed.networks();
    let agent = installed.start_agent();
    let before = installed.attach("before", &networks);
    installed.install(to);
    let agent = match order {
        Order::TakeOver => {
            let next = installed.start_agent();
            assert_eq!(agent.stop(), Some(0));
            next
        }
        Order::StopFirst => {
            assert_eq!(agent.stop(), Some(0));
            installed.start_agent()
        }
    };
    for attached in &before {
        attached.check(&node.node);
    }
    let (device, ours) = networks.split_last().unwrap();
    let mut after = installed.attach("after", ours);
    let (with_device, others) = before.split_last().unwrap();
    with_device.detach(&node.node);
    after.extend(installed.attach("after", std::slice::from_ref(device)));
    for attached in others.iter().chain(&after) {
        attached.detach(&node.node);
    }
    assert_nothing_left(node, &agent);
    assert_eq!(node.node.netns.links(), links);
}

/// Of no pod anything is left but the free addresses of the pool.
#[track_caller]
fn assert_nothing_left(node: &VpcNode, agent: &Agent) {
    let is_of_pool = |address: &String| address.starts_with("10.0.4.10");
    let is_over = || {
        let (addresses, ledger) = (node.addresses(), node.ledger());
        addresses.iter().all(is_of_pool) && ledger.keys().all(is_of_pool)
    };
    assert!(
        eventually(is_over),
        "{:?}\n{}",
        node.ledger(),
        agent.raw_log()
    );
    let mut files = attachment_files(node.node.state());
    files.retain(|file| !file.contains("/ledger/"));
    assert_eq!(files, [""; 0]);
}

#[test]
fn pods_of_the_earlier_version_run_on_under_the_newest_and_leave_nothing() {
    change(&earlier(), &newest(), Order::TakeOver);
}

#[test]
fn the_newest_can_be_started_when_the_earlier_one_has_ended() {
    change(&earlier(), &newest(), Order::StopFirst);
}

#[test]
fn pods_of_the_newest_version_run_on_under_the_earlier_and_leave_nothing() {
    change(&newest(), &earlier(), Order::StopFirst);
}
