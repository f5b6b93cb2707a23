//! DEL and CHECK.

use std::fs;

use harness::{Call, Node};
use serde_json::{Value, json};

use super::{Network, address};

#[test]
fn del_releases_the_address_and_keeps_the_last_address() {
    let network = Network::of("10.0.0.0/24");
    network.add("c1").ok();
    let output = network.del("c1");
    assert_eq!(output.ok(), Value::Null);
    assert_eq!(
        network.files().into_iter().collect::<Vec<_>>(),
        [("last_reserved_ip.0".to_owned(), "10.0.0.2".to_owned())]
    );
}

#[test]
fn del_of_an_attachment_with_many_addresses_releases_them_all() {
    let network = Network::new(json!({
        "ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "2001:db8::/64"}], [{"subnet": "10.1.0.0/24"}]],
    }));
    network.add("c1").ok();
    network.write("192.0.2.200", "c1\r\nnet1");
    network.del("c1").ok();
    assert!(network.reserved().is_empty(), "{:?}", network.reserved());
}

#[test]
fn del_leaves_the_neighbours_alone() {
    let network = Network::of("10.0.0.0/24");
    network.add("c1").ok();
    network.add("c2").ok();
    network.add("c11").ok();
    network
        .call("ADD", "c1")
        .env("CNI_IFNAME", "net2")
        .run()
        .ok();
    network
        .call("ADD", "c1")
        .env("CNI_IFNAME", "net11")
        .run()
        .ok();
    network.del("c1").ok();
    assert_eq!(
        network.reserved(),
        ["10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]
    );
}

#[test]
fn del_succeeds_twice_and_before_any_add_and_makes_nothing() {
    let network = Network::of("10.0.0.0/24");
    network.del("c1").ok();
    network.check("c1").error_code(999);
    assert_eq!(fs::read_dir(network.data_dir()).unwrap().count(), 0);
    network.add("c1").ok();
    for _ in 0..3 {
        network.del("c1").ok();
    }
    assert!(network.reserved().is_empty());
}

#[test]
fn del_succeeds_when_the_data_directory_is_gone() {
    let network = Network::of("10.0.0.0/24");
    let gone = network.data_dir().join("gone");
    network
        .with("ipam.dataDir", gone.to_str().into())
        .del("c1")
        .ok();
    assert!(!gone.exists());
}

#[test]
fn del_needs_no_namespace() {
    for netns in ["", "/nonexistent", "/etc/hostname", "/"] {
        let network = Network::of("10.0.0.0/24");
        network.add("c1").ok();
        network.call("DEL", "c1").env("CNI_NETNS", netns).run().ok();
        assert!(network.reserved().is_empty(), "{netns:?}");
    }
}

#[test]
fn del_releases_whatever_has_become_of_the_configuration() {
    for (path, value) in [
        ("ipam.ranges", json!([[{"subnet": "192.0.2.0/24"}]])),
        ("ipam.ranges", json!([[{"subnet": "10.0.0.1/24"}]])),
        ("ipam.ranges", json!("nonsense")),
        ("ipam.ranges", Value::Null),
        ("ipam.subnet", json!("nonsense")),
        ("ipam.routes", json!([{}])),
        ("ipam.resolvConf", json!("relative")),
        ("ipam.type", Value::Null),
        (
            "runtimeConfig",
            json!({"ips": ["nonsense"], "ipRanges": [[]]}),
        ),
        ("args", json!([1])),
        ("prevResult", json!({"cniVersion": "0.2.0"})),
        ("cniVersion", json!("0.1.0")),
    ] {
        let mut network = Network::of("10.0.0.0/24");
        network.add("c1").ok();
        network.set(path, value.clone());
        network.del("c1").ok();
        assert!(network.reserved().is_empty(), "{path}: {value}");
    }
}

#[test]
fn del_ignores_cni_args() {
    let network = Network::of("10.0.0.0/24");
    network.add("c1").ok();
    network
        .call("DEL", "c1")
        .env("CNI_ARGS", "nonsense;IP=x")
        .run()
        .ok();
    assert!(network.reserved().is_empty());
}

/// Multus sends no more than this when its cache is lost.
#[test]
fn del_works_from_a_stripped_configuration_and_without_one() {
    for ipam in [json!({"type": "host-local"}), json!({}), Value::Null] {
        let node = Node::new();
        let mut conf = json!({"cniVersion": "1.0.0", "name": "n", "type": "ipvlan"});
        conf["ipam"] = json!({"type": "host-local", "ranges": [[{"subnet": "10.0.0.0/24"}]]});
        let call = |command: &str, conf: &Value| {
            let call = Call::ours("host-local", command).attachment("c1", "net1", super::NO_NETNS);
            node.run(&call.conf(conf))
        };
        assert_eq!(address(&call("ADD", &conf)), "10.0.0.2/24");
        conf["ipam"] = ipam;
        call("DEL", &conf).ok();
        assert_eq!(
            node.files(),
            ["networks/n/last_reserved_ip.0", "networks/n/lock"]
        );
    }
}

#[test]
fn del_has_nothing_to_release_where_no_add_could_reserve() {
    let network = Network::of("10.0.0.0/24").with("ipam.dataDir", "relative".into());
    network.del("c1").ok();
}

#[test]
fn files_that_name_only_the_container_are_released_when_no_other_is_there() {
    let network = Network::of("10.0.0.0/24");
    network.write("10.0.0.50", "c1");
    network.write("10.0.0.51", "c1\r\nnet1");
    network.write("10.0.0.52", " c1\n");
    network.del("c1").ok();
    assert_eq!(network.reserved(), ["10.0.0.50", "10.0.0.52"]);
    network.check("c1").ok();
    network.del("c1").ok();
    assert!(network.reserved().is_empty());
}

#[test]
fn surrounding_white_space_in_a_file_does_not_matter() {
    let network = Network::of("10.0.0.0/24");
    network.write("10.0.0.50", "c1\r\nnet1\n");
    network.check("c1").ok();
    network.del("c1").ok();
    assert!(network.reserved().is_empty());
}

#[test]
fn del_touches_nothing_but_files_named_like_an_address() {
    let network = Network::of("10.0.0.0/24");
    for name in [
        "last_reserved_ip.0",
        "lock",
        "notes",
        ".index",
        "10.0.0.5.bak",
    ] {
        network.write(name, "c1\r\nnet1");
    }
    network.del("c1").ok();
    for name in [
        "last_reserved_ip.0",
        "lock",
        "notes",
        ".index",
        "10.0.0.5.bak",
    ] {
        assert_eq!(
            fs::read_to_string(network.path(name)).unwrap(),
            "c1\r\nnet1",
            "{name}"
        );
    }
}

#[test]
fn a_del_that_cannot_release_says_so_after_releasing_the_rest() {
    let mut node = Node::new();
    let conf = json!({"cniVersion": "1.0.0", "name": "n", "ipam": {"ranges": [[{"subnet": "10.0.0.0/24"}]]}});
    let call = |command: &str| {
        Call::ours("host-local", command)
            .attachment("c1", "net1", super::NO_NETNS)
            .conf(&conf)
    };
    node.run(&call("ADD")).ok();
    let second = node.state().join("networks/n/10.0.0.9");
    fs::write(&second, "c1\r\nnet1").unwrap();
    // A file that is a mount point cannot be removed.
    node.bind("/etc/hostname", "/var/lib/cni/networks/n/lock");
    node.bind(&second, "/var/lib/cni/networks/n/10.0.0.2");
    let error = node.run(&call("DEL")).error_code(5);
    assert!(
        error
            .msg
            .starts_with("failed to release \"/var/lib/cni/networks/n/10.0.0.2\""),
        "{}",
        error.msg
    );
    assert!(!second.exists());
}

#[test]
fn check_finds_the_reservation_of_its_own_attachment_only() {
    let network = Network::of("10.0.0.0/24");
    network.add("c1").ok();
    assert_eq!(network.check("c1").ok(), Value::Null);
    let other = |call: Call| call.run().error_code(999).msg;
    assert_eq!(
        other(network.call("CHECK", "c2")),
        "host-local: Failed to find address added by container c2"
    );
    assert_eq!(
        other(network.call("CHECK", "c1").env("CNI_IFNAME", "net2")),
        "host-local: Failed to find address added by container c1"
    );
    network.del("c1").ok();
    network.check("c1").error_code(999);
}

#[test]
fn check_wants_every_address_of_prev_result_to_be_reserved() {
    let mut network = Network::new(json!({
        "ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "2001:db8::/64"}]],
    }));
    let result = network.add("c1").ok();
    network.set("prevResult", result);
    network.check("c1").ok();
    fs::remove_file(network.path("2001:db8::2")).unwrap();
    assert_eq!(
        network.check("c1").error_code(999).msg,
        "host-local: Failed to find address 2001:db8::2 added by container c1"
    );
    network.write("2001:db8::2", "c2\r\nnet1");
    network.check("c1").error_code(999);
}

#[test]
fn check_does_not_mind_addresses_that_are_not_ours() {
    let mut network = Network::of("10.0.0.0/24");
    network.add("c1").ok();
    network.set(
        "prevResult",
        json!({"cniVersion": "1.1.0", "ips": [{"address": "10.0.0.2/24"}, {"address": "192.0.2.1/24"}, {"address": "10.0.0.1/8"}]}),
    );
    // The gateway is inside the range, and nobody has reserved it.
    network.check("c1").error_code(999);
    network.set(
        "prevResult.ips",
        json!([{"address": "10.0.0.2/24"}, {"address": "192.0.2.1/24"}]),
    );
    network.check("c1").ok();
    network.set("prevResult", json!({}));
    network.check("c1").ok();
}

#[test]
fn check_of_a_result_of_another_shape_is_code_6() {
    let mut network = Network::of("10.0.0.0/24");
    network.add("c1").ok();
    network.set("prevResult", json!({"cniVersion": "0.2.0"}));
    let error = network.check("c1").error_code(6);
    assert!(
        error.msg.starts_with("could not parse prevResult: "),
        "{}",
        error.msg
    );
}

/// A variable of a process has 128 KiB at most, with its name and the byte after it.
#[test]
fn del_releases_the_address_of_a_container_with_the_longest_id() {
    let network = Network::of("10.0.0.0/24");
    let id = "c".repeat(128 * 1024 - "CNI_CONTAINERID=".len() - 1);
    network.add(&id).ok();
    assert_eq!(network.reserved(), ["10.0.0.2"]);
    network.check(&id).ok();
    network.del(&id).ok();
    assert!(network.reserved().is_empty(), "{:?}", network.reserved());
}
