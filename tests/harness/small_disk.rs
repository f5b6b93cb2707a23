//! Disks on which no file can be made any more: a memory file system with a limit, and what
//! uses it up.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use nix::mount::{MsFlags, mount};

/// The limit of a disk, as an option of its mount, and what uses it up.
pub type Limit = (&'static str, fn(&Path));

/// The limits of a disk.
pub const LIMITS: [Limit; 2] = [("nr_inodes=64", use_inodes), ("size=262144", use_pages)];

/// The beginning of the names of the files that use a disk up.
const FILLER: &str = "filler";

/// Mounts a disk with this limit in the mount namespace of the calling thread.
pub fn mount_at(path: &Path, limit: &str) {
    let tmpfs = Some("tmpfs");
    mount(tmpfs, path, tmpfs, MsFlags::empty(), Some(limit)).expect("tmpfs can be mounted");
}

/// Makes empty files until there are no more inodes.
pub fn use_inodes(disk: &Path) {
    let file = |n: u32| File::create(disk.join(format!("{FILLER}{n}")));
    assert!((0..1000).any(|n| file(n).is_err()), "the disk has no limit");
}

/// Writes a file until no page is left.
pub fn use_pages(disk: &Path) {
    let mut filler = File::create(disk.join(FILLER)).expect("there is room for a file");
    while filler.write(&[0; 4096]).is_ok() {}
}

/// Removes the files that use the disk up.
pub fn make_room(disk: &Path) {
    for file in fs::read_dir(disk).expect("it is a directory").flatten() {
        if file.file_name().to_string_lossy().starts_with(FILLER) {
            fs::remove_file(file.path()).expect("it can be removed");
        }
    }
}
