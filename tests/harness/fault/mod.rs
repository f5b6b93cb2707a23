//! Faults on a node: processes that are killed, system calls that fail, and commands that
//! run at the same time. A [`Scene`] is the node on which they happen; it reports what is
//! left.

mod device;
mod order;
mod race;
mod scene;
mod soak;
mod sweep;
mod system_call;
mod trace;

use std::time::{Duration, Instant};

pub use order::Order;
pub use race::{Meeting, Race};
pub use scene::{Maker, Scene, Subject};
pub use soak::{Growth, Soak};
pub use sweep::{Sweep, Tally, each_system_call};
pub use system_call::{NO_MEMORY, SystemCall};
pub use trace::{Counted, Fault, Strike, Struck, strike};

/// Polls until `is_so` is true, for events of other processes without a notification.
#[track_caller]
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(180);
    while !is_so() {
        assert!(Instant::now() < deadline, "timed out waiting until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
