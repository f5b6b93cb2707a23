//! Agents that follow each other, and which of them offers the devices.

use fixtures::kubelet::Kubelet;
use fixtures::scrape::ADDRESS;
use harness::vpc::{Agent, Vpc, eventually};
use nix::sys::signal::Signal;
use serde_json::json;

use super::super::crowding::{signal, stop};
use super::{ADDRESSES, ROOM, configuration, set_link};

/// A kubelet that learns of two plugins with one name takes the end of the first one for the end
/// of both.
#[test]
fn an_agent_registers_when_the_one_before_has_closed_its_socket() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let kubelet = Kubelet::start(&node);
    let first = Agent::start(&node, &configuration(&vpc));
    kubelet.await_event("register");
    kubelet.await_list(ADDRESSES, ROOM, 0);
    stop(&first);
    let second = Agent::start(&node, &configuration(&vpc));
    let waits = "waits until the agent before has closed its socket";
    assert!(
        eventually(|| second.log().contains(waits)),
        "{}",
        second.log()
    );
    signal(&first, Signal::SIGCONT);
    let registered = kubelet.await_event("register");
    assert_eq!(registered["listening"], false, "{registered}");
    kubelet.await_list(ADDRESSES, ROOM, 0);
}

#[test]
fn an_agent_that_does_not_serve_leaves_what_the_other_one_has_written() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let kubelet = Kubelet::start(&node);
    let mut configuration = configuration(&vpc);
    configuration["links"] = json!(false);
    let first = Agent::start(&node, &configuration);
    kubelet.await_list(ADDRESSES, ROOM, 0);
    // The next one has no comparison with EC2, and so does not take over.
    node.lab.rules(|rules| {
        let denied = &mut rules.denied_actions;
        denied.insert("DescribeNetworkInterfaces".into());
    });
    set_link(&node, "down");
    let is_known = || {
        let shown = node.command(&["status"]).stdout;
        shown.contains("0 healthy, 9 unhealthy, registered with the kubelet")
    };
    assert!(eventually(is_known), "{}", first.log());
    let second = Agent::start(&node, &configuration);
    let said = format!("resource {ADDRESSES}: ens6 of {} is down", node.eni);
    assert!(
        eventually(|| second.log().contains(&said)),
        "{}",
        second.log()
    );
    assert!(is_known(), "{}", second.log());
}

#[test]
fn an_agent_that_offers_nothing_has_nobody_shown_what_another_one_has_offered() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let kubelet = Kubelet::start(&node);
    let agent = Agent::start(&node, &configuration(&vpc));
    kubelet.await_list(ADDRESSES, ROOM, 0);
    let is_shown = || node.command(&["status"]).stdout.contains(ADDRESSES);
    assert!(eventually(is_shown), "{}", agent.log());
    agent.kill();
    let agent = Agent::start(&node, &json!({ "metrics": ADDRESS }));
    assert!(eventually(|| !is_shown()), "{}", agent.log());
}

#[test]
fn during_an_update_the_agent_that_serves_is_the_one_that_registers() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let mut kubelet = Kubelet::start(&node);
    let first = Agent::start(&node, &configuration(&vpc));
    kubelet.await_event("register");
    kubelet.await_list(ADDRESSES, ROOM, 0);
    let second = Agent::start(&node, &configuration(&vpc));
    assert!(eventually(|| first.log().contains("this one rests")));
    // The one before neither has the socket nor takes it back.
    let registered = kubelet.await_event("register");
    assert_eq!(registered["listening"], false);
    kubelet.await_list(ADDRESSES, ROOM, 0);
    first.kill();
    let is_registered = || {
        let shown = node.command(&["status"]).stdout;
        shown.contains("9 healthy, 0 unhealthy, registered with the kubelet\n")
    };
    assert!(eventually(is_registered), "{}", second.log());
    let answer = kubelet.call(
        "allocate",
        ADDRESSES,
        &json!({ "containers": [["slot-0"]] }),
    );
    assert_eq!(
        answer["answer"].as_array().map(Vec::len),
        Some(1),
        "{answer}"
    );
}
