//! Answers the runtime with an error when the program panics. The standard library does that where
//! it cannot report an error: a thread has no stack for signals, the kernel has no random numbers, a
//! directory cannot be closed. A panic otherwise ends the process by a signal, without a word to the
//! runtime. So does an allocator without memory, for which stable Rust has no hook.

use std::panic::{PanicHookInfo, set_hook, take_hook};
use std::process;

use super::{Failure, report, retryable};
use crate::error::Error;

/// The exit status of a plugin that has failed.
const FAILED: i32 = 1;

/// From now on a panic of any thread ends the process with an error document and the exit status of
/// a failed command. What the command has done so far stays, as after a kill: its record leads
/// the next DEL to it.
pub(super) fn answer_panics() {
    let usual = take_hook();
    set_hook(Box::new(move |panic| {
        usual(panic);
        report(&Failure::from(retryable(error(panic))));
        #[expect(
            clippy::exit,
            reason = "no caller is left to return to: a panic aborts the process"
        )]
        process::exit(FAILED);
    }));
}

fn error(panic: &PanicHookInfo<'_>) -> Error {
    let place = panic
        .location()
        .map_or(String::new(), |at| format!(" ({at})"));
    let why = panic.payload_as_str().unwrap_or("no reason is known");
    Error::internal("the command has ended early").with_details(format!("{why}{place}"))
}
