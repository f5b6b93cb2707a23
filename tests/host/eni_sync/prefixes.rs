//! Prefixes: sixteen addresses, or far more, in the place of one, that pods of networks without
//! addresses get without a call.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use fixtures::scrape::{ADDRESS, Scrape};
use harness::Pod;
use harness::eni_lab::Limits;
use harness::vpc::{Agent, Vpc, VpcNode, eventually, ip, is_unchanged};
use serde_json::{Value, json};

use super::ipam::{ASSIGN, ASSIGN_V6, add, addresses, call, calls, del, intents, ipv4, sharing};

pub(super) const UNASSIGN: &str = "UnassignPrivateIpAddresses";

/// The configuration of an agent that keeps these prefixes, and gives them back at once.
pub(super) fn keeping(prefixes: &Value) -> Value {
    let mut prefixes = prefixes.clone();
    prefixes["cooldownSeconds"] = json!(0);
    json!({ "prefixes": prefixes })
}

/// The configuration of an agent that keeps one free IPv4 prefix.
pub(super) fn one() -> Value {
    keeping(&json!({ "ipv4": { "low": 1, "high": 1 } }))
}

pub(super) fn prefixes(node: &VpcNode) -> Vec<String> {
    node.lab.prefixes(&node.eni)
}

/// The prefixes in the ledger with their states.
pub(super) fn known(node: &VpcNode) -> Vec<(String, String)> {
    node.prefixes_of(&node.eni)
}

/// Whether an address is one of the prefixes that EC2 has on the node's ENI.
#[track_caller]
pub(super) fn assert_in_prefix(node: &VpcNode, address: &str) {
    let found = prefixes(node);
    let is_in = found.iter().any(|prefix| contains(prefix, address));
    assert!(is_in, "{address} is in none of {found:?}");
}

/// Whether an address is one of a prefix.
pub(super) fn contains(prefix: &str, address: &str) -> bool {
    let (first, length) = prefix.split_once('/').unwrap();
    let length: u32 = length.parse().unwrap();
    let network = |text: &str| match ip(text) {
        IpAddr::V4(v4) => u128::from(v4.to_bits() >> (32 - length)),
        IpAddr::V6(v6) => v6.to_bits() >> (128 - length),
    };
    first.contains(':') == address.contains(':') && network(first) == network(address)
}

/// A node whose ENI is in a subnet that no other test has: whoever gives a prefix back looks
/// into the namespaces of all processes, also those of other tests.
pub(super) fn node_of_its_own(vpc: &Vpc, cidr: &str) -> VpcNode {
    let subnet = vpc.lab.create_subnet(&vpc.id, cidr, None);
    vpc.node_in(&subnet)
}

/// An agent that has its prefixes on a node.
pub(super) fn kept(node: &VpcNode, configuration: &Value, count: usize) -> Agent {
    let agent = Agent::start(node, configuration);
    // Until it has heard EC2's answer, what others assign may be what EC2 chose.
    let is_unheard = || intents(node).iter().any(|n| n.starts_with(".asked-"));
    assert!(eventually(|| {
        prefixes(node).len() == count && known(node).len() == count && !is_unheard()
    }));
    agent
}

#[test]
fn pods_get_addresses_of_prefixes_without_a_call_and_with_the_mask_of_the_subnet() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let both = keeping(&json!({ "ipv4": { "low": 1, "high": 2 }, "ipv6": 1 }));
    let _agent = kept(&node, &both, 3);
    assert_eq!((calls(&node, ASSIGN), calls(&node, ASSIGN_V6)), (1, 1));
    node.lab.reset_calls();
    for number in 0..3 {
        let pod = sharing(&node, &format!("c{number}"));
        let result = node.run(&call(&node, "ADD", &pod, &json!({}))).ok();
        let found = addresses(&result);
        assert_eq!(found.len(), 2, "{result}");
        for address in &found {
            assert_in_prefix(&node, address);
            assert_eq!(node.ledger()[address], "held");
            assert_eq!(vpc.owner(address), Some(node.eni.clone()));
        }
        let expected = json!([
            { "address": format!("{}/24", found[0]), "gateway": "10.0.4.1" },
            { "address": format!("{}/64", found[1]) },
        ]);
        assert_eq!(result["ips"], expected);
    }
    assert!(is_unchanged(&node), "{:?}", node.lab.calls());
    assert!(node.addresses().is_empty(), "{:?}", node.addresses());
}

