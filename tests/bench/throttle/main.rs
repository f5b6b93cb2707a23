//! How many pods of how many nodes get their address, and when, while the account's
//! budget of EC2 calls is what limits them: eni-lab refuses calls as EC2 does and takes
//! as long as EC2 takes.
//!
//! With `--agent` every node has an agent, and pods speak its protocol from threads of
//! this process: hundreds of processes at once would measure the machine. Without it
//! every pod is a process of the plugin, and the times of a small machine are too long.
//! With `--agent --choose` pods are of a network without addresses, and with `--prefixes` too the
//! agents keep prefixes for them.
//! A pod that is refused comes again after five seconds, as the kubelet would let it.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use harness::Namespace;
use harness::eni_lab::{Buckets, CHANGE, Event, LOOK, Limits};
use harness::vpc::{Agent, Vpc, VpcNode};
use serde_json::{Value, json};

/// A pod that is refused comes again after this time, and gives up after that.
const AGAIN: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(300);
/// Of `/proc/<pid>/stat`.
const TICKS: f64 = 100.0;

#[derive(Clone, Copy)]
struct Options {
    nodes: u32,
    pods: u32,
    /// Pods that a node starts in a second; 0 is all at once.
    rate: u32,
    /// Changes that the account has left at the start; 5 a second come back.
    burst: u32,
    agent: bool,
    /// Pods ask the agent for what EC2 chooses.
    choose: bool,
    prefixes: bool,
    /// How many free prefixes an agent asks for.
    high: u32,
}

fn options() -> Options {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |name: &str, usual: u32| {
        let at = arguments.iter().position(|argument| argument == name);
        at.map_or(usual, |at| arguments[at + 1].parse().expect("a number"))
    };
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    Options {
        nodes: number("--nodes", 20),
        pods: number("--pods", 40),
        rate: number("--rate", 10),
        burst: number("--burst", 100),
        agent: has("--agent"),
        choose: has("--choose"),
        prefixes: has("--prefixes"),
        high: number("--high", 2),
    }
}

/// What became of a pod.
struct Served {
    after: Option<Duration>,
    refusals: u32,
}

fn main() {
    let options = options();
    let mut vpc = Vpc::new();
    vpc.pods = vpc.lab.create_subnet(&vpc.id, "10.0.16.0/20", None);
    vpc.lab.rules(|rules| {
        let limits = Limits {
            interfaces: 8,
            ipv4: 64,
            ipv6: 64,
            cards: 1,
        };
        rules.limit_overrides.insert("c5.4xlarge".into(), limits);
    });
    let nodes: Vec<VpcNode> = (0..options.nodes)
        .map(|_| vpc.node_of_type("c5.4xlarge"))
        .collect();
    let mut configuration = json!({ "reconcileSeconds": 3600 });
    if options.prefixes {
        configuration["prefixes"] = json!({ "ipv4": { "low": 1, "high": options.high } });
    }
    let agents: Vec<Agent> = nodes
        .iter()
        .filter(|_| options.agent)
        .map(|node| Agent::start(node, &configuration))
        .collect();
    for node in &nodes {
        settle(node, options);
    }
    vpc.lab.reset_calls();
    vpc.lab.rules(|rules| {
        let mut buckets = Buckets::default();
        buckets.mutating.burst = f64::from(options.burst);
        rules.token_buckets = Some(buckets);
        rules.latency = LOOK;
        for action in ["AssignPrivateIpAddresses", "UnassignPrivateIpAddresses"] {
            rules.latency_of.insert(action.to_owned(), CHANGE);
        }
    });
    let began = Instant::now();
    let served = serve_all(&nodes, options);
    let took = began.elapsed();
    let calls = vpc.lab.calls();
    let throttled = vpc
        .lab
        .events()
        .iter()
        .filter(|event| matches!(event, Event::Called { outcome, .. } if outcome == "RequestLimitExceeded"))
        .count();
    let memory = largest_child();
    drop(agents);
    report(options, &served, took);
    println!("calls {calls:?}, of these throttled {throttled}; an agent had {memory} KiB at most");
    // Nodes end with their agents and the VPC with its nodes.
    drop(nodes);
}

/// Lets the node find its ENIs: registrations are what is measured.
fn settle(node: &VpcNode, options: Options) {
    let primary = node.lab.primary(&node.eni).to_string();
    let namespace = Namespace::new();
    let found = match options.agent {
        true => ask(node, &namespace, "first", Some(&primary)),
        // The primary address costs no call but those for the inventory.
        false => add(node, &namespace, "first", &primary),
    };
    found.expect("the first pod of a node is served");
    let has_prefixes = || node.lab.prefixes(&node.eni).len() >= 2;
    assert!(!options.prefixes || harness::vpc::eventually(has_prefixes));
}

fn serve_all(nodes: &[VpcNode], options: Options) -> Vec<Served> {
    let start = Instant::now() + Duration::from_secs(1);
    thread::scope(|scope| {
        let mut pods = Vec::new();
        for (n, node) in (0_u32..).zip(nodes) {
            let namespace = std::sync::Arc::new(Namespace::new());
            for pod in 0..options.pods {
                let namespace = std::sync::Arc::clone(&namespace);
                let number = 600 + n * options.pods + pod;
                let address = format!("10.0.{}.{}", 16 + number / 250, number % 250 + 2);
                let due = match options.rate {
                    0 => start,
                    rate => start + Duration::from_secs(1) * pod / rate,
                };
                let work = move || serve(node, &namespace, &address, due, options);
                let thread = thread::Builder::new().stack_size(256 << 10);
                let started = thread.spawn_scoped(scope, work);
                pods.push(started.expect("a thread can be started"));
            }
        }
        let served = pods.into_iter().map(|pod| pod.join());
        served.map(|pod| pod.expect("a pod ends")).collect()
    })
}

