//! A scene: a node with networks of one kind, its pods, and a description of everything that an
//! attachment can change there, which is compared.

mod state;
mod subject;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::SystemTime;

use serde_json::{Value, json};

use self::state::{entry, files, links};
use self::subject::conf;
pub use self::subject::{Maker, Subject};
use super::{device, wait_until};
use crate::eni_lab::Lab;
use crate::node::Ended;
use crate::{
    AwsNode, Call, Namespace, Network, Node, Output, Pod, go_plugin, is_removed, our_plugin,
};

/// `CNI_PATH` for the plugins of Debian's package.
const GO_PATH: &str = "/usr/lib/cni";
const IFNAME: &str = "net1";
/// The link of the node's ENI, or a link in place of one.
const MASTER: &str = "eth1";
/// The masters of ipvlan interfaces; the networks of a scene use them alternately.
const MASTERS: [&str; 2] = [MASTER, "eth2"];
/// The number of networks for many pods, which use them alternately.
const NETWORKS: usize = 3;
/// The file with the boot id of a node after a simulated reboot.
const BOOT_ID: &str = ".boot_id";
/// Files that exist once at most, independent of attachments: host-local's index of a network,
/// its temporary file on file systems without unnamed files, and host-device's marks of its
/// records.
const ITS_OWN: [&str; 3] = [".reservations.index", ".unfinished", ".host-device.marks"];
/// An instance type with many addresses for each ENI.
const TYPE: &str = "m5.24xlarge";

enum Place {
    Plain(Node),
    Aws(AwsNode),
}

/// A node, its pods, and its state before anything was attached.
pub struct Scene {
    subject: Subject,
    maker: Maker,
    pods: Vec<Pod>,
    /// The former namespaces of pods, kept while their paths may still be used.
    ended: Vec<Ended>,
    /// Dropped after the pods and before the node, which has the exclusive use of the cards.
    cards: Option<device::Cards>,
    place: Place,
    /// The pod whose device each pod gets.
    devices: Vec<usize>,
    networks: Vec<Network>,
    before: BTreeSet<String>,
    whole: usize,
}

impl Scene {
    /// A node with this number of pods. On each network a pod was attached and detached before,
    /// so permanent files exist already.
    #[track_caller]
    pub fn new(subject: Subject, maker: Maker, pods: usize) -> Self {
        let count = if pods > 2 { NETWORKS } else { 1 };
        let networks = (0..count).map(|n| Network::from_conf(&conf(subject, maker, n)));
        let mut scene = Self {
            subject,
            maker,
            pods: (0..pods).map(pod).collect(),
            ended: Vec::new(),
            cards: subject.has_nics().then(device::Cards::new),
            place: place(subject),
            devices: (0..pods).collect(),
            networks: networks.collect(),
            before: BTreeSet::new(),
            whole: 0,
        };
        scene.make_links();
        scene.attach_once();
        scene.before = scene.everything();
        scene.add(0).unwrap_or_else(|output| panic!("{output}"));
        scene.whole = scene.left().len();
        scene.detach(0);
        scene
    }

    /// From now on each pod gets the device of the pod in `owners`.
    pub(super) fn give_devices(&mut self, owners: &[usize]) -> Vec<String> {
        self.devices = owners.to_vec();
        Vec::new()
    }

    /// From now on each pod gets its own device again.
    pub(super) fn give_back_devices(&mut self) {
        self.devices = (0..self.pods.len()).collect();
    }

    /// Whether the pod has the interface and the address of its last ADD.
    pub(super) fn has_attachment(&self, pod: usize) -> bool {
        let pod = &self.pods[pod];
        let has_interface = match self.subject {
            Subject::HostLocal | Subject::Registered | Subject::BoundNic => true,
            _ => pod.netns.link(IFNAME).is_some(),
        };
        let networks = self.node().state().join("networks");
        let is_theirs = |path: &PathBuf| {
            let text = fs::read_to_string(path).unwrap_or_default();
            text.lines().next() == Some(&pod.id)
        };
        has_interface && files(&networks).iter().any(is_theirs)
    }

    /// The plugins that are executed.
    pub(super) fn maker(&self) -> Maker {
        self.maker
    }

    /// Ends the namespace of a pod, which gets another one.
    pub(super) fn end(&mut self, number: usize) -> Vec<String> {
        self.replace(number);
        Vec::new()
    }

    fn replace(&mut self, number: usize) {
        let old = std::mem::replace(&mut self.pods[number], pod(number));
        self.ended.push(old.netns.end());
    }

    /// Drops the former namespaces of pods, whose paths are not used any more.
    pub(super) fn forget_ended(&mut self) {
        self.ended.clear();
    }

