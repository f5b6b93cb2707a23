//! GC and STATUS, which the Go plugin answers with success without doing anything (D21).

use std::fs;
use std::os::unix::fs::symlink;

use harness::Call;
use serde_json::{Value, json};

use super::{Network, address};

/// A network in which c1 has net1 and net2, c2 has net1, and legacy names itself only.
fn crowd() -> Network {
    let network = Network::of("10.0.0.0/24");
    network.write("10.0.0.2", "c1\r\nnet1");
    network.write("10.0.0.3", "c1\r\nnet2");
    network.write("10.0.0.4", "c2\r\nnet1");
    network.write("10.0.0.5", "legacy");
    network.write("last_reserved_ip.0", "10.0.0.5");
    network.write("last_reserved_ip.7", "c2\r\nnet1");
    network.write("lock", "");
    network.write(".boot_id", "of another boot");
    network.write("notes", "c2\r\nnet1");
    network
}

#[test]
fn gc_removes_exactly_what_is_not_listed() {
    for (valid, kept) in [
        (json!([]), vec![]),
        (Value::Null, vec![]),
        (
            json!([{"containerID": "c1", "ifname": "net1"}]),
            vec!["10.0.0.2"],
        ),
        (
            json!([{"containerID": "c1", "ifname": "net3"}, {"containerID": "c2", "ifname": "net1"}]),
            vec!["10.0.0.4"],
        ),
        (json!([{"containerID": "c1"}]), vec!["10.0.0.2", "10.0.0.3"]),
        (
            json!([{"containerID": "legacy", "ifname": "net1"}]),
            vec!["10.0.0.5"],
        ),
        (
            json!([
                {"containerID": "unknown", "ifname": "net1"},
                {"containerID": "c2", "ifname": "net1"},
                {"containerID": "c2", "ifname": "net1"},
                {"ifname": "net1", "containerID": "c1"},
            ]),
            vec!["10.0.0.2", "10.0.0.4"],
        ),
    ] {
        let network = crowd();
        assert_eq!(network.gc(valid.clone()).ok(), Value::Null);
        assert_eq!(network.reserved(), kept, "{valid}");
    }
}

#[test]
fn gc_keeps_every_other_file_and_network() {
    let network = crowd();
    let other = network.data_dir().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("10.0.0.2"), "c9\r\nnet1").unwrap();
    network.gc(json!([])).ok();
    for name in [
        "lock",
        "last_reserved_ip.0",
        "last_reserved_ip.7",
        ".boot_id",
        "notes",
    ] {
        assert!(network.path(name).exists(), "{name}");
    }
    assert!(other.join("10.0.0.2").exists());
}

#[test]
fn gc_without_a_list_removes_nothing() {
    let network = crowd();
    let before = network.files();
    let without = Call::ours("host-local", "GC").conf(&network.conf);
    without.run().ok();
    assert_eq!(network.files(), before);
}

#[test]
fn gc_understands_the_older_key() {
    let network = crowd().with("cni.dev/attachments", Value::Null);
    let mut conf = network.conf.clone();
    conf["cni.dev/attachments"] = json!([{"containerID": "c2", "ifname": "net1"}]);
    Call::ours("host-local", "GC").conf(&conf).run().ok();
    assert_eq!(network.reserved(), ["10.0.0.4"]);
}

#[test]
fn gc_of_a_list_that_cannot_be_understood_removes_nothing() {
    for valid in [
        json!({}),
        json!("c1"),
        json!([{"ifname": "net1"}]),
        json!([1]),
    ] {
        let network = crowd();
        network.gc(valid).error_code(7);
        assert_eq!(network.reserved().len(), 4);
    }
}

#[test]
fn gc_reports_what_is_broken_after_removing_the_rest() {
    let network = crowd();
    fs::create_dir(network.path("10.0.0.1")).unwrap();
    network.write("10.0.0.30", "no\tid");
    symlink("/etc/hostname", network.path("10.0.0.31")).unwrap();
    nix::unistd::mkfifo(&network.path("10.0.0.32"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let error = network
        .gc(json!([{"containerID": "c1", "ifname": "net1"}]))
        .error_code(5);
    for name in ["10.0.0.1\"", "10.0.0.30", "10.0.0.31", "10.0.0.32"] {
        assert!(
            error.msg.contains(name),
            "{name} is missing in {}",
            error.msg
        );
    }
    assert_eq!(
        network.reserved(),
        [
            "10.0.0.1",
            "10.0.0.2",
            "10.0.0.30",
            "10.0.0.31",
            "10.0.0.32"
        ]
    );
}

#[test]
fn gc_removes_the_empty_file_of_a_killed_plugin() {
    let network = crowd();
    network.write("10.0.0.9", "");
    network.gc(json!([{"containerID": "c1"}])).ok();
    assert_eq!(network.reserved(), ["10.0.0.2", "10.0.0.3"]);
}

#[test]
fn gc_of_a_network_without_a_directory_creates_no_directory() {
    let network = Network::of("10.0.0.0/24");
    network.gc(json!([])).ok();
    assert!(!network.path("").exists());
}

#[test]
fn gc_does_not_mind_ranges_that_have_become_wrong() {
    let network = crowd().with("ipam.ranges", json!([]));
    network.gc(json!([])).ok();
    assert!(network.reserved().is_empty());
}

#[test]
fn what_gc_removed_can_be_handed_out_again() {
    let network = Network::of("10.0.0.0/30");
    network.add("c1").ok();
    network.add("c2").error_code(999);
    network.gc(json!([])).ok();
    assert_eq!(address(&network.add("c2")), "10.0.0.2/30");
}

#[test]
fn status_is_code_50_when_a_range_set_is_exhausted() {
    let network =
        Network::new(json!({"ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "10.1.0.0/30"}]]}));
    assert_eq!(network.status().ok(), Value::Null);
    network.add("c1").ok();
    assert_eq!(
        network.status().error_code(50).msg,
        "no IP addresses available in range set: 10.1.0.1-10.1.0.2"
    );
    network.del("c1").ok();
    network.status().ok();
}

#[test]
fn status_of_a_wrong_configuration_is_code_7() {
    let network = Network::of("10.0.0.0/31");
    let error = network.status().error_code(7);
    assert!(
        error.msg.starts_with("invalid range set 0: "),
        "{}",
        error.msg
    );
}

#[test]
fn status_makes_no_directory() {
    let network = Network::of("10.0.0.0/24");
    network.status().ok();
    assert!(!network.path("").exists());
}

#[test]
fn status_counts_as_add_does_and_changes_nothing() {
    let network = Network::of("10.0.0.0/30");
    let names = || {
        let entries = fs::read_dir(network.path("")).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    network.write("lock", "");
    // Left empty by a killed plugin.
    network.write("10.0.0.2", "");
    network.status().ok();
    assert_eq!(names(), ["10.0.0.2", "lock"]);
    network.write("10.0.0.2", "c1\r\nnet1");
    network.status().error_code(50);
    network.write("last_reserved_ip.0", "10.0.0.2");
    // What stands in the place of a reservation takes its address.
    fs::remove_file(network.path("10.0.0.2")).unwrap();
    fs::create_dir(network.path("10.0.0.2")).unwrap();
    network.status().error_code(50);
}

#[test]
fn gc_and_status_need_version_1_1_0() {
    let network = Network::of("10.0.0.0/24").with("cniVersion", "1.0.0".into());
    network.status().error_code(1);
    network.gc(json!([])).error_code(1);
}
