//! A node of the story: four ENIs on two network cards, the pods that live on it, and its agent while it has
//! one.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use harness::eni_lab::{EniId, Limits, SubnetId};
use harness::vpc::{Agent, Vpc, VpcNode, prev_result};
use harness::{Call, Pod};
use serde_json::{Value, json};

use super::super::ipam::{self, share};

/// How many free addresses the agent's pool has at most.
pub(super) const HIGH: usize = 2;
/// The same of its free prefixes of a family.
pub(super) const PREFIXES: usize = 1;
/// The ENI of the network without addresses, whose agent keeps a prefix there.
pub(super) const CHOSEN: usize = 2;
/// The ENI in a subnet for IPv6 only, of the same network.
pub(super) const IPV6_ONLY: usize = 3;
/// The network card and the device index of those that are not on the first card. What has the
/// index of the primary ENI there is none.
const ON_SECOND_CARD: [(u32, u32); 2] = [(1, 0), (1, 1)];
/// Has two network cards in this test.
const INSTANCE_TYPE: &str = "m5.xlarge";
/// The networks of a node.
pub(super) const NETWORKS: [Network; 4] = [
    Network::Chained,
    Network::Pooled,
    Network::Listed,
    Network::Chosen,
];
/// The files by which host-local gives addresses of the agent's pools: that of the pool with ranges,
/// and that of the pool of prefixes.
pub(super) const RANGES: &str = "ranges.json";
pub(super) const LISTED: &str = "listed.json";

/// How a pod got its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Network {
    /// It names them.
    Chained,
    /// host-local gives it one of the agent's pool.
    Pooled,
    /// host-local gives it one of the prefixes of the agent's other pool.
    Listed,
    /// A pod of the same network to whom eni-sync is not chained.
    Unchained,
    /// It gets one of a prefix that is on the ENI, or what EC2 chooses.
    Chosen,
}

impl Network {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Chained => "mgmt",
            Self::Pooled => "pool",
            Self::Listed | Self::Unchained => "listed",
            Self::Chosen => "chosen",
        }
    }

    /// The ranges file of its host-local.
    pub(super) fn file(self) -> Option<&'static str> {
        match self {
            Self::Pooled => Some(RANGES),
            Self::Listed | Self::Unchained => Some(LISTED),
            Self::Chained | Self::Chosen => None,
        }
    }

    /// The ENI of a network whose host-local has a ranges file.
    pub(super) fn eni(self) -> usize {
        match self {
            Self::Listed | Self::Unchained => CHOSEN,
            _ => 0,
        }
    }

    fn ipam(self) -> Value {
        match self.file() {
            Some(file) => json!({ "type": "host-local", "rangesFile": format!("/run/{file}") }),
            None => json!({ "type": "eni-sync" }),
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
    /// The families that EC2 chooses of.
    pub(super) families: &'static [&'static str],
}

/// One node.
pub(super) struct Site {
    /// Dropped before the node that it runs on.
    pub(super) agent: Option<Agent>,
    pub(super) aws: VpcNode,
    pub(super) enis: [(EniId, String); 4],
    /// What is on the ENIs from the beginning: the one for IPv6 has an address of its own.
    pub(super) own: BTreeSet<String>,
    pub(super) pods: Vec<Living>,
    /// What was on the ENIs when the ledger was lost: nobody removes that by itself.
    pub(super) lost: BTreeSet<String>,
    /// Whether it was lost since host-local's files were written anew: an operator may release
    /// a prefix then of which nobody knows that a file has it.
    pub(super) is_forgetful: bool,
    /// How long addresses stay when their pods have ended, in seconds.
    cooldown: u64,
}

