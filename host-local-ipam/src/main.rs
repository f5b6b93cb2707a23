//! The plugin `host-local` as a program of its own. What is installed is `eni-cni`, which has all
//! plugins in it.

use std::process::ExitCode;

fn main() -> ExitCode {
    common::plugin::run(&host_local_ipam::commands::COMMANDS, &[])
}
