//! Pools: addresses that are on the ENI before a pod asks.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Mutex;
use std::thread;

use harness::eni_lab::Hold;
use harness::vpc::{Agent, Vpc, VpcNode, eventually, ip, prev_result};
use harness::{Call, Pod};
use serde_json::{Value, json};

use super::release_command::{give_interface_back, give_whole_eni};

const MUTATIONS: [&str; 4] = [
    "AssignPrivateIpAddresses",
    "UnassignPrivateIpAddresses",
    "AssignIpv6Addresses",
    "UnassignIpv6Addresses",
];

/// An agent's configuration with one pool, of the network `mgmt`.
pub(super) fn pool(keys: &Value) -> Value {
    let mut pool = json!({
        "name": "mgmt", "master": "ens6", "rangesFile": "/run/ranges.json", "cooldownSeconds": 0,
        "ranges": [{ "start": "10.0.4.100", "end": "10.0.4.163" }],
    });
    for (key, value) in keys.as_object().into_iter().flatten() {
        pool[key] = value.clone();
    }
    json!({ "pools": [pool] })
}

pub(super) fn ranges_file(node: &VpcNode) -> PathBuf {
    node.run_directory().join("ranges.json")
}

/// How many addresses host-local may hand out.
pub(super) fn listed(node: &VpcNode) -> u128 {
    let Ok(text) = fs::read(ranges_file(node)) else {
        return 0;
    };
    let file: Value = serde_json::from_slice(&text).unwrap();
    let last = |address: &Value| match address.as_str().unwrap().parse().unwrap() {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    };
    let sets = file["ranges"].as_array().unwrap();
    let ranges = sets.iter().flat_map(|set| set.as_array().unwrap());
    ranges
        .map(|r| last(&r["rangeEnd"]) - last(&r["rangeStart"]) + 1)
        .sum()
}

pub(super) fn host_local(command: &str, pod: &Pod) -> Call {
    let conf = json!({
        "cniVersion": "1.1.0", "name": "mgmt", "type": "ipvlan",
        "ipam": { "type": "host-local", "rangesFile": "/run/ranges.json" },
    });
    Call::ours("host-local", command)
        .conf(&conf)
        .pod(pod, "net1")
}

/// One ADD of the network: host-local, then eni-sync. The address, or nothing when the
/// pool is empty at the moment.
pub(super) fn attach(node: &VpcNode, pod: &Pod) -> Option<String> {
    let output = node.run(&host_local("ADD", pod));
    if output.status != Some(0) {
        return None;
    }
    let cidr = output.ok()["ips"][0]["address"]
        .as_str()
        .unwrap()
        .to_owned();
    let address = cidr.split('/').next().unwrap().to_owned();
    let result = prev_result(pod, &[(&node.mac, &[&address])]);
    let keys = json!({ "prevResult": result, "cooldownSeconds": 0 });
    node.run(&node.conf_call("ADD", pod, &[], &keys)).ok();
    Some(address)
}

pub(super) fn detach(node: &VpcNode, pod: &Pod) {
    node.del(pod);
    node.run(&host_local("DEL", pod)).ok();
}

pub(super) fn mutations(node: &VpcNode) -> u64 {
    let calls = node.lab.calls();
    MUTATIONS
        .iter()
        .filter_map(|action| calls.get(*action))
        .sum()
}

#[test]
fn a_pod_gets_an_address_of_the_pool_without_a_call() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let _agent = Agent::start(&node, &pool(&json!({ "low": 3, "high": 5 })));
    assert!(eventually(|| listed(&node) == 5));
    for action in MUTATIONS {
        node.lab.hold(action, Hold::BeforeCommit);
    }
    let before = mutations(&node);
    let pods = [Pod::new("c1"), Pod::new("c2")];
    for pod in &pods {
        let address = attach(&node, pod).expect("the pool has addresses");
        assert_eq!(vpc.owner(&address), Some(node.eni.clone()));
        assert_eq!(node.ledger()[&address], "held");
    }
    assert_eq!(mutations(&node), before);
    node.lab.release_held();
}

