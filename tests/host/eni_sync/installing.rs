//! An installation that cannot be made: the error is what `kubectl describe pod` shows of the init
//! container. It names whose the directory is and what to do, and all programs are those that were
//! there before.

use std::fs::{self, File};
use std::path::Path;

use harness::Output;
use harness::vpc::Vpc;

use super::installed::{FullDisk, INSIDE, Site, of_another_version};

#[track_caller]
fn assert_fails(output: &Output, said: &[&str]) {
    assert_eq!(output.status, Some(1), "{output}");
    let mut lines = output.stderr.lines();
    let is_meant = |line: &&str| said.iter().all(|said| line.contains(said));
    assert!(lines.any(|line| is_meant(&line)), "{said:?}: {output}");
}

/// Adds so many bytes at the end of a file.
fn lengthen(path: &Path, bytes: i64) {
    let file = File::options().write(true).open(path).unwrap();
    let length = file.metadata().unwrap().len();
    file.set_len(length.saturating_add_signed(bytes)).unwrap();
}

#[test]
fn without_room_for_all_no_program_is_replaced_and_the_error_says_how_much_is_needed() {
    let vpc = Vpc::new();
    let mut site = Site::empty(&vpc);
    let disk = FullDisk::at(&site.bin);
    site.node.node.bind(&site.bin, INSIDE);
    site.install("our-plugins", |_| {});
    // The last one has grown.
    site.prepare("other-plugins", |program| {
        of_another_version(program);
        if program.ends_with("ipvlan") {
            lengthen(program, 16 << 20);
        }
    });
    let before = site.programs();
    disk.fill();
    let ballast = site.bin.join("ballast");
    lengthen(&ballast, -(12 << 20));
    let output = site.try_install("other-plugins");
    let says = [
        "failed to install the plugins in \"/run/bin\": No space left on device",
        "KiB are needed and 12288 KiB are free",
        "\"/run/bin\" belongs to 0:0, mode",
        "make room on the node",
    ];
    assert_fails(&output, &says);
    fs::remove_file(ballast).unwrap();
    assert!(before == site.programs());
    let output = site.try_install("other-plugins");
    assert_eq!(output.status, Some(0), "{output}");
}

#[test]
fn a_directory_of_a_read_only_file_system_is_named_with_its_owner_and_what_to_do() {
    let vpc = Vpc::new();
    let mut site = Site::new(&vpc);
    let before = site.programs();
    site.prepare("other-plugins", of_another_version);
    site.node.node.read_only(INSIDE);
    let output = site.try_install("other-plugins");
    let says = [
        "Read-only file system",
        "\"/run/bin\" belongs to 0:0, mode 0755",
        "remount its file system writable on the node",
    ];
    assert_fails(&output, &says);
    assert!(before == site.programs());
}
