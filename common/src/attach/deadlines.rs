//! How long an ADD may take, and therefore how long other commands wait for it. The waits of an
//! ADD are added up here, so that other commands wait longer when one of these becomes longer.

use std::time::Duration;

use crate::attach::awaited;
use crate::cni::ipam;

/// How long an ADD asks its delegate for other addresses.
pub(super) const OTHER_ADDRESSES: Duration = Duration::from_secs(30);
/// How long the kernel and the disk may take for an ADD, DAD included.
const KERNEL: Duration = Duration::from_secs(20);
/// How long a successful ADD may keep its turn: the DEL of its delegate for a stale record, the
/// wait for ENIs that are being attached, the time in which it asks for other addresses, and the
/// last ADD of its delegate. A DEL waits as long. If it gave up earlier, the interface that ADD
/// makes then would leak, because not every runtime repeats a failed DEL. The time to undo a
/// failed ADD is not counted: nothing is left after it.
pub(super) const TURN: Duration = ipam::DEADLINE
    .saturating_add(awaited::DEADLINE)
    .saturating_add(OTHER_ADDRESSES)
    .saturating_add(ipam::DEADLINE)
    .saturating_add(KERNEL);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_outlasts_everything_that_its_holder_waits_for() {
        let waits = [60, 30, 130].map(Duration::from_secs);
        assert_eq!([awaited::DEADLINE, OTHER_ADDRESSES, ipam::DEADLINE], waits);
        // The delegate's DEL for a stale record counts as well as its ADD.
        let of_stale = ipam::DEADLINE;
        assert!(TURN > waits.iter().sum::<Duration>() + of_stale);
        // The documentation has this value.
        assert_eq!(TURN, Duration::from_secs(370));
    }
}
