//! Commands that meet: each attachment is either made or not, whoever comes when.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Stdio;
use std::thread;

use harness::{Call, Namespace, Output, is_waited_for, wait_until};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};

use super::{Fixture, conf, with};
use crate::host_local::at_once;

/// Keeps the ADD of container c1 waiting until somebody writes to `go`.
const WAIT: &str = r#"
if [ "$CNI_COMMAND $CNI_CONTAINERID" = "ADD c1" ]; then
    echo x >"$dir/reached"
    read -r _ <"$dir/go"
fi
"#;

/// A node on which the ADD of c1 stays in its delegate.
fn fixture() -> Fixture {
    let fixture = Fixture::new();
    fixture.ipam.hook(WAIT);
    mkfifo(&fixture.ipam.path("go"), Mode::S_IRWXU).expect("the directory is writable");
    fixture
}

/// Runs the ADD of c1 and, while that is in its delegate, `call`, which has to wait;
/// returns what came of both.
fn overlap(fixture: &Fixture, call: &Call) -> (Output, Output) {
    thread::scope(|scope| {
        let add = scope.spawn(|| fixture.node.run(&fixture.call("ADD", &conf())));
        wait_until("ADD has reached its delegate", || {
            fixture.ipam.path("reached").exists()
        });
        let second = scope.spawn(|| fixture.node.run(call));
        wait_until("the second command waits", || {
            is_waited_for(&turns(fixture))
        });
        fs::write(fixture.ipam.path("go"), "\n").expect("ADD is reading");
        let add = add.join().expect("ADD ends");
        (add, second.join().expect("the second command ends"))
    })
}

fn turns(fixture: &Fixture) -> PathBuf {
    fixture.node.state().join("eni-cni/.turns")
}

fn gc(fixture: &Fixture, valid: &Value) -> Call {
    let conf = with(&conf(), &json!({"cni.dev/valid-attachments": valid}));
    let path = fixture.ipam.cni_path();
    let call = Call::ours("host-device", "GC").env("CNI_PATH", &path);
    call.conf(&conf)
}

#[test]
fn del_undoes_an_add_that_was_still_running() {
    let fixture = fixture();
    let before = fixture.state();
    let (add, del) = overlap(&fixture, &fixture.call("DEL", &conf()));
    add.ok();
    del.ok();
    assert_eq!(fixture.state(), before);
    let calls = ["ADD c1 net1", "DEL c1 net1"];
    assert_eq!(fixture.ipam.calls(), calls);
}

#[test]
fn gc_removes_an_attachment_whole_or_not_at_all() {
    let fixture = fixture();
    let before = fixture.state();
    let (add, gc_all) = overlap(&fixture, &gc(&fixture, &json!([])));
    add.ok();
    gc_all.ok();
    assert_eq!(fixture.state(), before);

    fs::remove_file(fixture.ipam.path("reached")).expect("the first ADD has made it");
    let valid = json!([{"containerID": "c1", "ifname": "net1"}]);
    let (add, gc_valid) = overlap(&fixture, &gc(&fixture, &valid));
    add.ok();
    gc_valid.ok();
    assert_eq!(fixture.pod.links(), ["lo", "net1"]);
    assert_eq!(fixture.records().len(), 1);
    assert_eq!(fixture.ipam.reserved(), ["c1.net1"]);
}

#[test]
fn another_container_does_not_wait() {
    let fixture = fixture();
    fixture.add_device("hd1", "02:00:00:00:00:02");
    let other = Namespace::new();
    thread::scope(|scope| {
        let add = scope.spawn(|| fixture.node.run(&fixture.call("ADD", &conf())));
        wait_until("ADD has reached its delegate", || {
            fixture.ipam.path("reached").exists()
        });
        let conf = with(&conf(), &json!({"device": "hd1"}));
        for command in ["ADD", "DEL"] {
            let call = fixture.call(command, &conf);
            let call = call.attachment("c2", "net1", &other.path());
            fixture.node.run(&call).ok();
        }
        assert!(!add.is_finished());
        fs::write(fixture.ipam.path("go"), "\n").expect("ADD is reading");
        add.join().expect("ADD ends").ok();
    });
}

#[test]
fn a_lock_ends_with_the_process_that_had_it() {
    let fixture = fixture();
    let before = fixture.state();
    let call = fixture.call("ADD", &conf());
    let mut process = call.process();
    process.stdin(Stdio::piped());
    let mut add = fixture.node.spawn(process);
    let mut stdin = add.stdin.take().expect("it is a pipe");
    stdin.write_all(call.input()).expect("ADD reads it");
    drop(stdin);
    wait_until("ADD has reached its delegate", || {
        fixture.ipam.path("reached").exists()
    });
    add.kill().expect("it runs");
    add.wait().expect("it can be waited for");
    // The delegate, which nobody has killed, goes on and makes its reservation.
    fs::write(fixture.ipam.path("go"), "\n").expect("the delegate is reading");
    wait_until("the delegate has ended", || {
        fixture.ipam.reserved() == ["c1.net1"]
    });
    fixture.del(&conf());
    assert_eq!(fixture.state(), before);
}

#[test]
fn one_device_is_given_to_one_of_many_containers() {
    for _ in 0..10 {
        let fixture = Fixture::new();
        let before = fixture.state();
        let pods: Vec<Namespace> = (0..4).map(|_| Namespace::new()).collect();
        let call = |command: &str, n: usize| {
            let call = fixture.call(command, &conf());
            call.attachment(&format!("c{n}"), "net1", &pods[n].path())
        };
        let outputs = at_once(pods.len(), |n| fixture.node.run(&call("ADD", n)));
        let served = outputs.iter().filter(|output| output.status == Some(0));
        assert_eq!(served.count(), 1);
        assert_eq!(fixture.records().len(), 1);
        at_once(pods.len(), |n| fixture.node.run(&call("DEL", n)).ok());
        assert_eq!(fixture.state(), before);
    }
}

#[test]
fn another_file_type_in_the_place_of_the_lock_file_is_named_and_not_followed() {
    let fixture = Fixture::new();
    let outside = fixture.ipam.path("outside");
    fixture.add(&conf());
    fs::remove_file(turns(&fixture)).expect("ADD has made it");
    symlink(&outside, turns(&fixture)).expect("it is gone");
    let other = fixture.call("ADD", &conf());
    let other = other.attachment("c2", "net1", &fixture.pod.path());
    let error = fixture.node.run(&other).error_code(5);
    assert!(error.msg.contains(".turns"), "{}", error.msg);
    fixture.del(&conf());
    assert!(fixture.records().is_empty() && fixture.ipam.reserved().is_empty());
    assert!(!outside.exists());
}