#[test]
fn without_an_agent_pods_get_what_the_ledger_knows_and_then_single_addresses() {
    let vpc = Vpc::new();
    let node = vpc.node();
    drop(kept(&node, &one(), 1));
    node.lab.reset_calls();
    let pods: Vec<Pod> = (0..17).map(|n| sharing(&node, &format!("c{n}"))).collect();
    let given: BTreeSet<String> = pods[..16].iter().map(|pod| add(&node, pod)).collect();
    assert_eq!(given.len(), 16);
    given
        .iter()
        .for_each(|address| assert_in_prefix(&node, address));
    assert_eq!(calls(&node, ASSIGN), 0);
    let single = add(&node, &pods[16]);
    assert_eq!(node.addresses(), [single]);
    assert_eq!(prefixes(&node).len(), 1);
}

#[test]
fn an_address_of_a_prefix_has_its_cool_down_and_costs_no_call_when_it_is_over() {
    let vpc = Vpc::new();
    let node = vpc.node();
    drop(kept(&node, &one(), 1));
    let pod = sharing(&node, "c1");
    let address = add(&node, &pod);
    node.lab.reset_calls();
    del(&node, &pod);
    assert_eq!(node.ledger()[&address], "releasing");
    // Within the cool-down it is not for others.
    assert_ne!(add(&node, &sharing(&node, "c2")), address);
    node.end_cooldown(&address);
    node.gc(&[&Pod::new("c2")]);
    assert!(!node.ledger().contains_key(&address));
    assert_eq!(add(&node, &sharing(&node, "c3")), address);
    assert_eq!((calls(&node, ASSIGN), calls(&node, UNASSIGN)), (0, 0));
}

#[test]
fn an_address_of_a_prefix_that_a_pod_still_has_is_for_nobody_else() {
    let vpc = Vpc::new();
    let node = vpc.node();
    drop(kept(&node, &one(), 1));
    let pods: Vec<Pod> = (0..16).map(|n| sharing(&node, &format!("c{n}"))).collect();
    let given: Vec<String> = pods.iter().map(|pod| add(&node, pod)).collect();
    let cidr = format!("{}/24", given[3]);
    pods[3].netns.ip(&["address", "add", &cidr, "dev", "net1"]);
    del(&node, &pods[3]);
    node.end_cooldown(&given[3]);
    let next = add(&node, &sharing(&node, "next"));
    assert!(!given.contains(&next), "{next}");
}

#[test]
fn many_pods_at_once_get_more_prefixes_with_one_call() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let _agent = kept(&node, &one(), 1);
    node.lab.reset_calls();
    let pods: Vec<Pod> = (0..40).map(|n| sharing(&node, &format!("c{n}"))).collect();
    node.lab
        .rules(|rules| rules.latency = Duration::from_millis(500));
    let given: BTreeSet<String> = thread::scope(|scope| {
        let adds: Vec<_> = pods
            .iter()
            .map(|pod| scope.spawn(|| add(&node, pod)))
            .collect();
        adds.into_iter().map(|add| add.join().unwrap()).collect()
    });
    assert_eq!(given.len(), pods.len());
    given
        .iter()
        .for_each(|address| assert_in_prefix(&node, address));
    assert!(calls(&node, ASSIGN) <= 5, "{:?}", node.lab.calls());
    assert!(node.addresses().is_empty(), "{:?}", node.addresses());
}

#[test]
fn a_prefix_that_nobody_needs_is_given_back_and_one_with_a_pod_stays() {
    let vpc = Vpc::new();
    let node = node_of_its_own(&vpc, "10.0.71.0/24");
    let three = keeping(&json!({ "ipv4": { "low": 3, "high": 3 } }));
    drop(kept(&node, &three, 3));
    let pod = sharing(&node, "c1");
    let address = add(&node, &pod);
    // An address of the second one is on the node itself.
    let second = prefixes(&node)[1].replace("/28", "");
    node.node
        .netns
        .ip(&["address", "add", &format!("{second}/32"), "dev", "lo"]);
    let _agent = Agent::start(&node, &one());
    assert!(eventually(|| prefixes(&node).len() == 2));
    assert!(eventually(|| known(&node).len() == 2));
    assert_in_prefix(&node, &address);
    assert_in_prefix(&node, &second);
}

