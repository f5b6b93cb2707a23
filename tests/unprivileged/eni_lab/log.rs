//! The log, what it shows that must never happen, counting and waiting.

use std::thread;
use std::time::Duration;

use fixtures::lab::{ASSIGN, DESCRIBE, PATIENCE, UNASSIGN, Vpc, ip, named, send};
use harness::eni_lab::{EniId, Event, InstanceId, OK, Target, VpcId, violations};
use serde_json::Value;

fn eni(name: &str) -> EniId {
    EniId::from(name)
}

fn assigned(address: &str, to: &str) -> Event {
    Event::Assigned {
        address: ip(address),
        vpc: VpcId::from("vpc-1"),
        eni: eni(to),
        instance: None,
    }
}

fn moved(address: &str, from: &str, to: &str) -> Event {
    Event::Moved {
        address: ip(address),
        vpc: VpcId::from("vpc-1"),
        from: eni(from),
        to: eni(to),
    }
}

fn reassigned(owner_running: bool) -> Event {
    Event::Reassigned {
        address: ip("10.0.4.70"),
        from: eni("eni-1"),
        to: eni("eni-2"),
        by: None,
        owner_running,
    }
}

/// A call of the node `i-1` on an interface of the node `i-2`.
fn called(action: &str, target: &Target) -> Event {
    Event::Called {
        action: action.to_owned(),
        node: Some(InstanceId::from("i-1")),
        eni: Some(eni("eni-1")),
        addresses: Vec::new(),
        outcome: OK.to_owned(),
        target: Some(target.clone()),
    }
}

fn target() -> Target {
    Target {
        instance: Some(InstanceId::from("i-2")),
        running: true,
        place: Some((0, 1)),
        unmanaged: true,
    }
}

#[track_caller]
fn finds(events: &[Event], expected: &[&str]) {
    assert_eq!(violations(events), expected);
}

#[test]
fn an_address_on_two_interfaces_is_found() {
    finds(
        &[
            assigned("10.0.4.70", "eni-1"),
            assigned("10.0.4.71", "eni-2"),
        ],
        &[],
    );
    finds(
        &[
            assigned("10.0.4.70", "eni-1"),
            assigned("10.0.4.70", "eni-2"),
        ],
        &["10.0.4.70 is on eni-1 and on eni-2"],
    );
    finds(
        &[
            assigned("10.0.4.70", "eni-1"),
            moved("10.0.4.70", "eni-1", "eni-2"),
        ],
        &[],
    );
    finds(
        &[
            assigned("10.0.4.70", "eni-3"),
            moved("10.0.4.70", "eni-1", "eni-2"),
        ],
        &["10.0.4.70 is on eni-3 and on eni-2"],
    );
}

#[test]
fn the_same_address_in_another_vpc_is_another_address() {
    let mut elsewhere = assigned("10.0.4.70", "eni-2");
    if let Event::Assigned { vpc, .. } = &mut elsewhere {
        *vpc = VpcId::from("vpc-2");
    }
    finds(&[assigned("10.0.4.70", "eni-1"), elsewhere], &[]);
}

#[test]
fn a_touched_primary_address_is_found() {
    let touched = Event::PrimaryTouched {
        address: ip("10.0.4.4"),
        eni: eni("eni-1"),
        by: None,
    };
    finds(
        &[touched],
        &["the primary address 10.0.4.4 of eni-1 was touched"],
    );
}

#[test]
fn a_change_of_the_first_interface_or_one_without_the_tag_is_found() {
    let mut first = target();
    first.place = Some((0, 0));
    let said = "AssignPrivateIpAddresses on eni-1, which is at device index 0";
    finds(&[called(ASSIGN, &first)], &[said]);
    let mut untagged = target();
    untagged.unmanaged = false;
    let said = "AssignPrivateIpAddresses on eni-1, which has no no_manage=true tag";
    finds(&[called(ASSIGN, &untagged)], &[said]);
    finds(
        &[called(DESCRIBE, &first), called(DESCRIBE, &untagged)],
        &[],
    );
}

#[test]
fn a_reassignment_from_a_running_instance_is_found() {
    let said = "10.0.4.70 was taken from eni-1, whose instance was running, to eni-2";
    finds(&[reassigned(true)], &[said]);
    finds(&[reassigned(false)], &[]);
}

#[test]
fn an_unassignment_on_the_interface_of_another_running_node_is_found() {
    let said = "UnassignPrivateIpAddresses on eni-1 by i-1, while it belonged to the running i-2";
    finds(&[called(UNASSIGN, &target())], &[said]);
    let mut dead = target();
    dead.running = false;
    finds(&[called(UNASSIGN, &dead)], &[]);
    let mut own = target();
    own.instance = Some(InstanceId::from("i-1"));
    finds(&[called(UNASSIGN, &own)], &[]);
}

