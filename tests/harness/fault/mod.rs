//! What goes wrong on a node: processes that are killed and system calls that fail,
//! anywhere; commands that meet. [`Scene`] is where it happens, and tells what is left.

mod race;
mod scene;
mod soak;
mod sweep;
mod system_call;
mod trace;

pub use race::{Meeting, Race};
pub use scene::{Maker, Scene, Subject};
pub use soak::{Growth, Soak};
pub use sweep::{Recovery, Sweep, Tally, each_system_call};
pub use system_call::{NO_MEMORY, SystemCall};
pub use trace::{Counted, Fault, Strike, Struck, strike};
