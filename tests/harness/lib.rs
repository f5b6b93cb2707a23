//! Code that the tests and the demo share: calls of a plugin as by a runtime, nodes and
//! pods made of namespaces, and reading the state of the kernel with `ip`, which is
//! independent of the code under test. Everything here panics on failure, with a message
//! that has all data for the investigation.

mod agent;
mod aws;
mod call;
pub mod damage;
pub mod eni_lab;
mod fake_ipam;
mod fake_sys;
pub mod fault;
pub mod kubernetes;
mod lock;
pub mod log;
mod neighbour;
mod network;
mod node;
pub mod pci;
mod ping;
mod random;
mod repository;
mod resident;
pub mod small_disk;
mod venv;
pub mod vpc;

pub use agent::{Agent, Host, uninterrupted};
pub use aws::{AwsNode, is_removed};
pub use call::{Call, CniError, Output, go_plugin, our_plugin, program};
pub use fake_ipam::FakeIpam;
pub use fake_sys::FakeSys;
pub use lock::is_waited_for;
pub use neighbour::{ADVERTISED, Listener};
pub use network::Network;
pub use node::{Namespace, Node, Pod, attachment_files, has_flag, is_up, run_tool, wait_until};
pub use random::Random;
pub use repository::repository;
pub use resident::Resident;
pub use venv::python_with;
