//! What must never happen, 7, where the ENI has not had the address: a pod of a network without
//! eni-sync, or the node itself, has it although EC2 does not know. An address that is on an
//! interface is seen by every test, so each has its own subnet or address.

use std::thread;

use harness::vpc::{Agent, Vpc, assert_refused, eventually, prev_result};
use harness::{Pod, Resident, is_waited_for};
use serde_json::{Value, json};

use super::ipam::{add, addresses, call, ipv4, sharing, whole};
use super::pool::{host_local, listed, pool};
use super::pool_of_prefixes::{self, listing, of_ipv4};
use super::pool_of_prefixes_givers::{Stopped, Stopping};
use super::prefixes::{kept, node_of_its_own, one, prefixes};
use super::rules_of_giving::{named, put, requests, take_off, unknown_pod};

const USED: &str = "it is on an interface of a pod";

#[test]
fn rule_7_what_a_pod_has_that_is_not_on_the_eni_is_given_to_no_other_pod() {
    let address = "10.0.4.214";
    let vpc = Vpc::new();
    let node = vpc.node();
    let unknown = unknown_pod(&node, address);
    let next = sharing(&node, "next");
    for request in requests(&node, &next, address) {
        assert_refused(&node, &request, 11, &[address, USED]);
    }
    // Nobody has put it on the ENI.
    node.del(&next);
    assert_eq!(node.ledger()[address], "withdrawn");
    // The pod itself registers what it has.
    node.run(&node.pod_call("ADD", &unknown, &[address])).ok();
    node.del(&unknown);
    take_off(&unknown, address);
    node.run(&call(&node, "ADD", &next, &named(address))).ok();
}

#[test]
fn rule_7_what_a_pod_has_is_given_to_nobody_when_ec2_chooses_it() {
    let vpc = Vpc::new();
    let node = node_of_its_own(&vpc, "10.0.61.0/24");
    let first = add(&node, &sharing(&node, "c1"));
    let next = first.replace(".61.5", ".61.6");
    assert_ne!(first, next, "EC2 chooses the first free address");
    let unknown = unknown_pod(&node, &next);
    let chosen = add(&node, &sharing(&node, "c2"));
    assert_ne!(chosen, next);
    assert_eq!(node.ledger()[&next], "releasing");
    // It leaves, or the next pod gets it, when nobody has it.
    node.end_cooldown(&next);
    assert_eq!(node.command(&["sync", "--once"]).status, Some(0));
    assert!(node.addresses().contains(&next));
    take_off(&unknown, &next);
    node.end_cooldown(&next);
    assert_eq!(add(&node, &sharing(&node, "c3")), next);
}

#[test]
fn rule_7_a_pool_claims_no_address_that_a_pod_has_or_host_local_has_reserved() {
    let vpc = Vpc::new();
    let node = node_of_its_own(&vpc, "10.0.62.0/24");
    let _unknown = unknown_pod(&node, "10.0.62.100");
    let other = json!({
        "cniVersion": "1.1.0", "name": "other", "type": "ipvlan",
        "ipam": {
            "type": "host-local", "subnet": "10.0.62.0/24",
            "rangeStart": "10.0.62.101", "rangeEnd": "10.0.62.101",
        },
    });
    let reserved = host_local("ADD", &Pod::new("reserved")).conf(&other);
    node.run(&reserved).ok();
    let range = json!({ "start": "10.0.62.100", "end": "10.0.62.102" });
    let three = pool(&json!({ "ranges": [range], "low": 3, "high": 3 }));
    let agent = Agent::start(&node, &three);
    assert!(eventually(|| listed(&node) == 1), "{}", agent.log());
    assert_eq!(node.addresses(), ["10.0.62.102"]);
}

#[test]
fn rule_7_an_address_of_a_new_prefix_that_a_pod_has_is_given_to_nobody() {
    let vpc = Vpc::new();
    let (shared, pooled) = (
        node_of_its_own(&vpc, "10.0.63.0/24"),
        node_of_its_own(&vpc, "10.0.64.0/24"),
    );
    // EC2 chooses the first free ones of the subnets.
    let _unknown = unknown_pod(&shared, "10.0.63.16");
    let agent = kept(&shared, &one(), 1);
    assert_eq!(prefixes(&shared), ["10.0.63.16/28"]);
    assert_eq!(add(&shared, &sharing(&shared, "c1")), "10.0.63.17");
    drop(agent);
    let unknown = unknown_pod(&pooled, "10.0.64.16");
    let agent = listing(&pooled, &of_ipv4(1, 1), 1);
    assert_eq!(prefixes(&pooled), ["10.0.64.16/28"]);
    let given = addresses(&pooled.run(&host_local("ADD", &Pod::new("c1"))).ok()).remove(0);
    assert_eq!(given, "10.0.64.17");
    agent.stop();
    // It is given when nobody has it.
    take_off(&unknown, "10.0.64.16");
    pooled.end_cooldown("10.0.64.16");
    let mut often = of_ipv4(1, 1);
    often["reconcileSeconds"] = json!(1);
    let agent = Agent::start(&pooled, &often);
    let first = || pool_of_prefixes::listed(&pooled)[0][1].clone();
    assert!(eventually(|| first() == "10.0.64.16"), "{}", agent.log());
}

