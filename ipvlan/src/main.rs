//! The plugin `ipvlan` as a separate program. Installations use `eni-cni`, which contains all
//! plugins.

use std::process::ExitCode;

fn main() -> ExitCode {
    common::plugin::run(&ipvlan::commands::COMMANDS, &[])
}
