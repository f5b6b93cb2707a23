//! ipvlan with host-local: beside Go's, and beside the kernel's part of it and the start
//! of two processes.

use harness::Node;
use serde_json::{Value, json};

use crate::count;
use crate::figure::{Figure, Report};
use crate::floor::Floor;
use crate::host_local::empty_process;
use crate::options::Effort;
use crate::samples::{ALL, Limits, Party, Samples, Step};
use crate::site::Sites;

const MASTER: &str = "eth1";
/// How far an attachment may be from what it needs at least.
const FROM_FLOOR: f64 = 1.25;
/// Times of equal length are never exactly that.
const PARITY: f64 = 1.05;

pub fn node() -> Node {
    let node = Node::new();
    node.netns.ip(&["link", "add", MASTER, "type", "dummy"]);
    node.netns.ip(&["link", "set", MASTER, "up"]);
    node
}

pub fn conf() -> Value {
    json!({
        "type": "ipvlan", "master": MASTER, "mode": "l2",
        "ipam": { "type": "host-local", "subnet": "10.0.0.0/24" },
    })
}

pub fn with_ipam(effort: &Effort) -> Report {
    let sites = Sites::new(node, &conf());
    let floor = Floor::new(node());
    let samples = Samples::take(&ALL, effort.few(), |party| match party {
        Party::Reference => {
            let mut steps = floor.make_ipvlan(MASTER);
            steps.push(("process", empty_process()));
            steps
        }
        party => sites.of(party).attach(),
    });
    let limits = Limits {
        wall: Some(0.22),
        cpu: None,
    };
    let add = samples.beside_go("ADD", limits);
    let del = samples.beside_go("DEL", Limits::new(0.2, PARITY));
    let least = ["ADD", "DEL"].map(|step| beside_least(&samples, step));
    let counts = count::attachment(|party, command, counter| sites.count(party, command, counter));
    Report::of(add.into_iter().chain(del).chain(least).chain(counts))
}

/// The time of a step of ours beside the kernel's part and the start of one process.
fn beside_least(samples: &Samples, step: Step) -> Figure {
    let of = |step| samples.wall(Party::Reference, step);
    Figure::new(
        format!("{step} wall"),
        "ms",
        samples.wall(Party::Ours, step),
    )
    .beside("kernel + 1 process", of(step) + of("process"))
    .at_most_times(FROM_FLOOR)
}
