//! One scenario with one contender: all pods are started, then all are ended, then what
//! is left is counted.

use std::collections::BTreeMap;
use std::fmt;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use harness::eni_lab::LOOK;
use harness::eni_lab::Lab;
use serde_json::{Value, json};

use crate::client::Retries;
use crate::eni_sync::{Agent, SyncNode};
use crate::options::Scenario;
use crate::replay::Replayed;
use crate::world::{Place, World};

/// Whether a pod is routable, or why not.
pub type Outcome = Result<(), String>;

/// The same of many pods, and how long each took.
pub type Outcomes = Vec<(Outcome, Duration)>;

/// Time for threads to start before the first pod is due.
const LEAD: Duration = Duration::from_millis(200);
/// How long agents may take to give back what is due.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Contender {
    /// The plugin by itself
    EniSync,
    /// The plugin with an agent on every node
    EniSyncAgent,
    /// A network without addresses, with an agent on every node: EC2 chooses each
    Chosen,
    /// The same with an agent that keeps prefixes
    Prefixes,
    /// The same, with an agent that asks for four prefixes where one is left
    FourPrefixes,
    /// AWS' eks-automated-ipmgmt-multus-pods as an init container
    InitContainer,
    /// AWS' eks-nonintrusive-automated-ipmgmt-multus-pods
    DaemonSet,
    /// The plugin aws-ipvlan of IBM's multi-nic-cni
    OneShot,
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::EniSync => "eni-sync",
            Self::EniSyncAgent => "eni-sync, agent",
            Self::Chosen => "IPAM, agent",
            Self::Prefixes => "IPAM, prefixes",
            Self::FourPrefixes => "IPAM, 4 prefixes",
            Self::InitContainer => "AWS init container",
            Self::DaemonSet => "AWS daemonset",
            Self::OneShot => "IBM aws-ipvlan",
        })
    }
}

/// When which pod is due.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    start: Instant,
    interval: Duration,
}

impl Schedule {
    fn new(scenario: &Scenario) -> Self {
        let interval = scenario.rate.map_or(0.0, |rate| f64::from(rate).recip());
        Self {
            start: Instant::now() + LEAD,
            interval: Duration::from_secs_f64(interval),
        }
    }

    /// When the pod with this number of any node is due.
    pub fn due(&self, number: usize) -> Instant {
        let number = u32::try_from(number).expect("there are fewer pods");
        self.start + self.interval * number
    }

    /// How many of a node's pods are there now.
    pub fn visible(&self, pods: usize, now: Instant) -> usize {
        (0..pods)
            .take_while(|number| self.due(*number) <= now)
            .count()
    }
}

/// Runs `work` for every pod when it is due, each on a thread of its own, and tells how
/// long after that it was done.
fn each(
    places: &[Place],
    schedule: &Schedule,
    work: impl Fn(&Place) -> Outcome + Sync,
) -> Outcomes {
    let work = &work;
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for place in places {
            let due = schedule.due(place.number);
            threads.push(scope.spawn(move || {
                sleep(due.saturating_duration_since(Instant::now()));
                (work(place), due.elapsed())
            }));
        }
        let joined = threads.into_iter().map(|thread| thread.join());
        joined.map(|done| done.expect("it ends")).collect()
    })
}

/// What one contender did in one scenario.
#[derive(Debug)]
pub struct Measured {
    pub contender: Contender,
    pub served: usize,
    /// Seconds to routable of those that were served, sorted.
    pub seconds: Vec<f64>,
    /// Why others were not served, and how many.
    pub failures: BTreeMap<String, usize>,
    /// Requests to EC2 from the first pod's start until all pods were served or not, and the
    /// agents had done what that took.
    pub starting: u64,
    /// Requests to EC2 by action.
    pub calls: BTreeMap<String, u64>,
    /// Requests that EC2 refused because there were too many.
    pub throttled: usize,
    /// Addresses that no pod has and that are on an ENI.
    pub left_behind: usize,
}

