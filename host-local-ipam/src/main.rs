//! The plugin `host-local` as a separate program. Installations use `eni-cni`, which contains all
//! plugins.

use std::process::ExitCode;

fn main() -> ExitCode {
    common::plugin::run(&host_local_ipam::commands::COMMANDS, &[])
}
