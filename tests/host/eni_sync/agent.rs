//! The agent: what it does for plugins, by itself, and when it has to end.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;

use fixtures::kernel_calls::Trace;
use harness::eni_lab::Hold;
use harness::vpc::{Agent, DEADLINE, Vpc, device_call, eventually};
use harness::{Call, Pod};
use serde_json::{Value, json};

/// A few more than an ADD with an agent makes.
const MOST_CALLS: usize = 100;

#[test]
fn the_agent_registers_what_plugins_hand_over() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let agent = Agent::start(&node, &json!({}));
    let pod = Pod::new("c1");
    node.add(&pod, &["10.0.4.70"]).ok();
    assert_eq!(node.addresses(), ["10.0.4.70"]);
    assert_eq!(agent.stop(), Some(0));
    node.del(&pod);
}

#[test]
fn the_plugin_does_not_speak_to_aws_when_there_is_an_agent() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let _agent = Agent::start(&node, &json!({}));
    let pod = Pod::new("c1");
    let call = node
        .pod_call("ADD", &pod, &["10.0.4.70"])
        .env("AWS_ENDPOINT_URL_EC2", "http://127.0.0.1:9")
        .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9");
    node.run(&call).ok();
    assert_eq!(node.addresses(), ["10.0.4.70"]);
}

/// The SDK, TLS and the event loop under them cost more than the rest of an ADD.
#[test]
fn the_plugin_that_has_an_agent_prepares_nothing_for_aws() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let _agent = Agent::start(&node, &json!({}));
    let pod = Pod::new("c1");
    // The plugin before it in the chain has recorded which namespace it is about, and which ENI.
    node.add_device();
    let netns = &node.node.netns;
    netns.ip(&["link", "set", "dev7", "address", &node.mac]);
    node.run(&device_call("ADD", "mgmt", "dev7", &pod)).ok();
    let trace = Trace::of(&node.node, &node.pod_call("ADD", &pod, &["10.0.4.70"]));
    let calls = trace.calls();
    let of_aws = [
        "epoll_create",
        "eventfd",
        "clone(",
        "clone3(",
        "\"/etc/",
        "/.aws/",
        "AF_INET",
    ];
    let is_of_aws = |call: &&&str| of_aws.iter().any(|text| call.contains(text));
    let text = calls.join("\n");
    assert_eq!(calls.iter().find(is_of_aws), None, "{text}");
    assert!(trace.own_calls <= MOST_CALLS, "{}\n{text}", trace.own_calls);
}

#[test]
fn what_the_agent_is_told_by_aws_is_what_the_plugin_reports() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let other = vpc.node();
    other.add(&Pod::new("c0"), &["10.0.4.70"]).ok();
    let _agent = Agent::start(&node, &json!({}));
    let error = node.add(&Pod::new("c1"), &["10.0.4.70"]).error_code(11);
    assert!(error.msg.contains(other.eni.as_str()), "{error:?}");
}

#[test]
fn a_socket_that_nobody_listens_on_counts_as_no_agent() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let agent = Agent::start(&node, &json!({}));
    agent.kill();
    assert!(node.run_directory().join("eni-cni/agent.sock").exists());
    node.add(&Pod::new("c1"), &["10.0.4.70"]).ok();
    assert_eq!(node.addresses(), ["10.0.4.70"]);
}

#[test]
fn a_plugin_whose_agent_dies_meanwhile_goes_on_by_itself() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let agent = Agent::start(&node, &json!({}));
    node.lab.hold("AssignPrivateIpAddresses", Hold::AfterCommit);
    let pod = Pod::new("c1");
    thread::scope(|scope| {
        let add = scope.spawn(|| node.add(&pod, &["10.0.4.70"]).ok());
        assert!(
            node.lab
                .wait_for_call("AssignPrivateIpAddresses", 1, DEADLINE)
        );
        agent.kill();
        node.lab.release_held();
        add.join().unwrap();
    });
    assert_eq!(node.addresses(), ["10.0.4.70"]);
    assert_eq!(node.ledger()["10.0.4.70"], "held");
}

#[test]
fn sigterm_lets_what_is_being_served_end() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let agent = Agent::start(&node, &json!({}));
    node.lab
        .hold("AssignPrivateIpAddresses", Hold::BeforeCommit);
    let pod = Pod::new("c1");
    thread::scope(|scope| {
        let add = scope.spawn(|| node.add(&pod, &["10.0.4.70"]).ok());
        assert!(
            node.lab
                .wait_for_call("AssignPrivateIpAddresses", 1, DEADLINE)
        );
        let stopped = scope.spawn(move || agent.stop());
        node.lab.release_held();
        add.join().unwrap();
        assert_eq!(stopped.join().unwrap(), Some(0));
    });
    let calls = node.lab.calls();
    assert_eq!(calls["AssignPrivateIpAddresses"], 1, "{calls:?}");
}

