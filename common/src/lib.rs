//! What the CNI specification defines for every plugin, and what two or more of
//! our plugins execute verbatim. It contains nothing that only one plugin needs.

#![warn(missing_docs)]

pub mod address;
pub mod args;
pub mod attach;
pub mod config;
pub mod error;
pub mod file;
pub mod inventory;
pub mod ipam;
pub mod lenient;
pub mod lock;
pub mod namespaces;
pub mod netlink;
pub mod netns;
pub mod pci;
pub mod plugin;
pub mod process;
pub mod random;
pub mod requested_mac;
pub mod result;
pub mod selector;
pub mod text;
pub mod turn;
pub mod version;
