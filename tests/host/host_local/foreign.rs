//! `dataDir` leads to files that host-local has not made: none of them is changed.

use std::fs;

use serde_json::json;

use super::Network;

/// A directory of logs, one a host, as a server of logs keeps them.
fn logs() -> Network {
    let network = Network::of("10.0.0.0/29");
    network.write("10.0.0.2", "Nov 27 host sshd[1]: session opened\n");
    network.write("10.0.0.3", "");
    network.write("10.0.0.4.gz", "archive");
    for name in ["10.0.0.2", "10.0.0.3"] {
        network.age(name);
    }
    network
}

#[test]
fn a_directory_of_others_does_not_become_a_store() {
    let network = logs();
    let before = network.files();
    let error = network.add("c1").error_code(7);
    let names_one = |name: &&str| error.msg.contains(&format!("{name:?}"));
    let files = ["10.0.0.2", "10.0.0.3", "10.0.0.4.gz"];
    assert!(files.iter().any(names_one), "{error:?}");
    assert!(error.details.contains("dataDir"), "{error:?}");
    assert_eq!(network.status().error_code(7).msg, error.msg);
    network.del("c1").ok();
    network.gc(json!([])).ok();
    assert_eq!(network.files(), before);
    assert!(!network.path("lock").exists());
    assert!(!network.path(".boot_id").exists());
}

/// dpkg has a lock of that name, too.
#[test]
fn a_lock_alone_does_not_make_a_store() {
    let network = logs();
    network.write("lock", "");
    let before = network.files();
    network.add("c1").error_code(7);
    network.gc(json!([])).error_code(7);
    assert_eq!(network.files(), before);
}

#[test]
fn an_empty_file_that_is_named_like_an_address_is_left_alone() {
    let network = Network::of("10.0.0.0/29");
    network.write("10.0.0.3", "");
    network.add("c1").error_code(7);
    assert!(network.path("10.0.0.3").exists());
}

#[test]
fn a_file_that_is_named_like_the_last_address_is_not_overwritten() {
    for content in ["the last address\n", &"10.0.0.2\n".repeat(64)] {
        let network = Network::of("10.0.0.0/29");
        network.write("last_reserved_ip.0", content);
        let error = network.add("c1").error_code(5);
        assert!(error.msg.contains("last_reserved_ip.0"), "{error:?}");
        let kept = fs::read_to_string(network.path("last_reserved_ip.0")).unwrap();
        assert_eq!(kept, content);
        assert_eq!(network.reserved(), [""; 0]);
    }
}
