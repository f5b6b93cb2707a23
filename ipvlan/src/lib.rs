//! What ipvlan is made of: the one reader of its configuration, the device that its record
//! describes, and what it asks of the kernel. The program beside it has the commands;
//! `eni-sync doctor` reads the same configurations with the same types.

#![doc = include_str!("../KERNEL.md")]

pub mod carrier;
pub mod chain;
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
