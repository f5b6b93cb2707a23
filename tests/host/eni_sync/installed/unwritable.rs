//! Where the agent cannot put ours back: a full disk, and a directory that nobody can write.

use std::fs;
use std::path::{Path, PathBuf};

use harness::run_tool;
use harness::vpc::{Vpc, eventually};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::Value;

use super::{INSIDE, Site};

/// A disk of its own that has no byte free.
pub struct FullDisk(PathBuf);

impl FullDisk {
    pub fn at(path: &Path) -> Self {
        let tmpfs = Some("tmpfs");
        mount(tmpfs, path, tmpfs, MsFlags::empty(), Some("size=100m")).expect("it can be mounted");
        Self(path.to_owned())
    }

    pub fn fill(&self) {
        let ballast = self.0.join("ballast");
        run_tool(
            "dd",
            &[
                "if=/dev/zero",
                &format!("of={}", ballast.display()),
                "bs=4096",
            ],
        );
    }
}

impl Drop for FullDisk {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).expect("it was mounted");
    }
}

#[test]
fn on_a_full_disk_nothing_is_lost_and_one_line_says_why() {
    let vpc = Vpc::new();
    let mut site = Site::empty(&vpc);
    let disk = FullDisk::at(&site.bin);
    site.node.node.bind(&site.bin, INSIDE);
    site.install("our-plugins", |_| {});
    let agent = site.agent(&Value::Null);
    site.replace("host-local", "host-local");
    assert!(eventually(|| site.is_ours("host-local")));
    // Small enough for the disk, and not ours; then there is no room for a copy.
    let script = site.bin.join(".other");
    fs::write(&script, "#!/bin/sh\n").unwrap();
    disk.fill();
    // What is replaced gives no room either while it is open.
    let replaced = fs::File::open(site.bin.join("host-local")).unwrap();
    fs::rename(&script, site.bin.join("host-local")).unwrap();
    let finding = "host-local is another program, and ours could not be put back";
    let says = |text: &str| text.contains(finding) && text.contains("No space left");
    assert!(
        eventually(|| says(&site.readiness())),
        "{}",
        site.readiness()
    );
    assert_eq!(agent.log().matches(finding).count(), 1, "{}", agent.log());
    let read = fs::read_to_string(site.bin.join("host-local")).unwrap();
    assert_eq!(read, "#!/bin/sh\n");
    let names = fs::read_dir(&site.bin)
        .unwrap()
        .map(|e| e.unwrap().file_name());
    assert!(names.into_iter().all(|name| name != ".host-local.tmp"));
    // With room for it, the next change brings ours back.
    drop(replaced);
    fs::remove_file(site.bin.join("ballast")).unwrap();
    fs::write(site.bin.join("host-local"), "#!/bin/sh\n\n").unwrap();
    assert!(eventually(|| site.is_ours("host-local")));
    assert!(eventually(|| site.readiness() == "ok"));
}

#[test]
fn a_directory_that_cannot_be_written_is_named_once() {
    let vpc = Vpc::new();
    let mut site = Site::new(&vpc);
    site.node.node.read_only(INSIDE);
    let agent = site.agent(&Value::Null);
    site.replace("ipvlan", "ipvlan");
    let finding = "ipvlan is the Go plugin, and ours could not be put back";
    let says = |text: &str| text.contains(finding) && text.contains("Read-only file system");
    assert!(eventually(|| says(&site.readiness())));
    site.replace("ipvlan", "ipvlan");
    site.replace("host-local", "host-local");
    assert!(eventually(|| site
        .readiness()
        .contains("host-local is the Go")));
    assert_eq!(agent.log().matches(finding).count(), 1, "{}", agent.log());
}
