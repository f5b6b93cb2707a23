//! Two agents on one node, as during an update: the next one starts while the one before
//! serves, and takes over. No pod notices.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use fixtures::handover::{
    STARTING, Until, agent_socket, needs_agent, replace_while_pods_start, serving,
};
use fixtures::scrape::{ADDRESS, get, try_get};
use harness::Pod;
use harness::vpc::{Agent, DEADLINE, Vpc, VpcNode, eventually};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::crowding::{signal, stop};

fn with_metrics() -> Value {
    json!({ "metrics": ADDRESS })
}

/// An agent that has taken over from the one before.
fn next(node: &VpcNode, configuration: &Value) -> Agent {
    let agent = Agent::start(node, configuration);
    assert!(eventually(|| serving(node) == Some(agent.id())));
    agent
}

#[test]
fn an_agent_takes_over_from_one_that_serves_and_stays_when_that_ends() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let first = Agent::start(&node, &json!({}));
    let second = next(&node, &json!({}));
    assert_eq!(first.stop(), Some(0));
    assert_eq!(serving(&node), Some(second.id()));
    let pod = Pod::new("c1");
    let call = needs_agent(node.pod_call("ADD", &pod, &["10.0.4.70"]));
    node.run(&call).ok();
    assert_eq!(node.addresses(), ["10.0.4.70"]);
}

/// Every plugin here needs an agent, so one that found none, or lost it, would fail.
#[test]
fn no_pod_fails_while_agents_replace_each_other() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let mut agent = Agent::start(&node, &json!({}));
    let (is_over, count) = (AtomicBool::new(false), AtomicUsize::new(0));
    // None is released meanwhile: EC2 would be asked to show it.
    let keys = json!({ "cooldownSeconds": 3600 });
    let start_pods = |number: usize| {
        let address = format!("10.0.4.{}", 70 + number);
        let pod = Pod::new(&format!("c{number}"));
        while !is_over.load(Ordering::Relaxed) {
            let call = node.conf_call("ADD", &pod, &[&address], &keys);
            node.run(&needs_agent(call)).ok();
            node.del(&pod);
            count.fetch_add(1, Ordering::Relaxed);
        }
    };
    let _last = thread::scope(|scope| {
        let _over = Until(&is_over);
        for number in 0..STARTING {
            scope.spawn(move || start_pods(number));
        }
        for _ in 0..4 {
            let next = || Agent::spawn(&node, &json!({}));
            agent = replace_while_pods_start(&node, (agent, next), &count);
        }
        agent
    });
}

#[test]
fn a_plugin_in_the_queue_of_an_agent_that_has_to_end_is_served() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let first = Agent::start(&node, &json!({}));
    stop(&first);
    let mut plugin = UnixStream::connect(agent_socket(&node)).unwrap();
    plugin.set_read_timeout(Some(DEADLINE)).unwrap();
    plugin.write_all(br#"{"ask":"ping"}"#).unwrap();
    plugin.shutdown(Shutdown::Write).unwrap();
    let _second = next(&node, &json!({}));
    signal(&first, Signal::SIGTERM);
    signal(&first, Signal::SIGCONT);
    let mut answer = String::new();
    plugin.read_to_string(&mut answer).unwrap();
    assert_eq!(answer.trim_start(), r#"{"answer":"done"}"#);
    assert_eq!(first.wait().0, Some(0));
}

#[test]
fn an_agent_that_cannot_work_takes_nothing_from_the_one_before() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let first = Agent::start(&node, &with_metrics());
    assert!(eventually(|| get(&node, "/readyz").0 == 200));
    let denied = |is_denied: bool| {
        node.lab.rules(|rules| {
            let denied = &mut rules.denied_actions;
            _ = match is_denied {
                true => denied.insert("DescribeNetworkInterfaces".into()),
                false => denied.remove("DescribeNetworkInterfaces"),
            }
        });
    };
    denied(true);
    let second = Agent::start(&node, &with_metrics());
    assert!(eventually(|| second
        .log()
        .contains("DescribeNetworkInterfaces")));
    assert_eq!(serving(&node), Some(first.id()));
    // Its kubelet asks the one before, which must not answer for it.
    let (status, why) = get(&node, "/readyz");
    assert_eq!(status, 503, "{why}");
    assert!(
        why.starts_with("another agent is about to take over"),
        "{why}"
    );
    denied(false);
    assert!(eventually(|| serving(&node) == Some(second.id())));
    assert_eq!(first.stop(), Some(0));
    assert!(eventually(|| is_ready(&node)));
}

fn is_ready(node: &VpcNode) -> bool {
    try_get(node, "/readyz").is_ok_and(|(status, _)| status == 200)
}

#[test]
fn the_port_goes_to_the_agent_that_takes_over_while_the_other_one_still_runs() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let first = Agent::start(&node, &with_metrics());
    node.add(&Pod::new("c1"), &["10.0.4.70"]).ok();
    let has_answered = |number: u8| {
        let sample = format!("eni_sync_plugin_requests_total{{code=\"0\"}} {number}\n");
        try_get(&node, "/metrics").is_ok_and(|(_, text)| text.contains(&sample))
    };
    assert!(has_answered(1));
    let second = next(&node, &with_metrics());
    assert!(eventually(|| has_answered(0)));
    assert!(eventually(|| is_ready(&node)));
    assert_eq!(first.stop(), Some(0));
    assert!(is_ready(&node));
    assert_eq!(second.stop(), Some(0));
}

#[test]
fn an_agent_that_was_relieved_serves_again_when_the_other_one_has_died() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let first = Agent::start(&node, &with_metrics());
    let second = next(&node, &with_metrics());
    assert!(eventually(|| first
        .log()
        .contains("this one rests until it is ended")));
    second.kill();
    assert!(eventually(|| serving(&node) == Some(first.id())));
    assert!(eventually(|| is_ready(&node)));
    let pod = Pod::new("c1");
    let call = needs_agent(node.pod_call("ADD", &pod, &["10.0.4.70"]));
    node.run(&call).ok();
}

#[test]
fn an_agent_that_is_killed_while_it_makes_its_socket_leaves_nothing_in_the_way() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let directory = node.run_directory().join("eni-cni");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("agent.sock.new"), "").unwrap();
    let agent = Agent::start(&node, &json!({}));
    assert_eq!(serving(&node), Some(agent.id()));
    assert!(!directory.join("agent.sock.new").exists());
}

#[test]
fn a_socket_that_was_removed_is_made_again() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let agent = Agent::start(&node, &json!({}));
    // The agent may just write into it.
    let removed = || std::fs::remove_dir_all(node.run_directory().join("eni-cni")).is_ok();
    assert!(eventually(removed));
    assert!(eventually(|| serving(&node) == Some(agent.id())));
}