#[test]
fn the_agent_releases_an_address_when_its_cooldown_is_over() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let _agent = Agent::start(&node, &json!({}));
    let pod = Pod::new("c1");
    let keys = json!({ "cooldownSeconds": 1 });
    let addresses = ["10.0.4.70", "10.0.4.71"];
    node.run(&node.conf_call("ADD", &pod, &addresses, &keys))
        .ok();
    node.del(&pod);
    assert!(
        node.lab
            .wait_until(DEADLINE, |_| node.addresses().is_empty())
    );
    assert!(
        eventually(|| node.ledger().is_empty()),
        "{:?}",
        node.ledger()
    );
    assert_eq!(node.lab.calls()["UnassignPrivateIpAddresses"], 1);
}

#[test]
fn an_address_that_another_program_unassigned_is_assigned_again() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    node.add(&pod, &["10.0.4.70"]).ok();
    node.lab
        .unassign(&node.eni, &["10.0.4.70".parse().unwrap()]);
    node.let_time_pass(60);
    let _agent = Agent::start(&node, &json!({}));
    assert!(
        node.lab
            .wait_until(DEADLINE, |_| node.addresses() == ["10.0.4.70"])
    );
}

#[test]
fn an_address_of_an_unknown_owner_is_adopted_and_stays() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.lab.assign(&node.eni, &["10.0.4.99".parse().unwrap()]);
    let _agent = Agent::start(&node, &json!({}));
    let adopted = || node.ledger() == BTreeMap::from([("10.0.4.99".into(), "adopted".into())]);
    assert!(eventually(adopted), "{:?}", node.ledger());
    assert_eq!(node.addresses(), ["10.0.4.99"]);
}

#[test]
fn addresses_of_pods_that_ended_without_a_del_leave_after_the_grace_time() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    let keys = json!({ "cooldownSeconds": 0 });
    node.run(&node.conf_call("ADD", &pod, &["10.0.4.70"], &keys))
        .ok();
    drop(pod);
    let agent = Agent::start(&node, &json!({}));
    assert!(
        node.lab
            .wait_for_call("DescribeNetworkInterfaces", 3, DEADLINE)
    );
    assert_eq!(
        node.ledger()["10.0.4.70"],
        "held",
        "it may still be ended by its runtime"
    );
    agent.stop();
    node.edit_ledger("10.0.4.70", |entry| entry["since"] = json!(1));
    let _agent = Agent::start(&node, &json!({}));
    assert!(
        node.lab
            .wait_until(DEADLINE, |_| node.addresses().is_empty())
    );
}

#[test]
fn reservations_of_a_watched_network_are_registered_and_released() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let watched = json!({ "name": "conf-1", "master": "ens6", "cooldownSeconds": 0 });
    // The directory does not exist yet.
    let _agent = Agent::start(&node, &json!({ "networks": [watched] }));
    let directory = node.node.state().join("networks/conf-1");
    fs::create_dir_all(&directory).unwrap();
    reserve(&directory, "10.0.4.70", "c1\r\nnet1");
    assert!(
        node.lab
            .wait_until(DEADLINE, |_| node.addresses() == ["10.0.4.70"])
    );
    reserve(&directory, "10.0.4.71", "c2\r\nnet1");
    reserve(&directory, "last_reserved_ip.0", "10.0.4.71");
    assert!(
        node.lab
            .wait_until(DEADLINE, |_| node.addresses() == ["10.0.4.70", "10.0.4.71"])
    );
    fs::remove_file(directory.join("10.0.4.70")).unwrap();
    assert!(
        node.lab
            .wait_until(DEADLINE, |_| node.addresses() == ["10.0.4.71"])
    );
}

