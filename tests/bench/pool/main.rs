//! How long pods of several nodes wait for an address of one network when all come at
//! once: real processes of host-local and eni-sync, an agent with a pool on every node,
//! and EC2 simulated with its latencies and budgets.
//!
//! `pool-bench [NODES] [PODS]`, 4 nodes with 25 pods each unless told.

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use harness::eni_lab::{Buckets, CHANGE, LOOK};
use harness::vpc::{Agent, Vpc, VpcNode, eventually, prev_result};
use harness::{Call, Pod};
use serde_json::{Value, json};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number = |usual: usize| {
        let given = arguments.next();
        given.map_or(usual, |text| text.parse().expect("a number"))
    };
    let (nodes, pods) = (number(4), number(25));
    let vpc = Vpc::new();
    vpc.lab.rules(|rules| {
        rules.token_buckets = Some(Buckets::default());
        rules.latency = LOOK;
        for action in ["AssignPrivateIpAddresses", "UnassignPrivateIpAddresses"] {
            rules.latency_of.insert(action.to_owned(), CHANGE);
        }
    });
    let nodes: Vec<VpcNode> = (0..nodes).map(|_| vpc.node_of_type("c5.4xlarge")).collect();
    let agents: Vec<Agent> = nodes.iter().map(|node| start(node, pods)).collect();
    let before = vpc.lab.calls();
    let (times, addresses) = attach_all(&nodes, pods);
    println!(
        "{} pods of {} nodes at once, pools: {} different addresses, median {:.2} s, last {:.2} s",
        times.len(),
        nodes.len(),
        addresses.len(),
        times[times.len() / 2].as_secs_f64(),
        times[times.len() - 1].as_secs_f64()
    );
    println!("calls before: {before:?}");
    println!("calls after:  {:?}", vpc.lab.calls());
    drop(agents);
    drop(nodes);
}

/// An agent whose pool has an address for every pod, when it has filled it.
fn start(node: &VpcNode, pods: usize) -> Agent {
    let pool = json!({
        "name": "mgmt", "master": "ens6", "rangesFile": "/run/ranges.json", "low": 1, "high": pods,
        "ranges": [{ "start": "10.0.4.10", "end": "10.0.4.250" }],
    });
    let agent = Agent::start(node, &json!({ "pools": [pool], "reconcileSeconds": 3600 }));
    let is_full = || node.ledger().values().filter(|s| *s == "pooled").count() >= pods;
    assert!(eventually(is_full), "{}", agent.log());
    let is_written = || fs::read(node.run_directory().join("ranges.json")).is_ok();
    assert!(eventually(is_written), "{}", agent.log());
    agent
}

/// Attaches every pod of every node at once: how long each took, sorted, and what they
/// got.
fn attach_all(nodes: &[VpcNode], pods: usize) -> (Vec<Duration>, BTreeSet<String>) {
    let pods_of = |node: usize| (0..pods).map(move |n| Pod::new(&format!("n{node}-{n}")));
    let pods: Vec<Vec<Pod>> = (0..nodes.len()).map(|n| pods_of(n).collect()).collect();
    let began = Instant::now();
    let attached: Vec<(Duration, String)> = thread::scope(|scope| {
        let all = nodes.iter().zip(&pods);
        let all = all.flat_map(|(node, pods)| pods.iter().map(move |pod| (node, pod)));
        let attach = |(node, pod)| {
            scope.spawn(move || {
                let address = attach(node, pod);
                (began.elapsed(), address)
            })
        };
        let threads: Vec<_> = all.map(attach).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined
            .map(|attached| attached.expect("an ADD succeeds"))
            .collect()
    });
    let mut times: Vec<Duration> = attached.iter().map(|(time, _)| *time).collect();
    times.sort();
    (
        times,
        attached.into_iter().map(|(_, address)| address).collect(),
    )
}

/// One ADD of the network: host-local, then eni-sync.
fn attach(node: &VpcNode, pod: &Pod) -> String {
    let conf = json!({
        "cniVersion": "1.1.0", "name": "mgmt", "type": "ipvlan",
        "ipam": { "type": "host-local", "rangesFile": "/run/ranges.json" },
    });
    let call = Call::ours("host-local", "ADD").conf(&conf).pod(pod, "net1");
    let result: Value = node.run(&call).ok();
    let cidr = result["ips"][0]["address"].as_str().expect("an address");
    let address = cidr.split('/').next().unwrap_or_default().to_owned();
    let result = prev_result(pod, &[(&node.mac, &[&address])]);
    let keys = json!({ "prevResult": result });
    node.run(&node.conf_call("ADD", pod, &[], &keys)).ok();
    address
}
