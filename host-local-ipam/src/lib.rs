//! The library of the plugin host-local: its commands, the only reader and writer of its
//! configuration, its ranges file and its reservations, and the choice of addresses. The
//! programs `host-local` and `eni-cni` execute the commands; `eni-sync` reads the same files
//! with the same types.

pub mod abandoned;
pub mod allocation;
pub mod allocator;
pub mod atomic;
pub mod boot;
pub mod commands;
pub mod config;
pub mod container;
pub mod ended;
pub mod exclude;
pub mod form;
mod index;
pub mod names;
pub mod range;
pub mod ranges_file;
pub mod raw_range;
pub mod reservation;
pub mod resolv_conf;
pub mod sources;
pub mod status;
pub mod store;
pub mod survey;
pub mod taken;

/// The name of this plugin.
pub const NAME: &str = "host-local";
