//! The kernel of the node: netlink, network namespaces, PCI devices. It knows no CNI.

pub mod namespaces;
#[cfg(feature = "netlink")]
pub mod netlink;
pub mod netns;
#[cfg(feature = "netlink")]
pub mod pci;
