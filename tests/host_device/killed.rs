//! A plugin that is killed at any moment leaves nothing that the next DEL does not
//! clean.

use harness::Call;

use super::{Fixture, conf};

/// The system calls that change something, or are between two that do.
const SYSTEM_CALLS: [&str; 5] = [
    "sendto",
    "?rename,?renameat,?renameat2",
    "openat",
    "clone3",
    "?unlink,?unlinkat",
];
/// More of one kind than a command makes.
const MOST: usize = 60;

/// Runs `call` and kills it when it enters `system_call` the `nth` time; false when it
/// has ended before.
fn is_killed(fixture: &Fixture, call: &Call, system_call: &str, nth: usize) -> bool {
    let status = fixture.node.inside(|| {
        let inject = format!("inject={system_call}:signal=KILL:when={nth}");
        call.run_under("strace", &["-qq", "-o", "/dev/null", "-e", &inject])
            .status
    });
    // strace ends as its child does: by a signal.
    status != Some(0)
}

/// Kills `command` at every system call in turn, and runs DEL after it.
fn is_cleaned_by_del(command: &str) {
    for system_call in SYSTEM_CALLS {
        for nth in 1.. {
            assert!(nth < MOST, "{command} has no end");
            let fixture = Fixture::new();
            fixture.host(&["link", "set", "hd0", "alias", "uplink", "up"]);
            let before = fixture.state();
            if command == "DEL" {
                fixture.add(&conf());
            }
            let was_killed = is_killed(&fixture, &fixture.call(command, &conf()), system_call, nth);
            fixture.del(&conf());
            assert_eq!(fixture.state(), before, "{command}, {system_call} {nth}");
            if !was_killed {
                break;
            }
        }
    }
}

#[test]
fn del_cleans_what_an_add_that_was_killed_anywhere_has_left() {
    is_cleaned_by_del("ADD");
}

#[test]
fn del_completes_a_del_that_was_killed_anywhere() {
    is_cleaned_by_del("DEL");
}

#[test]
fn an_add_after_one_that_was_killed_before_the_move_begins_anew() {
    let fixture = Fixture::new();
    let before = fixture.state();
    let is_recorded = |nth| {
        is_killed(&fixture, &fixture.call("ADD", &conf()), "sendto", nth);
        !fixture.records().is_empty()
    };
    let nth = (1..MOST).find(|nth| is_recorded(*nth));
    assert!(nth.is_some() && fixture.pod.links() == ["lo"]);
    fixture.add(&conf());
    fixture.del(&conf());
    assert_eq!(fixture.state(), before);
}