/// The pool has looked at the subnet, and has not claimed what it found free there yet: an
/// attachment with a fixed address in the pool's range may come in between.
#[test]
fn a_pool_takes_no_address_that_an_attachment_claims_while_the_pool_looks_for_free_ones() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let two =
        json!({ "low": 1, "high": 1, "ranges": [{ "start": "10.0.4.100", "end": "10.0.4.101" }] });
    let _agent = Agent::start(&node, &pool(&two));
    assert!(eventually(|| listed(&node) == 1));
    let describe = "DescribeNetworkInterfaces";
    node.lab.hold(describe, Hold::AfterCommit);
    let pooled = Pod::new("pooled");
    let taken = attach(&node, &pooled).expect("the pool has an address");
    assert!(
        eventually(|| node.lab.held() == 1),
        "{:?}",
        node.lab.calls()
    );
    let fixed = ["10.0.4.100", "10.0.4.101"];
    let fixed = fixed.into_iter().find(|address| *address != taken).unwrap();
    let pod = Pod::new("fixed");
    thread::scope(|scope| {
        let add = scope.spawn(|| node.add(&pod, &[fixed]));
        let is_claimed = || {
            node.ledger()
                .get(fixed)
                .is_some_and(|state| state == "claiming")
        };
        assert!(eventually(is_claimed), "{:?}", node.ledger());
        node.lab.release_held();
        add.join().unwrap().ok();
    });
    assert_eq!(node.ledger()[fixed], "held");
    let entry = fs::read_to_string(node.ledger_path().join(fixed)).unwrap();
    assert!(entry.contains(r#""containerId":"fixed""#), "{entry}");
    assert_eq!(vpc.owner(fixed), Some(node.eni.clone()));
}

/// An attachment goes on without an address of the range that another node has.
#[test]
fn what_an_attachment_only_claims_is_not_listed() {
    let vpc = Vpc::new();
    let (node, other) = (vpc.node(), vpc.node());
    other.add(&Pod::new("theirs"), &["10.0.4.100"]).ok();
    let (pod, lenient) = (Pod::new("c1"), json!({ "strict": false }));
    let call = node.conf_call("ADD", &pod, &["10.0.4.100"], &lenient);
    node.run(&call).ok();
    let two =
        json!({ "low": 1, "high": 1, "ranges": [{ "start": "10.0.4.100", "end": "10.0.4.101" }] });
    let _agent = Agent::start(&node, &pool(&two));
    let text = || fs::read_to_string(ranges_file(&node)).unwrap_or_default();
    assert!(eventually(|| text().contains("10.0.4.101")), "{}", text());
    assert_eq!(node.ledger()["10.0.4.100"], "claiming");
    assert!(!text().contains("10.0.4.100"), "{}", text());
}

#[test]
fn a_pool_is_refilled_when_it_is_low_and_shrinks_when_it_is_high() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let _agent = Agent::start(&node, &pool(&json!({ "low": 2, "high": 3 })));
    assert!(eventually(|| listed(&node) == 3));
    let pods: Vec<Pod> = (0..5).map(|n| Pod::new(&format!("c{n}"))).collect();
    for pod in &pods {
        assert!(eventually(|| attach(&node, pod).is_some()));
    }
    assert!(
        eventually(|| node.addresses().len() >= 7),
        "{:?}",
        node.ledger()
    );
    for pod in &pods {
        detach(&node, pod);
    }
    assert!(
        eventually(|| node.addresses().len() == 3),
        "{:?}",
        node.ledger()
    );
    let all_pooled = || node.ledger().values().all(|state| state == "pooled");
    assert!(eventually(all_pooled), "{:?}", node.ledger());
    assert!(eventually(|| listed(&node) == 3));
}

