//! A node of the story: two ENIs, the pods that live on it, and its agent while it has
//! one.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use harness::eni_lab::EniId;
use harness::{Call, Pod};
use serde_json::{Value, json};

use super::super::fixture::{Agent, AwsNode, Vpc, prev_result};

/// How many free addresses the agent's pool has at most.
pub(super) const HIGH: usize = 2;

/// How a pod got its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Network {
    /// It names them.
    Chained,
    /// host-local gives it one of the agent's pool.
    Pooled,
}

impl Network {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Chained => "mgmt",
            Self::Pooled => "pool",
        }
    }
}

/// A pod with a path of its own below `/run/netns`, as runtimes make them.
pub(super) struct Living {
    pub(super) pod: Pod,
    pub(super) network: Network,
    /// The number of the ENI that it is reached at.
    pub(super) eni: usize,
    pub(super) addresses: Vec<String>,
}

/// One node.
pub(super) struct Site {
    /// Dropped before the node that it runs on.
    pub(super) agent: Option<Agent>,
    pub(super) aws: AwsNode,
    pub(super) enis: [(EniId, String); 2],
    pub(super) pods: Vec<Living>,
    /// What was on the ENIs when the ledger was lost: nobody removes that by itself.
    pub(super) lost: BTreeSet<String>,
    /// How long addresses stay when their pods have ended, in seconds.
    cooldown: u64,
}

impl Site {
    pub(super) fn new(vpc: &Vpc, cooldown: u64) -> Self {
        let aws = vpc.node();
        let second = vpc.lab.multus_eni(&aws.instance, &vpc.pods);
        let enis = [aws.eni.clone(), second].map(|eni| (eni.clone(), vpc.lab.mac(&eni)));
        fs::create_dir(aws.run_directory().join("netns")).unwrap();
        Self {
            agent: None,
            aws,
            enis,
            pods: Vec::new(),
            lost: BTreeSet::new(),
            cooldown,
        }
    }

    /// A pod that is going to be attached.
    pub(super) fn start(&self, id: &str, eni: usize, network: Network) -> Living {
        let living = Living {
            pod: Pod::new(id),
            network,
            eni,
            addresses: Vec::new(),
        };
        self.show(&living);
        living
    }

    fn path(&self, living: &Living) -> PathBuf {
        self.aws.run_directory().join("netns").join(&living.pod.id)
    }

    /// The path of the pod's namespace leads to it.
    pub(super) fn show(&self, living: &Living) {
        fs::remove_file(self.path(living)).ok();
        symlink(living.pod.netns.path(), self.path(living)).unwrap();
    }

    /// The path is a file that is no namespace, as a mount that has not propagated is.
    pub(super) fn hide(&self, living: &Living) {
        fs::remove_file(self.path(living)).unwrap();
        fs::write(self.path(living), "").unwrap();
    }

    /// The pod ends, and its namespace with it.
    pub(super) fn end(&self, living: Living) {
        fs::remove_file(self.path(&living)).unwrap();
        drop(living);
    }

    pub(super) fn call(&self, command: &str, living: &Living) -> Call {
        let addresses: Vec<&str> = living.addresses.iter().map(String::as_str).collect();
        let mac = self.enis[living.eni].1.as_str();
        let cooldown = match living.network {
            Network::Chained => self.cooldown,
            Network::Pooled => 0,
        };
        let keys = json!({
            "name": living.network.name(),
            "cooldownSeconds": cooldown,
            "prevResult": prev_result(&living.pod, &[(mac, &addresses)]),
        });
        let call = self.aws.conf_call(command, &living.pod, &[], &keys);
        let netns = format!("/run/netns/{}", living.pod.id);
        call.env("CNI_NETNS", &netns)
    }

    /// host-local's part of a pod of the pool.
    pub(super) fn host_local(command: &str, pod: &Pod) -> Call {
        let conf = json!({
            "cniVersion": "1.1.0", "name": Network::Pooled.name(), "type": "ipvlan",
            "ipam": { "type": "host-local", "rangesFile": "/run/ranges.json" },
        });
        Call::ours("host-local", command)
            .conf(&conf)
            .pod(pod, "net1")
    }

    /// GC of a network, by eni-sync or by host-local.
    pub(super) fn gc_call(&self, program: &str, network: Network) -> Call {
        let of_network = self.pods.iter().filter(|living| living.network == network);
        let valid: Vec<Value> = of_network
            .map(|living| json!({ "containerID": living.pod.id, "ifname": "net1" }))
            .collect();
        let conf = json!({
            "cniVersion": "1.1.0", "name": network.name(), "type": program,
            "ipam": { "type": "host-local", "rangesFile": "/run/ranges.json" },
            "cni.dev/valid-attachments": valid,
        });
        match program {
            "host-local" => Call::ours(program, "GC").conf(&conf),
            _ => self.aws.call("GC").conf(&conf),
        }
    }

    /// Whether a pod of this node has an address.
    pub(super) fn has(&self, address: &str) -> bool {
        let mut addresses = self.pods.iter().flat_map(|living| &living.addresses);
        addresses.any(|other| other == address)
    }

    /// What is on the ENIs of this node.
    pub(super) fn addresses(&self) -> BTreeSet<String> {
        let enis = self.enis.iter();
        enis.flat_map(|(eni, _)| self.aws.addresses_of(eni))
            .collect()
    }

    /// Starts an agent that keeps a pool on the first ENI.
    pub(super) fn start_agent(&mut self) {
        let configuration = json!({ "reconcileSeconds": 2, "graceSeconds": 0, "pools": [{
            "name": Network::Pooled.name(), "master": "ens6", "rangesFile": "/run/ranges.json",
            "cooldownSeconds": 0, "low": 1, "high": HIGH,
            "ranges": [{ "start": "10.0.4.204", "end": "10.0.4.209" }],
        }] });
        self.agent = Some(Agent::start(&self.aws, &configuration));
    }

    /// Makes everything in the ledgers that much older; without an agent, which would
    /// write there meanwhile.
    pub(super) fn let_time_pass(&self, seconds: u64) {
        assert!(self.agent.is_none());
        for (eni, _) in &self.enis {
            self.aws.let_time_pass_at(eni, seconds);
        }
    }

    /// Forgets everything that this node knew of its ENIs.
    pub(super) fn lose_ledger(&mut self, unknown: BTreeSet<String>) {
        for (eni, _) in &self.enis {
            fs::remove_dir_all(self.aws.ledger_path_of(eni)).ok();
        }
        self.lost.extend(unknown);
    }
}
