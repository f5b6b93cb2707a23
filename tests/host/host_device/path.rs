//! DEL where the path of the pod's namespace does not lead there, or cannot be followed, and the
//! namespace lives.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use harness::{Namespace, Output, Resident};
use tempfile::TempDir;

use super::{Fixture, conf};

/// Where a runtime has the path of a pod's namespace: a symbolic link stands for the mount.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { directory }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("c1")
    }

    fn leads_to(&self, namespace: &Namespace) {
        let _ = fs::remove_file(self.path());
        symlink(namespace.path(), self.path()).unwrap();
    }

    /// As in a container that does not see what the runtime mounts.
    fn is_an_empty_file(&self) {
        fs::remove_file(self.path()).unwrap();
        fs::write(self.path(), "").unwrap();
    }

    #[track_caller]
    fn run(&self, fixture: &Fixture, command: &str) -> Output {
        let call = fixture.call(command, &conf());
        let call = call.env("CNI_NETNS", self.path().to_str().unwrap());
        fixture.node.run(&call)
    }

    /// Runs a command that must succeed while the path leads to the namespace.
    #[track_caller]
    fn run_at(&self, namespace: &Namespace, fixture: &Fixture, command: &str) {
        self.leads_to(namespace);
        self.run(fixture, command).ok();
    }
}

/// A descriptor stands for the mount: both keep the inode, which the kernel makes anew for a
/// namespace that only a process has kept.
#[test]
fn the_namespace_is_recognised_at_its_path_after_its_mount_was_gone() {
    let (fixture, place) = (Fixture::new(), Place::new());
    let before = fixture.state();
    let process = Resident::alone();
    place.run_at(&Namespace::at(process.netns()), &fixture, "ADD");
    place.run_at(&Namespace::at(process.netns()), &fixture, "DEL");
    assert_eq!(fixture.state(), before);
}

#[test]
fn a_namespace_whose_path_shows_something_else_gives_the_device_back() {
    let (fixture, place) = (Fixture::new(), Place::new());
    let before = fixture.state();
    place.run_at(&fixture.pod, &fixture, "ADD");
    place.is_an_empty_file();
    place.run(&fixture, "DEL").ok();
    assert_eq!(fixture.state(), before);
}

#[test]
fn the_device_of_a_namespace_that_only_a_process_shows_is_not_forgotten() {
    let (fixture, place) = (Fixture::new(), Place::new());
    let before = fixture.state();
    let process = Resident::alone();
    place.run_at(&Namespace::at(process.netns()), &fixture, "ADD");
    place.is_an_empty_file();
    let attached = fixture.state();
    let error = place.run(&fixture, "DEL").error_code(8);
    assert!(error.msg.contains("is not visible"), "{error:?}");
    assert_eq!(fixture.state(), attached);
    place.run_at(&Namespace::at(process.netns()), &fixture, "DEL");
    assert_eq!(fixture.state(), before);
}

/// The kernel may have no descriptor or no memory for it at that moment.
#[test]
fn a_namespace_that_cannot_be_looked_at_is_not_taken_for_one_that_has_ended() {
    for (call, errors) in [
        ("openat", ["EMFILE", "ENFILE", "EACCES", "EIO"]),
        ("statx,statfs", ["EACCES", "EIO", "ENOMEM", "EMFILE"]),
    ] {
        for (error, has_record) in errors.iter().flat_map(|e| [(e, true), (e, false)]) {
            let fixture = Fixture::new();
            fixture.add(&conf());
            if !has_record {
                let record = fixture.node.state().join(&fixture.records()[0]);
                fs::remove_file(record).unwrap();
            }
            let attached = fixture.state();
            let (path, fault) = (fixture.pod.path(), format!("inject={call}:error={error}"));
            let options = ["-f", "-qq", "-o", "/dev/null", "-P", &path, "-e", &fault];
            let del = fixture.call("DEL", &conf());
            let output = fixture.node.inside(|| del.run_under("strace", &options));
            let error = output.error_code(8);
            assert!(error.msg.contains(&path), "{fault}: {error:?}");
            assert_eq!(fixture.state(), attached, "{fault}: {output}");
            fixture.del(&conf());
            let links = fixture.node.netns.links();
            assert_eq!(links, ["hd0", "hd0-peer", "lo"], "{fault}");
            assert!(fixture.ipam.reserved().is_empty(), "{fault}");
        }
    }
}
