//! An ADD after one that was killed. What DEL does is in `faults`.

use harness::fault::{Counted, Fault, Strike};

use super::{Fixture, conf};

/// More system calls than an ADD makes.
const MOST: usize = 200;

#[test]
fn an_add_after_one_that_was_killed_before_the_move_begins_anew() {
    let killed = |nth| {
        let fixture = Fixture::new();
        let before = fixture.state();
        let how = Strike {
            fault: Fault::Kill,
            counted: Counted::Changing,
            nth,
        };
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
