//! The library of the plugin ipvlan: its commands, the only reader of its configuration, its
//! part of the record, and its use of the kernel. The programs `ipvlan` and `eni-cni` execute
//! the commands; `eni-sync doctor` reads the same configurations with the same types.

#![doc = include_str!("../KERNEL.md")]

pub mod chain;
pub mod commands;
pub mod config;
pub mod device;
pub mod link;
pub mod lower_device;
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
