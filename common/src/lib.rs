//! What the CNI specification defines for every plugin, and what two or more of
//! our plugins execute verbatim. It contains nothing that only one plugin needs.

#![warn(missing_docs)]

pub mod address;
#[cfg(feature = "netlink")]
pub mod attach;
pub mod cni;
pub mod error;
pub mod files;
pub mod ifname;
pub mod json;
pub mod kernel;
pub mod plugin;
pub mod program;
pub mod random;
pub mod records;
pub mod text;
pub mod timestamp;
