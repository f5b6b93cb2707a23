//! A simulated VPC and nodes in it, for all tests of eni-sync. At the end of every test, no rule
//! of the VPC may have been broken, and no secret may have appeared anywhere.

mod ledger;

use std::fs;
use std::net::IpAddr;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub use crate::Agent;
pub use crate::eni_lab::CANARY;
use crate::eni_lab::{EniId, Hold, InstanceId, Lab, SubnetId, VpcId};
use crate::{AwsNode, Call, Host, Node, Output, Pod};

/// The deadline for events that take milliseconds, on a very busy machine.
pub const DEADLINE: Duration = Duration::from_secs(180);

/// A VPC with a subnet for the nodes and one for pods, 10.0.4.0/24 and 2001:db8:4::/64.
pub struct Vpc {
    pub lab: Lab,
    pub id: VpcId,
    pub nodes: SubnetId,
    pub pods: SubnetId,
    is_strict: bool,
}

impl Vpc {
    pub fn new() -> Self {
        let lab = Lab::new();
        let id = lab.create_vpc("10.0.0.0/16");
        let nodes = lab.create_subnet(&id, "10.0.1.0/24", None);
        let pods = lab.create_subnet(&id, "10.0.4.0/24", Some("2001:db8:4::/64"));
        Self {
            lab,
            id,
            nodes,
            pods,
            is_strict: true,
        }
    }

    /// Permits the test to break the rules itself, like another user of the account.
    pub fn without_invariants(mut self) -> Self {
        self.is_strict = false;
        self
    }

    /// A node with a primary ENI and one for pods.
    pub fn node(&self) -> VpcNode {
        self.node_of_type("c5.large")
    }

    pub fn node_of_type(&self, instance_type: &str) -> VpcNode {
        let instance = self.lab.run_instance(instance_type, &self.nodes);
        let eni = self.lab.multus_eni(&instance, &self.pods);
        VpcNode::new(&self.lab, instance, eni)
    }

    /// A node whose ENI for pods is in another subnet.
    pub fn node_in(&self, subnet: &SubnetId) -> VpcNode {
        let instance = self.lab.run_instance("c5.large", &self.nodes);
        let eni = self.lab.multus_eni(&instance, subnet);
        VpcNode::new(&self.lab, instance, eni)
    }

    /// A node whose ENI for pods is at this network card and this device index on it.
    pub fn node_at(&self, instance_type: &str, place: (u32, u32)) -> VpcNode {
        let instance = self.lab.run_instance(instance_type, &self.nodes);
        let eni = self.eni_at(&instance, &self.pods, place);
        VpcNode::new(&self.lab, instance, eni)
    }

    /// An ENI for pods at a place like that.
    pub fn eni_at(&self, instance: &InstanceId, subnet: &SubnetId, place: (u32, u32)) -> EniId {
        let eni = self.lab.create_eni(subnet);
        self.lab
            .tag_eni(&eni, "node.k8s.amazonaws.com/no_manage", "true");
        self.lab.attach_eni_to_card(&eni, instance, place);
        eni
    }

    /// The ENI that has an address.
    pub fn owner(&self, address: &str) -> Option<EniId> {
        self.lab.owner(&self.id, address.parse().unwrap())
    }
}

impl Default for Vpc {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Vpc {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let malformed = self.lab.malformed_requests();
        assert!(malformed.is_empty(), "{malformed:#?}");
        if self.is_strict {
            let violations = self.lab.invariant_violations();
            assert!(violations.is_empty(), "{violations:#?}");
        }
    }
}

/// A node of the VPC that has one ENI for pods, whose link is `ens6`.
pub struct VpcNode {
    at: AwsNode,
    pub eni: EniId,
    pub mac: String,
}

impl VpcNode {
    fn new(lab: &Lab, instance: InstanceId, eni: EniId) -> Self {
        let at = AwsNode::of(Node::new(), lab, instance);
        let mac = lab.mac(&eni);
        at.node.netns.ip(&[
            "link", "add", "ens6", "address", &mac, "up", "type", "veth", "peer", "name", "vpc",
        ]);
        Self { at, eni, mac }
    }

    /// Makes `dev7`, a device of the node that is not an ENI.
    pub fn add_device(&self) {
        self.node.netns.ip(&[
            "link", "add", "dev7", "type", "veth", "peer", "name", "peer7",
        ]);
    }

