//! What host-local is made of: its commands, the one reader and writer of its configuration, of
//! its ranges file and of its reservations, and the choice of an address. The programs
//! `host-local` and `eni-cni` run the commands; `eni-sync` reads the same files with the same
//! types.

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
