//! Interfaces of the kernel: netlink, network namespaces, PCI devices. Nothing here
//! depends on CNI, except for the type of errors.

pub mod namespaces;
#[cfg(feature = "netlink")]
pub mod netlink;
pub mod netns;
#[cfg(feature = "netlink")]
pub mod pci;
