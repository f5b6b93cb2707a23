//! What an attachment costs when the plugin has many records of others, all alive.

use std::fs;

use harness::Node;
use serde_json::{Value, json};

use crate::figure::Report;
use crate::options::Effort;
use crate::process::run;
use crate::samples::{ALL, Limits, Party, Samples, Step};
use crate::site::{POD, Site, Sites};

const RECORDS: usize = 1000;
/// How much more it may cost than without records.
const FLAT: f64 = 1.2;

pub fn host_device(effort: &Effort) -> Report {
    let conf = crate::host_device::conf(Some("10.0.0.0/24"));
    compare(effort.few(), crate::host_device::node, &conf)
}

pub fn ipvlan(effort: &Effort) -> Report {
    compare(effort.few(), crate::ipvlan::node, &crate::ipvlan::conf())
}

fn compare(rounds: usize, node: fn() -> Node, conf: &Value) -> Report {
    let sites = Sites::new(node, conf);
    add_records(sites.of(Party::Ours));
    let without = Site::new(Party::Ours, node(), conf);
    let samples = Samples::take(&ALL, rounds, |party| match party {
        Party::Reference => without.attach(),
        party => sites.of(party).attach(),
    });
    let flat = Limits::new(FLAT, FLAT);
    let of_step = |step: Step| {
        let beside_go = samples.beside_go(step, Limits::default());
        let beside_none = samples.beside_reference("ours, no other record", step, flat);
        beside_go.into_iter().chain(beside_none)
    };
    Report::of(["ADD", "DEL"].into_iter().flat_map(of_step))
}

/// Copies the record of a living attachment for other containers, in the same namespace.
fn add_records(site: &Site) {
    site.inside(|site| run(&site.call("ADD")));
    let text = fs::read(site.record(POD)).expect("ADD has written a record");
    let mut record: Value = serde_json::from_slice(&text).expect("a record is JSON");
    for n in 0..RECORDS {
        let id = format!("other-{n}");
        let path = site.record(&id);
        record["containerId"] = json!(id);
        // Each pod has a device of its own; one of ipvlan is a new one for each.
        if record["device"]["name"].is_string() {
            record["device"]["name"] = json!(id);
            record["device"]["sysfsNumber"] = json!(u64::MAX - n as u64);
        }
        fs::write(path, record.to_string()).expect("the state directory is writable");
    }
    site.inside(|site| run(&site.call("DEL")));
}
