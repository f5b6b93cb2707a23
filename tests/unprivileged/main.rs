//! What needs nothing but the sources and Python: the documents and manifests, and the simulated VPC.
//! `cargo test` runs it, as does `make test-units`.

mod deploy;
mod documents;
mod eni_lab;
