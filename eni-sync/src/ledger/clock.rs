//! The clock by which the times of an entry are measured. The wall clock can be set, by hand or
//! by a time service; intervals that include the change are then wrong. So beside its times, an
//! entry has the time of the boot by the same clock: if that differs now, the clock was set,
//! and the times are moved by the difference.

use std::time::{SystemTime, UNIX_EPOCH};

use common::error::{Error, Result};
use common::records::boot_id;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Two readings of a clock that is not set differ by less, in milliseconds: the two clocks are
/// read one after the other.
const SAME: i64 = 2000;

/// The wall clock in one boot of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Clock {
    boot_id: String,
    /// When the boot began, in milliseconds since 1970.
    boot_time: i64,
}

impl Clock {
    /// The clock as it is now.
    ///
    /// # Errors
    /// Code 5 naming the file of the boot id, 999 when the kernel does not tell the time.
    pub(super) fn read() -> Result<Self> {
        let up = since_boot()?;
        let up = up.tv_sec() * 1000 + up.tv_nsec() / 1_000_000;
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        let wall = wall.map_or(0, |wall| wall.as_millis());
        Ok(Self {
            boot_id: boot_id()?,
            boot_time: i64::try_from(wall).unwrap_or(i64::MAX).saturating_sub(up),
        })
    }

    /// By how many seconds the clock has been set forward since `then`. Times of another boot
    /// cannot be compared and are not moved.
    pub(super) fn was_set_by(&self, then: &Self) -> i64 {
        let difference = self.boot_time.saturating_sub(then.boot_time);
        match self.boot_id == then.boot_id && difference.abs() >= SAME {
            // A reading that is a millisecond off must not leave a time in the future.
            true => difference.saturating_add(500).div_euclid(1000),
            false => 0,
        }
    }
}

/// How many seconds ago the boot began, whatever the wall clock says.
///
/// # Errors
/// Code 999 when the kernel does not tell the time.
pub(super) fn up() -> Result<u64> {
    since_boot().map(|up| u64::try_from(up.tv_sec()).unwrap_or(0))
}

fn since_boot() -> Result<TimeSpec> {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_err(|errno| {
        Error::internal("failed to read the clock of the boot").because(&errno.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(boot_id: &str, boot_time: i64) -> Clock {
        Clock {
            boot_id: boot_id.to_owned(),
            boot_time,
        }
    }

    #[test]
    fn a_clock_that_nobody_sets_stays_the_same() {
        let then = Clock::read().unwrap();
        assert_eq!(Clock::read().unwrap().was_set_by(&then), 0);
        let then = clock("b", 5_000_000);
        assert_eq!(clock("b", 5_001_999).was_set_by(&then), 0);
    }

    #[test]
    fn a_clock_that_is_set_is_known_by_the_time_of_the_boot() {
        let then = clock("b", 5_000_000);
        assert_eq!(clock("b", 5_090_000).was_set_by(&then), 90);
        assert_eq!(clock("b", 4_910_000).was_set_by(&then), -90);
        for off in [-499, 499] {
            assert_eq!(clock("b", 5_090_000 + off).was_set_by(&then), 90);
            assert_eq!(clock("b", 4_910_000 + off).was_set_by(&then), -90);
        }
        assert_eq!(clock("c", 5_090_000).was_set_by(&then), 0);
    }
}
