//! What the project does, as a story: pods that do not reach each other and then do, networks as
//! they were published, and a whole network card. Whatever is not as a network says ends the demo
//! with a status that is not 0.
//!
//! `demo across ipvlan` works in namespaces of its own. `demo host-device` moves the PCI device
//! 0000:00:06.0 of the machine, so it belongs into the VM.

mod across;
mod host_device;
mod ipvlan;
mod report;
mod steps;
mod vpc;

use std::process::ExitCode;

/// What `make demo` is, and how long it takes.
const INTRODUCTION: &str = "\
Pods with addresses of a VPC, shown on a real kernel and a simulated VPC that carries packets.
Without KVM this takes about three minutes on two cores. Lines with `ok:` were checked; what is
not so ends the demo with an error.";

const WHAT_NEXT: &str = "\
Everything is as the networks say.

What to try next:
  docs/eks.md                 the same on a cluster of your own
  examples/                   the networks of the documents, each of which a test attaches
  make lab                    a shell on a node of the simulated VPC: pods of your own (docs/eni-lab.md)";

fn main() -> ExitCode {
    let parts: Vec<String> = std::env::args().skip(1).collect();
    println!("{INTRODUCTION}");
    for part in &parts {
        match part.as_str() {
            "across" => across::run(),
            "ipvlan" => ipvlan::run(),
            "host-device" => host_device::run(),
            other => {
                eprintln!(
                    "usage: demo [across] [ipvlan] [host-device]; there is no part {other:?}"
                );
                return ExitCode::FAILURE;
            }
        }
    }
    println!("\n{WHAT_NEXT}");
    ExitCode::SUCCESS
}
