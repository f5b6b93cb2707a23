//! The kernel of the node: netlink, network namespaces, PCI devices. It knows no CNI.

pub mod namespaces;
pub mod netlink;
pub mod netns;
pub mod pci;
