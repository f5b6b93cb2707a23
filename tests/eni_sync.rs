//! `eni-sync` against a simulated VPC, one module a subject.

mod agent;
mod bad_files;
mod bad_input;
mod chained;
mod container;
mod empty_root;
mod faults;
pub(crate) mod fixture;
mod hygiene;
mod inventory;
mod killed;
mod metrics;
mod moto;
mod policy;
mod pool;
mod property;
mod registering;
mod releasing;
mod rules_of_releasing;
mod rules_of_success;
mod rules_of_taking;
mod scrape;
mod status_check;
