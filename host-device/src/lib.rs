//! The library of the plugin host-device: its commands, the only reader of its configuration,
//! its part of the record, and the moves of a device to a container and back. The programs
//! `host-device` and `eni-cni` execute the commands; `eni-sync` reads the same configurations
//! and records with the same types.

#![doc = include_str!("../KERNEL.md")]

pub mod commands;
pub mod config;
pub mod device;
pub mod device_info;
pub mod driver;
pub mod elsewhere;
pub mod find;
pub mod give_back;
pub mod held;
pub mod identity;
pub mod in_use;
pub mod keep;
pub mod move_out;
pub mod options;
pub mod parameters;
pub mod plan;
pub mod recover;
pub mod restore;
pub mod selection;
pub mod stacked;
pub mod sysfs;
pub mod transfer;
pub mod unrecorded;
pub mod userspace;

use common::records::Records;

/// The name of this plugin.
pub const NAME: &str = "host-device";

/// The records of this plugin.
pub fn records() -> Records {
    Records::of(NAME)
}
