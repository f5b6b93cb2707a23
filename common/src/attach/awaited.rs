//! Lets a pod that starts while the ENIs of its node are being attached wait for its interface,
//! until they are attached or a deadline is over.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorCode, Result};
use crate::files::lock;
use crate::say;

/// The lock that a process holds while it attaches or detaches ENIs of the node.
pub const LOCK: &str = "/run/eni-cni/.attach.lock";
/// How long to wait. A runtime gives up after minutes, and an ADD has other work to do.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);
/// The pause before the second try.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause. A try can take the turn of all devices and read all of their records, so
/// many waiting processes must not try often.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Calls `find`, which searches for something on the node. If it does not exist
/// ([`Error::is_not_found`]) while ENIs are being attached, calls `find` again until they are
/// attached, for a minute at most. Any other error is returned at once. When `find` returns an
/// error it must not hold a lock that other processes wait for.
///
/// # Errors
/// Those of `find`; code 11 when ENIs are still being attached after a minute.
pub fn find<T>(mut find: impl FnMut() -> Result<T>) -> Result<T> {
    let missing = match find() {
        Err(error) if error.is_not_found() => error,
        outcome => return outcome,
    };
    if !is_attaching() {
        // The ENIs may have been attached since the first try.
        return find();
    }
    say!("{missing}; waiting for the ENIs that are being attached or detached");
    let begun = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        thread::sleep(pause);
        pause = longer(pause);
        // This is read before the next try, which then finds everything that was attached until
        // now.
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

/// The next pause: twice as long, up to the longest.
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

/// Whether a process attaches or detaches ENIs of this node now.
fn is_attaching() -> bool {
    lock::is_held(Path::new(LOCK))
}

#[cfg(test)]
mod tests {
    use std::iter::successors;

    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let pauses = successors(Some(FIRST_PAUSE), |pause| Some(longer(*pause)));
        let pauses: Vec<u128> = pauses.take(6).map(|pause| pause.as_millis()).collect();
        assert_eq!(pauses, [200, 400, 800, 1600, 2000, 2000]);
    }
}