#[test]
fn without_water_marks_the_whole_range_is_assigned_as_far_as_the_eni_has_room() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let few = json!({ "ranges": [{ "start": "10.0.4.250", "end": "10.0.4.255" }] });
    let agent = Agent::start(&node, &pool(&few));
    assert!(
        eventually(|| node.addresses().len() == 5),
        "the last one is AWS'"
    );
    agent.stop();
    let other = vpc.node();
    let _agent = Agent::start(&other, &pool(&json!({})));
    assert!(
        eventually(|| other.addresses().len() == 9),
        "c5.large has ten"
    );
}

#[test]
fn a_pool_takes_no_address_of_a_pod_that_has_the_whole_eni() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let address = "10.0.4.100";
    node.lab.assign(&node.eni, &[ip(address)]);
    let pod = Pod::new("c1");
    give_whole_eni(&node, &pod);
    give_interface_back(&node);
    let configuration = pool(&json!({ "low": 1, "high": 2 }));
    let state = || node.ledger().get(address).cloned().unwrap_or_default();
    let agent = Agent::start(&node, &configuration);
    assert!(eventually(|| state() == "adopted"), "{}", agent.log());
    drop(agent);
    node.let_time_pass(120);
    // It is confirmed before the next agent fills the pool, which takes what is confirmed first.
    node.command(&["sync", "--once"]);
    let agent = Agent::start(&node, &configuration);
    let said = "a pod may have it with the whole ENI: container c1";
    assert!(eventually(|| agent.log().contains(said)), "{}", agent.log());
    assert_eq!(state(), "adopted");
}

#[test]
fn a_pool_survives_its_agent() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let configuration = pool(&json!({ "low": 3, "high": 5 }));
    let agent = Agent::start(&node, &configuration);
    assert!(eventually(|| listed(&node) == 5));
    let addresses = node.addresses();
    agent.kill();
    fs::remove_file(ranges_file(&node)).unwrap();
    let _agent = Agent::start(&node, &configuration);
    assert!(eventually(|| listed(&node) == 5));
    assert_eq!(node.addresses(), addresses);
}

/// EC2 has executed a request of a pool, its answer was lost with the agent, and the next agent
/// was refused. `pool` is the name of the pool.
fn refused_claim(node: &VpcNode, address: &str, pool: &str) {
    node.lab.assign(&node.eni, &[ip(address)]);
    let entry = json!({
        "address": address, "state": "claiming", "takeover": "never", "bestEffort": false,
        "refusal": { "code": 11, "msg": "throttled", "details": "" }, "since": 1,
        "owner": {
            "network": "mgmt", "containerId": "", "ifname": "", "pool": pool, "cooldownSeconds": 0,
        },
    });
    fs::write(node.ledger_path().join(address), entry.to_string()).unwrap();
}

#[test]
fn a_claim_of_a_pool_that_was_refused_ends_while_the_pool_is_full_or_not_configured() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let configuration = pool(&json!({ "low": 1, "high": 3 }));
    let agent = Agent::start(&node, &configuration);
    assert!(eventually(|| listed(&node) == 3));
    drop(agent);
    let pooled = node.addresses();
    let claims = [("10.0.4.170", "mgmt"), ("10.0.4.171", "former")];
    for (address, pool) in claims {
        refused_claim(&node, address, pool);
    }
    let agent = Agent::start(&node, &configuration);
    let has_ended = || {
        let ledger = node.ledger();
        claims
            .iter()
            .all(|(address, _)| ledger[*address] == "withdrawn")
    };
    assert!(eventually(has_ended), "{}", agent.log());
    drop(agent);
    node.let_time_pass(61);
    let agent = Agent::start(&node, &configuration);
    assert!(eventually(|| node.addresses() == pooled), "{}", agent.log());
}

