//! A DEL that the runtime repeats when the device is back, another pod has it, or it does not exist
//! any more: what the pod has made to look like the device stays where it is.

use harness::{Call, Namespace};
use serde_json::{Value, json};

use super::{Fixture, conf};
use fixtures::with;

/// A pod whose first interface has its other end on the node, as that of the bridge plugin, and
/// whose device is back on the node. Returns the input of its DEL.
fn detached(fixture: &Fixture) -> Value {
    detached_of(fixture, |_| {})
}

/// The same, where this was done between ADD and DEL.
fn detached_of(fixture: &Fixture, before: impl FnOnce(&Fixture)) -> Value {
    let pod = fixture.pod.path();
    fixture.host(&[
        "link", "add", "of-pod", "type", "veth", "peer", "name", "eth0", "netns", &pod,
    ]);
    let attached = fixture.attached(&conf());
    before(fixture);
    fixture.del(&attached);
    attached
}

/// What a pod can do to its first interface: it gets the alias by which Go's plugin marks the
/// device, the MAC of the result, or the name of the attachment.
const DISGUISES: [&[&str]; 3] = [
    &["alias", "hd0"],
    &["address", "02:00:00:00:00:01"],
    &["alias", "hd0", "name", "net1"],
];

fn disguise(fixture: &Fixture, how: &[&str]) -> Vec<String> {
    let pod = &fixture.pod;
    for change in how.chunks(2) {
        pod.ip(&[&["link", "set", "eth0"], change].concat());
    }
    pod.links()
}

#[test]
fn a_repeated_del_takes_nothing_while_the_device_is_on_the_node() {
    for how in DISGUISES {
        let fixture = Fixture::new();
        let attached = detached(&fixture);
        let (links, before) = (disguise(&fixture, how), fixture.node.netns.links());
        for _ in 0..2 {
            fixture.del(&attached);
            assert_eq!(fixture.pod.links(), links, "{how:?}");
            assert_eq!(fixture.node.netns.links(), before, "{how:?}");
        }
    }
}

#[test]
fn a_repeated_del_takes_nothing_while_another_pod_has_the_device() {
    for how in DISGUISES {
        let fixture = Fixture::new();
        let attached = detached(&fixture);
        let (links, before) = (disguise(&fixture, how), fixture.node.netns.links());
        let next = Namespace::new();
        let of_next = |command: &str, conf: &Value| -> Call {
            let call = fixture.call(command, conf);
            call.attachment("c2", "net1", &next.path())
        };
        let result = fixture.node.run(&of_next("ADD", &conf())).ok();
        fixture.del(&attached);
        assert_eq!(fixture.pod.links(), links, "{how:?}");
        let its = with(&conf(), &json!({ "prevResult": result }));
        fixture.node.run(&of_next("DEL", &its)).ok();
        assert_eq!(fixture.node.netns.links(), before, "{how:?}");
    }
}

/// A virtual device that the pod has deleted: nothing tells any more what it was.
#[test]
fn a_repeated_del_takes_nothing_when_the_device_does_not_exist_any_more() {
    for how in DISGUISES {
        let fixture = Fixture::new();
        let attached = detached_of(&fixture, |fixture| {
            fixture.pod.ip(&["link", "del", "net1"]);
        });
        let (links, before) = (disguise(&fixture, how), fixture.node.netns.links());
        for _ in 0..2 {
            let del = fixture.node.run(&fixture.call("DEL", &attached));
            // It has the name of the attachment, so it may be the device.
            if how.contains(&"net1") {
                del.error_code(7);
            } else {
                del.ok();
            }
            assert_eq!(fixture.pod.links(), links, "{how:?}");
            assert_eq!(fixture.node.netns.links(), before, "{how:?}");
        }
        let next = Namespace::new();
        let add = fixture
            .call("ADD", &conf())
            .attachment("c2", "net1", &next.path());
        let error = fixture.node.run(&add).error();
        assert!(error.msg.contains("Link not found"), "{how:?}: {error:?}");
    }
}
