//! `eni-sync` makes the addresses of pods routable in the VPC: it registers them on the
//! ENI that they are reached at, and removes them when nobody has them any more.

mod assign;
mod aws;
mod config;
mod ec2;
mod failure;
mod imds;
mod inventory;
mod ledger;
mod living;
mod plan;
mod plugin;
mod registrar;
mod release;
mod takeover;
mod wanted;

use std::process::ExitCode;

use common::plugin::{Commands, run};

fn main() -> ExitCode {
    run(&Commands {
        name: "eni-sync",
        version: env!("CARGO_PKG_VERSION"),
        add: plugin::add,
        check: plugin::check,
        del: plugin::del,
        status: plugin::status,
        gc: plugin::gc,
    })
}
