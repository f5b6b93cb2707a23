//! The programs in the VM, whose kernel has ipvlan and whose NICs are PCI devices. Most nodes are
//! namespaces; what is below `machine` has the NICs or the runtimes of the VM to itself. Needs root, QEMU
//! and the packages of `tests/prepare tests`. `make test-vm` runs it.

mod data_plane;
mod eni_lab;
mod eni_sync;
mod faults;
mod ipvlan;
mod kernel_calls;
mod machine;
mod master_selector;
mod neighbours;
mod source_routing;
