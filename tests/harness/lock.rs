//! Locks, as the kernel shows them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Whether a process waits for a lock on this file, or on a part of it.
pub fn is_waited_for(lock: &Path) -> bool {
    let inode = format!(":{} ", fs::metadata(lock).expect("the lock exists").ino());
    let locks = fs::read_to_string("/proc/locks").expect("/proc is mounted");
    locks
        .lines()
        .any(|line| line.contains("-> ") && line.contains(&inode))
}
