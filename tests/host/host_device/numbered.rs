//! Virtual devices that neither name, MAC nor other end tells from others: they come back, and
//! nothing else of the pod is touched.

use std::fs;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::thread;

use harness::Namespace;
use serde_json::{Value, json};

use super::{Fixture, conf, with};

const MAC: &str = "02:00:00:00:00:07";

/// The configuration of the device `name`.
fn of_device(name: &str) -> Value {
    with(&conf(), &json!({ "device": name }))
}

/// Makes a tap or macvlan `dev0` on the node.
fn make(fixture: &Fixture, kind: &str) {
    match kind {
        "tap" => fixture.host(&["tuntap", "add", "dev0", "mode", "tap"]),
        kind => fixture.host(&["link", "add", "dev0", "link", "hd0-peer", "type", kind]),
    };
    fixture.host(&["link", "set", "dev0", "address", MAC]);
}

#[test]
fn a_device_comes_back_whose_name_and_mac_the_pod_has_changed() {
    for kind in ["tap", "macvlan"] {
        let fixture = Fixture::new();
        make(&fixture, kind);
        let before = fixture.node.netns.description();
        fixture.add(&of_device("dev0"));
        fixture.pod.ip(&["link", "set", "net1", "down"]);
        let change = ["name", "mine", "address", "02:00:00:00:00:99"];
        fixture
            .pod
            .ip(&[&["link", "set", "net1"], &change[..]].concat());
        fixture.del(&of_device("dev0"));
        assert_eq!(fixture.node.netns.description(), before, "{kind}");
        assert_eq!(fixture.pod.links(), ["lo"], "{kind}");
        assert!(fixture.records().is_empty(), "{kind}");
    }
}

/// Renames an interface of a namespace as fast as it can, until the value is dropped.
struct Renamer(Child);

impl Renamer {
    fn start(namespace: &Namespace) -> Self {
        let mut ip = Command::new("ip");
        ip.args(["-force", "-batch", "-"]).stdin(Stdio::piped());
        ip.stdout(Stdio::null()).stderr(Stdio::null());
        let mut ip = namespace.run(|| ip.spawn().expect("ip is installed"));
        let mut stdin = ip.stdin.take().expect("it is a pipe");
        // It ends when nobody reads.
        thread::spawn(move || {
            let commands = "link set net1 name x1\nlink set x1 name net1\n".repeat(100);
            while stdin.write_all(commands.as_bytes()).is_ok() {}
        });
        Self(ip)
    }
}

impl Drop for Renamer {
    fn drop(&mut self) {
        self.0.kill().expect("it is a child");
        self.0.wait().expect("it is a child");
    }
}

#[test]
fn a_device_that_the_pod_renames_all_the_time_is_not_lost() {
    for round in 0..16 {
        let fixture = Fixture::new();
        make(&fixture, "tap");
        fixture.add(&of_device("dev0"));
        fixture.pod.ip(&["link", "set", "net1", "down"]);
        let renamer = Renamer::start(&fixture.pod);
        let output = fixture.node.run(&fixture.call("DEL", &of_device("dev0")));
        if output.status != Some(0) {
            output.error_code(11);
        }
        drop(renamer);
        fixture.del(&of_device("dev0"));
        let links = fixture.node.netns.links();
        assert!(links.contains(&"dev0".to_owned()), "{round}: {links:?}");
    }
}

/// As udev does with what is new on the node. `ip` remembers the index, so that the device may have
/// another name again when DEL has ended.
#[test]
fn a_device_that_the_node_renames_all_the_time_is_not_lost() {
    for round in 0..16 {
        let fixture = Fixture::new();
        make(&fixture, "tap");
        fixture.add(&of_device("dev0"));
        let renamer = Renamer::start(&fixture.node.netns);
        let output = fixture.node.run(&fixture.call("DEL", &of_device("dev0")));
        drop(renamer);
        if output.status != Some(0) {
            output.error_code(11);
            fixture.del(&of_device("dev0"));
        }
        assert_eq!(fixture.pod.links(), ["lo"], "{round}");
        let links = fixture.node.netns.description();
        let is_back = |link: &Value| link["address"] == MAC;
        assert!(links.iter().any(is_back), "{round}: {links:?}");
    }
}

