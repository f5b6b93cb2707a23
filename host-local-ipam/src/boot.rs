//! When this boot began. Reservations of an earlier one belong to containers that
//! do not exist any more, and nobody else would ever release them.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use common::attachment::boot_id;
use common::error::{Error, Result};
use common::file;

use crate::reservation::{Holder, Reservation};
use crate::store::SMALL;

/// Which boot the reservations of a directory are of.
const BOOT_ID: &str = ".boot_id";
/// Seconds since the boot, suspended time included, and idle seconds.
const UPTIME: &str = "/proc/uptime";

/// This boot, as seen from a directory.
#[derive(Debug)]
pub(crate) enum Boot {
    /// The directory names it, by this id.
    Known(String),
    /// The directory does not name it.
    New {
        /// The id to write down.
        id: String,
        /// When it began.
        started: SystemTime,
    },
}

impl Boot {
    /// Reads which boot this is, and whether `directory` names it.
    ///
    /// # Errors
    /// Code 5 when `/proc` cannot be read.
    pub(crate) fn of(directory: &Path) -> Result<Self> {
        let id = boot_id()?;
        let known = file::read_regular(&directory.join(BOOT_ID), SMALL);
        // Whatever prevents the file from being read, the rule for a directory
        // without one holds: only what was written before this boot is abandoned.
        if known.is_ok_and(|content| content == id.as_bytes()) {
            return Ok(Self::Known(id));
        }
        Ok(Self::New {
            id,
            started: started()?,
        })
    }

    /// Whether nobody holds this any more.
    pub(crate) fn is_over_for(&self, reservation: &Reservation) -> bool {
        let is_old = match self {
            Self::Known(_) => false,
            Self::New { started, .. } => reservation.is_older_than(*started),
        };
        is_old || reservation.holder == Holder::Nobody
    }

    /// Lets `directory` name this boot.
    ///
    /// # Errors
    /// Code 5 naming the file.
    pub(crate) fn write(&self, directory: &Path) -> Result<()> {
        let Self::New { id, .. } = self else {
            return Ok(());
        };
        let path = directory.join(BOOT_ID);
        file::replace(&path, id.as_bytes())
            .map_err(|cause| Error::io(format!("failed to write {path:?}"), &cause))
    }
}

/// The moment at which the machine was started.
///
/// # Errors
/// Code 5 when `/proc` is not mounted.
fn started() -> Result<SystemTime> {
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
