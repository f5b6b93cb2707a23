//! The simulated VPC itself, over HTTP as its clients see it: every rule of EC2
//! that it keeps. What no document of AWS says is a switch, tested both ways.

mod attaching;
mod describe;
mod faults;
mod imds;
mod ipv4;
mod ipv6;
mod log;
mod set_up;
mod strict;
mod tls;
