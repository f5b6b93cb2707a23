//! A pod that starts while the ENIs of its node are being attached waits for its interface, for as
//! long as somebody attaches them and a runtime has patience.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorCode, Result};
use crate::files::lock::Lock;
use crate::say;

/// Held by who attaches ENIs to the node.
pub const LOCK: &str = "/run/eni-cni/.attach.lock";
/// A runtime gives up after minutes, and has more to do than this.
const DEADLINE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(200);

/// What `find` finds on the node. Where it finds nothing and ENIs are being attached, it looks
/// again until they are, or for a minute.
///
/// # Errors
/// Those of `find`.
pub fn find<T>(mut find: impl FnMut() -> Result<T>) -> Result<T> {
    let missing = match find() {
        Err(error) => error,
        found => return found,
    };
    if !is_attaching() {
        // They may have been attached since.
        return find();
    }
    say!("{missing}; waiting for the ENIs that are being attached");
    let deadline = Instant::now() + DEADLINE;
    while is_attaching() && Instant::now() < deadline {
        if let Ok(found) = find() {
            return Ok(found);
        }
        thread::sleep(LOOK);
    }
    find().map_err(|error| match is_attaching() {
        true => still_attaching(error),
        false => error,
    })
}

fn still_attaching(error: Error) -> Error {
    let seconds = DEADLINE.as_secs();
    let more = format!("ENIs are still being attached after {seconds} s");
    let details = match error.details.as_str() {
        "" => more,
        details => format!("{details}; {more}"),
    };
    error.with_code(ErrorCode::TRY_AGAIN).with_details(details)
}

/// Whether somebody attaches ENIs to this node now.
fn is_attaching() -> bool {
    let taken = Lock::take_existing(Path::new(LOCK), Duration::ZERO);
    taken.is_err_and(|error| error.code == ErrorCode::TRY_AGAIN)
}