/// Another name at the moment of a look: nothing is at the path in sysfs.
#[test]
fn a_device_is_recognised_that_has_another_name_when_sysfs_is_read() {
    for command in ["ADD", "DEL"] {
        let fixture = Fixture::new();
        make(&fixture, "tap");
        let before = fixture.node.netns.description();
        for step in ["ADD", "DEL"] {
            let call = fixture.call(step, &of_device("dev0"));
            let name = if step == "ADD" { "dev0" } else { "net1" };
            let path = format!("/sys/class/net/{name}");
            let fault = "inject=openat,statx:error=ENOENT:when=1";
            let strace = ["-f", "-qq", "-o", "/dev/null", "-P", &path, "-e", fault];
            let output = match step == command {
                true => fixture.node.inside(|| call.run_under("strace", &strace)),
                false => fixture.node.run(&call),
            };
            output.ok();
            if step == "ADD" {
                let record = fixture.node.state().join(&fixture.records()[0]);
                let record = fs::read_to_string(record).expect("there is one");
                assert!(record.contains("\"sysfsNumber\":"), "{command}: {record}");
                // So that only the number tells what it is.
                let change = ["link", "set", "net1", "address", "02:00:00:00:00:99"];
                fixture.pod.ip(&change);
            }
        }
        assert_eq!(fixture.node.netns.description(), before, "{command}");
    }
}

/// To move what looks like the device would take its addresses, and a DEL that is killed
/// meanwhile would leave it on the node.
#[test]
fn what_only_looks_like_the_device_is_not_moved_to_find_it() {
    let fixture = Fixture::new();
    make(&fixture, "tap");
    fixture.add(&of_device("dev0"));
    let pod = &fixture.pod;
    pod.ip(&["link", "set", "net1", "down"]);
    pod.ip(&["link", "set", "net1", "name", "mine"]);
    pod.ip(&["tuntap", "add", "net1", "mode", "tap"]);
    pod.ip(&["link", "set", "net1", "address", MAC, "up"]);
    pod.ip(&["address", "add", "10.3.0.1/24", "dev", "net1"]);
    let decoy = pod.link("net1").expect("it exists");
    fixture.del(&of_device("dev0"));
    assert_eq!(pod.links(), ["lo", "net1"]);
    assert_eq!(pod.link("net1"), Some(decoy));
    assert!(fixture.node.netns.link("dev0").is_some());
}

#[test]
fn both_ends_of_a_veth_come_back_from_two_pods() {
    for order in [["hd0", "hd0-peer"], ["hd0-peer", "hd0"]] {
        let fixture = Fixture::new();
        let second = Namespace::new();
        let call = |command: &str, device: &str| {
            let (id, pod) = match device {
                "hd0" => ("c1", &fixture.pod),
                _ => ("c2", &second),
            };
            let call = fixture.call(command, &of_device(device));
            call.attachment(id, "net1", &pod.path())
        };
        for device in ["hd0", "hd0-peer"] {
            fixture.node.run(&call("ADD", device)).ok();
        }
        for device in order {
            fixture.node.run(&call("DEL", device)).ok();
        }
        assert_eq!(fixture.node.netns.links(), ["hd0", "hd0-peer", "lo"]);
        assert_eq!(fixture.pod.links(), ["lo"]);
        assert_eq!(second.links(), ["lo"]);
        assert!(fixture.records().is_empty());
    }
}

#[test]
fn a_device_comes_back_whose_other_end_the_node_has_moved() {
    let fixture = Fixture::new();
    let other = Namespace::new();
    fixture.add(&conf());
    fixture.host(&["link", "set", "hd0-peer", "netns", &other.path()]);
    fixture.del(&conf());
    assert_eq!(fixture.node.netns.links(), ["hd0", "lo"]);
    assert_eq!(fixture.pod.links(), ["lo"]);
    assert_eq!(fixture.ipam.reserved(), Vec::<String>::new());
}
