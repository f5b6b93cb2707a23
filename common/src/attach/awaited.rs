//! A pod that starts while the ENIs of its node are being attached waits for its interface, for as
//! long as somebody attaches them and a runtime has patience.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorCode, Result};
use crate::files::lock;
use crate::say;

/// Held by who attaches ENIs to the node, or detaches them.
pub const LOCK: &str = "/run/eni-cni/.attach.lock";
/// A runtime gives up after minutes, and has more to do than this.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);
/// The pause before the first look again.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// A look can take the turn of all devices and read every record of them, so many that wait must
/// not look often.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What `find` finds on the node. Where that does not exist ([`Error::is_not_found`]) and ENIs are
/// being attached, it looks again until they are, or for a minute. Nothing waits for any other
/// error. `find` is to hold nothing that others wait for when it returns an error.
///
/// # Errors
/// Those of `find`.
pub fn find<T>(mut find: impl FnMut() -> Result<T>) -> Result<T> {
    let missing = match find() {
        Err(error) if error.is_not_found() => error,
        outcome => return outcome,
    };
    if !is_attaching() {
        // They may have been attached since.
        return find();
    }
    say!("{missing}; waiting for the ENIs that are being attached or detached");
    let begun = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        thread::sleep(pause);
        pause = longer(pause);
        // What was attached before this look is found by the next line.
        let is_over = !is_attaching();
        match find() {
            Err(error) if error.is_not_found() => {
                if is_over {
                    return Err(error);
                }
                if begun.elapsed() >= DEADLINE {
                    return Err(still_attaching(error));
                }
            }
            outcome => {
                say!("waited {:.1} s for it", begun.elapsed().as_secs_f64());
                return outcome;
            }
        }
    }
}

/// The pause after this one: twice as long, up to the longest.
fn longer(pause: Duration) -> Duration {
    pause.saturating_mul(2).min(LONGEST_PAUSE)
}

fn still_attaching(error: Error) -> Error {
    let seconds = DEADLINE.as_secs();
    let more = format!("ENIs are still being attached or detached after {seconds} s");
    let details = match error.details.as_str() {
        "" => more,
        details => format!("{details}; {more}"),
    };
    error.with_code(ErrorCode::TRY_AGAIN).with_details(details)
}

/// Whether somebody attaches ENIs to this node now.
fn is_attaching() -> bool {
    lock::is_held(Path::new(LOCK))
}

#[cfg(test)]
mod tests {
    use std::iter::successors;

    use super::*;

    #[test]
    fn who_waits_looks_less_and_less_often() {
        let pauses = successors(Some(FIRST_PAUSE), |pause| Some(longer(*pause)));
        let pauses: Vec<u128> = pauses.take(6).map(|pause| pause.as_millis()).collect();
        assert_eq!(pauses, [200, 400, 800, 1600, 2000, 2000]);
    }
}
