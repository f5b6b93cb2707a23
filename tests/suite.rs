//! Everything that is tested through the binaries, one module a subject.

mod host_local;
mod vm_ipvlan;
