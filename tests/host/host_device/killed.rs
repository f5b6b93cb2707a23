//! An ADD after an ADD or a DEL that was killed. What DEL does is in `faults`.

use harness::Namespace;
use harness::fault::Strike;

use super::{Fixture, conf};

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