/// The same through the API: what the lab writes is what the checks read.
#[test]
fn calls_over_the_api_are_held_to_the_invariants() {
    let vpc = Vpc::new();
    let (_, other) = vpc.another();
    vpc.assign(&["10.0.4.70"]).ok();
    vpc.unassign(&["10.0.4.70"]).ok();
    assert_eq!(vpc.lab.invariant_violations(), Vec::<String>::new());
    let primary = vpc.lab.primary(&vpc.eni).to_string();
    vpc.unassign(&[&primary]).error();
    vpc.lab.assign(&other, &[ip("10.0.4.71")]);
    let steal = named(&vpc.eni, "PrivateIpAddress", &["10.0.4.71"]);
    vpc.call(ASSIGN, &steal.and("AllowReassignment", "true").pairs())
        .ok();
    vpc.lab.assign(&other, &[ip("10.0.4.72")]);
    let foreign = named(&other, "PrivateIpAddress", &["10.0.4.72"]);
    vpc.call(UNASSIGN, &foreign.pairs()).ok();
    let first = vpc.lab.enis(&vpc.node).remove(0);
    let on_first = named(&first, "PrivateIpAddress", &["10.0.1.70"]);
    vpc.call(ASSIGN, &on_first.pairs()).ok();
    let found = vpc.lab.invariant_violations();
    let words = [
        "primary address",
        "was taken from",
        "belonged to",
        "device index 0",
        "no_manage",
    ];
    assert_eq!(found.len(), words.len(), "{found:#?}");
    for (said, word) in found.iter().zip(words) {
        assert!(said.contains(word), "{word}: {found:#?}");
    }
}

#[test]
fn a_call_is_logged_with_its_signer_and_its_outcome() {
    let vpc = Vpc::new();
    vpc.assign(&["10.0.4.70"]).ok();
    vpc.assign(&["192.0.2.1"]).error();
    let parameters = named(&vpc.eni, "PrivateIpAddress", &["10.0.4.70"]);
    vpc.call_as("AKIDLAB", UNASSIGN, &parameters.pairs()).ok();
    let log: Vec<_> = vpc.lab.events();
    let calls: Vec<_> = log
        .iter()
        .filter_map(|event| match event {
            Event::Called {
                action,
                node,
                eni,
                addresses,
                outcome,
                ..
            } => {
                assert_eq!(eni.as_ref(), Some(&vpc.eni));
                let node = node.is_some();
                Some((
                    action.as_str(),
                    node,
                    addresses[0].to_string(),
                    outcome.as_str(),
                ))
            }
            _ => None,
        })
        .collect();
    let expected = [
        (ASSIGN, true, "10.0.4.70".to_owned(), OK),
        (
            ASSIGN,
            true,
            "192.0.2.1".to_owned(),
            "InvalidParameterValue",
        ),
        (UNASSIGN, false, "10.0.4.70".to_owned(), OK),
    ];
    assert_eq!(calls, expected);
    let assigned = |event: &Event| matches!(event, Event::Assigned { instance: Some(node), .. } if *node == vpc.node);
    assert!(log.iter().any(assigned), "{log:#?}");
}

#[test]
fn calls_are_counted_by_action_with_those_that_fail() {
    let vpc = Vpc::new();
    vpc.assign(&["10.0.4.70"]).ok();
    vpc.assign(&["192.0.2.1"]).error();
    assert_eq!(vpc.lab.calls()[ASSIGN], 2);
    vpc.lab.reset_calls();
    assert!(vpc.lab.calls().is_empty());
}

#[test]
fn a_thread_that_waits_for_a_call_is_woken_by_it() {
    let vpc = Vpc::new();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| vpc.lab.wait_for_call(ASSIGN, 2, PATIENCE));
        vpc.assign(&["10.0.4.70"]).ok();
        vpc.assign(&["10.0.4.71"]).ok();
        assert!(waiting.join().expect("it returns"));
    });
    let soon = Duration::from_millis(10);
    assert!(!vpc.lab.wait_for_call(ASSIGN, 3, soon));
}

/// The endpoints for people and other programs.
#[test]
fn the_lab_can_be_looked_into() {
    let vpc = Vpc::new();
    vpc.assign(&["10.0.4.70"]).ok();
    let get = |path: &str| -> Value {
        let reply = send(vpc.ec2, "GET", path, &[], "").expect("there is an answer");
        serde_json::from_str(&reply.ok().body).expect("it is JSON")
    };
    let state = get("/lab/state");
    let enis = state["enis"].as_array().expect("a list");
    let eni = enis.iter().find(|e| e["eni"] == vpc.eni.as_str());
    let eni = eni.expect("it is listed");
    assert_eq!(eni["addresses"][0], "10.0.4.70");
    assert_eq!(eni["instance"], vpc.node.as_str());
    assert_eq!(get("/lab/calls")[ASSIGN], 1);
    let events = get("/lab/events");
    assert_eq!(events[0]["event"], "called");
    assert_eq!(events[1]["event"], "assigned");
    let none = send(vpc.ec2, "GET", "/lab/nothing", &[], "").expect("there is an answer");
    assert_eq!(none.status, 404);
    assert!(!vpc.lab.calls().contains_key(""));
}
