//! Damages of a file, for tests of damaged disks.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::mkfifo;

/// Creates a damaged file at a path that does not exist.
pub type Damage = fn(&Path);

/// All kinds of damages, with their descriptions.
pub const DAMAGES: [(&str, Damage); 9] = [
    ("an empty file", |path| fs::write(path, "").unwrap()),
    ("a corrupt file", |path| {
        fs::write(path, "{\"a\": ").unwrap()
    }),
    ("bytes that are not text", |path| {
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

/// The target of the symbolic link: a file that must not be created, read or changed.
pub const OUTSIDE: &str = "/etc/hostname";

/// Replaces what is at `path` by a damage.
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