/// One pod, from the moment when it is due.
fn serve(
    node: &VpcNode,
    namespace: &Namespace,
    address: &str,
    due: Instant,
    options: Options,
) -> Served {
    thread::sleep(due.saturating_duration_since(Instant::now()));
    let mut refusals = 0;
    while due.elapsed() < PATIENCE {
        let id = format!("c{}x{refusals}", address.replace('.', "-"));
        let named = Some(address).filter(|_| !options.choose);
        let outcome = match options.agent {
            true => ask(node, namespace, &id, named),
            false => add(node, namespace, &id, address),
        };
        let Err(why) = outcome else {
            let after = Some(due.elapsed());
            return Served { after, refusals };
        };
        if refusals == 0 {
            eprintln!(
                "{address} after {:.1} s: {why}",
                due.elapsed().as_secs_f64()
            );
        }
        refusals += 1;
        thread::sleep(AGAIN);
    }
    Served {
        after: None,
        refusals,
    }
}

/// Asks the agent as the plugin does, for an address or for one that EC2 chooses.
fn ask(
    node: &VpcNode,
    namespace: &Namespace,
    id: &str,
    address: Option<&str>,
) -> Result<(), String> {
    let path = namespace.path();
    let there = fs::metadata(&path).expect("the namespace exists");
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("/proc is mounted");
    let mut request = json!({
        "ask": "register",
        "wanted": { node.mac.clone(): [address] },
        "request": {
            "owner": {
                "network": "mgmt", "containerId": id, "ifname": "net1", "netns": path,
                "netnsId": { "device": there.dev(), "inode": there.ino() },
                "bootId": boot_id.trim(), "cooldownSeconds": 30,
            },
            "takeover": "dead-owner",
            "bestEffort": false,
        },
    });
    if address.is_none() {
        request["ask"] = json!("choose");
        request["patience"] = json!(110_000);
        request["choice"] = json!({ "mac": node.mac, "addresses": [], "isWhole": false });
    }
    let socket = node.run_directory().join("eni-cni/agent.sock");
    let exchanged = UnixStream::connect(socket).and_then(|mut stream| {
        stream.write_all(request.to_string().as_bytes())?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    });
    let answer = exchanged.map_err(|cause| cause.to_string())?;
    let document: Value = serde_json::from_str(&answer).unwrap_or_default();
    match document["answer"] == "done" || document["answer"] == "chosen" {
        true => Ok(()),
        false => Err(answer),
    }
}

/// Executes the plugin as a runtime does.
fn add(node: &VpcNode, namespace: &Namespace, id: &str, address: &str) -> Result<(), String> {
    let path = namespace.path();
    let conf = json!({
        "cniVersion": "1.1.0", "name": "mgmt", "type": "eni-sync",
        "prevResult": {
            "cniVersion": "1.1.0", "dns": {},
            "interfaces": [{ "name": "net1", "mac": node.mac, "sandbox": path }],
            "ips": [{ "address": format!("{address}/20"), "interface": 0 }],
        },
    });
    let call = node.call("ADD").conf(&conf).attachment(id, "net1", &path);
    let output = node.run(&call);
    match output.status {
        Some(0) => Ok(()),
        _ => Err(output.stdout),
    }
}

fn report(options: Options, served: &[Served], took: Duration) {
    let mut times: Vec<Duration> = served.iter().filter_map(|pod| pod.after).collect();
    times.sort();
    let percentile = |percent: usize| {
        let at = (times.len() * percent / 100).min(times.len().saturating_sub(1));
        times.get(at).map_or(f64::NAN, Duration::as_secs_f64)
    };
    let refused = served.iter().filter(|pod| pod.refusals > 0).count();
    let mode = match options {
        Options { prefixes: true, .. } => "agent, prefixes",
        Options { choose: true, .. } => "agent, EC2 chooses",
        Options { agent: true, .. } => "agent",
        _ => "one-shot",
    };
    println!(
        "{mode}, {} nodes, {} pods each, {} a second, {} calls at once: {} of {} served, {refused} refused at first",
        options.nodes,
        options.pods,
        options.rate,
        options.burst,
        times.len(),
        served.len(),
    );
    println!(
        "p50 {:.1} s, p99 {:.1} s, last {:.1} s; took {:.1} s; CPU {:.1} s here, {:.1} s in children",
        percentile(50),
        percentile(99),
        percentile(100),
        took.as_secs_f64(),
        cpu(13),
        cpu(15),
    );
}

/// The most memory that a process started here, and still running, has had, in KiB.
fn largest_child() -> u64 {
    let parent = std::process::id().to_string();
    let processes = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let statuses = processes.filter_map(|p| fs::read_to_string(p.path().join("status")).ok());
    let value = |status: &str, key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|rest| rest.split_whitespace().next().map(str::to_owned))
    };
    let own = statuses.filter(|status| value(status, "PPid:").as_ref() == Some(&parent));
    let memory = own.filter_map(|status| value(&status, "VmHWM:")?.parse().ok());
    memory.max().unwrap_or_default()
}

/// Seconds of CPU, user and system, at a place of `/proc/self/stat` and the next.
fn cpu(place: usize) -> f64 {
    let text = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = text.rsplit(')').next().unwrap_or_default().to_owned();
    let fields: Vec<f64> = after_name
        .split_whitespace()
        .map(|field| field.parse().unwrap_or_default())
        .collect();
    // The first field after the name is the third of the file.
    [place - 2, place - 1]
        .iter()
        .filter_map(|at| fields.get(*at))
        .sum::<f64>()
        / TICKS
}
