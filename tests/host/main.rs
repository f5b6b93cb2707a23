//! The programs on this machine: a host is a network namespace, and what is in it is veth, macvlan
//! and bridge. Needs root, and the packages of `tests/prepare tests`. `make test-host` runs it.

mod arm64;
mod bench_program;
mod binaries;
mod chart;
mod conformance;
mod data_plane;
mod delegation;
mod deploy;
mod dist;
mod documents;
mod eni_lab;
mod eni_sync;
mod faults;
mod host_device;
mod host_local;
mod image;
mod ipvlan;
mod kernel_calls;
mod macvlan;
mod monitoring;
mod neighbours;
mod one_process;
mod path_tricks;
mod peers;
mod protocol;
mod source_routing;
