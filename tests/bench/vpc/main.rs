//! eni-sync beside the programs that it replaces: EC2 calls, seconds to routable and
//! addresses left behind, for a node that starts pods one after the other, for a node
//! that starts them all at once, and for nodes that do so together.
//!
//! eni-sync is the real plugin, one process for each command, with addresses that pods name and
//! as the IPAM plugin of networks without addresses. The others are replayed
//! as the requests that they send, with the retries of their SDKs and without their
//! start-up times. All talk HTTP to a simulated VPC with EC2's rules and the latencies
//! and token buckets that are assumed of it. No pod gets a second attempt, as a kubelet
//! would make after a failed ADD: an init container that has failed says that it has not.
//!
//! `vpc-bench --help` has the options.

mod client;
mod eni_sync;
mod measure;
mod options;
mod replay;
mod report;
mod world;

use clap::Parser;

use measure::{Contender, Measured, measure};
use options::{Options, Scenario};

fn main() {
    let options = Options::parse();
    let mut all = Vec::new();
    for scenario in &options.scenarios() {
        let measured = run(scenario, options.contenders());
        if !options.json {
            report::print_table(scenario, &measured);
        }
        all.extend(measured.iter().map(|m| report::document(scenario, m)));
    }
    if options.json {
        println!("{:#}", serde_json::Value::from(all));
    }
}

fn run(scenario: &Scenario, contenders: &[Contender]) -> Vec<Measured> {
    let measure_one = |contender: &Contender| {
        eprintln!("{scenario}: {contender} …");
        measure(*contender, scenario)
    };
    contenders.iter().map(measure_one).collect()
}
