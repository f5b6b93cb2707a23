//! Times in the format of logs: RFC 3339, UTC, with milliseconds.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use humantime::{format_rfc3339_millis, parse_rfc3339};

/// Formats `time`, such as `2026-11-27T02:40:00.123Z`. A time before 1970 is printed as
/// the beginning of 1970. The text is empty when the year has more than four digits.
pub fn rfc3339(time: SystemTime) -> String {
    let mut text = String::new();
    match write!(text, "{}", format_rfc3339_millis(time.max(UNIX_EPOCH))) {
        Ok(()) => text,
        Err(_) => String::new(),
    }
}

/// Reads a text such as `2026-11-27T02:40:00.123Z`; `None` when it is not a time in this
/// format.
pub fn moment(text: &str) -> Option<SystemTime> {
    parse_rfc3339(text).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_printed_as_by_date_and_read_again() {
        // By date -u -d @SECONDS.
        for (milliseconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_795_747_200_123, "2026-11-27T02:40:00.123Z"),
            (1_798_761_599_000, "2026-12-31T23:59:59.000Z"),
            (1_798_761_600_000, "2027-01-01T00:00:00.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            let time = UNIX_EPOCH + Duration::from_millis(milliseconds);
            assert_eq!(rfc3339(time), text);
            assert_eq!(moment(text), Some(time));
        }
    }
}
