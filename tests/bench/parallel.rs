//! Many calls of host-local at once, as when a node starts.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::figure::{Figure, Report};
use crate::options::Effort;
use crate::process::{Cost, Process, cost_of_processes};
use crate::samples::{BOTH, Limits, Party, Samples};
use crate::store::{Store, Stores};

const CALLS: usize = 100;

pub fn parallel(effort: &Effort) -> Report {
    let stores = Stores::new(&BOTH, "10.0.0.0/16");
    let mut fewest = [CALLS; 2];
    let samples = Samples::take(&BOTH, effort.few(), |party| {
        let store = stores.of(party);
        let (add, printed) = at_once(store, party, "ADD");
        let given: BTreeSet<String> = printed.iter().map(|text| address(text)).collect();
        let fewest = &mut fewest[usize::from(party == Party::Go)];
        *fewest = given.len().min(*fewest);
        let (del, _) = at_once(store, party, "DEL");
        assert_eq!(store.reserved(), 0, "DEL left addresses");
        vec![("100 ADDs", add), ("100 DELs", del)]
    });
    let adds = samples.beside_go("100 ADDs", Limits::new(0.25, 1.0 / 3.0));
    let dels = samples.beside_go("100 DELs", Limits::default());
    #[expect(clippy::cast_precision_loss, reason = "there are 100")]
    let [ours, go] = fewest.map(|given| (CALLS - given) as f64);
    let duplicates = Figure::new("duplicate addresses", "", ours).beside("Go", go);
    Report::of(
        adds.into_iter()
            .chain(dels)
            .chain([duplicates.at_most(0.0)]),
    )
}

/// Starts every call before it waits for the first: what all of them cost, and what
/// each printed.
fn at_once(store: &Store, party: Party, command: &str) -> (Cost, Vec<String>) {
    let call = |n: usize| store.call(party, command, &format!("{}-{n}", party.name()));
    let calls: Vec<_> = (0..CALLS).map(call).collect();
    let (cost, ended) = cost_of_processes(|| {
        let processes: Vec<Process> = calls.iter().map(Process::of).collect();
        let ended = processes.into_iter().map(Process::end);
        ended.collect::<Vec<_>>()
    });
    (cost, ended.into_iter().map(|ended| ended.ok()).collect())
}

fn address(printed: &str) -> String {
    let result: Value = serde_json::from_str(printed).expect("ADD prints JSON");
    result["ips"][0]["address"]
        .as_str()
        .expect("it gives an address")
        .to_owned()
}
