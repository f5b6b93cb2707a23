//! The protocol: what comes by environment and stdin, what is printed, and what a plugin
//! asks of another one. It knows no kernel.

pub mod args;
pub mod config;
pub mod identifier;
pub mod ipam;
pub mod lenient;
pub mod process;
pub mod result;
pub mod version;
