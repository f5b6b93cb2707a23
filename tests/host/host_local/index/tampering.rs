//! What somebody may do to an index.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

/// Puts something in the place of the index at this path.
pub(super) type Tampering = fn(&Path);

/// What may be there, by name.
pub(super) fn tampering() -> Vec<(&'static str, Tampering)> {
    vec![
        ("nothing", |path| fs::remove_file(path).unwrap()),
        ("an empty file", |path| fs::write(path, "").unwrap()),
        ("no text", |path| fs::write(path, [0xff; 8192]).unwrap()),
        ("zeros", |path| fs::write(path, [0; 8192]).unwrap()),
        ("text", |path| fs::write(path, "c1\r\nnet1").unwrap()),
        ("half of it", |path| resize(path, 4096)),
        ("a page more", |path| resize(path, 12288)),
        ("a huge file", |path| resize(path, 1 << 40)),
        ("no bits", |path| change(path, 104, &[0; 24])),
        ("no entries", |path| change(path, 4096, &[0; 4096])),
        ("a link", |path| {
            let target = path.with_file_name("target");
            fs::rename(path, &target).unwrap();
            symlink(target, path).unwrap();
        }),
        ("a dangling link", |path| {
            fs::remove_file(path).unwrap();
            symlink("/nonexistent", path).unwrap();
        }),
        ("a directory", |path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        }),
        ("a directory with a file", |path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
            fs::write(path.join("10.0.0.200"), "n5\r\nnet1").unwrap();
        }),
        ("a FIFO", |path| {
            fs::remove_file(path).unwrap();
            nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        }),
        ("a FIFO in the place of a new one", |path| {
            fs::remove_file(path).unwrap();
            let temporary = path.with_file_name("..reservations.index.tmp");
            nix::unistd::mkfifo(&temporary, nix::sys::stat::Mode::S_IRWXU).unwrap();
        }),
        ("a directory in the place of a new one", |path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path.with_file_name("..reservations.index.tmp")).unwrap();
        }),
    ]
}

fn resize(path: &Path, length: u64) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(length).unwrap();
}

/// Writes these bytes at an offset.
pub(super) fn change(path: &Path, offset: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, offset).unwrap();
}

/// Makes one byte another.
pub(super) fn invert(path: &Path, offset: u64) {
    let mut byte = [0];
    let index = File::open(path).unwrap();
    index.read_exact_at(&mut byte, offset).unwrap();
    change(path, offset, &[!byte[0]]);
}
