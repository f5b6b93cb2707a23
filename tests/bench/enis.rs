//! eni-sync on a node of a simulated VPC: what a pod pays for it, and how that depends
//! on what the node has.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr};

use harness::vpc::{Agent, Vpc, VpcNode};
use harness::{Pod, our_plugin};
use serde_json::json;

use crate::count;
use crate::figure::{Figure, Report};
use crate::options::Effort;
use crate::process::{Cost, Process, cost_of_processes, run};
use crate::samples::{Limits, Party, Samples, Step};
use crate::store::Store;

/// How much more an ADD or a DEL may cost than one of host-local.
const LIKE_HOST_LOCAL: f64 = 1.1;
/// Only an AWS SDK that is not optimised makes the program so large, in bytes.
const UNOPTIMISED: u64 = 30 << 20;
/// The instance type with the most: 15 interfaces with 50 addresses, a primary one each.
const LARGE: &str = "c5n.18xlarge";
const SECONDARY_ENIS: usize = 14;
const SECONDARY_ADDRESSES: u32 = 49;
const PARTIES: [Party; 2] = [Party::Ours, Party::Reference];

/// The plugin hands its work to the agent of the node.
pub fn socket(effort: &Effort) -> Report {
    let vpc = Vpc::new();
    let node = vpc.node();
    let agent = Agent::start(&node, &json!({ "reconcileSeconds": 3600 }));
    let pod = Pod::new("pod");
    let store = Store::new("10.0.0.0/16");
    let call = |command| node.pod_call(command, &pod, &["10.0.4.20"]);
    let samples = Samples::take(&PARTIES, effort.rounds, |party| match party {
        Party::Reference => store.attach(Party::Ours),
        _ => node.node.inside(|| {
            let (add, _) = run(&call("ADD"));
            let (del, _) = run(&call("DEL"));
            vec![("ADD", add), ("DEL", del)]
        }),
    });
    let limits = Limits {
        cpu: Some(LIKE_HOST_LOCAL),
        wall: None,
    };
    let add = samples.beside_reference("ours, host-local", "ADD", limits);
    let del = samples.beside_reference("ours, host-local", "DEL", limits);
    let calls = node.node.inside(|| count::system_calls(&call("ADD")));
    let memory = node.node.inside(|| count::peak_memory(&call("DEL")));
    drop(agent);
    let counts = [
        Figure::new("ADD system calls", "", calls),
        Figure::new("DEL peak memory", "MB", memory),
    ];
    Report::of(add.into_iter().chain(del).chain(counts).map(as_built))
}

/// A node that has all that an instance can have, beside one with a single ENI.
pub fn full_node(effort: &Effort) -> Report {
    let rounds = effort.fewest().max(3);
    let mut vpc = Vpc::new();
    vpc.pods = vpc.lab.create_subnet(&vpc.id, "10.0.16.0/20", None);
    let full = Site::full(&vpc, rounds);
    let small = Site::new(vpc.node_of_type(LARGE), Ipv4Addr::new(10, 0, 30, 1));
    let of = |party| if party == Party::Ours { &full } else { &small };
    let samples = Samples::take(&PARTIES, rounds, |party| of(party).costs());
    let name = "ours, one ENI";
    let times = ["status", "ADD"];
    let times = times.map(|step| samples.beside_reference(name, step, Limits::default()));
    let [ours, other] = [&full, &small].map(Site::memory);
    let memory = Figure::new("ADD peak memory", "MB", ours).beside(name, other);
    Report::of(times.into_iter().flatten().chain([memory]).map(as_built))
}

/// A node and the addresses that its pods get.
struct Site {
    node: VpcNode,
    pod: Pod,
    next: Cell<Ipv4Addr>,
}

impl Site {
    fn new(node: VpcNode, first: Ipv4Addr) -> Self {
        Self {
            node,
            pod: Pod::new("pod"),
            next: Cell::new(first),
        }
    }

    /// A node whose ENIs are full, but for what `rounds` need.
    fn full(vpc: &Vpc, rounds: usize) -> Self {
        let node = vpc.node_of_type(LARGE);
        let others = (1..SECONDARY_ENIS).map(|_| vpc.lab.multus_eni(&node.instance, &vpc.pods));
        let others: Vec<_> = others.collect();
        let mut next = Ipv4Addr::new(10, 0, 20, 1);
        // Two more are for the warm-up and for the count.
        let spare = u32::try_from(rounds + 2).expect("there are few rounds");
        for (n, eni) in [&node.eni].into_iter().chain(&others).enumerate() {
            let count = SECONDARY_ADDRESSES - if n == 0 { spare } else { 0 };
            let addresses = (0..count).map(|n| Ipv4Addr::from_bits(next.to_bits() + n));
            let addresses: Vec<IpAddr> = addresses.map(IpAddr::V4).collect();
            vpc.lab.assign(eni, &addresses);
            next = Ipv4Addr::from_bits(next.to_bits() + count);
        }
        for (n, eni) in others.iter().enumerate() {
            let (name, mac) = (format!("ens{}", n + 7), vpc.lab.mac(eni));
            let veth = ["type", "veth", "peer", "name", &format!("vpc{n}")];
            let link = ["link", "add", &name, "address", &mac, "up"];
            node.node.netns.ip(&[&link[..], &veth].concat());
        }
        Self::new(node, Ipv4Addr::new(10, 0, 30, 101))
    }

    fn costs(&self) -> Vec<(Step, Cost)> {
        let call = self.next_call();
        self.node.node.inside(|| {
            let (add, _) = run(&call);
            let mut command = call.process();
            command.arg("status").env_remove("CNI_COMMAND");
            let (status, _) = cost_of_processes(|| Process::start(command, b"").end());
            vec![("ADD", add), ("status", status)]
        })
    }

    fn memory(&self) -> f64 {
        let call = self.next_call();
        self.node.node.inside(|| count::peak_memory(&call))
    }

    /// The ADD of an address that the pod's ENI has not had.
    fn next_call(&self) -> harness::Call {
        let address = self.next.get();
        self.next.set(Ipv4Addr::from_bits(address.to_bits() + 1));
        self.node
            .pod_call("ADD", &self.pod, &[&address.to_string()])
    }
}

/// Says of a figure when it is not that of the program which users install, to which the
/// target applies.
pub fn as_built(figure: Figure) -> Figure {
    let file = our_plugin("eni-sync").metadata();
    if file.expect("the plugin is there").len() < UNOPTIMISED {
        return figure;
    }
    Figure {
        what: format!("{} (unoptimised)", figure.what),
        target: None,
        ..figure
    }
}
