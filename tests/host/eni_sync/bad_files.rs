//! Files that are not as they should be: a ledger that cannot be read or written, and an
//! inventory that is wrong or old. Nothing is assigned without a note, and nothing that
//! is not understood is removed.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use fixtures::scrape::{ADDRESS as METRICS, get};
use harness::damage::{DAMAGES, remove, replace_by};
use harness::vpc::{Agent, Vpc, VpcNode, assert_refused, eventually, is_unchanged, prev_result};
use harness::{Call, Output, Pod};
use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};

const ADDRESS: &str = "10.0.4.70";

#[test]
fn an_entry_that_cannot_be_read_does_not_affect_others() {
    for (what, make) in DAMAGES {
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

/// Runs a call that cannot open the file of an address in the ledger.
fn run_without_file(node: &VpcNode, call: &Call, address: &str, error: &str) -> Output {
    let path = format!("/var/lib/cni/eni-cni/ledger/{}/{address}", node.eni);
    let inject = format!("inject=openat:error={error}");
    let arguments = ["-f", "-o", "/dev/null", "-P", &path, "-e", &inject];
    let traced = call.process_under("strace", &arguments);
    node.node.inside(|| call.run_as(traced))
}

/// Nobody repeats a DEL that has succeeded.
#[test]
fn a_del_that_cannot_read_what_it_has_to_end_fails_and_the_next_one_ends_it() {
    for error in ["EMFILE", "EIO", "EACCES"] {
        let vpc = Vpc::new();
        let node = vpc.node();
        let (pod, other) = (Pod::new("c1"), Pod::new("c2"));
        node.add(&pod, &[ADDRESS]).ok();
        node.add(&other, &["10.0.4.71"]).ok();
        let del = |pod| run_without_file(&node, &node.pod_call("DEL", pod, &[]), ADDRESS, error);
        let gc = run_without_file(&node, &node.gc_call(&[&other]), ADDRESS, error);
        for output in [del(&pod), gc] {
            let msg = output.error_code(5).msg;
            assert!(
                msg.contains("failed to read") && msg.contains(ADDRESS),
                "{error}: {msg}"
            );
            assert_eq!(node.ledger()[ADDRESS], "held", "{error}");
        }
        // It keeps no other pod from ending.
        del(&other).ok();
        assert_eq!(node.ledger()["10.0.4.71"], "releasing", "{error}");
        node.del(&pod);
        assert_eq!(node.ledger()[ADDRESS], "releasing", "{error}");
    }
}

/// A disk whose file stays damaged must not keep all pods of the node from ending.
#[test]
fn a_file_that_cannot_be_read_keeps_only_the_pod_from_ending_whose_address_it_is() {
    for error in ["EMFILE", "EIO", "EACCES"] {
        let vpc = Vpc::new();
        let node = vpc.node();
        let (pod, ended) = (Pod::new("c1"), Pod::new("c2"));
        let own = [ADDRESS, "10.0.4.71"];
        node.add(&pod, &own).ok();
        let del = |pod: &Pod, addresses: &[&str]| {
            let call = node.pod_call("DEL", pod, addresses);
            run_without_file(&node, &call, ADDRESS, error)
        };
        // The ledger has nothing of it any more, so no entry shows whose the file is not.
        let output = del(&ended, &["10.0.4.72"]);
        output.ok();
        assert!(output.stderr.contains(ADDRESS), "{error}: {output}");
        del(&ended, &[]).error_code(5);
        // One of two addresses is not all.
        let msg = del(&pod, &own).error_code(5).msg;
        assert!(msg.contains(ADDRESS), "{error}: {msg}");
        let states = own.map(|address| node.ledger()[address].clone());
        assert_eq!(states, ["held", "releasing"], "{error}");
        node.del(&pod);
        assert_eq!(node.ledger()[ADDRESS], "releasing", "{error}");
    }
}

/// What EC2 was asked to choose keeps only those waiting that need another choice of EC2.
#[test]
fn addresses_that_are_named_need_nothing_of_what_ec2_was_asked_to_choose() {
    for text in ["{", r#"{"formatVersion": 3}"#] {
        let vpc = Vpc::new();
        let node = vpc.node();
        node.add(&Pod::new("c1"), &[ADDRESS]).ok();
        let path = node.ledger_path().join(".unheard");
        fs::write(&path, text).unwrap();
        node.add(&Pod::new("c2"), &["10.0.4.71"]).ok();
        assert_eq!(node.addresses(), [ADDRESS, "10.0.4.71"]);
        let agent = Agent::start(&node, &json!({ "metrics": METRICS }));
        assert!(
            eventually(|| get(&node, "/readyz").0 == 200),
            "{}",
            agent.log()
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), text, "it is kept");
    }
}

/// What an operator or the agent does with a ledger that has a damaged file.
#[test]
fn every_command_keeps_a_damaged_file_and_names_it() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.add(&Pod::new("c1"), &[ADDRESS]).ok();
    let path = node.ledger_path().join(ADDRESS);
    let good = fs::read_to_string(&path).unwrap();
    let half = &good[..good.len() / 2];
    fs::write(&path, half).unwrap();
    let eni = node.eni.to_string();
    let release = ["release", "--eni", &eni, "--force"];
    let commands: [(&[&str], i32); 5] = [
        (&["doctor"], 1),
        (&["sync", "--once"], 1),
        (&release, 1),
        (&["release", "--address", ADDRESS, "--force"], 1),
        (&["status"], 0),
    ];
    for (command, status) in commands {
        let output = node.command(command);
        let said = format!("{}{}", output.stdout, output.stderr);
        assert!(said.contains(ADDRESS), "{output}");
        assert_eq!(output.status, Some(status), "{command:?}\n{output}");
        assert_eq!(fs::read_to_string(&path).unwrap(), half, "{command:?}");
    }
    let agent = Agent::start(&node, &json!({ "reconcileSeconds": 1, "graceSeconds": 0 }));
    node.gc(&[]);
    let calls = || node.lab.calls()["DescribeNetworkInterfaces"];
    let before = calls();
    assert!(eventually(|| calls() > before + 2));
    assert_eq!(agent.stop(), Some(0));
    assert_eq!(fs::read_to_string(&path).unwrap(), half);
    assert_eq!(node.addresses(), [ADDRESS], "its address stays");
}