    /// Makes a new scene, when the state of this one is wrong.
    pub(super) fn remake(&mut self) {
        let pods = self.pods.len();
        // The pods end first, so that the machine has its devices back.
        self.pods.clear();
        self.cards = None;
        *self = Self::new(self.subject, self.maker, pods);
    }

    fn attach_once(&self) {
        // With a network card every pod is attached once, because that changes the addresses of
        // the card.
        let count = match self.subject.has_nics() {
            true => self.pods.len(),
            false => self.networks.len(),
        };
        for pod in 0..count {
            self.add(pod).unwrap_or_else(|output| panic!("{output}"));
            self.detach(pod);
        }
    }

    fn detach(&self, pod: usize) {
        for output in self.del(pod).iter().chain(&self.release(&[])) {
            output.ok();
        }
    }

    /// The number of lines in [`left`](Self::left) for one complete attachment.
    pub fn whole(&self) -> usize {
        self.whole
    }

    /// The node.
    pub fn node(&self) -> &Node {
        match &self.place {
            Place::Plain(node) => node,
            Place::Aws(at) => &at.node,
        }
    }

    /// Whether more than one plugin attaches a pod.
    pub fn is_chain(&self) -> bool {
        self.last_plugin() > 0
    }

    /// Starts an agent of eni-sync, and waits until its socket exists. `None` without a
    /// simulated VPC.
    pub fn start_agent(&self) -> Option<Child> {
        let Place::Aws(at) = &self.place else {
            return None;
        };
        let run = at.run_directory();
        fs::write(run.join("agent.json"), "{}").expect("the directory is writable");
        let mut agent = Command::new(our_plugin("eni-sync"));
        agent.args(["agent", "--config", "/run/agent.json"]);
        agent
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let agent = at.node.spawn(agent);
        let socket = run.join("eni-cni/agent.sock");
        wait_until("the agent listens", || socket.exists());
        Some(agent)
    }

    /// Attaches a pod. Returns the last result, or the first failure.
    pub fn add(&self, pod: usize) -> Result<Value, Box<Output>> {
        let prev_result = self.add_all_but_last(pod)?;
        succeeded(self.node().run(&self.last("ADD", pod, &prev_result)))
    }

    /// Executes ADD of every plugin before the last one.
    pub fn add_all_but_last(&self, pod: usize) -> Result<Value, Box<Output>> {
        let mut result = Value::Null;
        for plugin in 0..self.last_plugin() {
            let output = self.node().run(&self.call(plugin, "ADD", pod, &result));
            result = self.with_interface(pod, succeeded(output)?);
        }
        Ok(result)
    }

    /// A call of the network's last plugin.
    pub fn last(&self, command: &str, pod: usize, prev_result: &Value) -> Call {
        self.call(self.last_plugin(), command, pod, prev_result)
    }

    /// Detaches a pod. Every plugin is executed, even if another one fails.
    pub fn del(&self, pod: usize) -> Vec<Output> {
        self.del_in(pod, &self.pods[pod].netns.path())
    }

    /// As [`Self::del`], with this path of the pod's namespace.
    pub fn del_in(&self, pod: usize, netns: &str) -> Vec<Output> {
        let plugins = (0..=self.last_plugin()).rev();
        let calls = plugins.map(|plugin| self.call(plugin, "DEL", pod, &Value::Null));
        let outputs = calls.map(|call| self.node().run(&call.env("CNI_NETNS", netns)));
        outputs.collect()
    }

    /// Executes CHECK of the first plugin, with any outcome.
    pub fn check(&self, pod: usize) -> Output {
        let result = json!({"cniVersion": "1.0.0", "ips": []});
        self.node().run(&self.call(0, "CHECK", pod, &result))
    }

    /// Makes eni-sync release the addresses of ended attachments, which it does after DEL.
    pub fn release(&self, valid: &[usize]) -> Vec<Output> {
        let mut outputs = self.release_once(valid);
        // eni-sync looks at EC2 twice, a minute apart, for addresses that may not have been
        // assigned.
        for _ in 0..2 {
            if self.waiting().is_empty() {
                break;
            }
            self.let_a_minute_pass();
            outputs.extend(self.release_once(valid));
        }
        outputs
    }

    /// The files of the ledger for claims that were withdrawn.
    fn waiting(&self) -> Vec<(PathBuf, Value)> {
        let ledger = self.node().state().join("eni-cni/ledger");
        if !ledger.is_dir() {
            return Vec::new();
        }
        let paths = files(&ledger).into_iter();
        let entries = paths.filter_map(|path| Some((path.clone(), entry(&path)?)));
        entries
            .filter(|(_, entry)| entry["state"] == "withdrawn")
            .collect()
    }

