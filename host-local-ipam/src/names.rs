//! The files of a network's directory that are not reservations, and their maximum size.

/// The lock of the directory, which the Go plugin takes as well.
pub const LOCK: &str = "lock";
/// The start of the name of the file with the last reserved address; the index of the
/// range set follows.
pub const LAST_RESERVED: &str = "last_reserved_ip.";
/// The file with the id of the boot in which the reservations of a directory were
/// examined last.
pub const BOOT_ID: &str = ".boot_id";
/// The maximum size in bytes of files whose content is an address or an id.
pub const SMALL: u64 = 256;
