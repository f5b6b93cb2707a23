//! `rangesFile`: the ranges of one node, in a file that may change at any time.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use harness::{Call, Node, is_waited_for};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};

use super::faults::{hold_lock, kill};
use super::{NO_NETNS, Network, address, addresses, at_once, wait_until};

fn file(network: &Network) -> PathBuf {
    network.data_dir().join("ranges.json")
}

/// Puts the file there as its writers should, by renaming.
fn write(network: &Network, content: &str) {
    let unfinished = network.data_dir().join("ranges.new");
    fs::write(&unfinished, content).unwrap();
    fs::rename(unfinished, file(network)).unwrap();
}

fn one(subnet: &str) -> String {
    json!({"ranges": [[{"subnet": subnet}]]}).to_string()
}

/// The range 10.0.0.`start` to 10.0.0.`end`.
fn part(start: u8, end: u8) -> String {
    let [start, end] = [start, end].map(|n| format!("10.0.0.{n}"));
    json!({"ranges": [[{"subnet": "10.0.0.0/24", "rangeStart": start, "rangeEnd": end}]]})
        .to_string()
}

/// A network whose ranges are in a file that is not there yet.
fn without_file() -> Network {
    let network = Network::new(json!({}));
    let path = file(&network);
    network.with("ipam.rangesFile", path.to_str().into())
}

/// A network whose ranges are in a file of this content.
fn with_file(content: &str) -> Network {
    let network = without_file();
    write(&network, content);
    network
}

/// ADD and STATUS must say that the file is wrong, and why; nothing may be made.
#[track_caller]
fn refused(network: &Network) -> String {
    let begin = format!("rangesFile {:?}: ", file(network));
    for existing in [false, true] {
        if existing {
            network.write("10.0.0.77", "other\r\nnet1");
        }
        let before = network.files();
        let error = network.add("c1").error_code(7);
        assert_eq!(network.status().error_code(7), error);
        assert!(error.msg.starts_with(&begin), "{}", error.msg);
        assert_eq!(network.files(), before);
        assert_eq!(network.path("").exists(), existing);
    }
    let error = network.add("c1").error_code(7);
    [error.msg.replace(&begin, ""), error.details].join("|")
}

#[test]
fn addresses_come_from_the_file() {
    let network = with_file(
        r#"{"ranges": [[{"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.9", "gateway": "10.0.0.254",
            "exclude": ["10.0.0.9"], "unknown": 1}], [{"Subnet": "2001:db8::/64", "rangeEnd": null}]],
            "exclude": "not a key of the file", "writtenBy": "bootstrap"}"#,
    );
    let result = network.add("c1").ok();
    assert_eq!(
        result["ips"],
        json!([
            {"address": "10.0.0.10/24", "gateway": "10.0.0.254"},
            {"address": "2001:db8::2/64", "gateway": "2001:db8::1"},
        ])
    );
    network.status().ok();
    network.check("c1").ok();
}

#[test]
fn the_sets_of_the_file_come_after_all_others() {
    let network = with_file(&one("10.3.0.0/24"))
        .with("ipam.subnet", "10.1.0.0/24".into())
        .with("ipam.ranges", json!([[{"subnet": "10.2.0.0/24"}]]))
        .with(
            "runtimeConfig",
            json!({"ipRanges": [[{"subnet": "10.0.0.0/24"}]]}),
        )
        .with("ipam.exclude", json!(["10.1.0.2", "10.3.0.2"]));
    assert_eq!(
        addresses(&network.add("c1")),
        ["10.0.0.2/24", "10.1.0.3/24", "10.2.0.2/24", "10.3.0.3/24"]
    );
    assert_eq!(network.files()["last_reserved_ip.3"], "10.3.0.3");
}