#[test]
fn reservations_of_gos_host_local_are_registered_and_released() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let watched = json!({ "name": "conf-1", "master": "ens6", "cooldownSeconds": 0 });
    let _agent = Agent::start(&node, &json!({ "networks": [watched] }));
    let range = json!({ "subnet": "10.0.4.0/24", "rangeStart": "10.0.4.70" });
    let conf = json!({
        "cniVersion": "1.0.0", "name": "conf-1", "type": "ipvlan",
        "ipam": { "type": "host-local", "ranges": [[range]] },
    });
    let pod = Pod::new("c1");
    let call = |command: &str| {
        Call::go("host-local", command)
            .conf(&conf)
            .pod(&pod, "net1")
    };
    node.run(&call("ADD")).ok();
    assert!(
        node.lab
            .wait_until(DEADLINE, |_| node.addresses() == ["10.0.4.70"])
    );
    node.run(&call("DEL")).ok();
    assert!(
        node.lab
            .wait_until(DEADLINE, |_| node.addresses().is_empty())
    );
}

#[test]
fn what_was_reserved_while_no_agent_ran_is_found_at_its_start() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let directory = node.node.state().join("networks/conf-1");
    fs::create_dir_all(&directory).unwrap();
    reserve(&directory, "10.0.4.70", "c1\r\nnet1");
    let watched = json!({ "name": "conf-1", "master": "ens6", "cooldownSeconds": 0 });
    let configuration = json!({ "networks": [watched] });
    let agent = Agent::start(&node, &configuration);
    assert!(
        node.lab
            .wait_until(DEADLINE, |_| node.addresses() == ["10.0.4.70"])
    );
    // Until the agent has written that down, EC2 has to show it twice.
    let is_held = || {
        node.ledger()
            .get("10.0.4.70")
            .is_some_and(|state| state == "held")
    };
    assert!(eventually(is_held));
    agent.kill();
    fs::remove_file(directory.join("10.0.4.70")).unwrap();
    let _agent = Agent::start(&node, &configuration);
    assert!(
        node.lab
            .wait_until(DEADLINE, |_| node.addresses().is_empty())
    );
}

/// It may be being written, or there may be no descriptor for it.
#[test]
fn a_reservation_that_cannot_be_read_has_not_ended() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let directory = node.node.state().join("networks/conf-1");
    fs::create_dir_all(&directory).unwrap();
    reserve(&directory, "10.0.4.70", "c1\r\nnet1");
    let watched = json!({ "name": "conf-1", "master": "ens6", "cooldownSeconds": 0 });
    let _agent = Agent::start(&node, &json!({ "networks": [watched] }));
    let state = |address: &str| node.ledger().get(address).cloned().unwrap_or_default();
    assert!(eventually(|| state("10.0.4.70") == "held"));
    fs::write(directory.join("10.0.4.70"), "").unwrap();
    // That this one is found shows that the other one was looked at.
    reserve(&directory, "10.0.4.71", "c2\r\nnet1");
    assert!(eventually(|| state("10.0.4.71") == "held"));
    assert_eq!(state("10.0.4.70"), "held");
    assert_eq!(node.addresses(), ["10.0.4.70", "10.0.4.71"]);
}

#[test]
fn a_reservation_that_has_another_owner_now_is_held_for_the_new_one() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let directory = node.node.state().join("networks/conf-1");
    fs::create_dir_all(&directory).unwrap();
    reserve(&directory, "10.0.4.70", "c1\r\nnet1");
    let watched = json!({ "name": "conf-1", "master": "ens6", "cooldownSeconds": 0 });
    let _agent = Agent::start(&node, &json!({ "networks": [watched] }));
    let is_held_for = |container: &str| {
        let entry = fs::read(node.ledger_path().join("10.0.4.70")).unwrap_or_default();
        let entry: Value = serde_json::from_slice(&entry).unwrap_or_default();
        entry["state"] == "held" && entry["owner"]["containerId"] == container
    };
    assert!(eventually(|| is_held_for("c1")));
    // No look sees the moment in which nobody has it.
    reserve(node.run_directory(), "new", "c2\r\nnet1");
    fs::rename(
        node.run_directory().join("new"),
        directory.join("10.0.4.70"),
    )
    .unwrap();
    assert!(eventually(|| is_held_for("c2")), "{:?}", node.ledger());
    assert_eq!(node.addresses(), ["10.0.4.70"]);
    fs::remove_file(directory.join("10.0.4.70")).unwrap();
    let lab = &node.lab;
    assert!(lab.wait_until(DEADLINE, |_| node.addresses().is_empty()));
}

#[test]
fn a_key_that_the_agent_does_not_know_is_named() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let (status, errors) = Agent::spawn(&node, &json!({ "netwrks": [] })).wait();
    assert_eq!(status, Some(1));
    assert!(errors.contains("unknown field `netwrks`"), "{errors}");
}

fn reserve(directory: &Path, name: &str, content: &str) {
    fs::write(directory.join(name), content).unwrap();
}
