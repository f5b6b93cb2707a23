//! Pods that start together while their plugins share a part of a CPU, as they do in the
//! container of Multus' thick daemon: pods at once, the networks of a pod in turn.

use std::thread;
use std::time::Instant;

use crate::crowd::{Crowd, Kind, NETWORKS};
use crate::figure::{Figure, Report};
use crate::limit::Limit;
use crate::options::Effort;
use crate::process::{Cost, Process};
use crate::samples::{BOTH, Limits, Party, Samples, Step};

const ADDS: Step = "ADDs";
const DELS: Step = "DELs";
/// How long the pods should take, beside Go's plugins.
const FAST: f64 = 0.22;

/// How many pods start, and with how many thousandths of a CPU.
struct Setting {
    pods: usize,
    millicpus: u32,
}

impl Setting {
    fn of(effort: &Effort) -> Self {
        match effort.is_emulated {
            // An emulated CPU does in a second about what a real one does in a tenth.
            true => Self {
                pods: effort.size(10, 3),
                millicpus: 1000,
            },
            // The limit in Multus' own manifest.
            false => Self {
                pods: effort.size(20, 5),
                millicpus: 100,
            },
        }
    }
}

pub fn host_device(effort: &Effort) -> Report {
    compare(effort, Kind::HostDevice)
}

pub fn ipvlan(effort: &Effort) -> Report {
    compare(effort, Kind::Ipvlan)
}

fn compare(effort: &Effort, kind: Kind) -> Report {
    let Setting { pods, millicpus } = Setting::of(effort);
    let crowds = BOTH.map(|party| Crowd::new(kind, party, pods));
    let limit = Limit::of_millicpus(millicpus);
    // Every call of a burst is the first one of its pod, so there is nothing to warm up.
    let samples = Samples::take_cold(&BOTH, effort.fewest(), |party| {
        let crowd = &crowds[usize::from(party == Party::Go)];
        let attached = all_at_once(crowd, &limit, "ADD");
        let detached = all_at_once(crowd, &limit, "DEL");
        vec![(ADDS, attached), (DELS, detached)]
    });
    let steps = [ADDS, DELS];
    let limits = Limits {
        wall: Some(FAST),
        cpu: None,
    };
    let figures = steps.map(|step| samples.beside_go(step, limits));
    let named = |figure: Figure| Figure {
        what: format!("{} of {pods} pods, {millicpus}m", figure.what),
        ..figure
    };
    Report::of(figures.into_iter().flatten().map(named))
}

/// Executes a command for every network of every pod: until the last has ended, and
/// what the plugins have used.
fn all_at_once(crowd: &Crowd, limit: &Limit, command: &str) -> Cost {
    crowd.node.inside(|| {
        let before = limit.used();
        let began = Instant::now();
        thread::scope(|scope| {
            for pod in 0..crowd.pods.len() {
                scope.spawn(move || one_pod(crowd, limit, command, pod));
            }
        });
        Cost {
            wall: began.elapsed(),
            cpu: limit.used().saturating_sub(before),
        }
    })
}

fn one_pod(crowd: &Crowd, limit: &Limit, command: &str, pod: usize) {
    for network in 0..NETWORKS {
        let call = crowd.call(command, pod, network);
        Process::start(limit.process(&call), call.input())
            .end()
            .ok();
    }
}
