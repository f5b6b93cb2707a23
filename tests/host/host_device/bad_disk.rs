//! A disk that is damaged, full, slow or elsewhere: an ADD works or names the path and
//! leaves nothing, a DEL loses nothing, and every command ends.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use harness::damage::{DAMAGES, OUTSIDE, remove, replace_by};
use harness::small_disk::{LIMITS, make_room, mount_at};
use harness::{Call, Output};
use serde_json::json;

use super::{Fixture, conf, with};

/// The files of an attachment, and what stands beside them.
const FILES: [&str; 7] = [
    "host-device/lan/c1:net1.json",
    "host-device/lan/.c1:net1.json.tmp",
    "host-device/lan/c9:net1.json",
    "host-device/stray",
    "host-device/lan",
    "host-device",
    ".turns",
];

/// Runs a call that must end in time, well or with one error.
#[track_caller]
fn run(fixture: &Fixture, call: &Call) -> Output {
    let output = fixture.node.inside(|| call.run_under("timeout", &["60"]));
    if output.status != Some(0) {
        output.error();
    }
    output
}

/// The error of a call that did not succeed names something below the directory.
#[track_caller]
fn names_the_path(output: &Output, what: &str) {
    if output.status != Some(0) {
        let error = output.error_code(5);
        let named = "/var/lib/cni/eni-cni";
        assert!(error.msg.contains(named), "{what}: {error:?}");
    }
}

#[test]
fn an_add_beside_a_damaged_file_works_or_names_it_and_leaves_nothing() {
    let outside = fs::read(OUTSIDE).ok();
    for file in FILES {
        let fixture = Fixture::new();
        let path = fixture.node.state().join("eni-cni").join(file);
        for (damage, make) in DAMAGES {
            let what = format!("{damage} at {file}");
            replace_by(&path, make);
            let before = fixture.state();
            let add = run(&fixture, &fixture.call("ADD", &conf()));
            names_the_path(&add, &what);
            if add.status != Some(0) {
                assert_eq!(fixture.state(), before, "{what}\n{add}");
            }
            run(&fixture, &fixture.call("STATUS", &conf()));
            run(&fixture, &fixture.call("DEL", &conf())).ok();
            let (host, pod, _, addresses) = fixture.state();
            assert_eq!((host, pod), (before.0, before.1), "{what}");
            assert_eq!(addresses, before.3, "{what}");
            remove(&path);
        }
    }
    assert_eq!(fs::read(OUTSIDE).ok(), outside);
}

