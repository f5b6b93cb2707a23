//! `eni-sync` against a simulated VPC, one module a subject.

mod agent;
mod bad_files;
mod bad_input;
mod chained;
mod command_line;
mod doctor;
mod faults;
pub mod fixture;
mod hygiene;
mod killed;
mod pool;
mod property;
mod registering;
mod release_command;
mod releasing;
mod rules_of_releasing;
mod rules_of_success;
mod rules_of_taking;
mod status;
mod status_check;
mod sync;