    /// A call that reaches the simulated AWS.
    pub fn call(&self, command: &str) -> Call {
        let call = Call::ours("eni-sync", command);
        let environment = self.environment().into_iter();
        environment.fold(call, |call, (name, value)| call.env(&name, &value))
    }

    /// A call about a pod whose net1 on this node's ENI has `addresses`.
    pub fn pod_call(&self, command: &str, pod: &Pod, addresses: &[&str]) -> Call {
        self.conf_call(command, pod, addresses, &json!({}))
    }

    /// Such a call, with more keys in the configuration.
    pub fn conf_call(&self, command: &str, pod: &Pod, addresses: &[&str], keys: &Value) -> Call {
        let mut conf = json!({ "cniVersion": "1.1.0", "name": "mgmt", "type": "eni-sync" });
        conf["prevResult"] = prev_result(pod, &[(&self.mac, addresses)]);
        for (key, value) in keys.as_object().into_iter().flatten() {
            conf[key] = value.clone();
        }
        self.call(command).conf(&conf).pod(pod, "net1")
    }

    /// Runs a call on this node; no secret may be in what it prints.
    #[track_caller]
    pub fn run(&self, call: &Call) -> Output {
        let output = self.node.run(call);
        let printed = output.to_string();
        assert!(!printed.contains(CANARY), "a secret was printed\n{printed}");
        output
    }

    /// Runs a command of an operator on this node.
    #[track_caller]
    pub fn command(&self, arguments: &[&str]) -> Output {
        self.command_with(&self.call(""), arguments)
    }

    /// Runs a command of an operator with the environment of a call.
    #[track_caller]
    pub fn command_with(&self, call: &Call, arguments: &[&str]) -> Output {
        let call = call.clone().without("CNI_COMMAND");
        let mut process = call.process();
        process.args(arguments);
        let output = self.node.inside(|| call.run_as(process));
        let printed = output.to_string();
        assert!(!printed.contains(CANARY), "a secret was printed\n{printed}");
        output
    }

    #[track_caller]
    pub fn add(&self, pod: &Pod, addresses: &[&str]) -> Output {
        self.run(&self.pod_call("ADD", pod, addresses))
    }

    #[track_caller]
    pub fn check(&self, pod: &Pod, addresses: &[&str]) -> Output {
        self.run(&self.pod_call("CHECK", pod, addresses))
    }

    #[track_caller]
    pub fn del(&self, pod: &Pod) {
        self.run(&self.pod_call("DEL", pod, &[])).ok();
    }

    /// GC of the network `mgmt`, with only these attachments as valid ones.
    pub fn gc_call(&self, valid: &[&Pod]) -> Call {
        let valid: Vec<Value> = valid
            .iter()
            .map(|pod| json!({ "containerID": pod.id, "ifname": "net1" }))
            .collect();
        let conf = json!({
            "cniVersion": "1.1.0", "name": "mgmt", "type": "eni-sync", "cni.dev/valid-attachments": valid,
        });
        self.call("GC").conf(&conf)
    }

    #[track_caller]
    pub fn gc(&self, valid: &[&Pod]) {
        self.run(&self.gc_call(valid)).ok();
    }

    /// Adds a pod for each address; all start during the call for the first one. `meanwhile` is
    /// called when all of them wait. Returns the outputs in the order of the addresses,
    /// including the first.
    pub fn add_behind_one(&self, addresses: &[&str], meanwhile: impl FnOnce()) -> Vec<Output> {
        let action = "AssignPrivateIpAddresses";
        let name = |address: &&str| Pod::new(&format!("of-{}", address.replace(':', "-")));
        let pods: Vec<Pod> = addresses.iter().map(name).collect();
        let calls = self.lab.calls().get(action).copied().unwrap_or_default();
        self.lab.hold(action, Hold::BeforeCommit);
        thread::scope(|scope| {
            let add = |number: usize| {
                let call = self.pod_call("ADD", &pods[number], &[addresses[number]]);
                scope.spawn(move || self.run(&call))
            };
            let first = add(0);
            assert!(self.lab.wait_for_call(action, calls + 1, DEADLINE));
            let others: Vec<_> = (1..addresses.len()).map(add).collect();
            let count = || self.ledger().values().filter(|s| *s == "claiming").count();
            assert!(
                eventually(|| count() == addresses.len()),
                "{:?}",
                self.ledger()
            );
            meanwhile();
            self.lab.release_held();
            let all = [first].into_iter().chain(others);
            all.map(|add| add.join().unwrap()).collect()
        })
    }

