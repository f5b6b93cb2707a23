//! The conformance suite itself: our plugins pass it, Go's fail what is known, and every
//! assertion is one that a plugin can fail.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use fixtures::conformance::{examined, go, numbers, passes};
use harness::{go_plugin, our_plugin, program, repository};

/// Assertions of which it depends on chance whether Go's plugins fail them: where they are
/// killed is counted in system calls of a thread, Go's scheduler decides which thread makes
/// which, and its collector how much memory is taken.
const CHANCE: [u64; 3] = [36, 59, 63];

fn sources() -> PathBuf {
    repository().join("tests/conformance")
}

fn ours() -> std::path::PathBuf {
    let plugin = our_plugin("host-local");
    plugin
        .parent()
        .expect("a plugin is in a directory")
        .to_owned()
}

#[test]
fn our_plugins_pass_every_assertion_that_is_about_them() {
    let go = go();
    let arguments = ["--peers", go.to_str().unwrap(), "--patience", "0"];
    let plugins = ["--plugin", "host-local", "--plugin", "host-device"];
    let columns = examined(&ours(), &[&arguments[..], &plugins].concat());
    let of_interfaces: Vec<u64> = (21..=35).chain([43, 45]).chain(47..=50).collect();
    passes(&columns, "host-local", &of_interfaces);
    passes(&columns, "host-device", &[30, 31, 52, 53, 54, 55, 56, 61]);
}

/// Takes more than two minutes, in which it waits.
#[test]
fn our_plugins_give_up_a_delegate_that_hangs() {
    let columns = examined(&ours(), &["--plugin", "host-device", "--assertion", "25"]);
    passes(&columns, "host-device", &[]);
}

#[test]
fn go_plugins_fail_what_is_known_and_nothing_else() {
    let ours = ours();
    let arguments = ["--peers", ours.to_str().unwrap(), "--patience", "1"];
    let plugins = [
        "--plugin",
        "host-local",
        "--plugin",
        "host-device",
        "--plugin",
        "macvlan",
    ];
    let columns = examined(&go(), &[&arguments[..], &plugins].concat());
    let expected: [(&str, &[u64]); 3] = [
        ("host-local", &[1, 14, 17, 19, 42, 60, 62]),
        (
            "host-device",
            &[
                1, 14, 19, 22, 23, 25, 26, 27, 28, 29, 32, 35, 37, 38, 39, 40, 41, 42, 43, 45, 46,
                47, 48, 49, 62,
            ],
        ),
        (
            "macvlan",
            &[
                1, 14, 17, 19, 22, 23, 25, 26, 27, 28, 29, 30, 32, 38, 41, 42, 43, 46, 47, 48, 49,
                62,
            ],
        ),
    ];
    for (plugin, expected) in expected {
        let mut failed = numbers(&columns, plugin, "fail");
        failed.retain(|number| !CHANCE.contains(number));
        assert_eq!(failed, expected, "{plugin}: {:#?}", columns[plugin]);
    }
}

#[test]
fn every_assertion_can_fail() {
    let fakes = sources().join("fakes");
    let peers = tempfile::tempdir().unwrap();
    symlink(go_plugin("host-local"), peers.path().join("careless-ipam")).unwrap();
    let config = |name: &str| format!("{name}={}", fakes.join(format!("{name}.json")).display());
    let (ipam, main) = (config("careless-ipam"), config("careless-main"));
    let peers = peers.path().to_str().unwrap();
    let arguments = [
        "--peers",
        peers,
        "--config",
        &ipam,
        "--config",
        &main,
        "--patience",
        "1",
    ];
    let careless = examined(&fakes, &arguments);
    let hosted = examined(&go(), &["--plugin", "host-device", "--patience", "1"]);
    let mut failed = BTreeSet::new();
    failed.extend(numbers(&careless, "careless-ipam", "fail"));
    failed.extend(numbers(&careless, "careless-main", "fail"));
    failed.extend(numbers(&hosted, "host-device", "fail"));
    let never: Vec<u64> = (1..=63).filter(|number| !failed.contains(number)).collect();
    assert_eq!(never, [0; 0], "no plugin fails these: {careless:#?}");
}

#[test]
fn the_page_of_the_suite_has_every_assertion_in_its_words() {
    let output = Command::new(program("conformance")).arg("--list").output();
    let list = String::from_utf8(output.unwrap().stdout).unwrap();
    assert_eq!(list.lines().count(), 63);
    let page = fs::read_to_string(sources().join("README.md")).unwrap();
    for line in list.lines() {
        let (number, sentence) = line.split_once(' ').unwrap();
        let row = format!("| {number} | {sentence} |");
        assert!(page.contains(&row), "the page has no row {row:?}");
    }
}
