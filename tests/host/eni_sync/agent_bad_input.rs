//! What the agent does when it is started wrongly, and when its node is not as it
//! should be: clear errors, and it goes on with what it can.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use fixtures::scrape::{ADDRESS, get};
use harness::vpc::{Agent, DEADLINE, Vpc, VpcNode, eventually};
use harness::{Network, Pod, log};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;

use super::auto::{PUBLISHED, attach};

/// The agent's error when it is told to listen there.
fn refused_socket(node: &VpcNode, path: &str) -> String {
    let output = node.command(&["agent", "--socket", path]);
    assert_eq!(output.status, Some(1), "{output}");
    log::messages(&output.stderr)
}

#[test]
fn a_socket_path_that_is_too_long_is_named_with_the_limit() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let path = format!("/run/{}/agent.sock", "x".repeat(100));
    let said = refused_socket(&node, &path);
    assert!(said.contains(&path) && said.contains("107 bytes"), "{said}");
}

#[test]
fn a_socket_path_that_is_something_else_is_left_alone() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let directory = node.run_directory().join("taken");
    fs::create_dir_all(directory.join("inside")).unwrap();
    let said = refused_socket(&node, "/run/taken");
    assert!(
        said.contains("failed to listen on \"/run/taken\""),
        "{said}"
    );
    assert!(directory.join("inside").exists());
}

#[test]
fn a_file_that_is_not_a_configuration_is_named() {
    let vpc = Vpc::new();
    let node = vpc.node();
    fs::write(node.run_directory().join("a.json"), "{\"networks\": 7}").unwrap();
    for (path, said) in [
        ("/run/missing.json", "failed to read \"/run/missing.json\""),
        (
            "/run/a.json",
            "\"/run/a.json\" is not a configuration of the agent",
        ),
    ] {
        let output = node.command(&["agent", "--config", path]);
        assert_eq!(output.status, Some(1), "{output}");
        assert!(log::messages(&output.stderr).contains(said), "{output}");
    }
}

#[test]
fn a_time_that_no_clock_can_add_is_refused() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let network = json!({"name": "n", "master": "eth1", "cooldownSeconds": u64::MAX});
    for (configuration, key) in [
        (json!({"reconcileSeconds": u64::MAX}), "reconcileSeconds"),
        (json!({"graceSeconds": 86_401}), "graceSeconds"),
        (json!({"networks": [network]}), "cooldownSeconds"),
    ] {
        let path = node.run_directory().join("a.json");
        fs::write(path, configuration.to_string()).unwrap();
        let output = node.command(&["agent", "--config", "/run/a.json"]);
        assert_eq!(output.status, Some(1), "{output}");
        let said =
            output.stderr.contains(key) && output.stderr.contains("is more than 86400 seconds");
        assert!(said, "{output}");
    }
}

#[test]
fn a_network_whose_master_is_missing_is_said_once_and_does_not_keep_the_others_waiting() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let reserve = |network: &str, address: &str| {
        let directory = node.node.state().join("networks").join(network);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(address), "c1\r\nnet1").unwrap();
    };
    let has = |addresses: &[&str]| {
        let is_so = |_: &_| node.addresses() == *addresses;
        node.lab.wait_until(DEADLINE, is_so)
    };
    reserve("lost", "10.0.4.70");
    reserve("found", "10.0.4.71");
    let networks = json!([
        { "name": "lost", "master": "ens99" },
        { "name": "found", "master": "ens6" },
    ]);
    let agent = Agent::start(&node, &json!({ "networks": networks }));
    assert!(has(&["10.0.4.71"]), "{}", agent.log());
    // Each change is a look that finds the same once more.
    reserve("found", "10.0.4.72");
    assert!(has(&["10.0.4.71", "10.0.4.72"]), "{}", agent.log());
    let said = "network lost: there is no interface \"ens99\"";
    assert_eq!(agent.log().matches(said).count(), 1, "{}", agent.log());
}

/// As on a node where other programs have used up what root may have of it.
#[test]
fn directories_that_cannot_be_watched_are_looked_at_all_the_same() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let network = Network::published(PUBLISHED);
    let pods = ["before", "after"].map(Pod::new);
    attach(&node, &network, &pods[0], &node.mac);
    let configuration = json!({ "networks": "auto", "metrics": ADDRESS });
    let fault = ("inotify_init1", "error=EMFILE");
    let agent = Agent::spawn_with_fault(&node, &configuration, fault);
    let are_registered = |count| eventually(|| node.addresses().len() == count);
    assert!(are_registered(1), "{}", agent.log());
    attach(&node, &network, &pods[1], &node.mac);
    assert!(are_registered(2), "{}", agent.log());
    let said = "failed to watch the reservations: Too many open files";
    let log = agent.log();
    assert_eq!(log.matches(said).count(), 1, "{log}");
    // The agent does its work, and tells what is wrong with the node.
    let (status, why) = get(&node, "/readyz");
    assert!(status == 200 && why.contains(said), "{why}");
}

#[test]
fn a_clock_that_was_set_back_keeps_no_address() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    node.add(&pod, &["10.0.4.70"]).ok();
    node.del(&pod);
    node.edit_ledger("10.0.4.70", |entry| {
        entry["since"] = json!(9_999_999_000_u64);
        entry["after"] = json!(9_999_999_030_u64);
    });
    let _agent = Agent::start(&node, &json!({}));
    assert!(
        node.lab
            .wait_until(DEADLINE, |_| node.addresses().is_empty())
    );
}

/// A disk of its own for a node's state, full to the last byte.
struct FullDisk(PathBuf);

impl FullDisk {
    fn of(node: &VpcNode) -> Self {
        let path = node.node.state().to_owned();
        let tmpfs = Some("tmpfs");
        mount(tmpfs, &path, tmpfs, MsFlags::empty(), Some("size=65536"))
            .expect("tmpfs can be mounted");
        let disk = Self(path);
        let mut ballast = File::create(disk.ballast()).unwrap();
        while ballast.write_all(&[0; 4096]).is_ok() {}
        disk
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }
}

impl Drop for FullDisk {
    fn drop(&mut self) {
        umount2(Path::new(&self.0), MntFlags::MNT_DETACH).expect("it was mounted");
    }
}

#[test]
fn an_agent_on_a_full_disk_says_so_and_goes_on_when_there_is_room() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let disk = FullDisk::of(&node);
    let agent = Agent::start(&node, &json!({ "reconcileSeconds": 1 }));
    let pod = Pod::new("c1");
    let error = node.add(&pod, &["10.0.4.70"]).error_code(5);
    assert!(error.details.contains("No space left"), "{error:?}");
    assert_eq!(node.addresses(), [""; 0]);
    assert!(
        eventually(|| agent.log().contains("No space left")),
        "{}",
        agent.log()
    );
    fs::remove_file(disk.ballast()).unwrap();
    node.add(&pod, &["10.0.4.70"]).ok();
    assert_eq!(node.addresses(), ["10.0.4.70"]);
    assert_eq!(agent.stop(), Some(0));
}
