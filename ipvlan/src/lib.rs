//! What ipvlan is made of: its commands, the one reader of its configuration, the device that
//! its record describes, and what it asks of the kernel. The programs `ipvlan` and `eni-cni` run
//! the commands; `eni-sync doctor` reads the same configurations with the same types.

#![doc = include_str!("../KERNEL.md")]

pub mod carrier;
pub mod chain;
pub mod commands;
pub mod config;
pub mod device;
pub mod link;
pub mod master;
pub mod neighbours;
pub mod status;
pub mod unrecorded;

use common::records::Records;

/// The name of this plugin.
pub const NAME: &str = "ipvlan";

/// The records of this plugin.
pub fn records() -> Records {
    Records::of(NAME)
}