/// Those that are not about an address, of a version that this one cannot read.
#[test]
fn every_command_names_a_newer_file_of_prefixes() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.add(&Pod::new("c1"), &[ADDRESS]).ok();
    let files = [".prefix-10.0.4.32-28", ".asked-ipv4"];
    for file in files {
        fs::write(node.ledger_path().join(file), r#"{"formatVersion": 9}"#).unwrap();
    }
    let commands: [(&[&str], i32); 4] = [
        (&["doctor"], 1),
        (&["sync", "--once"], 1),
        (&["status"], 0),
        (&["uninstall", "--dry-run", "--target", "/nowhere"], 1),
    ];
    for (command, status) in commands {
        let output = node.command(command);
        assert_eq!(output.status, Some(status), "{command:?}\n{output}");
        let said = match command[0] {
            // What it says while it compares is no part of how it ends.
            "sync" => output.stderr.lines().last().unwrap_or_default(),
            _ => &output.stdout,
        };
        for file in files {
            let path = format!("ledger/{}/{file}\"", node.eni);
            assert!(said.contains(&path), "{command:?} {path}\n{output}");
        }
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
fn inventory(node: &VpcNode) -> (PathBuf, Value) {
    let path = node.run_directory().join("eni-cni/enis.json");
    let text = fs::read(&path).unwrap();
    (path, serde_json::from_slice(&text).unwrap())
}

#[test]
fn an_inventory_that_cannot_be_read_is_written_again_or_named() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.add(&Pod::new("c0"), &["10.0.4.60"]).ok();
    let (path, good) = inventory(&node);
    for (number, (what, make)) in DAMAGES.into_iter().enumerate() {
        replace_by(&path, make);
        let add = node.add(&Pod::new("c1"), &[&format!("10.0.4.{}", 70 + number)]);
        if what == "a directory" {
            let error = add.error_code(5);
            assert!(error.msg.contains("/run/eni-cni/enis.json"), "{error:?}");
            remove(&path);
        } else {
            add.ok();
            assert_eq!(inventory(&node).1, good, "{what}");
        }
    }
}

#[test]
fn a_lock_that_is_something_else_is_named_or_serves_as_well() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.add(&Pod::new("c0"), &["10.0.4.60"]).ok();
    for file in [".lock", ".turn"] {
        for (what, make) in DAMAGES {
            let path = node.ledger_path().join(file);
            replace_by(&path, make);
            let pod = Pod::new("c1");
            let add = node.add(&pod, &[ADDRESS]);
            if add.status != Some(0) {
                let error = add.error_code(5);
                assert!(error.msg.contains(file), "{what}: {error:?}");
            }
            node.run(&node.gc_call(&[]));
            remove(&path);
            node.del(&pod);
            node.add(&Pod::new("c0"), &["10.0.4.60"]).ok();
        }
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
