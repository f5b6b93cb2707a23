//! The plugin `ipvlan` as a program of its own. What is installed is `eni-cni`, which has all
//! plugins in it.

use std::process::ExitCode;

fn main() -> ExitCode {
    common::plugin::run(&ipvlan::commands::COMMANDS, &[])
}
