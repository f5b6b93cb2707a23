//! host-local among reservations: how much of its cost depends on them.

use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use crate::count;
use crate::figure::{Curve, Figure, Report};
use crate::options::Effort;
use crate::process::{Process, cost_of_processes};
use crate::samples::{ALL, BOTH, Limits, Party, Samples, Step};
use crate::store::{Store, Stores, addresses};

const SUBNET: &str = "10.0.0.0/16";
/// A subnet with 4,093 addresses for containers, 10.0.0.2 to 10.0.15.254.
const SMALL: &str = "10.0.0.0/20";
const SMALL_END: u32 = 4094;
/// The ones that are free in the nearly full one: in no order that helps anyone.
const FREE: [u32; 5] = [97, 1203, 1204, 2777, 4001];
/// How much more an ADD or DEL may cost than in an empty network.
const FLAT: f64 = 1.2;
const ADD_CPU: &str = "ADD CPU";
const DEL_CPU: &str = "DEL CPU";
const ADD_MEMORY: &str = "ADD peak memory";
/// System calls of a call that reads the directory at most once.
const ONE_LOOK: f64 = 100.0;

/// So many reservations, with which ours should be so much faster than Go's.
pub fn taken(effort: &Effort, count: u32, faster: f64) -> Report {
    let stores = Stores::new(&ALL, SUBNET);
    stores.reserve(addresses(2..count + 2));
    let rounds = match count {
        0..=1000 => effort.rounds,
        1001..=10_000 => effort.few(),
        // Go's takes seconds.
        _ => effort.fewest().max(3),
    };
    let samples = Samples::take(&ALL, rounds, |party| stores.of(party).attach(party));
    let limits = Limits::new(1.0 / faster, 1.0 / faster);
    let flat = Limits::new(FLAT, FLAT);
    let of_step = |step: Step| {
        let beside_go = samples.beside_go(step, limits);
        let beside_empty = samples.beside_reference("ours, none reserved", step, flat);
        beside_go.into_iter().chain(beside_empty)
    };
    Report::of(["ADD", "DEL"].into_iter().flat_map(of_step))
}

/// After this time, host-local does not read a file again that has not changed.
const SETTLED: Duration = Duration::from_secs(4);

/// One directory for both: whatever ours remembers of it, Go's has changed since.
pub fn shared(effort: &Effort) -> Report {
    let store = Store::new(SUBNET);
    store.reserve(addresses(2..1002));
    // As on a node, where most pods have run for a while.
    thread::sleep(SETTLED);
    let samples = Samples::take(&BOTH, effort.few(), |party| store.attach(party));
    let limits = Limits {
        cpu: Some(0.3),
        ..Limits::default()
    };
    let steps = ["ADD", "DEL"].map(|step| samples.beside_go(step, limits));
    Report::of(steps.into_iter().flatten())
}

pub fn nearly_full(effort: &Effort) -> Report {
    let stores = Stores::new(&BOTH, SMALL);
    stores.reserve(addresses(
        (2..=SMALL_END).filter(|number| !FREE.contains(number)),
    ));
    let samples = Samples::take(&BOTH, effort.few(), |party| stores.of(party).attach(party));
    let times = ["ADD", "DEL"].map(|step| samples.beside_go(step, Limits::default()));
    let counts = count::attachment(|party, command, counter| {
        counter(&stores.of(party).call(party, command, "counted"))
    });
    let counts = counts.into_iter().map(|figure| match figure.what.as_str() {
        "ADD system calls" | "DEL system calls" => figure.at_most(ONE_LOOK),
        _ => figure,
    });
    Report::of(times.into_iter().flatten().chain(counts))
}

pub fn exhausted(effort: &Effort) -> Report {
    let stores = Stores::new(&BOTH, SMALL);
    stores.reserve(addresses(2..=SMALL_END));
    let add = |party| stores.of(party).call(party, "ADD", "one-too-many");
    let samples = Samples::take(&BOTH, effort.few(), |party| {
        let (cost, ended) = cost_of_processes(|| Process::of(&add(party)).end());
        assert_eq!(
            ended.status,
            Some(1),
            "there was an address: {}",
            ended.stdout
        );
        vec![("refused ADD", cost)]
    });
    let [ours, go] = BOTH.map(|party| count::system_calls(&add(party)));
    let calls = Figure::new("refused ADD system calls", "", ours).beside("Go", go);
    let times = samples.beside_go("refused ADD", Limits::default());
    Report::of(times.into_iter().chain([calls.at_most(ONE_LOOK)]))
}

/// The CPU time of an ADD and of a DEL, and the memory of an ADD, by the number of
/// reservations.
pub fn curve(effort: &Effort) -> Report {
    let stores = Stores::new(&BOTH, SUBNET);
    let most = effort.size(60_000, 10_000);
    let sizes = [0, 100, 1000, 4000, 10_000, 25_000, 60_000];
    let mut curves: Vec<Curve> = BOTH.into_iter().flat_map(new_curves).collect();
    for (&before, &size) in [0].iter().chain(&sizes).zip(&sizes) {
        if size > most {
            break;
        }
        stores.reserve(numbered(before, size));
        let samples = Samples::take(&BOTH, effort.fewest().max(3), |party| {
            stores.of(party).attach(party)
        });
        for curve in &mut curves {
            let party = if curve.party == Party::Go.name() {
                Party::Go
            } else {
                Party::Ours
            };
            let value = match curve.what.as_str() {
                ADD_CPU => samples.cpu(party, "ADD"),
                DEL_CPU => samples.cpu(party, "DEL"),
                _ => memory_of_add(stores.of(party), party),
            };
            #[expect(clippy::cast_precision_loss, reason = "there are at most 60,000")]
            curve.points.push((size as f64, value));
        }
    }
    Report {
        figures: Vec::new(),
        curves,
    }
}

fn memory_of_add(store: &Store, party: Party) -> f64 {
    let call = |command| store.call(party, command, "measured");
    let memory = count::peak_memory(&call("ADD"));
    call("DEL").run().ok();
    memory
}

fn new_curves(party: Party) -> [Curve; 3] {
    [(ADD_CPU, "ms"), (DEL_CPU, "ms"), (ADD_MEMORY, "MB")].map(|(what, unit)| Curve {
        what: what.to_owned(),
        unit: unit.to_owned(),
        of: "reservations".to_owned(),
        party: party.name().to_owned(),
        points: Vec::new(),
    })
}

/// The addresses that `size` reservations have and `before` have not.
fn numbered(before: usize, size: usize) -> impl Iterator<Item = Ipv4Addr> + Clone {
    let number = |count: usize| u32::try_from(count + 2).expect("they fit into the subnet");
    addresses(number(before)..number(size))
}
