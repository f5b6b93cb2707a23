//! An ADD after one that was killed. What DEL does is in `faults`.

use harness::fault::{Fault, Strike};

use super::{Fixture, conf};

/// More system calls than an ADD makes.
const MOST: usize = 200;

#[test]
fn an_add_after_one_that_was_killed_before_the_move_begins_anew() {
    let fixture = Fixture::new();
    let before = fixture.state();
    let is_recorded = |nth| {
        let how = Strike {
            fault: Fault::Kill,
            counts_all: false,
            nth,
        };
        fixture.node.strike(&fixture.call("ADD", &conf()), how);
        !fixture.records().is_empty()
    };
    let nth = (1..MOST).find(|nth| is_recorded(*nth));
    assert!(nth.is_some() && fixture.pod.links() == ["lo"]);
    fixture.add(&conf());
    fixture.del(&conf());
    assert_eq!(fixture.state(), before);
}
