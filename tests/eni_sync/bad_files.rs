//! Files that are not as they should be: a ledger that cannot be read or written, and an
//! inventory that is wrong or old. Nothing is assigned without a note, and nothing that
//! is not understood is removed.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use harness::Pod;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};

use super::fixture::{AwsNode, Vpc, assert_refused, is_unchanged, prev_result};

const ADDRESS: &str = "10.0.4.70";

/// Puts something at a path that is no entry of the ledger.
type Breaking = fn(&Path);

const BROKEN: [(&str, Breaking); 7] = [
    ("empty", |path| fs::write(path, "").unwrap()),
    ("corrupt", |path| {
        fs::write(path, "{\"address\": \"10.0.4.70\", ").unwrap()
    }),
    ("not UTF-8", |path| fs::write(path, b"\xff\xfe{}").unwrap()),
    ("huge", |path| {
        File::create(path).unwrap().set_len(1 << 30).unwrap()
    }),
    ("a symbolic link", |path| {
        symlink("/etc/hostname", path).unwrap()
    }),
    ("a FIFO", |path| mkfifo(path, Mode::S_IRWXU).unwrap()),
    ("a directory", |path| fs::create_dir(path).unwrap()),
];

#[test]
fn an_entry_that_cannot_be_read_stands_in_nobody_elses_way() {
    for (what, make) in BROKEN {
        let vpc = Vpc::new();
        let node = vpc.node();
        let pod = Pod::new("c1");
        node.add(&pod, &["10.0.4.71"]).ok();
        let path = node.ledger_path().join(ADDRESS);
        make(&path);
        node.lab.reset_calls();
        let unlucky = Pod::new("c2");
        let call = node.pod_call("ADD", &unlucky, &[ADDRESS]);
        assert_refused(
            &node,
            &call,
            6,
            &[&format!("ledger/{}/{ADDRESS}", node.eni), "remove"],
        );
        assert!(path.symlink_metadata().is_ok(), "{what} is kept");
        let other = Pod::new("c3");
        node.add(&other, &["10.0.4.72"]).ok();
        node.del(&pod);
        fs::rename(&path, node.ledger_path().join(".kept")).unwrap();
        node.end_cooldown("10.0.4.71");
        fs::rename(node.ledger_path().join(".kept"), &path).unwrap();
        node.gc(&[&other]);
        assert_eq!(node.addresses(), ["10.0.4.72"], "{what}");
        assert!(path.symlink_metadata().is_ok(), "{what} is kept");
    }
}

#[test]
fn an_entry_about_another_address_is_not_believed() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    node.add(&pod, &["10.0.4.71"]).ok();
    node.del(&pod);
    node.end_cooldown("10.0.4.71");
    let path = node.ledger_path();
    fs::rename(path.join("10.0.4.71"), path.join("10.0.4.72")).unwrap();
    let output = node.run(&node.gc_call(&[]));
    output.ok();
    assert!(output.stderr.contains("it is about 10.0.4.71"), "{output}");
    assert_eq!(node.addresses(), ["10.0.4.71"]);
}

#[test]
fn a_ledger_whose_directory_is_a_file_is_named() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let path = node.ledger_path();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, "").unwrap();
    let pod = Pod::new("c1");
    let named = format!("/var/lib/cni/eni-cni/ledger/{}", node.eni);
    assert_refused(&node, &node.pod_call("ADD", &pod, &[ADDRESS]), 5, &[&named]);
    node.del(&pod);
    node.gc(&[]);
}

#[test]
fn on_a_read_only_file_system_nothing_is_assigned_or_lost() {
    let vpc = Vpc::new();
    let mut node = vpc.node();
    let pod = Pod::new("c1");
    node.add(&pod, &[ADDRESS]).ok();
    node.lab.reset_calls();
    node.node.read_only("/var/lib/cni");
    let other = Pod::new("c2");
    let said = ["/var/lib/cni/eni-cni/ledger", "Read-only file system"];
    assert_refused(
        &node,
        &node.pod_call("ADD", &other, &["10.0.4.71"]),
        5,
        &said,
    );
    node.check(&pod, &[ADDRESS]).ok();
    assert_refused(&node, &node.pod_call("DEL", &pod, &[]), 5, &said);
    node.del(&other);
    assert_eq!(node.ledger()[ADDRESS], "held");
}

#[test]
fn on_a_full_disk_nothing_is_assigned() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    let add = node.pod_call("ADD", &pod, &[ADDRESS]);
    let state = node.node.state().join("eni-cni");
    fs::create_dir(&state).unwrap();
    let (output, left) = node.node.inside(|| {
        let disk = Path::new("/var/lib/cni/eni-cni");
        let tmpfs = Some("tmpfs");
        mount(tmpfs, disk, tmpfs, MsFlags::empty(), Some("size=16384"))
            .expect("tmpfs can be mounted");
        let mut filler = File::create(disk.join("filler")).unwrap();
        while filler.write(&[0; 4096]).is_ok() {}
        let output = add.run();
        let entries = disk.join("ledger").join(node.eni.to_string());
        let left: Vec<_> = fs::read_dir(entries)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        (output, left)
    });
    let error = output.error_code(5);
    assert!(
        error.msg.contains(ADDRESS) && error.details.contains("No space left"),
        "{error:?}"
    );
    assert!(is_unchanged(&node));
    assert!(
        left.iter().all(|name| name == ".lock" || name == ".turn"),
        "{left:?}"
    );
}

/// The inventory that an ADD has written, and its path.
fn inventory(node: &AwsNode) -> (PathBuf, Value) {
    let path = node.run_directory().join("eni-cni/enis.json");
    let text = fs::read(&path).unwrap();
    (path, serde_json::from_slice(&text).unwrap())
}

#[test]
fn an_inventory_that_cannot_be_read_is_made_anew() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.add(&Pod::new("c0"), &["10.0.4.60"]).ok();
    let (path, good) = inventory(&node);
    for (number, (what, make)) in BROKEN.into_iter().enumerate() {
        if what == "a directory" {
            continue;
        }
        fs::remove_file(&path).unwrap();
        make(&path);
        node.add(&Pod::new("c1"), &[&format!("10.0.4.{}", 70 + number)])
            .ok();
        assert_eq!(inventory(&node).1, good, "{what}");
    }
}

#[test]
fn an_inventory_that_is_old_is_asked_for_again() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.add(&Pod::new("c0"), &["10.0.4.60"]).ok();
    let (path, good) = inventory(&node);
    for age in [Duration::from_secs(601), Duration::from_secs(86_400)] {
        let mut outdated = good.clone();
        outdated["enis"][1]["noManage"] = json!(false);
        fs::write(&path, outdated.to_string()).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
        node.add(&Pod::new("c1"), &[ADDRESS]).ok();
        assert_eq!(inventory(&node).1, good);
    }
}

#[test]
fn an_eni_that_was_attached_since_is_found() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.add(&Pod::new("c0"), &["10.0.4.60"]).ok();
    let (path, _) = inventory(&node);
    let second = node.lab.multus_eni(&node.instance, &vpc.pods);
    let pod = Pod::new("c1");
    let result = prev_result(&pod, &[(&node.lab.mac(&second), &[ADDRESS])]);
    let call = node.conf_call("ADD", &pod, &[], &json!({ "prevResult": result }));
    // A list that lacks the ENI is believed for some seconds only.
    let file = File::options().write(true).open(&path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(11))
        .unwrap();
    node.run(&call).ok();
    assert_eq!(vpc.owner(ADDRESS), Some(second));
}
