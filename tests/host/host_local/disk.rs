//! The directory: bytes and modes, what is found in it, and what is reclaimed.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};

use harness::{Call, Node};
use serde_json::{Value, json};

use super::{NO_NETNS, Network, address};

fn mode(path: &std::path::Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn the_files_have_the_bytes_of_the_go_plugin() {
    let network = Network::new(json!({
        "ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "2001:DB8:0::/64"}]],
    }));
    network.add("c1").ok();
    let expected = [
        ("10.0.0.2", "c1\r\nnet1"),
        ("2001:db8::2", "c1\r\nnet1"),
        ("last_reserved_ip.0", "10.0.0.2"),
        ("last_reserved_ip.1", "2001:db8::2"),
    ];
    let expected = expected.map(|(name, content)| (name.to_owned(), content.to_owned()));
    assert_eq!(network.files(), expected.into());
    assert_eq!(fs::read(network.path("lock")).unwrap(), b"");
}

#[test]
fn what_is_created_is_accessible_to_root_only() {
    let network = Network::of("10.0.0.0/24");
    let data_dir = network.data_dir().join("a/b");
    let network = network.with("ipam.dataDir", data_dir.to_str().into());
    network.add("c1").ok();
    for name in ["10.0.0.2", "last_reserved_ip.0", "lock", ".boot_id"] {
        assert_eq!(mode(&data_dir.join("n").join(name)), 0o600, "{name}");
    }
    for directory in [data_dir.join("n"), data_dir.clone(), data_dir.join("..")] {
        assert_eq!(mode(&directory), 0o700, "{directory:?}");
    }
}

#[test]
fn modes_of_what_exists_are_left_alone() {
    let network = Network::of("10.0.0.0/24");
    network.write("last_reserved_ip.0", "10.0.0.200");
    network.write("lock", "");
    for (name, bits) in [("last_reserved_ip.0", 0o644), ("lock", 0o750), ("", 0o755)] {
        fs::set_permissions(network.path(name), Permissions::from_mode(bits)).unwrap();
    }
    assert_eq!(address(&network.add("c1")), "10.0.0.201/24");
    let modes = ["last_reserved_ip.0", "lock", ""].map(|name| mode(&network.path(name)));
    assert_eq!(modes, [0o644, 0o750, 0o755]);
}

#[test]
fn a_shorter_last_address_leaves_nothing_of_a_longer_one() {
    let network = Network::of("10.0.0.0/24").with("runtimeConfig", json!({"ips": ["10.0.0.9"]}));
    network.write("last_reserved_ip.0", "10.0.0.200");
    network.add("c1").ok();
    assert_eq!(network.files()["last_reserved_ip.0"], "10.0.0.9");
}

#[test]
fn what_stands_in_the_place_of_a_reservation_is_taken_and_not_touched() {
    let network = Network::of("10.0.0.0/24");
    network.write("last_reserved_ip.0", "10.0.0.254");
    network.write("10.0.0.2", &"x".repeat(1 << 20));
    network.write("10.0.0.3", "\0\u{1}garbage\r\n");
    fs::create_dir(network.path("10.0.0.4")).unwrap();
    let target = network.data_dir().join("target");
    fs::write(&target, "c1\r\nnet1").unwrap();
    symlink(&target, network.path("10.0.0.5")).unwrap();
    symlink("/nonexistent", network.path("10.0.0.6")).unwrap();
    nix::unistd::mkfifo(&network.path("10.0.0.7"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut before = network.files();
    before.remove("last_reserved_ip.0");
    assert_eq!(address(&network.add("c1")), "10.0.0.8/24");
    network.check("c1").ok();
    network.del("c1").ok();
    network.del("c1").ok();
    let mut after = network.files();
    after.remove("last_reserved_ip.0");
    assert_eq!(after, before);
    assert_eq!(fs::read_to_string(target).unwrap(), "c1\r\nnet1");
}

#[test]
fn an_unreadable_last_address_only_restarts_the_round_robin() {
    let network = Network::of("10.0.0.0/24");
    network.write("10.0.0.2", "other\r\nnet1");
    fs::create_dir(network.path("last_reserved_ip.1")).unwrap();
    assert_eq!(address(&network.add("c1")), "10.0.0.3/24");
}

/// D22: the Go plugin returns an error and keeps the reservation.
#[test]
fn an_add_that_cannot_write_the_last_address_reserves_nothing() {
    let network = Network::new(json!({
        "ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "2001:db8::/64"}]],
    }));
    let mut reader = None;
    for obstacle in ["directory", "link", "fifo", "fifo with a reader"] {
        let path = network.path("last_reserved_ip.1");
        fs::create_dir_all(network.path("")).unwrap();
        match obstacle {
            "directory" => fs::create_dir(&path).unwrap(),
            "link" => symlink(network.data_dir().join("target"), &path).unwrap(),
            _ => nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
        }
        if obstacle == "fifo with a reader" {
            // Opened for both, a FIFO has a reader and waits for nobody.
            reader = Some(
                fs::File::options()
                    .read(true)
                    .write(true)
                    .open(&path)
                    .unwrap(),
            );
        }
        let error = network.add("c1").error_code(5);
        assert!(error.msg.contains("last_reserved_ip.1"), "{}", error.msg);
        assert_eq!(network.reserved(), Vec::<String>::new(), "{obstacle}");
        assert!(!network.data_dir().join("target").exists());
        fs::remove_file(&path)
            .or_else(|_| fs::remove_dir(&path))
            .unwrap();
    }
    drop(reader);
}

/// D22: such an address is lost for ever to the Go plugin.
#[test]
fn the_empty_file_of_a_killed_go_plugin_is_reclaimed() {
    let network = Network::of("10.0.0.0/30");
    network.write("lock", "");
    network.write("10.0.0.2", "");
    assert_eq!(address(&network.add("c1")), "10.0.0.2/30");
    assert_eq!(network.files()["10.0.0.2"], "c1\r\nnet1");
}

fn conf_on_node() -> Value {
    json!({"cniVersion": "1.1.0", "name": "n", "ipam": {"ranges": [[{"subnet": "10.0.0.0/29"}]]}})
}

/// A call of a network that has its data directory where it is by default.
fn on_node(command: &str, id: &str) -> Call {
    let call = Call::ours("host-local", command);
    call.attachment(id, "net1", NO_NETNS).conf(&conf_on_node())
}

/// D24: the Go plugin keeps the reservations of containers that do not exist any more.
#[test]
fn reservations_of_an_earlier_boot_are_reclaimed_at_the_first_add() {
    let mut node = Node::new();
    let call = on_node;
    for id in ["a", "b", "c", "d", "e"] {
        node.run(&call("ADD", id)).ok();
    }
    let directory = node.state().join("networks/n");
    for entry in fs::read_dir(&directory).unwrap() {
        let file = fs::File::options()
            .write(true)
            .open(entry.unwrap().path())
            .unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
    }
    // Time alone says nothing: the machine's clock may have been set.
    node.run(&call("ADD", "f")).error_code(999);
    node.reboot();
    node.run(&call("STATUS", "")).ok();
    assert_eq!(address(&node.run(&call("ADD", "f"))), "10.0.0.2/29");
    assert_eq!(
        node.files(),
        [
            "networks/n/10.0.0.2",
            "networks/n/last_reserved_ip.0",
            "networks/n/lock"
        ]
    );
}

#[test]
fn a_reboot_does_not_restart_the_round_robin() {
    let mut node = Node::new();
    for id in ["a", "b"] {
        node.run(&on_node("ADD", id)).ok();
    }
    node.reboot();
    assert_eq!(address(&node.run(&on_node("ADD", "c"))), "10.0.0.4/29");
    let left = node.files();
    let left = left.iter().filter(|name| name.contains("/10."));
    assert_eq!(left.collect::<Vec<_>>(), ["networks/n/10.0.0.4"]);
}

/// The clock may have been set, and one directory may be that of two nodes: neither the age
/// of a file nor another boot alone shows that nobody has the address.
#[test]
fn a_reservation_that_does_not_show_its_boot_is_kept_and_named() {
    let network = Network::of("10.0.0.0/29");
    network.write("10.0.0.2", "of-go\r\nnet1");
    network.write("10.0.0.3", "legacy");
    network.write("last_reserved_ip.0", "10.0.0.3");
    for name in ["10.0.0.2", "10.0.0.3"] {
        network.age(name);
    }
    let output = network.add("c1");
    assert_eq!(address(&output), "10.0.0.4/29");
    let named = [
        "10.0.0.2 by container of-go as net1",
        "10.0.0.3 by container legacy",
    ];
    for named in named {
        assert!(output.stderr.contains(named), "{output}");
    }
    assert_eq!(network.reserved(), ["10.0.0.2", "10.0.0.3", "10.0.0.4"]);
    // It is said once a boot.
    assert_eq!(network.add("c2").stderr, "");
}

#[test]
fn what_a_newer_version_has_noted_of_a_container_does_not_end_its_reservation() {
    let network = Network::of("10.0.0.0/30");
    network.add("a").ok();
    network.date_back("10.0.0.2");
    assert_eq!(address(&network.add("b")), "10.0.0.2/30");
    network.date_back("10.0.0.2");
    network.remember("10.0.0.2", &[("formatVersion", 3.into())]);
    network.add("c").error_code(999);
    assert_eq!(network.files()["10.0.0.2"], "b\r\nnet1");
}

/// What Go's host-local has reserved has no attribute, but ours have executed it.
#[test]
fn the_record_of_an_attachment_shows_that_its_reservation_is_of_an_earlier_boot() {
    let node = Node::new();
    let store = node.state().join("networks/n");
    let records = node.state().join("eni-cni/host-device/n");
    for directory in [&store, &records] {
        fs::create_dir_all(directory).unwrap();
    }
    fs::write(store.join("last_reserved_ip.0"), "10.0.0.3").unwrap();
    for (name, id) in [("10.0.0.2", "recorded"), ("10.0.0.3", "unrecorded")] {
        fs::write(store.join(name), format!("{id}\r\nnet1")).unwrap();
    }
    let record = json!({
        "network": "n", "containerId": "recorded", "ifname": "net1", "cniVersion": "1.1.0",
        "bootId": "earlier", "netns": NO_NETNS, "netnsId": {"device": 1, "inode": 2},
        "ipam": null, "device": {},
    });
    fs::write(records.join("recorded:net1.json"), record.to_string()).unwrap();
    assert_eq!(address(&node.run(&on_node("ADD", "c1"))), "10.0.0.4/29");
    assert!(!store.join("10.0.0.2").exists());
    assert!(store.join("10.0.0.3").exists());
}

/// A clock that is set forward makes every file look older than the boot.
#[test]
fn setting_the_clock_takes_no_address_from_a_running_container() {
    let network = Network::of("10.0.0.0/29");
    network.add("c1").ok();
    network.age("10.0.0.2");
    fs::remove_file(network.path(".boot_id")).unwrap();
    assert_eq!(address(&network.add("c2")), "10.0.0.3/29");
    assert_eq!(network.reserved(), ["10.0.0.2", "10.0.0.3"]);
}

#[test]
fn nodes_that_share_a_directory_take_nothing_from_each_other() {
    let (mut one, mut other) = (Node::new(), Node::new());
    let shared = tempfile::tempdir().unwrap();
    let machine_id = shared.path().join("machine-id");
    fs::write(&machine_id, "f".repeat(32)).unwrap();
    other.reboot();
    other.bind(&machine_id, "/etc/machine-id");
    let add = |node: &Node, id: &str| {
        let mut conf = conf_on_node();
        conf["ipam"]["dataDir"] = shared.path().to_str().into();
        address(&node.run(&on_node("ADD", id).conf(&conf)))
    };
    assert_eq!(add(&one, "a"), "10.0.0.2/29");
    assert_eq!(add(&other, "b"), "10.0.0.3/29");
    one.reboot();
    assert_eq!(add(&one, "c"), "10.0.0.4/29");
    let names = fs::read_dir(shared.path().join("n")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.starts_with("10.")).collect();
    names.sort();
    assert_eq!(
        names,
        ["10.0.0.3", "10.0.0.4"],
        "what one had is of its earlier boot"
    );
}

#[test]
fn del_check_and_gc_leave_the_reservations_of_an_earlier_boot_to_add() {
    let network = Network::of("10.0.0.0/24");
    network.write("10.0.0.2", "old\r\nnet1");
    network.write(".boot_id", "another");
    network.age("10.0.0.2");
    network.check("old").ok();
    network.del("c1").ok();
    network.gc(json!([{"containerID": "old"}])).ok();
    assert_eq!(network.reserved(), ["10.0.0.2"]);
    assert_eq!(
        fs::read_to_string(network.path(".boot_id")).unwrap(),
        "another"
    );
}

#[test]
fn only_files_are_reclaimed_after_a_reboot() {
    let network = Network::of("10.0.0.0/29");
    fs::create_dir_all(network.path("10.0.0.2")).unwrap();
    let directory = fs::File::open(network.path("10.0.0.2")).unwrap();
    directory.set_modified(std::time::UNIX_EPOCH).unwrap();
    network.write("notes", "old");
    network.age("notes");
    network.write("last_reserved_ip.0", "10.0.0.1");
    assert_eq!(address(&network.add("c1")), "10.0.0.3/29");
    assert!(network.path("notes").exists());
}

#[test]
fn a_boot_id_that_is_not_a_file_is_replaced() {
    let network = Network::of("10.0.0.0/24");
    let target = network.data_dir().join("target");
    fs::write(&target, "untouched").unwrap();
    network.write("lock", "");
    symlink(&target, network.path(".boot_id")).unwrap();
    network.add("c1").ok();
    assert!(
        fs::symlink_metadata(network.path(".boot_id"))
            .unwrap()
            .is_file()
    );
    assert_eq!(fs::read_to_string(target).unwrap(), "untouched");
}

#[test]
fn a_lock_that_is_not_a_file_is_code_5() {
    let network = Network::of("10.0.0.0/24");
    fs::create_dir_all(network.path("")).unwrap();
    symlink("/etc/hostname", network.path("lock")).unwrap();
    let error = network.add("c1").error_code(5);
    assert!(error.msg.starts_with("failed to open"), "{}", error.msg);
    assert_eq!(network.files(), [].into());
}

#[test]
fn networks_do_not_share_addresses_or_directories() {
    let mut network = Network::of("10.0.0.0/24");
    assert_eq!(address(&network.add("c1")), "10.0.0.2/24");
    network.set("name", Value::from("m"));
    assert_eq!(address(&network.add("c1")), "10.0.0.2/24");
    network.del("c1").ok();
    assert_eq!(network.reserved(), ["10.0.0.2"]);
}