#[test]
fn a_file_that_is_wrong_is_code_7_and_nothing_is_allocated() {
    for (content, expected) in [
        ("", "the file is empty|"),
        (" \n", "the file is empty|"),
        ("{}", "no IP ranges specified|"),
        ("null", "the file is not a JSON object|"),
        ("[]", "the file is not a JSON object|"),
        (r#"{"ranges": []}"#, "no IP ranges specified|"),
        (r#"{"ranges": null}"#, "no IP ranges specified|"),
        (
            r#"{"ranges": [[]]}"#,
            "invalid range set 0: empty range set|",
        ),
        (
            r#"{"ranges": [[{}]]}"#,
            "invalid range set 0: IP <nil> not v4 nor v6|",
        ),
        (
            r#"{"ranges": [[{"subnet": "10.0.0.0"}]]}"#,
            "invalid CIDR address: 10.0.0.0|",
        ),
        (
            r#"{"ranges": [[{"subnet": "10.0.0.0/31"}]]}"#,
            "invalid range set 0: Network 10.0.0.0/31 too small to allocate from|",
        ),
        (
            r#"{"ranges": [[{"subnet": "10.0.0.0/24", "rangeEnd": "10.0.1.1"}]]}"#,
            "invalid range set 0: RangeEnd 10.0.1.1 not in network 10.0.0.0/24|",
        ),
        (
            r#"{"ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "10.0.0.0/25"}]]}"#,
            "range set 0 overlaps with 1|",
        ),
        (
            r#"{"ranges": [[{"subnet": "10.0.0.0/24"}, {"subnet": "2001:db8::/64"}]]}"#,
            "invalid range set 0: mixed address families|",
        ),
        (
            r#"{"ranges": [[{"subnet": "10.0.0.0/24", "exclude": ["x"]}]]}"#,
            "exclude \"x\" is neither an address nor a CIDR|",
        ),
    ] {
        assert_eq!(refused(&with_file(content)), expected, "{content}");
    }
    for (content, expected) in [
        (
            "{\"ranges\": [[{\"subnet\": \"10.0",
            "the file is not a JSON document|EOF",
        ),
        ("ranges:\n", "the file is not a JSON document|expected"),
        (
            r#"{"ranges": [{"subnet": "10.0.0.0/24"}]}"#,
            "failed to load the ranges|ranges[0]: invalid type: map",
        ),
        (
            r#"{"ranges": "10.0.0.0/24"}"#,
            "failed to load the ranges|ranges: invalid type: string",
        ),
    ] {
        let said = refused(&with_file(content));
        assert!(said.starts_with(expected), "{said}");
    }
}

#[test]
fn a_missing_or_unreadable_file_is_code_7_and_never_waited_for() {
    let missing = without_file();
    assert_eq!(
        refused(&missing),
        "failed to read the file|No such file or directory (os error 2)"
    );
    let directory = without_file();
    fs::create_dir(file(&directory)).unwrap();
    let fifo = without_file();
    mkfifo(&file(&fifo), Mode::S_IRWXU).unwrap();
    let device = without_file();
    symlink("/dev/zero", file(&device)).unwrap();
    for network in [directory, fifo, device] {
        assert_eq!(
            refused(&network),
            "failed to read the file|not a regular file"
        );
    }
    let large = with_file(&(one("10.0.0.0/24") + &" ".repeat(1 << 20)));
    assert_eq!(
        refused(&large),
        "failed to read the file|the file is too large"
    );
    let loops = without_file();
    symlink(file(&loops), file(&loops)).unwrap();
    assert!(refused(&loops).contains("Too many levels of symbolic links"));
}

#[test]
fn a_path_that_is_not_absolute_is_code_7_with_key_and_value() {
    for (value, expected) in [
        (json!("some/where"), "\"some/where\""),
        (json!("./ranges.json"), "\"./ranges.json\""),
        (json!(7), "7"),
        (json!(["/a"]), "[\"/a\"]"),
        (json!(false), "false"),
    ] {
        let network = Network::of("10.0.0.0/24").with("ipam.rangesFile", value);
        for output in [network.add("c1"), network.check("c1"), network.status()] {
            assert_eq!(
                output.error_code(7).msg,
                format!("rangesFile {expected} is not an absolute path")
            );
        }
        assert!(!network.path("").exists());
        network.del("c1").ok();
        network.gc(json!([])).ok();
    }
}

#[test]
fn an_empty_path_counts_as_missing() {
    for value in [json!(""), Value::Null] {
        let network = Network::new(json!({})).with("ipam.rangesFile", value.clone());
        assert_eq!(
            network.add("c1").error_code(7).msg,
            "no IP ranges specified"
        );
        let network = Network::of("10.0.0.0/24").with("ipam.rangesFile", value);
        assert_eq!(address(&network.add("c1")), "10.0.0.2/24");
    }
}

#[test]
fn what_is_wrong_with_the_configured_ranges_is_not_said_of_the_file() {
    let network = with_file(&one("10.0.0.0/24"));
    let network = network.with("ipam.ranges", json!([[{"subnet": "10.1.0.0/31"}]]));
    assert_eq!(
        network.add("c1").error_code(7).msg,
        "invalid range set 0: Network 10.1.0.0/31 too small to allocate from"
    );
    let network = network.with("ipam.ranges", json!([[{"subnet": "10.0.0.0/16"}]]));
    assert_eq!(refused(&network), "range set 0 overlaps with 1|");
}

#[test]
fn the_rules_over_all_sets_hold_for_those_of_the_file() {
    let network = with_file(&one("10.0.0.0/24"))
        .with("ipam.subnet", "10.1.0.0/24".into())
        .with("cniVersion", "0.2.0".into());
    let said = network.add("c1").error_code(7).msg;
    assert!(
        said.ends_with(
            "ranges.json\": CNI version 0.2.0 does not support more than 1 address per family"
        ),
        "{said}"
    );
    // An exclusion is of a family that only the file has.
    let network = with_file(&one("2001:db8::/64"))
        .with("ipam.subnet", "10.1.0.0/24".into())
        .with("ipam.exclude", json!(["2001:db8::2"]));
    assert_eq!(
        addresses(&network.add("c1")),
        ["10.1.0.2/24", "2001:db8::3/64"]
    );
    write(&network, &one("10.0.0.0/24"));
    assert_eq!(
        network.add("c2").error_code(7).msg,
        "exclude \"2001:db8::2\" is of another family than every range"
    );
}

#[test]
fn an_edit_takes_effect_at_the_next_add() {
    let network = with_file(&part(10, 11));
    assert_eq!(address(&network.add("c1")), "10.0.0.10/24");
    write(&network, &part(20, 21));
    assert_eq!(address(&network.add("c2")), "10.0.0.20/24");
    write(&network, "{");
    network.add("c3").error_code(7);
    network.status().error_code(7);
    write(&network, &part(20, 20));
    network.status().error_code(50);
    network.add("c3").error_code(999);
    // Grown, and turns go on where they were.
    write(&network, &part(19, 22));
    network.status().ok();
    let given = ["c3", "c4", "c5"].map(|id| address(&network.add(id)));
    assert_eq!(given, ["10.0.0.21/24", "10.0.0.22/24", "10.0.0.19/24"]);
    network.add("c6").error_code(999);
    fs::remove_file(file(&network)).unwrap();
    network.add("c6").error_code(7);
    assert_eq!(network.reserved().len(), 5);
}

#[test]
fn a_request_is_answered_from_the_file() {
    let network = with_file(&part(10, 11));
    let request = |id: &str| {
        let call = network.call("ADD", id).env("CNI_ARGS", "IP=10.0.0.20");
        call.run()
    };
    assert_eq!(
        request("c1").error_code(999).msg,
        "failed to allocate all requested IPs: 10.0.0.20"
    );
    write(&network, &part(10, 20));
    assert_eq!(address(&request("c1")), "10.0.0.20/24");
}

#[test]
fn reservations_outside_of_a_shrunken_range_are_kept_and_released_as_any_other() {
    let mut network = with_file(&part(10, 15));
    let results: Vec<Value> = (0..6).map(|n| network.add(&format!("c{n}")).ok()).collect();
    write(&network, &part(10, 11));
    network.add("c9").error_code(999);
    assert_eq!(network.reserved().len(), 6);
    for (n, result) in results.into_iter().enumerate() {
        network.set("prevResult", result);
        network.check(&format!("c{n}")).ok();
    }
    network.set("prevResult", Value::Null);
    network.del("c5").ok();
    let valid = [0, 1, 3].map(|n| json!({"containerID": format!("c{n}"), "ifname": "net1"}));
    network.gc(json!(valid)).ok();
    assert_eq!(network.reserved(), ["10.0.0.10", "10.0.0.11", "10.0.0.13"]);
    // Grown again, none of those that are still held is given to another one.
    write(&network, &part(10, 15));
    let given = ["d1", "d2", "d3"].map(|id| address(&network.add(id)));
    assert_eq!(given, ["10.0.0.12/24", "10.0.0.14/24", "10.0.0.15/24"]);
}

#[test]
fn check_del_and_gc_do_not_need_the_file() {
    for content in [None, Some(""), Some("{"), Some(r#"{"ranges": [[{}]]}"#)] {
        let mut network = with_file(&one("10.0.0.0/24")).with("ipam.subnet", "10.1.0.0/24".into());
        let result = network.add("c1").ok();
        network.add("c2").ok();
        match content {
            Some(content) => write(&network, content),
            None => fs::remove_file(file(&network)).unwrap(),
        }
        network.set("prevResult", result.clone());
        network.check("c1").ok();
        network.check("c3").error_code(999);
        // The configured ranges are checked all the same.
        fs::remove_file(network.path("10.1.0.2")).unwrap();
        network.check("c1").error_code(999);
        network.set("prevResult", Value::Null);
        network.del("c1").ok();
        assert_eq!(network.reserved(), ["10.0.0.3", "10.1.0.3"]);
        network.gc(json!([])).ok();
        assert!(network.reserved().is_empty());
    }
}

#[test]
fn check_wants_every_address_in_the_file_to_be_reserved() {
    let mut network =
        with_file(r#"{"ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "10.1.0.0/24"}]]}"#);
    let result = network.add("c1").ok();
    network.set("prevResult", result);
    fs::remove_file(network.path("10.1.0.2")).unwrap();
    assert_eq!(
        network.check("c1").error_code(999).msg,
        "host-local: Failed to find address 10.1.0.2 added by container c1"
    );
}

#[test]
fn the_file_counts_that_is_there_when_the_lock_is_taken() {
    let network = with_file(&part(10, 11));
    let holder = hold_lock(&network.path("lock"));
    let output = thread::scope(|scope| {
        let waiting = scope.spawn(|| network.add("c1"));
        wait_until("the wait for the lock", || {
            is_waited_for(&network.path("lock"))
        });
        write(&network, &part(20, 21));
        kill(holder);
        waiting.join().expect("the call ends")
    });
    assert_eq!(address(&output), "10.0.0.20/24");
}

#[test]
fn a_file_that_is_replaced_all_the_time_is_never_seen_half() {
    let filler = " ".repeat(100_000);
    let contents = [part(2, 120) + &filler, part(121, 250)];
    let network = with_file(&contents[0]);
    let is_over = AtomicBool::new(false);
    let outputs = thread::scope(|scope| {
        scope.spawn(|| {
            for content in contents.iter().cycle() {
                write(&network, content);
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        let outputs = at_once(80, |n| network.add(&format!("c{n}")));
        is_over.store(true, Ordering::Relaxed);
        outputs
    });
    let unique: BTreeSet<String> = outputs.iter().map(address).collect();
    assert_eq!(unique.len(), 80);
}

#[test]
fn the_file_may_be_that_of_a_mounted_config_map() {
    let network = without_file();
    let below = |name: &str| network.data_dir().join(name);
    let put = |version: &str, content: &str| {
        fs::create_dir(below(version)).unwrap();
        fs::write(below(version).join("ranges.json"), content).unwrap();
        symlink(version, below("..data_tmp")).unwrap();
        fs::rename(below("..data_tmp"), below("..data")).unwrap();
    };
    put("..1", &part(10, 11));
    symlink("..data/ranges.json", file(&network)).unwrap();
    assert_eq!(address(&network.add("c1")), "10.0.0.10/24");
    put("..2", &part(20, 21));
    fs::remove_dir_all(below("..1")).unwrap();
    assert_eq!(address(&network.add("c2")), "10.0.0.20/24");
}

/// What is the same on all nodes.
fn shared_conf() -> Value {
    json!({"cniVersion": "1.1.0", "name": "n", "type": "ipvlan", "ipam": {
        "type": "host-local",
        "rangesFile": "/var/lib/cni/ranges.json",
        "exclude": ["10.0.0.20", "10.0.1.0/28"],
    }})
}

/// The addresses of a hundred pods that a node gets at once.
fn hundred_pods(node: &Node) -> Vec<String> {
    let conf = shared_conf();
    let outputs = node.inside(|| {
        at_once(100, |n| {
            Call::ours("host-local", "ADD")
                .attachment(&format!("c{n}"), "net1", NO_NETNS)
                .conf(&conf)
                .run()
        })
    });
    outputs.iter().map(address).collect()
}

/// The reservations in a node's own directory.
fn reservations(node: &Node) -> usize {
    let names = fs::read_dir(node.state().join("networks/n")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("10.0.")).count()
}

#[test]
fn two_nodes_with_one_configuration_never_give_the_same_address() {
    let nodes = [("10.0.0.10", "10.0.0.120"), ("10.0.1.1", "10.0.1.130")].map(|(start, end)| {
        let range = json!({"subnet": "10.0.0.0/23", "rangeStart": start, "rangeEnd": end});
        let node = Node::new();
        let content = json!({"ranges": [[range]]}).to_string();
        fs::write(node.state().join("ranges.json"), content).unwrap();
        node
    });
    let given = at_once(2, |n| hundred_pods(&nodes[n]));
    assert!(nodes.iter().all(|node| reservations(node) == 100));
    let unique: BTreeSet<&String> = given.iter().flatten().collect();
    assert_eq!(unique.len(), 200);
    let excluded = ["10.0.0.20/23", "10.0.1.1/23", "10.0.1.15/23"];
    assert!(
        excluded
            .iter()
            .all(|text| !unique.contains(&(*text).to_owned()))
    );
}
