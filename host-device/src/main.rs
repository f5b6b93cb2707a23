//! The plugin `host-device` as a separate program. Installations use `eni-cni`, which contains all
//! plugins.

use std::process::ExitCode;

fn main() -> ExitCode {
    common::plugin::run(&host_device::commands::COMMANDS, &[])
}
