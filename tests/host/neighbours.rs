//! Neighbours of an interface: what they can make of it, and what they are told. Here with
//! host-device; the same with ipvlan is in `tests/vm`.

use std::{fs, thread};

use fixtures::neighbours::{Fixture, OWN_IPV6, behaviour};
use harness::{Listener, wait_until};
use serde_json::json;

const PLUGIN: &str = "host-device";

#[test]
fn a_router_advertisement_of_a_neighbour_configures_nothing() {
    behaviour::a_router_advertisement_configures_nothing(PLUGIN);
}

#[test]
fn router_advertisements_are_accepted_where_they_are_asked_for() {
    behaviour::router_advertisements_can_be_asked_for(PLUGIN);
}

#[test]
fn a_redirect_of_a_neighbour_changes_no_route() {
    behaviour::a_redirect_changes_no_route(PLUGIN);
}

#[test]
fn neighbours_are_told_who_has_the_addresses() {
    behaviour::neighbours_are_told_of_the_addresses(PLUGIN);
}

/// A macvlan has a carrier when what it is on has one, as a network card that negotiates.
#[test]
fn neighbours_are_told_when_the_carrier_comes_late() {
    let fixture = Fixture::without_carrier();
    let heard = Listener::icmpv6(&fixture.sibling);
    thread::scope(|scope| {
        let add = scope.spawn(|| fixture.add(&json!({})));
        // No process is started to look: ADD waits for a few seconds only.
        wait_until("the interface has its address", || {
            let local = fixture
                .pod
                .run(|| fs::read_to_string("/proc/thread-self/net/fib_trie"));
            local.expect("it is readable").contains("10.9.0.5")
        });
        fixture.sibling.ip(&["link", "set", "r0", "up"]);
        add.join().expect("ADD succeeds");
    });
    fixture.knows_the_ipv4_address();
    heard.await_advertisement(OWN_IPV6);
}

/// Whoever made the container may have mounted /proc/sys read-only.
#[test]
fn a_read_only_sysctl_is_said_once_and_stops_nothing() {
    let mut fixture = Fixture::new(PLUGIN);
    fixture.node.read_only("/proc/sys");
    fixture
        .ipam
        .answer(&json!({"ips": [{"address": "10.9.0.5/24"}]}));
    let output = fixture.run("ADD", &json!({}));
    output.ok();
    let said = "neighbours may configure \"net1\": could not set net/ipv6/conf/net1/accept_ra: \
                Read-only file system";
    let lines = output
        .stderr
        .lines()
        .filter(|l| l.contains("could not set"));
    assert!(output.stderr.contains(said), "{output}");
    assert_eq!(lines.count(), 1, "{output}");
}
