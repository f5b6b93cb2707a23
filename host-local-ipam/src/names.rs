//! The files of a network's directory that are no reservations, and how large they may be.

/// The lock of the directory, which the Go plugin takes as well.
pub const LOCK: &str = "lock";
/// Followed by the number of the range set.
pub const LAST_RESERVED: &str = "last_reserved_ip.";
/// Which boot the reservations of a directory are of.
pub const BOOT_ID: &str = ".boot_id";
/// The content of a dot-file or a `last_reserved_ip` is an address or an id.
pub const SMALL: u64 = 256;
