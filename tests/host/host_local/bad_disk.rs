//! A damaged or slow disk under the reservations: an ADD works or names the path, a DEL
//! loses nothing, and every command ends.

use std::fs;
use std::os::unix::fs::symlink;

use harness::Output;
use harness::damage::{DAMAGES, OUTSIDE, remove, replace_by};
use serde_json::json;

use super::{Network, address, addresses, at_once};

/// The files of a network but for the reservations, of which `disk` tells.
const FILES: [&str; 7] = [
    "lock",
    "last_reserved_ip.0",
    ".boot_id",
    "..boot_id.tmp",
    ".reservations.index",
    "..reservations.index.tmp",
    ".unfinished",
];

/// An answer, or the error that names the file.
#[track_caller]
fn answers(output: &Output, file: &str, what: &str) {
    if output.status != Some(0) {
        let error = output.error_code(5);
        let file = file.trim_start_matches('.').trim_end_matches(".tmp");
        assert!(error.msg.contains(file), "{what}: {}", error.msg);
    }
}

#[test]
fn a_damaged_file_is_replaced_or_named_and_nothing_is_lost() {
    let outside = fs::read(OUTSIDE).ok();
    for file in FILES {
        for (damage, make) in DAMAGES {
            let what = format!("{damage} at {file}");
            let network = Network::of("10.0.0.0/24");
            // More than are known without an index.
            for n in 0..12 {
                network.write(&format!("10.0.0.{}", 100 + n), &format!("p{n}\r\nnet1"));
            }
            network.add("c0").ok();
            let before = network.reserved();
            replace_by(&network.path(file), make);
            let limited =
                |command: &str, id: &str| network.call(command, id).run_under("timeout", &["60"]);
            let add = limited("ADD", "c1");
            answers(&add, file, &what);
            answers(&network.status(), file, &what);
            answers(&limited("CHECK", "c0"), file, &what);
            answers(
                &network.gc(json!([{"containerID": "c0"}, {"containerID": "c1"}])),
                file,
                &what,
            );
            match add.status {
                Some(0) => assert!(!before.contains(&address(&add)), "{what}"),
                _ => assert!(network.reserved().len() <= before.len(), "{what}"),
            }
            let del = limited("DEL", "c0");
            answers(&del, file, &what);
            remove(&network.path(file));
            network.del("c0").ok();
            network.del("c1").ok();
            assert!(
                !network.reserved().contains(&"10.0.0.2".to_owned()),
                "{what}"
            );
            network.add("c3").ok();
        }
    }
    assert_eq!(fs::read(OUTSIDE).ok(), outside);
}

#[test]
fn a_reservation_that_cannot_be_read_is_taken_reported_by_gc_and_kept() {
    let network = Network::of("10.0.0.0/29");
    for id in ["c1", "c2", "c3"] {
        network.add(id).ok();
    }
    let path = network.path("10.0.0.3");
    let fault = "inject=openat:error=EIO";
    let options = ["-f", "-qq", "-o", "/dev/null", "-P", path.to_str().unwrap()];
    let options = [&options[..], &["-e", "trace=openat", "-e", fault]].concat();
    let mut conf = network.conf().clone();
    conf["cni.dev/valid-attachments"] = json!([]);
    let gc = network
        .call("GC", "")
        .conf(&conf)
        .run_under("strace", &options);
    let error = gc.error_code(5);
    assert!(error.msg.contains("10.0.0.3"), "{}", error.msg);
    assert_eq!(network.reserved(), ["10.0.0.3"]);
}

#[test]
fn a_reservation_that_vanishes_after_it_was_listed_is_ignored() {
    let network = Network::of("10.0.0.0/29");
    network.write("10.0.0.3", "c2\r\nnet1");
    network.write("10.0.0.4", "c1\r\nnet1");
    let path = network.path("10.0.0.3");
    let fault = "inject=openat:error=ENOENT";
    let options = ["-f", "-qq", "-o", "/dev/null", "-P", path.to_str().unwrap()];
    let options = [&options[..], &["-e", "trace=openat", "-e", fault]].concat();
    for command in ["CHECK", "DEL"] {
        let call = network.call(command, "c1");
        call.run_under("strace", &options).ok();
    }
    assert_eq!(network.reserved(), ["10.0.0.3"]);
}

#[test]
fn on_a_slow_disk_the_others_wait_and_get_addresses_of_their_own() {
    let network = Network::of("10.0.0.0/24");
    let slow = [
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        "trace=openat,linkat,write",
    ];
    let slow = [
        &slow[..],
        &["-e", "inject=openat,linkat,write:delay_enter=20000"],
    ]
    .concat();
    let outputs = at_once(4, |n| match n {
        0 => network.call("ADD", "c0").run_under("strace", &slow),
        _ => network.add(&format!("c{n}")),
    });
    let mut all: Vec<String> = outputs.iter().flat_map(addresses).collect();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 4);
    network.call("DEL", "c0").run_under("strace", &slow).ok();
    assert_eq!(network.reserved().len(), 3);
}

#[test]
fn a_directory_that_is_elsewhere_serves_as_well() {
    let network = Network::of("10.0.0.0/24");
    let elsewhere = network.data_dir().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, network.path("").parent().unwrap().join("n")).unwrap();
    network.add("c1").ok();
    assert!(elsewhere.join("10.0.0.2").exists());
    network.del("c1").ok();
    assert!(!elsewhere.join("10.0.0.2").exists());
}
