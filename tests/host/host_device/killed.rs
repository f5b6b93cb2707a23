//! An ADD after an ADD or a DEL that was killed. What DEL does is in `faults`.

use harness::Namespace;
use harness::fault::Strike;

use serde_json::json;

use super::{Fixture, conf, with};

/// More system calls than an ADD makes.
const MOST: usize = 200;

#[test]
fn an_add_after_one_that_was_killed_before_the_move_starts_from_the_beginning() {
    let killed = |nth| {
        let fixture = Fixture::new();
        let before = fixture.state();
        let how = Strike::kill(nth);
        fixture.node.strike(&fixture.call("ADD", &conf()), how);
        let is_recorded = !fixture.records().is_empty();
        is_recorded.then_some((fixture, before))
    };
    let (fixture, before) = (1..MOST).find_map(killed).expect("ADD writes a record");
    assert_eq!(fixture.pod.links(), ["lo"]);
    fixture.add(&conf());
    fixture.del(&conf());
    assert_eq!(fixture.state(), before);
}

#[test]
fn an_add_of_another_pod_after_a_killed_del_finds_the_device_as_it_was() {
    let struck = |nth| {
        let fixture = Fixture::new();
        fixture.host(&["link", "set", "hd0", "up", "alias", "uplink"]);
        let before = fixture.state();
        fixture.add(&conf());
        fixture.pod.ip(&["link", "set", "net1", "mtu", "1300"]);
        let how = Strike::kill(nth);
        let struck = fixture.node.strike(&fixture.call("DEL", &conf()), how);
        struck.hit.map(|hit| (fixture, before, hit))
    };
    let mut on_host = 0;
    for (fixture, before, hit) in (1..MOST).map_while(struck) {
        let next = Namespace::new();
        let call = |command: &str| {
            let call = fixture.call(command, &conf());
            call.attachment("c2", "net1", &next.path())
        };
        // While the first pod has the device, the second one cannot get it.
        if fixture.node.run(&call("ADD")).status == Some(0) {
            on_host += 1;
            fixture.del(&conf());
            assert!(next.link("net1").is_some(), "{hit}");
            fixture.node.run(&call("DEL")).ok();
        }
        fixture.del(&conf());
        fixture.node.run(&call("DEL")).ok();
        assert_eq!(fixture.state(), before, "{hit}");
    }
    assert!(on_host > 3, "no DEL was killed after the move: {on_host}");
}

/// The device is on the node after the DEL, but not under its name, which another interface has.
#[test]
fn an_add_after_a_killed_del_knows_the_offload_that_the_device_had() {
    let conf = with(
        &conf(),
        &json!({"device": null, "hwaddr": "02:00:00:00:00:01"}),
    );
    let struck = |nth| {
        let fixture = Fixture::new();
        let limits = ["gso_max_size", "30000", "gro_max_size", "20000"];
        fixture.host(&[&["link", "set", "hd0"], &limits[..]].concat());
        fixture.add(&conf);
        let limits = ["gso_max_size", "10000", "gro_max_size", "9000"];
        let change = [&["link", "set", "net1"], &limits[..]].concat();
        fixture.pod.ip(&change);
        let how = Strike::kill(nth);
        let struck = fixture.node.strike(&fixture.call("DEL", &conf), how);
        struck.hit.map(|_| fixture)
    };
    let is_moved = |fixture: &Fixture| fixture.node.netns.link("net1").is_some();
    let fixture = (1..MOST).map_while(struck).find(is_moved);
    let fixture = fixture.expect("DEL moves the device before it restores the name");
    fixture.host(&["link", "add", "hd0", "type", "bridge"]);
    let next = Namespace::new();
    let call = |command: &str| {
        let call = fixture.call(command, &conf);
        call.attachment("c2", "net1", &next.path())
    };
    fixture.node.run(&call("ADD")).ok();
    fixture.host(&["link", "del", "hd0"]);
    fixture.del(&conf);
    fixture.node.run(&call("DEL")).ok();
    let hd0 = fixture.node.netns.link("hd0").expect("it is back");
    assert_eq!(hd0["gso_max_size"], 30000);
    assert_eq!(hd0["gro_max_size"], 20000);
}
