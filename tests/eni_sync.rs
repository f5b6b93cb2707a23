//! `eni-sync` against a simulated VPC, one module a subject.

mod fixture;
mod registering;