    fn let_a_minute_pass(&self) {
        for (path, mut entry) in self.waiting() {
            for key in ["since", "confirmed", "removal", "missing", "after"] {
                if let Some(time) = entry.get(key).and_then(Value::as_u64) {
                    entry[key] = json!(time.saturating_sub(120).max(1));
                }
            }
            fs::write(path, entry.to_string()).expect("the state directory is writable");
        }
    }

    fn release_once(&self, valid: &[usize]) -> Vec<Output> {
        let plugins = self.networks.iter().flat_map(|network| {
            let plugins = network.plugins.iter();
            plugins.map(move |plugin| (network, plugin))
        });
        let releasing = plugins.filter(|(_, plugin)| plugin["type"] == "eni-sync");
        let calls = releasing.map(|(network, plugin)| self.gc_call(network, plugin, valid));
        calls.map(|call| self.node().run(&call)).collect()
    }

    /// Executes GC of all networks, with these pods as the valid ones.
    pub fn gc(&self, valid: &[usize]) -> Vec<Output> {
        let mut outputs = Vec::new();
        for network in &self.networks {
            for plugin in &network.plugins {
                outputs.push(self.node().run(&self.gc_call(network, plugin, valid)));
            }
        }
        outputs
    }

    fn gc_call(&self, network: &Network, plugin: &Value, valid: &[usize]) -> Call {
        let valid = valid.iter().map(|pod| &self.pods[*pod]);
        let valid: Vec<Value> = valid
            .map(|pod| json!({"containerID": pod.id, "ifname": IFNAME}))
            .collect();
        let mut plugin = plugin.clone();
        plugin["cni.dev/valid-attachments"] = json!(valid);
        network.call(&plugin, "GC", &Value::Null)
    }

    /// Takes the namespace of a pod, which gets another one.
    pub fn replace_namespace(&mut self, pod: usize) -> Namespace {
        std::mem::take(&mut self.pods[pod].netns)
    }

    /// Simulates a reboot: other namespaces, new links, another boot id.
    pub fn reboot(&mut self) -> Vec<String> {
        self.age_files();
        match &mut self.place {
            Place::Plain(node) => node.reboot(),
            Place::Aws(at) => at.node.reboot(),
        }
        for number in 0..self.pods.len() {
            self.replace(number);
        }
        self.make_links();
        Vec::new()
    }

    /// The differences to the state before anything was attached: lines with `+` are new, lines
    /// with `-` are missing.
    pub fn left(&self) -> Vec<String> {
        let now = self.everything();
        let more = now.difference(&self.before).map(|line| format!("+ {line}"));
        let less = self.before.difference(&now).map(|line| format!("- {line}"));
        more.chain(less).collect()
    }

    /// A line for everything that an attachment can change.
    pub fn everything(&self) -> BTreeSet<String> {
        let mut all = links("node", &self.node().netns);
        if self.subject.has_devices() {
            all.append(&mut device::network(&self.node().netns));
        }
        if self.subject.has_nics() {
            all.append(&mut device::drivers());
        }
        for pod in &self.pods {
            all.append(&mut links(&pod.id, &pod.netns));
        }
        all.extend(self.files().iter().map(|name| format!("file {name}")));
        if let Place::Aws(at) = &self.place {
            all.extend(at.addresses().iter().map(|ip| format!("VPC: {ip}")));
            all.extend(at.lab.invariant_violations());
        }
        all
    }

    /// The plugins' files, including locks and temporary files.
    fn files(&self) -> Vec<String> {
        let root = self.node().state();
        let name = |path: &PathBuf| {
            let name = path.strip_prefix(root).expect("it is below the root");
            name.display().to_string()
        };
        let is_forgotten =
            |path: &&PathBuf| path.starts_with(root.join("eni-cni/ledger")) && is_removed(path);
        let paths = files(root);
        let names = paths.iter().filter(|path| !is_forgotten(path));
        let names = names.map(name).collect::<Vec<_>>();
        // The ledger has at most one temporary file for an address, which the next one
        // replaces.
        let is_draft = |name: &String| name.contains("/ledger/") && name.ends_with(".tmp");
        let is_theirs = |name: &String| {
            name != BOOT_ID && !ITS_OWN.iter().any(|own| name.ends_with(own)) && !is_draft(name)
        };
        names.into_iter().filter(is_theirs).collect()
    }

