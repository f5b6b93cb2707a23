//! What a node pays for eni-sync: the memory of its agent, and the time from a node without ENIs for
//! pods to its first pod.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use harness::eni_lab::{CHANGE, DataPlane, LOOK, Lab, Names};
use harness::vpc::{Agent, Vpc, eventually};
use harness::{AwsNode, Call, Host, Node, Pod};
use serde_json::{Value, json};

use crate::enis::as_built;
use crate::figure::{Figure, Report};
use crate::options::Effort;

/// How many addresses the agent's node has, besides the primary ones.
const ADDRESSES: u32 = 1000;
/// The most addresses of a family on an ENI of the instance type, besides the primary one.
const OF_FAMILY: u32 = 49;
const LARGE: &str = "c5n.18xlarge";
/// The most memory of the agent, in MB.
const MEMORY: f64 = 16.0;
/// The longest time to the first pod, in ms.
const FIRST_POD: f64 = 15_000.0;
const CHANGES: [&str; 4] = [
    "CreateNetworkInterface",
    "AttachNetworkInterface",
    "ModifyNetworkInterfaceAttribute",
    "AssignPrivateIpAddresses",
];

/// An agent whose ledger has as many addresses as a large node has pods.
pub fn agent(_: &Effort) -> Report {
    let mut vpc = Vpc::new();
    vpc.pods = vpc
        .lab
        .create_subnet(&vpc.id, "10.0.16.0/20", Some("2001:db8:16::/64"));
    let node = vpc.node_of_type(LARGE);
    let mut left = ADDRESSES;
    let mut first = 1;
    let mut enis = vec![node.eni.clone()];
    while left > 0 {
        let eni = match enis.pop() {
            Some(eni) => eni,
            None => vpc.lab.multus_eni(&node.instance, &vpc.pods),
        };
        for of_number in [ipv4, ipv6] {
            let count = left.min(OF_FAMILY);
            let addresses: Vec<IpAddr> = (first..first + count).map(of_number).collect();
            vpc.lab.assign(&eni, &addresses);
            left -= count;
        }
        first += OF_FAMILY;
    }
    let agent = Agent::start(&node, &json!({ "links": false }));
    let entries = || {
        node.command(&["status", "--json"])
            .stdout
            .matches("\"adopted\"")
            .count()
    };
    assert!(
        eventually(|| entries() >= ADDRESSES as usize),
        "the ledger has {} addresses\n{}",
        entries(),
        agent.log()
    );
    let status = fs::read_to_string(format!("/proc/{}/status", agent.id()));
    let status = status.expect("the agent runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|peak| peak.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    let peak = peak.expect("the kernel says the most memory") * 1024.0 / 1e6;
    let figure = Figure::new("peak memory, 1,000 addresses", "MB", peak).at_most(MEMORY);
    Report::of([as_built(figure)])
}

fn ipv4(number: u32) -> IpAddr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 20, 0).to_bits() + number).into()
}

fn ipv6(number: u32) -> IpAddr {
    let first = Ipv6Addr::new(0x2001, 0xdb8, 0x16, 0, 1, 0, 0, 0);
    Ipv6Addr::from_bits(first.to_bits() + u128::from(number)).into()
}

/// `attach` on a node without an ENI for pods, and then a pod of a network without addresses.
pub fn first_pod(effort: &Effort) -> Report {
    let lab = Lab::new();
    let vpc = lab.create_vpc("10.0.0.0/16");
    let nodes = lab.create_subnet(&vpc, "10.0.1.0/24", None);
    let pods = lab.create_subnet(&vpc, "10.0.4.0/24", None);
    lab.tag_subnet(&pods, "role", "pods");
    lab.create_security_group(&vpc, "role", "pods");
    let plane = DataPlane::new(&lab, &vpc);
    lab.rules(|rules| {
        rules.latency = LOOK;
        rules.latency_of = CHANGES.map(|action| (action.to_owned(), CHANGE)).into();
    });
    let mut times: Vec<f64> = (0..effort.fewest().max(3))
        .map(|_| {
            let node = AwsNode::new(Node::new(), &lab, "m5.xlarge", &nodes);
            plane.connect(&node.instance, &node.node.netns, Names::Ens);
            attach_and_add(&node)
        })
        .collect();
    times.sort_unstable_by(f64::total_cmp);
    let figure = Figure::new("attach and first pod, wall", "ms", times[times.len() / 2]);
    Report::of([as_built(figure.at_most(FIRST_POD))])
}

/// How long it takes from the start of `attach` until a pod has an address that EC2 has given, in ms.
fn attach_and_add(node: &AwsNode) -> f64 {
    let path = node.run_directory().join("eni-sync.json");
    fs::write(&path, enis().to_string()).expect("it can be written");
    let pod = Pod::new("c1");
    let began = Instant::now();
    let arguments = ["attach", "--config", "/run/eni-sync.json"];
    let attached = node
        .node
        .inside(|| node.eni_sync().arguments(&arguments).run());
    assert_eq!(attached.status, Some(0), "{attached}");
    let result = node.node.run(&add(&pod)).ok();
    let after = began.elapsed();
    assert!(result["ips"][0]["address"].is_string(), "{result:#}");
    after.as_secs_f64() * 1e3
}

fn enis() -> Value {
    json!({"enis": [{
        "name": "pods", "count": 1,
        "subnets": {"tags": {"role": "pods"}},
        "securityGroups": {"tags": {"role": "pods"}},
    }]})
}

fn add(pod: &Pod) -> Call {
    let network = json!({
        "cniVersion": "1.0.0", "name": "pods", "type": "host-device", "device": "ens6",
        "ipam": {"type": "eni-sync"},
    });
    Call::ours("host-device", "ADD")
        .pod(pod, "net1")
        .conf(&network)
}