/// A pod that shares the ENI names its primary address, or has the same as another one.
#[test]
fn rule_7_the_primary_address_of_an_eni_is_for_one_pod_and_not_while_the_node_has_it() {
    let vpc = Vpc::new();
    let node = node_of_its_own(&vpc, "10.0.65.0/24");
    let primary = "10.0.65.4";
    let mut requests = Vec::new();
    let pods = ["c1", "c2"].map(|id| whole(&node, id));
    for pod in &pods {
        requests.push(node.pod_call("ADD", pod, &[primary]));
        requests.push(call(&node, "ADD", pod, &ipv4()));
    }
    let netns = &node.node.netns;
    netns.ip(&["address", "add", "10.0.65.4/24", "dev", "ens6"]);
    for request in &requests {
        let said = "interface \"ens6\" of the node has it";
        assert_refused(&node, request, 7, &[primary, said]);
    }
    netns.ip(&["address", "del", "10.0.65.4/24", "dev", "ens6"]);
    for request in &requests[..2] {
        node.run(request).ok();
    }
    put(&pods[0], primary);
    let _process = Resident::inside(&pods[0].netns.path());
    for request in &requests[..2] {
        node.run(request).ok();
    }
    for request in &requests[2..] {
        assert_refused(&node, request, 11, &[primary, USED]);
    }
}

/// host-local would hand it out to another pod.
#[test]
fn an_address_of_a_pool_is_given_by_host_local_alone() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let two =
        json!({ "low": 2, "high": 2, "ranges": [{ "start": "10.0.4.180", "end": "10.0.4.181" }] });
    let agent = Agent::start(&node, &pool(&two));
    assert!(eventually(|| listed(&node) == 2));
    let pod = sharing(&node, "c1");
    let by_name = call(&node, "ADD", &pod, &named("10.0.4.180"));
    node.lab.reset_calls();
    assert_refused(&node, &by_name, 7, &["10.0.4.180 is in a pool of"]);
    assert_eq!(node.ledger()["10.0.4.180"], "pooled");
    // A network with ranges of its own, which overlap: the pool does not give the address again.
    let result = prev_result(&pod, &[(&node.mac, &["10.0.4.180"])]);
    let keys = json!({ "name": "other", "prevResult": result });
    node.run(&node.conf_call("ADD", &pod, &[], &keys)).ok();
    assert!(eventually(|| listed(&node) == 1), "{}", agent.log());
    // What host-local has reserved in a network that does not chain eni-sync.
    let unchained = Pod::new("c2");
    let given = addresses(&node.run(&host_local("ADD", &unchained)).ok()).remove(0);
    assert_eq!(given, "10.0.4.181");
    let chained = |pod: &Pod| {
        let result = prev_result(pod, &[(&node.mac, &[&given])]);
        let keys = json!({ "name": "other", "prevResult": result });
        node.conf_call("ADD", pod, &[], &keys)
    };
    let said = [given.as_str(), "host-local has reserved it"];
    node.lab.reset_calls();
    assert_refused(&node, &chained(&sharing(&node, "c3")), 11, &said);
    node.run(&chained(&unchained)).ok();
}

#[test]
fn an_address_that_leaves_its_pool_stays_while_an_add_that_has_read_the_file_reserves_it() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let two = |keys: &Value| {
        let range = json!({ "start": "10.0.4.182", "end": "10.0.4.183" });
        let mut pool = pool(&json!({ "low": 0, "high": 2, "ranges": [range] }));
        pool["exclude"] = keys.clone();
        pool
    };
    let mut first = two(&json!([]));
    first["pools"][0]["low"] = json!(2);
    let agent = Agent::start(&node, &first);
    assert!(eventually(|| listed(&node) == 2), "{}", agent.log());
    agent.stop();
    // host-local has a store.
    let former = Pod::new("c0");
    for command in ["ADD", "DEL"] {
        node.run(&host_local(command, &former)).ok();
    }
    let lock = node.node.state().join("networks/mgmt/lock");
    let (stopping, pod) = (Stopping::new(&node), Pod::new("c1"));
    thread::scope(|scope| {
        let reserving = scope.spawn(|| stopping.run(&pod));
        assert!(eventually(|| stopping.process().is_some()));
        let stopped = Stopped(stopping.process().unwrap());
        let agent = Agent::start(&node, &two(&json!(["10.0.4.182", "10.0.4.183"])));
        let is_decided = || is_waited_for(&lock) || node.addresses().len() < 2;
        assert!(eventually(is_decided), "{}", agent.log());
        assert_eq!(listed(&node), 0, "{}", agent.log());
        drop(stopped);
        let result = reserving.join().unwrap().ok();
        let address = addresses(&result).remove(0);
        let said = format!("{address} stays: host-local ");
        assert!(
            eventually(|| agent.log().contains(&said)),
            "{}",
            agent.log()
        );
        assert!(node.addresses().contains(&address), "{}", agent.log());
    });
}