impl Measured {
    /// How many pods took so long that a call can have kept them waiting.
    pub fn slow(&self) -> usize {
        let is_slow = |seconds: &&f64| **seconds >= LOOK.as_secs_f64();
        self.seconds.iter().filter(is_slow).count()
    }

    pub fn all_calls(&self) -> u64 {
        self.calls.values().sum()
    }

    /// Requests whose action begins so.
    pub fn calls_of(&self, action: &str) -> u64 {
        let of_action = self
            .calls
            .iter()
            .filter(|(name, _)| name.starts_with(action));
        of_action.map(|(_, count)| count).sum()
    }

    /// The time within which this part of the served pods were routable.
    pub fn quantile(&self, part: f64) -> Option<f64> {
        // There are too few pods for the rounding to matter.
        #[expect(clippy::cast_precision_loss, clippy::cast_sign_loss)]
        #[expect(
            clippy::cast_possible_truncation,
            reason = "rounded up to a number of pods"
        )]
        let rank = (self.seconds.len() as f64 * part).ceil() as usize;
        self.seconds.get(rank.saturating_sub(1)).copied()
    }
}

/// Runs a scenario with a contender, in an account of its own.
pub fn measure(contender: Contender, scenario: &Scenario) -> Measured {
    let world = World::new(scenario);
    let places: Vec<Vec<Place>> = (0..scenario.nodes).map(|n| world.places(n)).collect();
    let (outcomes, starting, left_behind) = match contender {
        Contender::EniSync => with_eni_sync(&world, &places, scenario),
        Contender::EniSyncAgent => with_agents(&world, &places, scenario),
        Contender::Chosen => with_ipam(&world, &places, scenario, &json!({})),
        Contender::Prefixes => with_ipam(&world, &places, scenario, &prefixes(2)),
        Contender::FourPrefixes => with_ipam(&world, &places, scenario, &prefixes(4)),
        _ => with_replay(contender, &world, &places, scenario),
    };
    let (calls, throttled) = world.calls();
    let mut measured = Measured {
        contender,
        served: 0,
        seconds: Vec::new(),
        failures: BTreeMap::new(),
        starting,
        calls,
        throttled,
        left_behind,
    };
    for (outcome, time) in outcomes {
        match outcome {
            Ok(()) => measured.seconds.push(time.as_secs_f64()),
            Err(why) => *measured.failures.entry(why).or_default() += 1,
        }
    }
    measured.served = measured.seconds.len();
    measured.seconds.sort_by(f64::total_cmp);
    measured
}

/// What became of the pods, how many calls there were until then, and what is left in the end.
type Run = (Outcomes, u64, usize);

/// What an agent keeps of prefixes; the examples have `high` 2.
fn prefixes(high: u8) -> Value {
    json!({ "prefixes": { "ipv4": { "low": 1, "high": high } } })
}

fn with_eni_sync(world: &World, places: &[Vec<Place>], scenario: &Scenario) -> Run {
    let nodes: Vec<SyncNode> = places.iter().map(|p| SyncNode::new(world, p)).collect();
    run_eni_sync((&nodes, &[]), world, places, scenario)
}

fn with_agents(world: &World, places: &[Vec<Place>], scenario: &Scenario) -> Run {
    let nodes: Vec<SyncNode> = places.iter().map(|p| SyncNode::new(world, p)).collect();
    let agents = started(&nodes, &json!({}));
    run_eni_sync((&nodes, &agents), world, places, scenario)
}

/// The agents of nodes, when they have done what they do at first.
fn started<'a>(nodes: &'a [SyncNode], configuration: &Value) -> Vec<Agent<'a>> {
    let start = |node: &'a SyncNode| node.start_agent(configuration);
    let agents: Vec<Agent<'a>> = nodes.iter().map(start).collect();
    agents.iter().for_each(Agent::await_calm);
    agents
}