#[test]
fn a_reservation_of_host_local_keeps_its_prefix() {
    let vpc = Vpc::new();
    let node = node_of_its_own(&vpc, "10.0.72.0/24");
    let three = keeping(&json!({ "ipv4": { "low": 3, "high": 3 } }));
    drop(kept(&node, &three, 3));
    let last = prefixes(&node)[2].replace("/28", "");
    let store = node.node.state().join("networks/other");
    fs::create_dir_all(&store).unwrap();
    fs::write(store.join(&last), "c9\neth0").unwrap();
    let agent = Agent::start(&node, &one());
    assert!(eventually(|| prefixes(&node).len() == 2));
    assert_in_prefix(&node, &last);
    drop(agent);
}

#[test]
fn without_free_prefixes_pods_get_single_addresses_and_it_is_said_once() {
    let vpc = Vpc::new();
    let node = vpc.node();
    // A single address in every /28 of the subnet.
    let limits = Limits {
        interfaces: 8,
        ipv4: 300,
        ipv6: 30,
        cards: 1,
    };
    vpc.lab.rules(|rules| {
        rules.limit_overrides.insert("c5.large".to_owned(), limits);
    });
    let other = vpc.node();
    let spoiled: Vec<_> = (1..15)
        .map(|n| ip(&format!("10.0.4.{}", n * 16 + 8)))
        .collect();
    vpc.lab.assign(&other.eni, &spoiled);
    let agent = Agent::start(&node, &one());
    let says = |text: &str| agent.log().matches(text).count();
    assert!(eventually(|| says("InsufficientCidrBlocks") == 1));
    let pods = [sharing(&node, "c1"), sharing(&node, "c2")];
    let given = pods.each_ref().map(|pod| add(&node, pod));
    assert_eq!(node.addresses().len(), given.len());
    assert_eq!(says("InsufficientCidrBlocks"), 1, "{}", agent.log());
    for said in [
        node.eni.as_str(),
        vpc.pods.as_str(),
        "reservation-type prefix",
    ] {
        assert!(agent.log().contains(said), "{said}: {}", agent.log());
    }
    assert!(prefixes(&node).is_empty() && known(&node).is_empty());
}

#[test]
fn an_eni_without_room_and_a_subnet_without_the_family_are_named_and_left_alone() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let full: Vec<_> = (20..29).map(|n| ip(&format!("10.0.4.{n}"))).collect();
    vpc.lab.assign(&node.eni, &full);
    let agent = Agent::start(&node, &one());
    let said = || agent.log();
    assert!(
        eventually(|| said().contains("no room for an IPv4 prefix")),
        "{}",
        said()
    );
    for text in [node.eni.as_str(), "10 of 10", "c5.large"] {
        assert!(said().contains(text), "{text}: {}", said());
    }
    assert_eq!(calls(&node, ASSIGN), 0);
    drop(agent);
    let narrow = vpc.lab.create_subnet(&vpc.id, "10.0.6.0/24", None);
    let node = vpc.node_in(&narrow);
    let agent = Agent::start(&node, &keeping(&json!({ "ipv6": 1 })));
    let said = || agent.log();
    assert!(
        eventually(|| said().contains("no IPv6 range")),
        "{}",
        said()
    );
    assert!(said().contains(narrow.as_str()) && said().contains(node.eni.as_str()));
    assert_eq!(calls(&node, ASSIGN_V6), 0);
}

#[test]
fn an_address_by_name_that_is_in_a_prefix_is_refused_with_its_owner() {
    let vpc = Vpc::new();
    let (node, other) = (vpc.node(), vpc.node());
    drop(kept(&node, &one(), 1));
    drop(kept(&other, &one(), 1));
    let named = |prefix: &str| prefix.replace(".16/28", ".20").replace(".32/28", ".36");
    let own = named(&prefixes(&node)[0]);
    let theirs = named(&prefixes(&other)[0]);
    for (address, code, owner) in [(&own, 7, &node.eni), (&theirs, 11, &other.eni)] {
        let pod = sharing(&node, "c1");
        let ipam = json!({ "families": ["ipv4"], "addresses": [address] });
        let error = node.run(&call(&node, "ADD", &pod, &ipam)).error_code(code);
        let text = format!("{} {}", error.msg, error.details);
        for said in [address.as_str(), "/28", owner.as_str()] {
            assert!(text.contains(said), "{said}: {text}");
        }
        node.run(&call(&node, "DEL", &pod, &ipam)).ok();
    }
    assert_eq!(known(&node).len(), 1);
    assert_eq!(
        node.run(&call(&node, "ADD", &sharing(&node, "c2"), &ipv4()))
            .status,
        Some(0)
    );
}