    /// The numbers of files, links, rules and routes on the node.
    pub fn kept(&self) -> [usize; 4] {
        let node = &self.node().netns;
        // The kernel makes the routes of link-local addresses after duplicate address
        // detection.
        let by_itself = |line: &&str| line.contains("fe80:") || line.contains("ff00:");
        let lines = |arguments: &[&str]| {
            let shown = node.ip(arguments);
            shown.lines().filter(|line| !by_itself(line)).count()
        };
        let rules = lines(&["rule"]) + lines(&["-6", "rule"]);
        let routes = ["-4", "-6"].map(|family| lines(&[family, "route", "show", "table", "all"]));
        let files = self.files().len();
        [files, node.links().len(), rules, routes.iter().sum()]
    }

    /// Sets the modification time of every file to 1970.
    fn age_files(&self) {
        for path in files(self.node().state()) {
            let file = File::options().write(true).open(path);
            let file = file.expect("the file can be written");
            file.set_modified(SystemTime::UNIX_EPOCH)
                .expect("the time can be set");
        }
    }

    fn last_plugin(&self) -> usize {
        self.networks[0].plugins.len() - 1
    }

    fn call(&self, plugin: usize, command: &str, pod: usize, prev_result: &Value) -> Call {
        let network = &self.networks[pod % self.networks.len()];
        let owner = self.devices[pod];
        let pod = &self.pods[pod];
        let mut plugin = network.plugins[plugin].clone();
        if plugin["type"] == "host-device" {
            let (key, value) = device::selector(self.subject, owner);
            plugin[key] = json!(value);
        }
        let call = network.call(&plugin, command, prev_result);
        let call = call.pod(pod, IFNAME);
        match self.maker {
            Maker::Ours => call,
            Maker::Go => {
                let name = plugin["type"].as_str().expect("a plugin has a type");
                call.of_program(go_plugin(name)).env("CNI_PATH", GO_PATH)
            }
        }
    }

    fn make_links(&self) {
        let node = &self.node().netns;
        match self.subject {
            Subject::HostLocal | Subject::Registered | Subject::RegisteredIpvlan => {}
            Subject::Ipvlan => MASTERS.iter().enumerate().for_each(|(n, master)| {
                // The interfaces on it are deleted together with it.
                node.try_tool("ip", &["link", "delete", master]);
                let mac = format!("02:00:00:00:ff:{n:02x}");
                node.ip(&["link", "add", master, "address", &mac, "type", "dummy"]);
                node.ip(&["link", "set", master, "up"]);
            }),
            Subject::HostDevice | Subject::KeptDevice => {
                let kept = self.subject == Subject::KeptDevice;
                (0..self.pods.len()).for_each(|n| device::make_veth(node, n, self.maker, kept));
            }
            Subject::Nic | Subject::BoundNic => device::set_up_nics(),
        }
    }

    /// The result, with the interface that ipvlan would have made.
    fn with_interface(&self, pod: usize, mut result: Value) -> Value {
        if let (Subject::Registered, Place::Aws(at)) = (self.subject, &self.place) {
            let mac = at.lab.mac(at.eni(MASTER));
            let sandbox = self.pods[pod].netns.path();
            result["interfaces"] = json!([{"name": IFNAME, "mac": mac, "sandbox": sandbox}]);
            for ip in result["ips"].as_array_mut().into_iter().flatten() {
                ip["interface"] = json!(0);
            }
        }
        result
    }
}

fn place(subject: Subject) -> Place {
    let kind = match subject {
        Subject::Registered => "veth",
        Subject::RegisteredIpvlan => "dummy",
        Subject::Nic | Subject::BoundNic => return Place::Plain(Node::of_machine()),
        _ => return Place::Plain(Node::new()),
    };
    let lab = Lab::new();
    let vpc = lab.create_vpc("10.0.0.0/16");
    let own = lab.create_subnet(&vpc, "10.0.1.0/24", None);
    let pods = lab.create_subnet(&vpc, "10.0.4.0/22", Some("2001:db8:4::/64"));
    let mut at = AwsNode::new(Node::new(), &lab, TYPE, &own);
    at.add_master(MASTER, kind, &pods);
    Place::Aws(at)
}

/// A pod without duplicate address detection: the Go plugins would wait for it, and it is not
/// tested here.
fn pod(number: usize) -> Pod {
    let pod = Pod::new(&format!("c{number}"));
    let path = "/proc/sys/net/ipv6/conf/default/accept_dad";
    pod.netns
        .run(|| fs::write(path, "0").expect("the kernel has IPv6"));
    pod
}

fn succeeded(output: Output) -> Result<Value, Box<Output>> {
    if output.status == Some(0) {
        return Ok(output.ok());
    }
    Err(Box::new(output))
}
