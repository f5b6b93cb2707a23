//! A moment as logs have it: RFC 3339, UTC, with milliseconds.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use humantime::{format_rfc3339_millis, parse_rfc3339};

/// `time` such as `2026-11-27T02:40:00.123Z`; a time before 1970 is that of 1970, and one
/// with a year of more than four digits is empty.
pub fn rfc3339(time: SystemTime) -> String {
    let mut text = String::new();
    match write!(text, "{}", format_rfc3339_millis(time.max(UNIX_EPOCH))) {
        Ok(()) => text,
        Err(_) => String::new(),
    }
}

/// The moment that a text such as `2026-11-27T02:40:00.123Z` is; nothing where it is none.
pub fn moment(text: &str) -> Option<SystemTime> {
    parse_rfc3339(text).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
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
