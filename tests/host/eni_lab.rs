//! The simulated VPC where it needs more than a connection to it: the packets that it carries, its
//! program, and the models of AWS. Its rules are in the target `unprivileged`.

mod data_plane;
mod model;
mod program;
