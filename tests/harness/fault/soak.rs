//! Attaches and detaches for a long time, with processes that are killed now and then,
//! and verifies that nothing grows.

use std::fmt;
use std::fs;
use std::io::Write;
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::scene::{Maker, Scene, Subject};
use super::trace::{Counted, Fault, Strike};
use super::wait_until;
use crate::{Call, Output, Random};

/// More system calls than most commands make, and more microseconds than most commands
/// take.
const SYSTEM_CALLS: usize = 300;
const MICROSECONDS: usize = 40_000;
/// After how many cycles the state is compared.
const LOOK_EVERY: usize = 50;
/// Tolerances: memory that the allocator keeps, in KiB, and connections.
const MEMORY: usize = 8_192;
const CONNECTIONS: usize = 8;

/// Cycles of ADD and DEL.
#[derive(Debug, Clone, Copy)]
pub struct Soak {
    /// What is attached and detached.
    pub subject: Subject,
    /// How often.
    pub cycles: usize,
    /// The seed for the random kills.
    pub seed: u64,
}

/// The resources in use at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    files: usize,
    links: usize,
    rules: usize,
    routes: usize,
    /// The memory of the agent in KiB, and the number of its descriptors.
    agent: Option<(usize, usize)>,
}

/// The resources at the beginning and at the end.
#[derive(Debug)]
pub struct Growth {
    /// How many processes were killed.
    pub killed: usize,
    /// What was left at a comparison.
    pub lost: Vec<String>,
    /// The resources after a tenth of the cycles, when every cache is filled.
    pub before: Kept,
    /// The resources after the last cycle.
    pub after: Kept,
}

impl Soak {
    /// Executes all cycles.
    pub fn run(&self) -> Growth {
        let scene = Scene::new(self.subject, Maker::Ours, 1);
        let mut agent = scene.start_agent();
        let mut random = Random::new(self.seed);
        let (mut killed, mut lost) = (0, Vec::new());
        let mut before = None;
        for cycle in 1..=self.cycles {
            killed += usize::from(is_killed(&scene, &mut random));
            for output in scene.del(0) {
                if output.status != Some(0) {
                    lost.push(format!("cycle {cycle}: {output}"));
                }
            }
            if cycle % LOOK_EVERY == 0 || cycle == self.cycles {
                let left = settled(&scene, agent.is_some());
                lost.extend(left.iter().map(|line| format!("cycle {cycle}: {line}")));
            }
            if cycle == self.cycles.div_ceil(10) {
                settled(&scene, agent.is_some());
                before = Some(kept(&scene, agent.as_ref()));
            }
        }
        let after = kept(&scene, agent.as_ref());
        if let Some(agent) = &mut agent {
            agent.kill().expect("it runs");
            agent.wait().expect("it ends");
        }
        Growth {
            killed,
            lost,
            before: before.expect("there is a cycle"),
            after,
        }
    }
}

impl Growth {
    /// Makes sure that nothing was lost, and that nothing grows.
    #[track_caller]
    pub fn require_none(&self) {
        assert!(self.lost.is_empty(), "{}", self.lost.join("\n"));
        let (before, after) = (self.before, self.after);
        let without_agent = |kept: Kept| Kept {
            agent: None,
            ..kept
        };
        assert_eq!(without_agent(after), without_agent(before));
        if let (Some(before), Some(after)) = (before.agent, after.agent) {
            assert!(after.0 <= before.0 + MEMORY, "{self}");
            assert!(after.1 <= before.1 + CONNECTIONS, "{self}");
        }
    }
}

/// Executes ADD, and perhaps DEL, and may kill one of them. Returns whether one was
/// killed.
fn is_killed(scene: &Scene, random: &mut Random) -> bool {
    let Ok(prev_result) = scene.add_all_but_last(0) else {
        return false;
    };
    let add = scene.last("ADD", 0, &prev_result);
    let strike = Strike {
        fault: Fault::Kill,
        counted: Counted::All,
        nth: 1 + random.below(SYSTEM_CALLS),
    };
    match random.below(4) {
        0 => scene.node().strike(&add, strike).hit.is_some(),
        1 => is_killed_in_time(scene, &add, random),
        2 => {
            scene.node().run(&add).ok();
            let del = scene.last("DEL", 0, &Value::Null);
            scene.node().strike(&del, strike).hit.is_some()
        }
        _ => {
            scene.node().run(&add).ok();
            false
        }
    }
}

/// Kills the process of the call, but not its delegates, after a random time. Returns
/// whether it still ran.
fn is_killed_in_time(scene: &Scene, call: &Call, random: &mut Random) -> bool {
    let mut process = call.process();
    process.stdin(Stdio::piped());
    process.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = scene.node().spawn(process);
    let mut stdin = child.stdin.take().expect("it is a pipe");
    stdin.write_all(call.input()).expect("it is read");
    drop(stdin);
    let micros = u64::try_from(random.below(MICROSECONDS)).expect("it is small");
    thread::sleep(Duration::from_micros(micros));
    let is_running = child.try_wait().expect("it is ours").is_none();
    child.kill().expect("it is ours");
    child.wait().expect("it can be waited for");
    is_running
}

/// What is left after eni-sync has released the addresses, which it does after DEL.
fn settled(scene: &Scene, has_agent: bool) -> Vec<String> {
    let failed = |outputs: Vec<Output>| outputs.iter().any(|output| output.status != Some(0));
    if has_agent {
        wait_until("everything is released", || {
            !failed(scene.release(&[])) && scene.left().is_empty()
        });
    }
    scene.left()
}

fn kept(scene: &Scene, agent: Option<&Child>) -> Kept {
    let [files, links, rules, routes] = scene.kept();
    Kept {
        files,
        links,
        rules,
        routes,
        agent: agent.map(|agent| (memory(agent), descriptors(agent))),
    }
}

fn memory(process: &Child) -> usize {
    let path = format!("/proc/{}/status", process.id());
    let text = fs::read_to_string(path).expect("the agent runs");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.expect("a process has memory")
}

fn descriptors(process: &Child) -> usize {
    let path = format!("/proc/{}/fd", process.id());
    fs::read_dir(path).expect("the agent runs").count()
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (killed, lost) = (self.killed, self.lost.len());
        write!(
            f,
            "{killed} killed, {lost} lost, from {:?} to {:?}",
            self.before, self.after
        )
    }
}
