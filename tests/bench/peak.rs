//! Executes the program in its second argument, and writes into the file that is its
//! first one how much memory that had at most, in kilobytes. The kernel counts the memory
//! of whoever starts a process for it, so this program has as little as possible.

use std::env::args_os;
use std::process::Command;

use nix::sys::resource::{UsageWho, getrusage};

fn main() {
    let arguments: Vec<_> = args_os().collect();
    let status = Command::new(&arguments[2]).status();
    let status = status.expect("the program can be executed");
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("the kernel counts what is used");
    std::fs::write(&arguments[1], usage.max_rss().to_string()).expect("the file is writable");
    assert!(status.success(), "the program failed");
}