    /// The secondary addresses of this node's ENI.
    pub fn addresses(&self) -> Vec<String> {
        self.addresses_of(&self.eni)
    }

    pub fn addresses_of(&self, eni: &EniId) -> Vec<String> {
        let addresses = self.lab.addresses(eni);
        addresses.iter().map(IpAddr::to_string).collect()
    }
}

impl Deref for VpcNode {
    type Target = AwsNode;

    fn deref(&self) -> &AwsNode {
        &self.at
    }
}

impl DerefMut for VpcNode {
    fn deref_mut(&mut self) -> &mut AwsNode {
        &mut self.at
    }
}

impl Host for VpcNode {
    fn node(&self) -> &Node {
        &self.node
    }

    fn run_directory(&self) -> &Path {
        self.at.run_directory()
    }

    fn eni_sync(&self) -> Call {
        self.call("").without("CNI_COMMAND")
    }
}

impl Drop for VpcNode {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_no_secret(self.node.state());
            assert_no_secret(self.at.run_directory());
        }
    }
}

/// A call of host-device that gives a pod this device of the node.
pub fn device_call(command: &str, network: &str, device: &str, pod: &Pod) -> Call {
    let conf = json!({
        "cniVersion": "1.1.0", "name": network, "type": "host-device", "device": device,
    });
    Call::ours("host-device", command)
        .conf(&conf)
        .pod(pod, "net1")
}

/// Parses an address.
pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn assert_no_secret(directory: &Path) {
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            assert_no_secret(&entry.path());
        } else if kind.is_file() {
            let text = fs::read(entry.path()).unwrap();
            let text = String::from_utf8_lossy(&text);
            assert!(!text.contains(CANARY), "{:?} has a secret", entry.path());
        }
    }
}

/// The result of a plugin that has given the pod addresses on interfaces with these MAC
/// addresses: net1, net2 and so on.
pub fn prev_result(pod: &Pod, interfaces: &[(&str, &[&str])]) -> Value {
    let mut result = json!({ "cniVersion": "1.1.0", "interfaces": [], "ips": [], "dns": {} });
    for (number, (mac, addresses)) in interfaces.iter().enumerate() {
        let name = format!("net{}", number + 1);
        let interface = json!({ "name": name, "mac": mac, "sandbox": pod.netns.path() });
        result["interfaces"].as_array_mut().unwrap().push(interface);
        for address in *addresses {
            let prefix = if address.contains(':') { 64 } else { 24 };
            let ip = json!({ "address": format!("{address}/{prefix}"), "interface": number });
            result["ips"].as_array_mut().unwrap().push(ip);
        }
    }
    result
}

/// Whether EC2 has received no request to change anything.
pub fn is_unchanged(node: &VpcNode) -> bool {
    let calls = node.lab.calls();
    calls.keys().all(|action| action.starts_with("Describe"))
}

/// Checks that a call fails with this code, that its error contains all of `said`, and that it
/// changes nothing.
#[track_caller]
pub fn assert_refused(node: &VpcNode, call: &Call, code: u64, said: &[&str]) {
    let output = node.run(call);
    let error = output.error_code(code);
    for said in said {
        let text = format!("{}: {}", error.msg, error.details);
        assert!(text.contains(said), "{said:?} is not said\n{output}");
    }
    assert!(is_unchanged(node), "{:?}", node.lab.calls());
}

/// Calls a function that makes a call of this action, and `meanwhile` while EC2 holds the call.
/// Returns the results of both.
pub fn while_held<T: Send, U>(
    lab: &Lab,
    (action, hold): (&str, Hold),
    run: impl FnOnce() -> T + Send,
    meanwhile: impl FnOnce() -> U,
) -> (T, U) {
    lab.hold(action, hold);
    thread::scope(|scope| {
        let running = scope.spawn(run);
        assert!(lab.wait_until(DEADLINE, |lab| lab.held() == 1));
        let done = meanwhile();
        lab.release_held();
        (running.join().unwrap(), done)
    })
}

/// Whether `condition` becomes true before the deadline.
pub fn eventually(condition: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
    true
}
