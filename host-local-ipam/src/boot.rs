//! When this boot began. Reservations of an earlier one belong to containers that
//! do not exist any more, and nobody else would ever release them.

use std::fs;
use std::time::{Duration, SystemTime};

use common::error::{Error, Result};

/// Seconds since the boot, suspended time included, and idle seconds.
const UPTIME: &str = "/proc/uptime";

/// The moment at which the machine was started.
///
/// # Errors
/// Code 5 when `/proc` is not mounted.
pub(crate) fn started() -> Result<SystemTime> {
    let text = fs::read_to_string(UPTIME)
        .map_err(|cause| Error::io(format!("failed to read {UPTIME}"), &cause))?;
    parse(&text)
        .and_then(|uptime| SystemTime::now().checked_sub(uptime))
        .ok_or_else(|| Error::internal(format!("failed to understand {UPTIME}: {text:?}")))
}

fn parse(text: &str) -> Option<Duration> {
    let seconds: f64 = text.split_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uptime_is_the_first_number() {
        assert_eq!(parse("12.50 99.00\n"), Some(Duration::from_millis(12_500)));
        for wrong in ["", "x 1", "-1 2", "nan 1"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn this_boot_began_before_now() {
        assert!(started().unwrap() < SystemTime::now());
    }
}
