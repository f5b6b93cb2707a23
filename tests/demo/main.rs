//! The main job, as a user sees it: pods on published networks, their interfaces and
//! pings between them, their addresses in a simulated VPC, the store, and that nothing
//! is left afterwards. Whatever differs from what a network must give ends the demo
//! with a status that is not 0.
//!
//! `demo ipvlan` works in namespaces of its own. `demo host-device` moves the PCI
//! device 0000:00:06.0 of the machine, so it belongs into the VM.

mod host_device;
mod ipvlan;
mod report;
mod steps;
mod vpc;

use std::process::ExitCode;

fn main() -> ExitCode {
    let parts: Vec<String> = std::env::args().skip(1).collect();
    for part in &parts {
        match part.as_str() {
            "ipvlan" => ipvlan::run(),
            "host-device" => host_device::run(),
            other => {
                eprintln!("usage: demo [ipvlan] [host-device]; there is no part {other:?}");
                return ExitCode::FAILURE;
            }
        }
    }
    println!("\nEverything is as the networks say.");
    ExitCode::SUCCESS
}
