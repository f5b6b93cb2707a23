//! host-local with nothing reserved: beside Go's, and beside a process that does
//! nothing.

use std::process::Command;

use harness::Call;
use serde_json::json;

use crate::count;
use crate::figure::{Figure, Report};
use crate::options::Effort;
use crate::process::{Cost, Process, cost_of_processes, run};
use crate::samples::{ALL, BOTH, Limits, Party, Samples, Step};
use crate::store::{Store, Stores, call};

const SUBNET: &str = "10.0.0.0/16";
/// How far an ADD and a DEL may be from a process that does nothing.
const FROM_NOTHING: [(Step, f64); 2] = [("ADD", 1.3), ("DEL", 1.15)];

pub fn empty(effort: &Effort) -> Report {
    let stores = Stores::new(&BOTH, SUBNET);
    let samples = Samples::take(&ALL, effort.rounds, |party| match party {
        Party::Reference => nothing(),
        party => stores.of(party).attach(party),
    });
    let quarter = Limits::new(0.25, 0.25);
    let of_step = |(step, most): (Step, f64)| {
        let least = Limits::new(most, most);
        let beside_go = samples.beside_go(step, quarter);
        let beside_nothing = samples.beside_reference("an empty process", step, least);
        beside_go.into_iter().chain(beside_nothing)
    };
    let times = FROM_NOTHING.into_iter().flat_map(of_step);
    let counts = count::attachment(|party, command, counter| {
        counter(&stores.of(party).call(party, command, "counted"))
    });
    Report::of(times.chain(counts))
}

/// A process that does nothing, in place of both calls.
fn nothing() -> Vec<(Step, Cost)> {
    let cost = empty_process();
    vec![("ADD", cost), ("DEL", cost)]
}

/// What a static process costs that does nothing.
pub fn empty_process() -> Cost {
    let program = count::built("empty");
    let (cost, ended) = cost_of_processes(|| Process::start(Command::new(program), b"").end());
    ended.ok();
    cost
}

/// What reading the environment and the configuration costs.
pub fn parse(effort: &Effort) -> Report {
    let stores = Stores::new(&BOTH, SUBNET);
    let samples = Samples::take(&BOTH, effort.rounds, |party| {
        let (version, _) = run(&version(party));
        let (long, _) = run(&long_call(stores.of(party), party, "ADD"));
        run(&long_call(stores.of(party), party, "DEL"));
        vec![("VERSION", version), ("ADD, 32 KB", long)]
    });
    let times = ["VERSION", "ADD, 32 KB"];
    let times = times.map(|step| samples.beside_go(step, Limits::default()));
    let counted = [
        ("VERSION instructions", version(Party::Ours)),
        (
            "ADD, 32 KB, instructions",
            long_call(stores.of(Party::Ours), Party::Ours, "ADD"),
        ),
    ];
    let counted =
        counted.map(|(what, call)| Figure::new(what, "thousands", count::instructions(&call)));
    Report::of(times.into_iter().flatten().chain(counted))
}

fn version(party: Party) -> Call {
    let conf = json!({ "cniVersion": "1.0.0" });
    call(party, "host-local", "VERSION").conf(&conf)
}

/// A call whose configuration has many routes and many keys that are not its own.
fn long_call(store: &Store, party: Party, command: &str) -> Call {
    let mut conf = store.conf();
    let routes =
        (0..400).map(|n| json!({ "dst": format!("172.{}.{}.0/24", 16 + n / 256, n % 256) }));
    conf["ipam"]["routes"] = routes.collect();
    let others = (0..400).map(|n| json!({ "name": format!("key-{n}"), "value": [n, { "n": n }] }));
    conf["args"] = json!({ "cni": { "others": others.collect::<Vec<_>>() } });
    store.call(party, command, party.name()).conf(&conf)
}
