//! `eni-sync` against a simulated VPC, one module a subject.

mod agent;
mod bad_input;
mod faults;
mod fixture;
mod hygiene;
mod pool;
mod registering;
mod releasing;
mod rules_of_releasing;
mod rules_of_success;
mod rules_of_taking;
mod status_check;