#[test]
fn what_the_configuration_of_prefixes_cannot_be_is_named() {
    let vpc = Vpc::new();
    let node = vpc.node();
    for (prefixes, said) in [
        (json!({}), "neither ipv4 nor ipv6"),
        (json!(7), "invalid type"),
        (json!({ "ipv4": 2 }), "invalid type"),
        (json!({ "ipv4": { "low": 1 } }), "missing field `high`"),
        (
            json!({ "ipv4": { "low": 3, "high": 2 } }),
            "low 3 is above high 2",
        ),
        (
            json!({ "ipv4": { "low": 0, "high": 0 } }),
            "high 0 is not from 1 to 64",
        ),
        (
            json!({ "ipv4": { "low": 1, "high": 65 } }),
            "high 65 is not from 1 to 64",
        ),
        (json!({ "ipv6": 65 }), "ipv6 65 is above 64"),
        (json!({ "ipv6": -1 }), "invalid value"),
        (json!({ "ipv6": 1, "v4": 1 }), "unknown field `v4`"),
        (
            json!({ "ipv6": 1, "cooldownSeconds": 86401 }),
            "cooldownSeconds 86401",
        ),
        (
            json!({ "ipv6": 1, "master": "ens6", "masterSelector": { "deviceIndex": 1 } }),
            "has both master and masterSelector",
        ),
    ] {
        let agent = Agent::spawn(&node, &json!({ "prefixes": prefixes }));
        let (status, log) = agent.wait();
        assert_eq!(status, Some(1), "{prefixes}: {log}");
        assert!(
            log.contains(said),
            "{said:?} is not said of {prefixes}: {log}"
        );
    }
    assert!(is_unchanged(&node));
}

#[test]
fn status_and_metrics_show_the_prefixes_and_what_they_have_room_for() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let mut configuration = keeping(&json!({ "ipv4": { "low": 1, "high": 2 } }));
    configuration["metrics"] = json!(ADDRESS);
    let agent = kept(&node, &configuration, 2);
    let address = add(&node, &sharing(&node, "c1"));
    let scrape = Scrape::of(&node);
    let eni = &node.eni;
    for (series, value) in [
        (format!("slots_used{{eni=\"{eni}\",family=\"ipv4\"}}"), 3.0),
        // Thirty-one of the prefixes, and sixteen for each slot that is left.
        (format!("pods_left{{eni=\"{eni}\",family=\"ipv4\"}}"), 143.0),
        (format!("pods_left{{eni=\"{eni}\",family=\"ipv6\"}}"), 10.0),
        (
            format!("prefixes{{eni=\"{eni}\",family=\"ipv4\",state=\"pooled\"}}"),
            2.0,
        ),
    ] {
        assert_eq!(scrape.value(&series), value, "{series}\n{scrape:#?}");
    }
    drop(agent);
    let prefix = prefixes(&node).remove(0);
    let text = node.command(&["status"]).stdout;
    let line = text.lines().find(|line| line.contains(&prefix)).unwrap();
    assert!(
        line.contains("pooled") && line.contains("1 addresses taken"),
        "{text}"
    );
    assert!(
        text.contains(&address) && text.contains("IPv4 3/10"),
        "{text}"
    );
    let theirs = "10.0.4.128/28";
    node.lab.assign_prefix(&node.eni, theirs);
    let output = node.command(&["status", "--json", "--live"]);
    let status: Value = serde_json::from_str(&output.stdout).unwrap();
    let enis = status["enis"].as_array().unwrap();
    let eni = enis
        .iter()
        .find(|eni| eni["id"] == node.eni.as_str())
        .unwrap();
    let shown = |prefix: &str| {
        let mut all = eni["prefixes"].as_array().unwrap().iter();
        all.find(|found| found["prefix"] == prefix).unwrap().clone()
    };
    assert_eq!(shown(&prefix)["taken"], 1);
    assert_eq!(shown(&prefix)["differs"], Value::Null);
    assert_eq!(shown(theirs)["differs"], "only-on-eni");
    assert_eq!(eni["ipv4"], json!({ "used": 4, "limit": 10 }));
}
