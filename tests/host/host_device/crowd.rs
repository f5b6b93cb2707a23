//! ADD on a node with many attachments: it does not read the record of each, and finds what it
//! would find if it did.

use std::fs;
use std::path::PathBuf;

use harness::Namespace;
use harness::fault::Strike;
use serde_json::{Value, json};

use super::{Fixture, conf};

/// Attachments of other pods, all alive.
const OTHERS: usize = 12;
/// What is kept of records that were read before.
const MARKS: &str = "eni-cni/.host-device.marks";
/// The index of a device that the node does not have.
const ELSEWHERE: u32 = 9999;

impl Fixture {
    /// The device, and the records of the attachments of others.
    fn crowded() -> Self {
        let fixture = Self::new();
        fixture.add(&conf());
        fixture.copy_record(|record, n| {
            let id = format!("other-{n}");
            record["device"]["name"] = json!(id);
            record["device"]["sysfsNumber"] = json!(u64::MAX - n as u64);
            fixture.record(&id)
        });
        fixture.del(&conf());
        fixture
    }

    /// Writes the record of c1 once for each of the others, with these changes, to the path that
    /// `change` returns.
    fn copy_record(&self, change: impl Fn(&mut Value, usize) -> PathBuf) {
        let text = fs::read(self.record("c1")).expect("ADD has written a record");
        let mut record: Value = serde_json::from_slice(&text).expect("a record is JSON");
        for n in 0..OTHERS {
            record["containerId"] = json!(format!("other-{n}"));
            let path = change(&mut record, n);
            fs::write(path, record.to_string()).expect("it can be written");
        }
    }

    fn record(&self, container_id: &str) -> PathBuf {
        let records = self.node.state().join("eni-cni/host-device/lan");
        records.join(format!("{container_id}:net1.json"))
    }

    /// How many records of others an ADD opens; a DEL follows it.
    fn opened(&self) -> usize {
        let opened = self.opened_by("ADD");
        self.del(&conf());
        opened
    }

    /// How many records of others a command opens.
    fn opened_by(&self, command: &str) -> usize {
        let trace = self.node.state().join(".trace");
        let path = trace.to_str().expect("its name is text");
        let options = ["-f", "-qq", "-e", "trace=openat", "-o", path];
        let call = self.call(command, &conf());
        self.node.inside(|| call.run_under("strace", &options)).ok();
        let text = fs::read_to_string(trace).expect("strace has written");
        text.lines().filter(|line| line.contains("/other-")).count()
    }

    /// Records of living pods that have an ipvlan interface on another device.
    fn with_ipvlan() -> Self {
        let fixture = Self::new();
        let records = fixture.ipvlan();
        fs::create_dir_all(&records).expect("it can be made");
        fixture.add(&conf());
        fixture.copy_record(|record, n| {
            record["device"] = json!({ "masterIndex": ELSEWHERE, "linkInContainer": false });
            records.join(format!("other-{n}:net1.json"))
        });
        fixture.del(&conf());
        fixture
    }

    fn ipvlan(&self) -> PathBuf {
        self.node.state().join("eni-cni/ipvlan/lan")
    }
}

#[test]
fn an_add_reads_no_record_of_another_pod_that_was_read_before() {
    let fixture = Fixture::crowded();
    assert_eq!(fixture.opened(), OTHERS);
    assert_eq!(fixture.opened(), 0);
    // An older version replaces a record, and attaches another pod.
    let text = fs::read(fixture.record("other-0")).unwrap();
    let text = String::from_utf8(text).unwrap();
    let mut changed: Value = serde_json::from_str(&text).unwrap();
    fs::write(fixture.record("new"), &text).unwrap();
    fs::rename(fixture.record("new"), fixture.record("other-0")).unwrap();
    changed["containerId"] = json!("other-new");
    fs::write(fixture.record("other-new"), changed.to_string()).unwrap();
    assert_eq!(fixture.opened(), 2);
    // What is kept of them can be lost, or be another's.
    let marks = fixture.node.state().join(MARKS);
    for damaged in [&b""[..], b"eni-cni\x02 of a newer version"] {
        fs::write(&marks, damaged).unwrap();
        assert_eq!(fixture.opened(), OTHERS + 1);
        assert_eq!(fixture.opened(), 0);
    }
    fs::remove_file(&marks).unwrap();
    fs::create_dir(&marks).unwrap();
    assert_eq!(fixture.opened(), OTHERS + 1);
}

#[test]
fn an_add_reads_no_record_of_an_ipvlan_pod_that_was_read_before() {
    let fixture = Fixture::with_ipvlan();
    assert_eq!(fixture.opened(), OTHERS);
    assert_eq!(fixture.opened(), 0);
    // The file that an attachment of the same names gets can have the same inode.
    let file = fixture.ipvlan().join("other-3:net1.json");
    let mut record: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let index = fixture.node.netns.link("hd0").unwrap()["ifindex"].clone();
    record["device"]["masterIndex"] = index;
    fs::write(&file, record.to_string()).unwrap();
    let error = fixture
        .node
        .run(&fixture.call("ADD", &conf()))
        .error_code(7);
    let said = "container other-3 has an ipvlan interface on \"hd0\"";
    assert!(error.msg.contains(said), "{error:?}");
}

/// The device is on the node already, so DEL asks whether it is another attachment's by now.
#[test]
fn a_del_reads_no_record_of_another_pod_that_was_read_before() {
    let fixture = Fixture::crowded();
    fixture.opened();
    fixture.add(&conf());
    let device = fixture.node.netns.path();
    fixture.pod.ip(&["link", "set", "net1", "netns", &device]);
    assert_eq!(fixture.opened_by("DEL"), 0);
    assert!(fixture.node.netns.link("hd0").is_some());
}

/// Kills a DEL at its `nth` change, and lets ADDs of other devices read all records.
fn after_killed_del(nth: usize) -> Option<(Fixture, super::State, String)> {
    let fixture = Fixture::crowded();
    fixture.host(&["link", "set", "hd0", "up", "alias", "uplink"]);
    let before = fixture.state();
    fixture.add(&conf());
    fixture.add_device("hd1", "02:00:00:00:00:02");
    let of_other = super::plain(&json!({"device": "hd1"}));
    let pod = Namespace::new();
    let other = |command: &str| {
        let call = fixture.call(command, &of_other);
        fixture
            .node
            .run(&call.attachment("c9", "net1", &pod.path()))
    };
    other("ADD").ok();
    other("DEL").ok();
    let how = Strike::kill(nth);
    let struck = fixture.node.strike(&fixture.call("DEL", &conf()), how);
    other("ADD").ok();
    other("DEL").ok();
    fixture.host(&["link", "del", "hd1"]);
    struck.hit.map(|hit| (fixture, before, hit.to_string()))
}

#[test]
fn an_add_on_a_crowded_node_finds_the_device_of_a_killed_del_as_it_was() {
    let mut on_host = 0;
    for (fixture, before, hit) in (1..).step_by(3).map_while(after_killed_del) {
        let next = Namespace::new();
        let call = |command: &str| {
            let call = fixture.call(command, &conf());
            call.attachment("c2", "net1", &next.path())
        };
        // While the first pod has the device, the second one cannot get it.
        if fixture.node.run(&call("ADD")).status == Some(0) {
            on_host += 1;
        }
        fixture.node.run(&call("DEL")).ok();
        fixture.del(&conf());
        assert_eq!(fixture.state(), before, "{hit}");
    }
    assert!(on_host > 1, "no DEL was killed after the move: {on_host}");
}
