//! A pod that starts while its ENI is still being attached.

use std::fs::{self, File};
use std::thread;
use std::time::Duration;

use harness::eni_lab::Hold;
use harness::{AwsNode, Call, Output, Pod};
use nix::fcntl::{Flock, FlockArg};
use serde_json::json;

use super::{ATTACH, Site, attach};
use crate::eni_sync::fixture::DEADLINE;

/// A pod gets the whole ENI that is `ens6` when it is attached.
fn add(node: &AwsNode, pod: &Pod) -> Output {
    let conf = json!({
        "cniVersion": "1.1.0", "name": "whole", "type": "host-device", "device": "ens6",
    });
    node.node.run(
        &Call::ours("host-device", "ADD")
            .conf(&conf)
            .pod(pod, "net1"),
    )
}

#[test]
fn a_pod_waits_for_its_eni_while_it_is_attached_and_says_so() {
    let site = Site::new();
    let node = site.node();
    let pod = Pod::new("c1");
    let configuration = site.configuration(&[site.wanted("user", 1)]);
    site.lab.hold(ATTACH, Hold::BeforeCommit);
    thread::scope(|scope| {
        let attaching = scope.spawn(|| attach(&node, &configuration, &[]));
        assert!(site.lab.wait_until(DEADLINE, |lab| lab.held() == 1));
        let waiting = scope.spawn(|| add(&node, &pod));
        thread::sleep(Duration::from_millis(500));
        assert!(!waiting.is_finished());
        site.lab.release_held();
        let output = waiting.join().unwrap();
        output.clone().ok();
        let said = "waiting for the ENIs that are being attached";
        assert!(output.stderr.contains(said), "{output}");
        assert_eq!(attaching.join().unwrap().status, Some(0));
    });
}

#[test]
fn a_pod_does_not_wait_when_nobody_attaches_anything() {
    let site = Site::new();
    let node = site.node();
    let directory = node.run_directory().join("eni-cni");
    fs::create_dir_all(&directory).unwrap();
    let path = directory.join(".attach.lock");
    let file = File::create(&path).unwrap();
    let output = add(&node, &Pod::new("c1"));
    assert!(!output.stderr.contains("waiting"), "{output}");
    // What ends without an interface ends the wait, too.
    let lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno);
    let lock = lock.unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| add(&node, &Pod::new("c2")));
        thread::sleep(Duration::from_millis(500));
        assert!(!waiting.is_finished());
        drop(lock);
        let output = waiting.join().unwrap();
        assert!(output.stderr.contains("waiting for the ENIs"), "{output}");
        assert_eq!(output.status, Some(1), "{output}");
    });
}
