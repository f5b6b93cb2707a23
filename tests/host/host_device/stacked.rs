//! What a pod has made on its device and moved on does not use the device of the next pod.

use harness::Namespace;

use super::{Fixture, conf};

#[test]
fn what_a_pod_has_made_on_its_device_is_removed_where_the_pod_has_moved_it() {
    let fixture = Fixture::new();
    let before = fixture.state();
    let others = [Namespace::new(), Namespace::new()];
    fixture.add(&conf());
    for (name, other) in ["above0", "above1"].into_iter().zip(&others) {
        let pod = &fixture.pod;
        pod.ip(&[
            "link", "add", "link", "net1", "name", name, "type", "macvlan",
        ]);
        pod.ip(&["link", "set", name, "netns", &other.path(), "name", "eth0"]);
        other.ip(&["link", "set", "eth0", "up"]);
    }
    others[0].ip(&[
        "link", "add", "own", "type", "veth", "peer", "name", "other",
    ]);
    fixture.del(&conf());
    assert_eq!(fixture.state(), before);
    assert_eq!(others[0].links(), ["lo", "other", "own"]);
    assert_eq!(others[1].links(), ["lo"]);
}

/// The other devices of the pod are not the attachment's.
#[test]
fn what_is_above_another_device_of_the_pod_stays() {
    let fixture = Fixture::new();
    let other = Namespace::new();
    fixture.add(&conf());
    let pod = &fixture.pod;
    pod.ip(&[
        "link", "add", "own", "type", "veth", "peer", "name", "other",
    ]);
    pod.ip(&[
        "link", "add", "link", "own", "name", "above", "type", "macvlan",
    ]);
    pod.ip(&["link", "set", "above", "netns", &other.path()]);
    fixture.del(&conf());
    assert_eq!(other.links(), ["above", "lo"]);
}
