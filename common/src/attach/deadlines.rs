//! How long an ADD may take, and with it whoever waits for one. What an ADD waits for itself adds
//! up here, so that no wait becomes longer without those that wait for it.

use std::time::Duration;

use crate::attach::awaited;
use crate::cni::ipam;

/// For how long an ADD goes on to ask its delegate for other addresses.
pub(super) const OTHER_ADDRESSES: Duration = Duration::from_secs(30);
/// What the kernel and the disk may take for all that an ADD does, DAD included.
const KERNEL: Duration = Duration::from_secs(20);
/// How long an ADD that succeeds may keep its turn: its delegate ends what a record of an earlier
/// attachment is about, it waits for ENIs that are being attached, asks for other addresses for
/// some time, and its delegate may take its own time for the last one. A DEL that gave up earlier
/// would not come again through every runtime, and leak what ADD then makes. What an ADD takes to
/// undo is not counted: it leaves nothing.
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
        // The DEL of a stale record is the delegate's as well as the ADD.
        let of_stale = ipam::DEADLINE;
        assert!(TURN > waits.iter().sum::<Duration>() + of_stale);
        // Documents say so.
        assert_eq!(TURN, Duration::from_secs(370));
    }
}
