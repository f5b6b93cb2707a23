//! The CNI protocol: the input of a plugin (environment and stdin), its output, and its
//! calls of other plugins. Nothing here uses netlink or network namespaces.

pub mod args;
pub mod config;
pub mod identifier;
pub mod ipam;
pub mod lenient;
pub mod process;
pub mod result;
pub mod version;