impl Site {
    /// The third ENI and the fourth are in subnets that no other test has.
    pub(super) fn new(vpc: &Vpc, subnets: [&SubnetId; 2], cooldown: u64) -> Self {
        let limits = Limits {
            interfaces: 8,
            ipv4: 15,
            ipv6: 15,
            cards: 2,
        };
        vpc.lab.rules(|rules| {
            let limits_of = &mut rules.limit_overrides;
            limits_of.insert(INSTANCE_TYPE.to_owned(), limits);
        });
        let aws = vpc.node_of_type(INSTANCE_TYPE);
        let [second, fourth] = ON_SECOND_CARD;
        let second = vpc.eni_at(&aws.instance, &vpc.pods, second);
        let third = vpc.lab.multus_eni(&aws.instance, subnets[0]);
        let fourth = vpc.eni_at(&aws.instance, subnets[1], fourth);
        let enis = [aws.eni.clone(), second, third, fourth];
        let own = enis.iter().flat_map(|eni| aws.addresses_of(eni)).collect();
        let enis = enis.map(|eni| (eni.clone(), vpc.lab.mac(&eni)));
        // Where an ENI has no interface, a pod may have it as a whole.
        for (number, name) in [(CHOSEN, "ens8"), (IPV6_ONLY, "ens9")] {
            let (mac, far) = (&enis[number].1, format!("far-{name}"));
            aws.node.netns.ip(&[
                "link", "add", name, "address", mac, "up", "type", "veth", "peer", "name", &far,
            ]);
        }
        fs::create_dir(aws.run_directory().join("netns")).unwrap();
        Self {
            agent: None,
            aws,
            enis,
            own,
            pods: Vec::new(),
            lost: BTreeSet::new(),
            is_forgetful: false,
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
            families: &["ipv4"],
        };
        if network == Network::Chosen {
            share(&self.enis[eni].1, &living.pod);
        }
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
        if living.network == Network::Chosen {
            return self.chosen_call(command, living);
        }
        let cooldown = match living.network {
            Network::Pooled => 0,
            _ => self.cooldown,
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

    /// What the plugin asks that has made the interface of a pod.
    fn chosen_call(&self, command: &str, living: &Living) -> Call {
        let addresses: Vec<&str> = living.addresses.iter().map(String::as_str).collect();
        let mac = self.enis[living.eni].1.as_str();
        let ipam = json!({
            "families": living.families, "cooldownSeconds": self.cooldown,
        });
        let mut keys = json!({ "name": living.network.name() });
        if command == "CHECK" {
            keys["prevResult"] = prev_result(&living.pod, &[(mac, &addresses)]);
        }
        let call = ipam::call_with(&self.aws, command, &living.pod, &ipam, &keys);
        call.env("CNI_NETNS", &format!("/run/netns/{}", living.pod.id))
    }

    /// host-local's part of a pod of a pool.
    pub(super) fn host_local(command: &str, living: &Living) -> Call {
        let conf = json!({
            "cniVersion": "1.1.0", "name": living.network.name(), "type": "ipvlan",
            "ipam": living.network.ipam(),
        });
        Call::ours("host-local", command)
            .conf(&conf)
            .pod(&living.pod, "net1")
    }

    /// GC of a network, by each of its plugins that has something to do.
    pub(super) fn gc_calls(&self, network: Network) -> Vec<Call> {
        let programs: &[&str] = match network {
            Network::Chosen => &["eni-sync"],
            _ => &["host-local", "eni-sync"],
        };
        let call = |program: &&str| self.gc_call(program, network);
        programs.iter().map(call).collect()
    }

    /// The same of one plugin.
    pub(super) fn gc_call(&self, program: &str, network: Network) -> Call {
        let is_of = |living: &&Living| living.network.name() == network.name();
        let of_network = self.pods.iter().filter(is_of);
        let valid: Vec<Value> = of_network
            .map(|living| json!({ "containerID": living.pod.id, "ifname": "net1" }))
            .collect();
        let conf = json!({
            "cniVersion": "1.1.0", "name": network.name(), "type": program, "ipam": network.ipam(),
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

    /// What has come to the ENIs of this node.
    pub(super) fn addresses(&self) -> BTreeSet<String> {
        let enis = self.enis.iter();
        enis.flat_map(|(eni, _)| self.aws.addresses_of(eni))
            .filter(|address| !self.own.contains(address))
            .collect()
    }

    /// Starts an agent that keeps a pool on the first ENI, and on the others a prefix for networks
    /// without addresses and one for host-local.
    pub(super) fn start_agent(&mut self) {
        let prefixes = json!({
            "ipv4": { "low": 1, "high": PREFIXES }, "ipv6": PREFIXES, "master": "ens8", "cooldownSeconds": 0,
        });
        let pool = json!({
            "name": Network::Pooled.name(), "master": "ens6", "rangesFile": format!("/run/{RANGES}"),
            "cooldownSeconds": 0, "low": 1, "high": HIGH,
            "ranges": [{ "start": "10.0.4.204", "end": "10.0.4.209" }],
        });
        let of_prefixes = json!({
            "name": Network::Listed.name(), "master": "ens8", "rangesFile": format!("/run/{LISTED}"),
            "cooldownSeconds": 0, "prefixes": { "ipv4": { "low": 1, "high": PREFIXES } },
        });
        let configuration = json!({
            "reconcileSeconds": 2, "graceSeconds": 0, "prefixes": prefixes,
            "pools": [pool, of_prefixes],
        });
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
        self.is_forgetful = true;
    }
}
