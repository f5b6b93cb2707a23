//! `eni-sync` makes the addresses of pods routable in the VPC: it registers them on the ENI
//! that they are reached at, and unassigns them when no pod has them any more.

mod agent;
mod cli;
mod deadline;
mod installed;
mod ledger;
mod limits;
mod log;
mod plugin;
mod provision;
mod random;
mod registration;
mod vpc;

use std::process::ExitCode;

use common::plugin::Commands;

/// Runs as a plugin when `CNI_COMMAND` is set, and as a command line when there are arguments.
/// Without either, it prints its name and version, as every plugin does, and its commands.
fn main() -> ExitCode {
    let is_plugin = common::plugin::is_called();
    let has_arguments = std::env::args_os().len() > 1;
    if has_arguments && !is_plugin {
        return cli::run();
    }
    let commands = Commands {
        name: "eni-sync",
        version: env!("CARGO_PKG_VERSION"),
        marker: common::marker!("eni-sync"),
        add: plugin::add,
        check: plugin::check,
        del: plugin::del,
        status: plugin::status,
        gc: plugin::gc,
    };
    let status = common::plugin::run(&commands, &[]);
    if !is_plugin {
        cli::help();
    }
    status
}
