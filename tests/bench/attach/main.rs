//! How many calls `eni-sync attach` makes, and how long it takes, when many nodes start at the
//! same moment and share the account's budget of EC2 calls: eni-lab refuses calls as EC2 does,
//! and takes as long as EC2 takes.
//!
//! Each node is a process, as on a real node. All of them are started and wait for the lock of
//! their node's ENIs before any of them may begin, so that the start of hundreds of processes on
//! a small machine does not spread their calls.

mod barrier;
mod report;

use std::process::{Child, Output, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use harness::eni_lab::{Buckets, CHANGE, LOOK, Lab, SubnetId};
use harness::{AwsNode, Host, Node};
use serde_json::{Value, json};

use crate::barrier::Barrier;
use crate::report::Report;

const CHANGES: [&str; 3] = [
    "CreateNetworkInterface",
    "AttachNetworkInterface",
    "ModifyNetworkInterfaceAttribute",
];

/// Measures `eni-sync attach` on many nodes that start at the same moment.
#[derive(Clone, Copy, Debug, Parser)]
#[command(name = "attach-bench", version)]
struct Options {
    /// Nodes, which share the account's budget of calls.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1000))]
    nodes: u32,
    /// ENIs that each node is to have.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=3))]
    enis: u32,
}

/// How a node's `attach` has ended, and how long after the start.
struct Ended {
    output: Output,
    after: Duration,
}

fn main() {
    let options = Options::parse();
    let site = Site::new();
    let nodes: Vec<AwsNode> = (0..options.nodes).map(|_| site.node()).collect();
    let configuration = Site::configuration(options.enis);
    let barrier = Barrier::new(&nodes);
    let children = nodes.iter().map(|node| start(node, &configuration));
    let children: Vec<Child> = children.collect();
    barrier.await_all(&children);
    let began = Instant::now();
    barrier.open();
    let (tell, hear) = mpsc::channel();
    for child in children {
        let tell = tell.clone();
        thread::spawn(move || {
            let output = child.wait_with_output().expect("it is a child");
            let after = began.elapsed();
            // The other end lives as long as any of these.
            tell.send(Ended { output, after }).ok();
        });
    }
    drop(tell);
    let (ended, most_calls) = watch(&site.lab, &hear);
    let report = Report {
        nodes: options.nodes,
        enis: options.enis,
        ended: &ended,
        most_calls,
    };
    report.print(&site.lab);
}

fn start(node: &AwsNode, configuration: &Value) -> Child {
    let path = node.run_directory().join("eni-sync.json");
    std::fs::write(path, configuration.to_string()).expect("it can be written");
    let arguments = ["attach", "--config", "/run/eni-sync.json", "--json"];
    let mut process = node.eni_sync().arguments(&arguments).process();
    process.stdin(Stdio::null());
    process.stdout(Stdio::piped()).stderr(Stdio::piped());
    node.node.spawn(process)
}

/// Waits for all nodes: how each has ended, and how many calls there were in the second with the
/// most of them.
fn watch(lab: &Lab, hear: &Receiver<Ended>) -> (Vec<Ended>, u64) {
    const SECOND: Duration = Duration::from_secs(1);
    let (mut ended, mut most, mut before) = (Vec::new(), 0, 0);
    let mut next = Instant::now() + SECOND;
    loop {
        match hear.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(one) => ended.push(one),
            Err(RecvTimeoutError::Timeout) => {
                let calls = lab.calls().values().sum();
                most = most.max(calls - before);
                before = calls;
                next += SECOND;
            }
            Err(RecvTimeoutError::Disconnected) => return (ended, most),
        }
    }
}

/// A VPC with a subnet for pods, in an account with EC2's budgets.
struct Site {
    lab: Lab,
    nodes: SubnetId,
}

impl Site {
    fn new() -> Self {
        let lab = Lab::new();
        let vpc = lab.create_vpc("10.0.0.0/16");
        let nodes = lab.create_subnet(&vpc, "10.0.0.0/20", None);
        let pods = lab.create_subnet(&vpc, "10.0.16.0/20", None);
        lab.tag_subnet(&pods, "role", "pods");
        lab.create_security_group(&vpc, "role", "pods");
        lab.rules(|rules| {
            rules.latency = LOOK;
            rules.latency_of = CHANGES.map(|action| (action.to_owned(), CHANGE)).into();
            rules.token_buckets = Some(Buckets::default());
        });
        Self { lab, nodes }
    }

    /// A node with its primary ENI only. No device follows its ENIs.
    fn node(&self) -> AwsNode {
        AwsNode::new(Node::new(), &self.lab, "m5.xlarge", &self.nodes)
    }

    /// By tags, as it is written for nodes of all zones: that costs the most calls.
    fn configuration(enis: u32) -> Value {
        let wanted = json!({
            "name": "user", "count": enis,
            "subnets": {"tags": {"role": "pods"}},
            "securityGroups": {"tags": {"role": "pods"}},
        });
        json!({"links": false, "enis": [wanted]})
    }
}
