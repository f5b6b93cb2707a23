//! A pod that starts while its ENI is still being attached.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, ExitStatus, Stdio};

use harness::eni_lab::Hold;
use harness::vpc::{device_call, while_held};
use harness::{AwsNode, Call, Output, Pod};
use nix::fcntl::{Flock, FlockArg};
use serde_json::json;

use super::{ATTACH, Site, attach, attached};

/// What a plugin says that waits.
const SAID: &str = "waiting for the ENIs that are being attached";

fn add(node: &AwsNode, pod: &Pod) -> Output {
    node.node.run(&device_call("ADD", "whole", "ens6", pod))
}

/// An ADD that has said that it waits.
struct Waiting {
    child: Child,
    stderr: BufReader<ChildStderr>,
    said: String,
}

impl Waiting {
    fn start(node: &AwsNode, call: &Call) -> Self {
        let mut child = node.node.inside(|| call.start(Stdio::piped()));
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        while !said.contains(SAID) {
            let read = stderr.read_line(&mut said).unwrap();
            assert!(read > 0, "it does not wait: {said}");
        }
        Self {
            child,
            stderr,
            said,
        }
    }

    fn is_waiting(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Its status, and all that it has said.
    fn end(mut self) -> (ExitStatus, String) {
        self.stderr.read_to_string(&mut self.said).unwrap();
        (self.child.wait().unwrap(), self.said)
    }
}

/// The lock of who attaches ENIs, as long as the value lives.
fn attaching(node: &AwsNode) -> Flock<File> {
    let directory = node.run_directory().join("eni-cni");
    fs::create_dir_all(&directory).unwrap();
    let file = File::create(directory.join(".attach.lock")).unwrap();
    let lock = Flock::lock(file, FlockArg::LockExclusive);
    lock.map_err(|(_, errno)| errno).unwrap()
}

#[test]
fn a_pod_waits_for_its_eni_while_it_is_attached_and_says_so() {
    let site = Site::new();
    let node = site.node();
    let pod = Pod::new("c1");
    let configuration = site.configuration(&[site.wanted("user", 1)]);
    let held = (ATTACH, Hold::BeforeCommit);
    let attach = || attach(&node, &configuration, &[]);
    let add = device_call("ADD", "whole", "ens6", &pod);
    let start = || Waiting::start(&node, &add);
    let (output, waiting) = while_held(&site.lab, held, attach, start);
    let (status, said) = waiting.end();
    assert!(status.success(), "{said}");
    assert!(said.contains("waited "), "{said}");
    assert_eq!(output.status, Some(0), "{output}");
}

#[test]
fn a_pod_does_not_wait_when_nobody_attaches_anything() {
    let site = Site::new();
    let node = site.node();
    drop(attaching(&node));
    let output = add(&node, &Pod::new("c1"));
    assert!(!output.stderr.contains("waiting"), "{output}");
    // What ends without an interface ends the wait, too.
    let lock = attaching(&node);
    let pod = Pod::new("c2");
    let mut waiting = Waiting::start(&node, &device_call("ADD", "whole", "ens6", &pod));
    assert!(waiting.is_waiting());
    drop(lock);
    let (status, said) = waiting.end();
    assert_eq!(status.code(), Some(1), "{said}");
}

#[test]
fn a_pod_waits_for_a_minute_at_most_and_says_that_enis_are_still_being_attached() {
    let site = Site::new();
    let node = site.node();
    let _lock = attaching(&node);
    let output = add(&node, &Pod::new("c1"));
    let said = "ENIs are still being attached or detached after 60 s";
    assert!(output.error_code(11).details.contains(said), "{output}");
}

#[test]
fn who_waits_for_an_eni_keeps_no_other_pod_from_its_device() {
    let site = Site::new();
    let node = site.node();
    attached(&node, &site.configuration(&[site.wanted("user", 1)]));
    let [first, second, third] = ["c1", "c2", "c3"].map(Pod::new);
    add(&node, &first).ok();
    let lock = attaching(&node);
    let mut waiting = Waiting::start(&node, &device_call("ADD", "whole", "ens7", &second));
    node.node
        .run(&device_call("DEL", "whole", "ens6", &first))
        .ok();
    add(&node, &third).ok();
    assert!(waiting.is_waiting());
    drop(lock);
    let (status, said) = waiting.end();
    assert_eq!(status.code(), Some(1), "{said}");
}

#[test]
fn only_what_does_not_exist_is_waited_for() {
    let site = Site::new();
    let node = site.node();
    attached(&node, &site.configuration(&[site.wanted("user", 1)]));
    let [first, second] = ["c1", "c2"].map(Pod::new);
    add(&node, &first).ok();
    let _lock = attaching(&node);
    // A pod has it.
    let output = add(&node, &second);
    assert!(output.error().details.contains("c1 has it"), "{output}");
    assert!(!output.stderr.contains("waiting"), "{output}");
    // An interface is built on it.
    node.node
        .run(&device_call("DEL", "whole", "ens6", &first))
        .ok();
    let upper = ["link", "add", "m1", "link", "ens6", "type", "macvlan"];
    node.node.netns.ip(&upper);
    let output = add(&node, &second);
    output.error_code(7);
    assert!(!output.stderr.contains("waiting"), "{output}");
    // No ENI is attached to a container.
    let conf = json!({
        "cniVersion": "1.1.0", "name": "inside", "type": "ipvlan", "master": "net9",
        "linkInContainer": true,
    });
    let inside = Call::ours("ipvlan", "ADD").conf(&conf).pod(&second, "net1");
    let output = node.node.run(&inside);
    output.error_code(7);
    assert!(!output.stderr.contains("waiting"), "{output}");
}
