//! An attachment by one process beside one by two, which is how Go's plugins, and ours as
//! programs of their own, do the same.

use harness::Node;
use serde_json::Value;

use crate::figure::{Figure, Report};
use crate::options::Effort;
use crate::process::page_faults;
use crate::samples::{Limits, Party, Samples};
use crate::site::{Site, Sites};

const PARTIES: [Party; 3] = [Party::Ours, Party::Go, Party::Alone];

pub fn host_device(effort: &Effort) -> Report {
    let conf = crate::host_device::conf(Some("10.0.0.0/24"));
    compare(effort, crate::host_device::node, &conf)
}

pub fn ipvlan(effort: &Effort) -> Report {
    compare(effort, crate::ipvlan::node, &crate::ipvlan::conf())
}

fn compare(effort: &Effort, node: fn() -> Node, conf: &Value) -> Report {
    let sites = Sites::new(node, conf);
    let alone = Site::new(Party::Alone, node(), conf);
    let of = |party| match party {
        Party::Alone => &alone,
        party => sites.of(party),
    };
    let samples = Samples::take(&PARTIES, effort.rounds, |party| of(party).attach());
    let less = Limits::new(1.0, 1.0);
    let times = ["ADD", "DEL"].into_iter().flat_map(|step| {
        let beside_go = samples.beside_go(step, Limits::default());
        beside_go
            .into_iter()
            .chain(samples.beside_alone(step, less))
    });
    let faults = ["ADD", "DEL"].into_iter().flat_map(|command| {
        let [ours, go, alone] = PARTIES.map(|party| faults_of(of(party), command));
        let figure =
            |name, of| Figure::new(format!("{command} page faults"), "", ours).beside(name, of);
        [figure("Go", go), figure("two programs", alone)]
    });
    Report::of(times.chain(faults))
}

/// The page faults of a command, and of the delegate that it executes.
fn faults_of(site: &Site, command: &str) -> f64 {
    site.inside(|site| page_faults(&site.call(command)))
}
