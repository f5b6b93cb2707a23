//! The plugins as files: one build runs everywhere, and can be replaced at any moment.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use harness::{Call, Node, our_plugin, repository, run_tool};
use serde_json::json;

use crate::arm64::ARM64;

const PLUGINS: [&str; 4] = ["eni-sync", "host-device", "host-local", "ipvlan"];

fn stdout_of(program: &str, arguments: &[&str]) -> String {
    let output = run_tool(program, arguments);
    assert!(output.status.success(), "{program} {arguments:?} failed");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Nothing of the C library of the machine is used, so its age does not matter.
#[test]
fn a_plugin_needs_no_interpreter_and_no_library() {
    for plugin in PLUGINS.into_iter().chain([ARM64]) {
        let path = our_plugin(plugin);
        let path = path.to_str().unwrap();
        let segments = stdout_of("readelf", &["--wide", "--program-headers", path]);
        assert!(
            segments.contains("LOAD") && !segments.contains("INTERP"),
            "{segments}"
        );
        let dynamic = stdout_of("readelf", &["--wide", "--dynamic", path]);
        assert!(!dynamic.contains("NEEDED"), "{dynamic}");
    }
}

#[test]
fn a_plugin_runs_in_an_empty_root() {
    for plugin in PLUGINS {
        let root = tempfile::tempdir().unwrap();
        copy_plugin(plugin, root.path());
        let call = Call::ours(plugin, "VERSION");
        let output = call.run_as(in_root(&call, root.path(), plugin));
        assert_eq!(output.ok()["cniVersion"], "1.1.0");
    }
}

/// As Multus in thick mode executes it: with a root of its own that has `/proc`.
#[test]
fn host_local_allocates_in_a_root_that_has_only_proc() {
    let root = tempfile::tempdir().unwrap();
    copy_plugin("host-local", root.path());
    fs::create_dir(root.path().join("proc")).unwrap();
    let mut node = Node::new();
    node.bind("/proc", root.path().join("proc"));
    let ipam = json!({"type": "host-local", "subnet": "10.0.0.0/24", "dataDir": "/data"});
    let call = Call::ours("host-local", "ADD")
        .attachment("c1", "net1", "/no/such/netns")
        .conf(&json!({"cniVersion": "1.0.0", "name": "net", "ipam": ipam}));
    let output = node.inside(|| call.run_as(in_root(&call, root.path(), "host-local")));
    assert_eq!(output.ok()["ips"][0]["address"], "10.0.0.2/24");
    assert_eq!(
        fs::read_to_string(root.path().join("data/net/10.0.0.2")).unwrap(),
        "c1\r\nnet1"
    );
}

/// Another process copies: a descriptor of ours, open for writing, could be inherited
/// by what another test executes, and keep the copy from being executed.
fn copy_plugin(plugin: &str, directory: &Path) {
    let path = our_plugin(plugin);
    stdout_of("cp", &[path.to_str().unwrap(), directory.to_str().unwrap()]);
}

fn in_root(call: &Call, root: &Path, plugin: &str) -> Command {
    let environment = call.process();
    let mut process = Command::new("chroot");
    process.arg(root).arg(format!("/{plugin}"));
    for (name, value) in environment.get_envs() {
        process.env(name, value.unwrap_or_default());
    }
    process
}

/// A runtime executes plugins while they are being replaced: it must find the old
/// file or the new one, whole, at every moment.
#[test]
fn installing_replaces_plugins_that_are_being_executed() {
    let destination = tempfile::tempdir().unwrap();
    let install = || {
        let root = repository().display().to_string();
        let destdir = format!("DESTDIR={}", destination.path().display());
        let program = our_plugin("eni-cni");
        let from = format!("FROM={}", program.parent().unwrap().display());
        let install = ["install-from", &from, &destdir, "BINDIR=/bin"];
        stdout_of("make", &[&["--silent", "-C", &root][..], &install].concat())
    };
    install();
    let done = AtomicBool::new(false);
    let installed = destination.path().join("bin/host-local");
    let failures = std::thread::scope(|scope| {
        let executions = scope.spawn(|| {
            let mut failures = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let output = Call::new(&installed, "VERSION").run();
                if output.status != Some(0) {
                    failures.push(output.to_string());
                }
            }
            failures
        });
        for _ in 0..3 {
            install();
        }
        done.store(true, Ordering::Relaxed);
        executions.join().unwrap()
    });
    assert_eq!(failures, [""; 0]);
    let mut files: Vec<_> = fs::read_dir(destination.path().join("bin"))
        .unwrap()
        .map(|f| f.unwrap().file_name())
        .collect();
    files.sort();
    let own = ["eni-cni", "eni-host-device", "eni-host-local", "eni-ipvlan"];
    assert_eq!(files, [&own[..], &PLUGINS].concat());
    // What others write into a name that they have too is in no other name.
    let file = |name: &&str| fs::metadata(installed.with_file_name(name)).unwrap().ino();
    let numbers = own.iter().map(file).collect::<BTreeSet<_>>();
    assert_eq!(numbers.len(), 1);
    let all = numbers.into_iter().chain(PLUGINS.iter().map(file));
    assert_eq!(all.collect::<BTreeSet<_>>().len(), 1 + PLUGINS.len());
}
