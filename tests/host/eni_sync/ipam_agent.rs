//! A network without addresses on a node with an agent, which asks EC2 for all pods.

use std::fs;
use std::io::Read;
use std::net::Shutdown;
use std::os::unix::net::UnixListener;
use std::thread;

use harness::Call;
use harness::eni_lab::Hold;
use harness::vpc::{Agent, Vpc, eventually, ip, while_held};
use serde_json::json;

use super::ipam::{ASSIGN, add, addresses, call, calls, del, intents, ipv4, sharing, whole};

/// The same call of a plugin that does not reach AWS: whatever it gets, the agent has got.
fn without_aws(call: Call) -> Call {
    call.env("AWS_ENDPOINT_URL_EC2", "http://127.0.0.1:1")
        .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1")
}

#[test]
fn the_agent_asks_for_the_plugin_and_gives_back_what_is_over() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let _agent = Agent::start(&node, &json!({}));
    let pod = sharing(&node, "c1");
    let ipam = json!({ "cooldownSeconds": 0 });
    let result = node.run(&without_aws(call(&node, "ADD", &pod, &ipam))).ok();
    for address in addresses(&result) {
        assert_eq!(node.ledger()[&address], "held");
        assert_eq!(vpc.owner(&address), Some(node.eni.clone()));
    }
    let gateway = result["ips"][0]["gateway"].as_str();
    assert_eq!((addresses(&result).len(), gateway), (2, Some("10.0.4.1")));
    node.run(&without_aws(call(&node, "DEL", &pod, &ipam))).ok();
    assert!(eventually(|| node.addresses().is_empty()));
}

#[test]
fn many_pods_share_the_calls_of_the_agent() {
    let vpc = Vpc::new();
    let node = vpc.node_of_type("c5.4xlarge");
    let _agent = Agent::start(&node, &json!({}));
    let pods: Vec<_> = (0..16).map(|n| sharing(&node, &format!("c{n}"))).collect();
    node.lab
        .rules(|rules| rules.latency = std::time::Duration::from_millis(300));
    let given: Vec<String> = thread::scope(|scope| {
        let adds: Vec<_> = pods
            .iter()
            .map(|pod| scope.spawn(|| add(&node, pod)))
            .collect();
        adds.into_iter().map(|add| add.join().unwrap()).collect()
    });
    let mut different = given.clone();
    different.sort();
    different.dedup();
    assert_eq!((different.len(), node.addresses().len()), (16, 16));
    assert!(calls(&node, ASSIGN) <= 8, "{:?}", node.lab.calls());
    assert_eq!(intents(&node), [""; 0]);
}

#[test]
fn the_agent_gives_a_whole_eni_its_own_addresses() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.lab.assign(&node.eni, &[ip("10.0.4.30")]);
    let _agent = Agent::start(&node, &json!({}));
    let pod = whole(&node, "c1");
    let output = node.run(&without_aws(call(&node, "ADD", &pod, &json!({}))));
    let primary = node.lab.primary(&node.eni).to_string();
    assert_eq!(addresses(&output.ok()), [primary.as_str(), "10.0.4.30"]);
}

#[test]
fn an_agent_of_an_earlier_version_leaves_the_work_to_the_plugin() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = sharing(&node, "c1");
    let directory = node.run_directory().join("eni-cni");
    fs::create_dir(&directory).unwrap();
    let listener = UnixListener::bind(directory.join("agent.sock")).unwrap();
    thread::scope(|scope| {
        // It reads a request that it does not know, and closes the connection.
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            assert!(text.contains(r#""ask":"choose""#), "{text}");
            stream.shutdown(Shutdown::Both).unwrap();
        });
        let address = add(&node, &pod);
        assert_eq!(node.addresses(), [address]);
    });
}

#[test]
fn an_agent_that_is_killed_in_its_call_loses_no_address() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let agent = Agent::start(&node, &json!({}));
    let pod = sharing(&node, "c1");
    let held = (ASSIGN, Hold::AfterCommit);
    let call = call(&node, "ADD", &pod, &ipv4());
    let (output, ()) = while_held(
        &node.lab,
        held,
        || node.run(&call),
        || {
            agent.kill();
            assert!(eventually(|| node.lab.held() == 0));
        },
    );
    // The plugin goes on by itself, and finds what EC2 has chosen.
    let address = addresses(&output.ok()).remove(0);
    assert_eq!(node.addresses(), [address]);
    del(&node, &pod);
}