#[test]
fn a_damaged_file_keeps_no_attachment_from_ending() {
    for file in FILES {
        let fixture = Fixture::new();
        let path = fixture.node.state().join("eni-cni").join(file);
        for (damage, make) in DAMAGES {
            let what = format!("{damage} at {file}");
            let before = fixture.state();
            let attached = fixture.attached(&conf());
            replace_by(&path, make);
            names_the_path(&run(&fixture, &fixture.call("CHECK", &attached)), &what);
            let keys =
                json!({"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "net1"}]});
            names_the_path(
                &run(&fixture, &fixture.call("GC", &with(&attached, &keys))),
                &what,
            );
            run(&fixture, &fixture.call("DEL", &attached)).ok();
            let (host, pod, _, addresses) = fixture.state();
            assert_eq!((host, pod), (before.0, before.1), "{what}");
            assert_eq!(addresses, before.3, "{what}");
            remove(&path);
        }
    }
}

/// A DEL that says nothing of the device: there is an attachment, and nothing proves what
/// it has.
#[test]
fn a_record_that_is_damaged_does_not_count_as_missing() {
    let fixture = Fixture::new();
    let before = fixture.state();
    let path = fixture
        .node
        .state()
        .join("eni-cni/host-device/lan/c1:net1.json");
    let stripped = json!({"cniVersion": "1.1.0", "name": "lan", "type": "host-device"});
    let gc = with(&conf(), &json!({"cni.dev/valid-attachments": []}));
    for (damage, make) in DAMAGES {
        fixture.add(&conf());
        fixture.pod.ip(&["link", "set", "net1", "name", "mine"]);
        fixture.pod.ip(&["link", "set", "mine", "alias", "mine"]);
        replace_by(&path, make);
        let attached = fixture.state();
        for call in [
            fixture.call("DEL", &stripped),
            fixture.call("DEL", &conf()),
            fixture.call("DEL", &conf()).env("CNI_NETNS", ""),
            fixture.call("ADD", &conf()),
        ] {
            let error = run(&fixture, &call).error_code(5);
            let is_named = error.msg.contains("/lan/c1:net1.json");
            assert!(
                is_named && error.details.contains("remove the file"),
                "{error:?}"
            );
            assert_eq!(fixture.state(), attached, "{damage}");
        }
        names_the_path(&run(&fixture, &fixture.call("GC", &gc)), damage);
        let status = fixture.call("STATUS", &conf());
        let status = run(&fixture, &status).error_code(50);
        assert!(status.details.contains("c1:net1.json"), "{status:?}");

        // The MAC in the result proves the device, whatever the pod calls it.
        let mac =
            json!({"name": "net1", "mac": "02:00:00:00:00:01", "sandbox": fixture.pod.path()});
        let result = json!({"cniVersion": "1.1.0", "interfaces": [mac]});
        fixture.del(&with(&conf(), &json!({"prevResult": result})));
        remove(&path);
        assert_eq!(fixture.state(), before, "{damage}");
    }
}

/// The call while the kernel fails at opening one file.
fn with_fault(fixture: &Fixture, call: &Call, file: &str, error: &str) -> Output {
    let path = format!("/var/lib/cni/eni-cni/host-device/lan/{file}");
    let fault = format!("inject=openat:error={error}");
    let options = [
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-P",
        &path,
        "-e",
        "trace=openat",
        "-e",
        &fault,
    ];
    fixture.node.inside(|| call.run_under("strace", &options))
}

#[test]
fn gc_goes_on_after_a_record_that_cannot_be_read_and_reports_it() {
    let fixture = Fixture::new();
    let before = fixture.state();
    fixture.add(&conf());
    let lan = fixture.node.state().join("eni-cni/host-device/lan");
    fs::copy(lan.join("c1:net1.json"), lan.join("a0:net1.json")).unwrap();
    let gc = fixture.call(
        "GC",
        &with(&conf(), &json!({"cni.dev/valid-attachments": []})),
    );
    let error = with_fault(&fixture, &gc, "a0:net1.json", "EIO").error_code(5);
    assert!(error.msg.contains("a0:net1.json"), "{error:?}");
    let (host, pod, _, addresses) = fixture.state();
    assert_eq!((host, pod, addresses), (before.0, before.1, before.3));
}

#[test]
fn a_record_of_another_container_that_cannot_be_read_does_not_matter() {
    for error in ["EIO", "ENOENT"] {
        let fixture = Fixture::new();
        let before = fixture.state();
        let path = fixture
            .node
            .state()
            .join("eni-cni/host-device/lan/c9:net1.json");
        replace_by(&path, |path| fs::write(path, "{}").unwrap());
        for command in ["ADD", "DEL"] {
            let call = fixture.call(command, &conf());
            with_fault(&fixture, &call, "c9:net1.json", error).ok();
        }
        remove(&path);
        assert_eq!(fixture.state(), before);
    }
}

#[test]
fn a_del_whose_own_record_cannot_be_read_names_it_and_can_be_repeated() {
    let fixture = Fixture::new();
    let before = fixture.state();
    fixture.add(&conf());
    let attached = fixture.state();
    let del = fixture.call("DEL", &conf());
    let error = with_fault(&fixture, &del, "c1:net1.json", "EIO").error_code(5);
    assert!(error.msg.contains("c1:net1.json"), "{error:?}");
    assert_eq!(fixture.state(), attached);
    fixture.del(&conf());
    assert_eq!(fixture.state(), before);
}

#[test]
fn a_full_disk_refuses_the_add_and_not_the_del() {
    for (limit, use_up) in LIMITS {
        let fixture = Fixture::new();
        let before = fixture.state();
        fs::create_dir(fixture.node.state().join("eni-cni")).unwrap();
        let call = |command: &str| fixture.call(command, &conf());
        let (refused, attached, detached) = fixture.node.inside(|| {
            let disk = Path::new("/var/lib/cni/eni-cni");
            mount_at(disk, limit);
            use_up(disk);
            let refused = call("ADD").run();
            let is_back = fixture.node.netns.link("hd0").is_some();
            assert!(is_back, "the device has moved\n{refused}");
            make_room(disk);
            let attached = call("ADD").run();
            use_up(disk);
            (refused, attached, call("DEL").run())
        });
        let error = refused.error_code(5);
        assert!(
            error.msg.contains("/var/lib/cni/eni-cni/") && error.details.contains("No space left"),
            "{error:?}"
        );
        attached.ok();
        detached.ok();
        assert_eq!(fixture.state(), before, "{limit}");
    }
}

/// That the device is back is written down, so that it is not taken back a second time.
#[test]
fn on_a_full_disk_the_next_del_leaves_a_device_alone_that_is_back() {
    for (limit, use_up) in LIMITS {
        let fixture = Fixture::new();
        fs::create_dir(fixture.node.state().join("eni-cni")).unwrap();
        let call = |command: &str| fixture.call(command, &conf());
        fixture.node.inside(|| {
            let disk = Path::new("/var/lib/cni/eni-cni");
            mount_at(disk, limit);
            call("ADD").run().ok();
            use_up(disk);
            fixture.ipam.fail("DEL", r#"{"code": 11, "msg": "busy"}"#);
            call("DEL").run().error_code(11);
            fixture.host(&["link", "set", "hd0", "name", "mine", "mtu", "1300"]);
            let renamed = fixture.state().0;
            fixture.ipam.recover("DEL");
            call("DEL").run().ok();
            assert_eq!(fixture.state().0, renamed, "{limit}");
        });
        assert!(fixture.ipam.reserved().is_empty(), "{limit}");
    }
}

#[test]
fn a_directory_of_another_owner_or_elsewhere_works_too() {
    let fixture = Fixture::new();
    let before = fixture.state();
    let elsewhere = fixture.ipam.path("disk");
    fs::create_dir(&elsewhere).unwrap();
    chown(&elsewhere, Some(65534), Some(65534)).unwrap();
    fs::set_permissions(&elsewhere, Permissions::from_mode(0o0)).unwrap();
    symlink(&elsewhere, fixture.node.state().join("eni-cni")).unwrap();
    fixture.add(&conf());
    assert!(elsewhere.join("host-device/lan/c1:net1.json").exists());
    fixture.del(&conf());
    assert!(!elsewhere.join("host-device/lan/c1:net1.json").exists());
    let found = fs::metadata(&elsewhere).unwrap();
    assert_eq!((found.mode() & 0o7777, found.uid()), (0, 65534));
    let (host, pod, _, addresses) = fixture.state();
    assert_eq!((host, pod, addresses), (before.0, before.1, before.3));
}

/// The first writes of the record are made before the device has moved, the last one after that.
#[test]
fn an_add_that_cannot_write_its_record_leaves_the_addresses_of_the_node() {
    for number in 1.. {
        let fixture = Fixture::new();
        fixture.host(&["link", "set", "hd0", "up"]);
        fixture.host(&["address", "add", "10.1.0.5/24", "dev", "hd0"]);
        let own = || fixture.node.netns.addresses("hd0");
        let before = own();
        let fault = format!("inject=rename,renameat,renameat2:error=ENOSPC:when={number}");
        let options = ["-f", "-qq", "-o", "/dev/null", "-e", &fault];
        let add = fixture.call("ADD", &conf());
        let output = fixture.node.inside(|| add.run_under("strace", &options));
        if output.status == Some(0) {
            assert!(number > 2, "it has written {number} times at most");
            return;
        }
        let error = output.error_code(5);
        assert!(error.details.contains("No space left"), "{error:?}");
        assert_eq!(own(), before, "write {number}: {output}");
        assert_eq!(fixture.pod.links(), ["lo"], "write {number}");
        assert!(fixture.records().is_empty(), "write {number}");
    }
}
