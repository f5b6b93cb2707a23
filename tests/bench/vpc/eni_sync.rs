//! eni-sync on a node, called as a runtime calls it: a process for each command, with
//! and without an agent.

use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use harness::eni_lab::EniId;
use harness::{AwsNode, Call, Node, Pod};
use serde_json::{Value, json};

use crate::measure::Outcome;
use crate::world::{INSTANCE_TYPE, Place, World};

/// The cool-down has no influence on how many calls there are, only on when.
const COOLDOWN: Duration = Duration::from_secs(2);
/// How long an agent may take to start.
const PATIENCE: Duration = Duration::from_secs(60);
/// An agent that sends nothing for so long has settled.
const CALM: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A node with the pods that will be attached.
#[derive(Debug)]
pub struct SyncNode {
    at: AwsNode,
    pub enis: Vec<EniId>,
    pods: Vec<Pod>,
}

impl SyncNode {
    pub fn new(world: &World, places: &[Place]) -> Self {
        let at = AwsNode::new(
            Node::new(),
            &world.lab,
            INSTANCE_TYPE,
            &world.primary_subnet,
        );
        let pod = |place: &Place| Pod::new(&format!("node{}-pod{}", place.node, place.number));
        Self {
            enis: world.attach_enis(&at.instance),
            at,
            pods: places.iter().map(pod).collect(),
        }
    }

    /// Starts the agent of the node, which ends when the value is dropped.
    pub fn start_agent(&self, configuration: &Value) -> Agent<'_> {
        let path = self.at.run_directory().join("agent.json");
        std::fs::write(path, configuration.to_string()).expect("the node can be written");
        let call = Call::ours("eni-sync", "").without("CNI_COMMAND");
        let mut command = call.process();
        command.args(["agent", "--config", "/run/agent.json"]);
        command.stdin(Stdio::null());
        // It writes down every request.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Agent {
            node: self,
            process: self.at.node.spawn(command),
        }
    }

    fn conf(network: usize) -> Value {
        json!({
            "cniVersion": "1.1.0", "name": format!("network-{network}"), "type": "eni-sync",
            "cooldownSeconds": COOLDOWN.as_secs(),
        })
    }

    pub fn add(&self, place: &Place) -> Outcome {
        let pod = &self.pods[place.number];
        let mac = self.at.lab.mac(&self.enis[place.network]);
        let mut conf = Self::conf(place.network);
        conf["prevResult"] = json!({
            "cniVersion": "1.1.0",
            "interfaces": [{ "name": "net1", "mac": mac, "sandbox": pod.netns.path() }],
            "ips": [{ "address": format!("{}/20", place.address), "interface": 0 }],
        });
        self.run(&Call::ours("eni-sync", "ADD").pod(pod, "net1").conf(&conf))
    }

    pub fn del(&self, place: &Place) -> Outcome {
        let pod = &self.pods[place.number];
        let conf = Self::conf(place.network);
        self.run(&Call::ours("eni-sync", "DEL").pod(pod, "net1").conf(&conf))
    }

    /// Makes the interfaces of pods, which share the MAC address of their ENI, as ipvlan does.
    pub fn make_interfaces(&self, places: &[Place]) {
        for place in places {
            let pod = &self.pods[place.number];
            let mac = self.at.lab.mac(&self.enis[place.network]);
            pod.netns.ip(&[
                "link", "add", "below", "type", "veth", "peer", "name", "far",
            ]);
            pod.netns.ip(&[
                "link", "add", "net1", "link", "below", "address", &mac, "type", "macvlan",
            ]);
        }
    }

    /// What ipvlan asks of its IPAM plugin for a network without addresses.
    fn choosing(network: usize) -> Value {
        json!({
            "cniVersion": "1.1.0", "name": format!("network-{network}"), "type": "ipvlan",
            "ipam": { "type": "eni-sync", "cooldownSeconds": COOLDOWN.as_secs() },
        })
    }

    /// A pod gets what EC2 chooses.
    pub fn choose(&self, place: &Place) -> Outcome {
        let pod = &self.pods[place.number];
        let conf = Self::choosing(place.network);
        self.run(&Call::ours("eni-sync", "ADD").pod(pod, "net1").conf(&conf))
    }

    /// Ends it.
    pub fn end_chosen(&self, place: &Place) -> Outcome {
        let pod = &self.pods[place.number];
        let conf = Self::choosing(place.network);
        self.run(&Call::ours("eni-sync", "DEL").pod(pod, "net1").conf(&conf))
    }

    /// GC of every network when the cool-down is over.
    pub fn gc(&self) {
        // The ledger counts whole seconds.
        sleep(COOLDOWN + Duration::from_secs(1));
        for network in 0..self.enis.len() {
            let mut conf = Self::conf(network);
            conf["cni.dev/valid-attachments"] = json!([]);
            if let Err(code) = self.run(&Call::ours("eni-sync", "GC").conf(&conf)) {
                eprintln!("GC: {code}");
            }
        }
    }

    fn run(&self, call: &Call) -> Outcome {
        let output = self.at.node.run(call);
        match output.status {
            Some(0) => Ok(()),
            _ => {
                let error = output.error();
                Err(format!("{} ({})", error.msg, error.details))
            }
        }
    }
}

/// The agent of a node.
#[derive(Debug)]
pub struct Agent<'a> {
    node: &'a SyncNode,
    process: Child,
}

impl Agent<'_> {
    /// Waits until the agent has done what it does when a node starts.
    pub fn await_calm(&self) {
        self.await_socket();
        let lab = &self.node.at.lab;
        let mut before = lab.calls();
        loop {
            sleep(CALM);
            let calls = lab.calls();
            if calls == before {
                return;
            }
            before = calls;
        }
    }

    fn await_socket(&self) {
        let socket = self.node.at.run_directory().join("eni-cni/agent.sock");
        let deadline = Instant::now() + PATIENCE;
        while !socket.exists() {
            assert!(Instant::now() < deadline, "the agent does not start");
            sleep(LOOK_AGAIN);
        }
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        // It may have ended already, which the figures show.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
