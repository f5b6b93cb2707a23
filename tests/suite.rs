//! Everything that is tested through the binaries, one module a subject.

mod bench_program;
mod binaries;
mod conformance;
mod delegation;
mod deploy;
mod eni_lab;
mod eni_sync;
mod host_device;
mod host_local;
mod kernel_calls;
mod path_tricks;
mod peers;
mod protocol;
mod reboot;
mod source_routing;
mod vm_conformance;
mod vm_driver;
mod vm_eni_sync;
mod vm_hostile;
mod vm_ipvlan;
mod vm_kernel_calls;
mod vm_master_selector;
mod vm_pci;
mod vm_readme;
mod vm_runtimes;
mod vm_source_routing;