/// eni-sync as the IPAM plugin of networks without addresses.
fn with_ipam(
    world: &World,
    places: &[Vec<Place>],
    scenario: &Scenario,
    configuration: &Value,
) -> Run {
    let nodes: Vec<SyncNode> = places.iter().map(|p| SyncNode::new(world, p)).collect();
    let pairs = nodes.iter().zip(places);
    pairs.for_each(|(node, places)| node.make_interfaces(places));
    let agents = started(&nodes, configuration);
    let work = Work {
        add: SyncNode::choose,
        del: SyncNode::end_chosen,
    };
    run((&nodes, &agents), world, (places, scenario), &work)
}

/// How a pod of a node is started and ended.
struct Work {
    add: fn(&SyncNode, &Place) -> Outcome,
    del: fn(&SyncNode, &Place) -> Outcome,
}

fn run_eni_sync(
    nodes: (&[SyncNode], &[Agent<'_>]),
    world: &World,
    places: &[Vec<Place>],
    scenario: &Scenario,
) -> Run {
    let work = Work {
        add: SyncNode::add,
        del: SyncNode::del,
    };
    run(nodes, world, (places, scenario), &work)
}

fn run(
    (nodes, agents): (&[SyncNode], &[Agent<'_>]),
    world: &World,
    (places, scenario): (&[Vec<Place>], &Scenario),
    work: &Work,
) -> Run {
    let before = world.all_calls();
    let schedule = Schedule::new(scenario);
    let added = on_every_node(nodes, places, |node, places| {
        each(places, &schedule, |place| (work.add)(node, place))
    });
    agents.iter().for_each(Agent::await_calm);
    let starting = world.all_calls() - before;
    let schedule = Schedule::new(scenario);
    let ended = on_every_node(nodes, places, |node, places| {
        let ended = each(places, &schedule, |place| (work.del)(node, place));
        node.gc();
        ended
    });
    for why in ended.into_iter().filter_map(|(outcome, _)| outcome.err()) {
        eprintln!("DEL: {why}");
    }
    let enis = || nodes.iter().flat_map(|node| node.enis.clone());
    let is_empty = |_: &Lab| world.left_behind(enis()) == 0;
    // What EC2 has refused to a GC for the number of calls an agent asks for again.
    if !agents.is_empty() && !world.lab.wait_until(PATIENCE, is_empty) {
        eprintln!("the agents leave something behind");
    }
    (added, starting, world.left_behind(enis()))
}

fn with_replay(
    contender: Contender,
    world: &World,
    places: &[Vec<Place>],
    scenario: &Scenario,
) -> Run {
    let retries = match contender {
        Contender::OneShot => Retries::GoV1,
        _ => Retries::Boto3,
    };
    let nodes: Vec<Replayed> = places
        .iter()
        .map(|_| Replayed::new(world, retries))
        .collect();
    let schedule = Schedule::new(scenario);
    let added = on_every_node(&nodes, places, |node, places| match contender {
        Contender::DaemonSet => node.daemonset(places, &schedule),
        Contender::OneShot => each(places, &schedule, |place| node.one_shot_add(place)),
        _ => each(places, &schedule, |place| node.init_container(place)),
    });
    let starting = world.all_calls();
    if contender == Contender::OneShot {
        let schedule = Schedule::new(scenario);
        on_every_node(&nodes, places, |node, places| {
            each(places, &schedule, |place| node.one_shot_del(place))
        });
    }
    let enis = nodes.iter().flat_map(|node| node.instance.enis.clone());
    (added, starting, world.left_behind(enis))
}

/// Does `work` on all nodes at the same time.
fn on_every_node<N: Sync>(
    nodes: &[N],
    places: &[Vec<Place>],
    work: impl Fn(&N, &[Place]) -> Outcomes + Sync,
) -> Outcomes {
    let work = &work;
    thread::scope(|scope| {
        let pairs = nodes.iter().zip(places);
        let threads: Vec<_> = pairs
            .map(|(node, places)| scope.spawn(move || work(node, places)))
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined.flat_map(|done| done.expect("it ends")).collect()
    })
}
