//! Everything that is tested through the binaries, one module a subject.

mod vm_ipvlan;