#[test]
fn both_families_have_a_pool_of_their_own() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let ranges = json!([
        { "start": "10.0.4.100", "end": "10.0.4.109" },
        { "start": "2001:db8:4::100", "end": "2001:db8:4::1ff" },
    ]);
    let keys = json!({ "ranges": ranges, "low": 2, "high": 2 });
    let _agent = Agent::start(&node, &pool(&keys));
    assert!(
        eventually(|| node.addresses().len() == 4),
        "{:?}",
        node.ledger()
    );
    let pod = Pod::new("c1");
    assert!(eventually(|| listed(&node) == 4));
    let output = node.run(&host_local("ADD", &pod)).ok();
    assert_eq!(output["ips"].as_array().unwrap().len(), 2, "{output}");
}

#[test]
fn a_pool_that_makes_no_sense_is_refused() {
    let vpc = Vpc::new();
    let node = vpc.node();
    for (keys, said) in [
        (json!({ "low": 3, "high": 2 }), "low 3 is above high 2"),
        (json!({ "ranges": [] }), "has no ranges"),
        (
            json!({ "ranges": [{ "start": "10.0.4.9", "end": "10.0.4.8" }] }),
            "10.0.4.9 to 10.0.4.8 is not a range",
        ),
        (
            json!({ "ranges": [{ "start": "2001:db8:4::", "end": "2001:db8:4::1:0" }] }),
            "is not a range of up to 65536 addresses",
        ),
        (json!({ "rangesFile": "ranges.json" }), "is not absolute"),
        (json!({ "name": "../x" }), "is not the name of a network"),
    ] {
        let (status, errors) = Agent::spawn(&node, &pool(&keys)).wait();
        assert_eq!(status, Some(1));
        assert!(errors.contains(said), "{errors}");
    }
}

/// Three nodes, one network, no coordinator: 300 pods come and go in parallel while
/// nodes die and others take their place.
#[test]
fn no_address_is_on_two_running_pods_of_a_cluster() {
    let vpc = Vpc::new();
    let living = Mutex::new(BTreeSet::new());
    thread::scope(|scope| {
        for number in 0..3 {
            let (vpc, living) = (&vpc, &living);
            scope.spawn(move || {
                for life in 0..2 {
                    live(vpc, living, &format!("n{number}-{life}"));
                }
            });
        }
    });
    let owned: Vec<_> = (100..164)
        .filter_map(|n| vpc.owner(&format!("10.0.4.{n}")))
        .collect();
    assert!(
        owned.is_empty(),
        "the addresses of dead nodes have gone with their ENIs"
    );
}

fn attach_when_there_are_some(node: &VpcNode, pod: &Pod) -> String {
    let address = Mutex::new(None);
    let attached = || {
        *address.lock().unwrap() = attach(node, pod);
        address.lock().unwrap().is_some()
    };
    // Without a file of ranges, asking host-local only costs time.
    assert!(eventually(|| listed(node) > 0), "{:?}", node.lab.calls());
    assert!(eventually(attached), "{:?}", node.ledger());
    address.into_inner().unwrap().expect("it was attached")
}

/// The life of a node: 50 pods, at most four at a time, and its death with some of them.
fn live(vpc: &Vpc, living: &Mutex<BTreeSet<String>>, name: &str) {
    let node = vpc.node();
    let agent = Agent::start(&node, &pool(&json!({ "low": 3, "high": 6 })));
    let mut pods: Vec<(Pod, String)> = Vec::new();
    for number in 0..50 {
        if pods.len() == 4 {
            let (pod, address) = pods.remove((number * 7) % 4);
            assert!(living.lock().unwrap().remove(&address));
            detach(&node, &pod);
        }
        let pod = Pod::new(&format!("{name}-{number}"));
        let address = attach_when_there_are_some(&node, &pod);
        assert_eq!(vpc.owner(&address), Some(node.eni.clone()));
        let is_new = living.lock().unwrap().insert(address.clone());
        assert!(is_new, "{address} is on another living pod");
        pods.push((pod, address));
    }
    agent.kill();
    node.lab.terminate_instance(&node.instance);
    let mut living = living.lock().unwrap();
    for (_, address) in pods {
        assert!(living.remove(&address));
    }
}
