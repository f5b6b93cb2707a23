//! What can have become of a file, for tests that let a disk be damaged.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::mkfifo;

/// Makes something at a path where nothing is.
pub type Damage = fn(&Path);

/// Everything that can stand in the place of a file of ours, and what to call it.
pub const DAMAGES: [(&str, Damage); 9] = [
    ("an empty file", |path| fs::write(path, "").unwrap()),
    ("a corrupt file", |path| {
        fs::write(path, "{\"a\": ").unwrap()
    }),
    ("bytes that are no text", |path| {
        fs::write(path, b"\xff\xfe{}").unwrap()
    }),
    ("a huge file", |path| {
        File::create(path).unwrap().set_len(1 << 30).unwrap()
    }),
    ("a symbolic link", |path| symlink(OUTSIDE, path).unwrap()),
    ("a FIFO", |path| mkfifo(path, Mode::S_IRWXU).unwrap()),
    ("a socket", |path| {
        UnixListener::bind(path).map(drop).unwrap()
    }),
    ("a directory", |path| fs::create_dir(path).unwrap()),
    ("a device without an end", |path| {
        mknod(path, SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 5)).unwrap()
    }),
];

/// Where the symbolic link leads: a file that nobody may make, read or change.
pub const OUTSIDE: &str = "/etc/hostname";

/// Puts a damage in the place of whatever is at `path`.
pub fn replace_by(path: &Path, damage: Damage) {
    remove(path);
    fs::create_dir_all(path.parent().expect("a file is in a directory")).unwrap();
    damage(path);
}

/// Removes whatever is at `path`.
pub fn remove(path: &Path) {
    if path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
        fs::remove_dir_all(path).unwrap();
    } else if path.symlink_metadata().is_ok() {
        fs::remove_file(path).unwrap();
    }
}
