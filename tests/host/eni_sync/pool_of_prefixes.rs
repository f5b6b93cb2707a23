//! Pools of prefixes: host-local gives out the addresses of an ENI's prefixes, by a ranges file
//! with one range for each prefix. What EC2 has on the ENI is the judge.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Mutex;
use std::thread;

use fixtures::scrape::{ADDRESS, Scrape};
use harness::Pod;
use harness::eni_lab::{Fault, Hold};
use harness::vpc::{Agent, Vpc, VpcNode, eventually};
use serde_json::{Value, json};

use super::ipam::{ASSIGN, add, addresses, calls, sharing};
use super::pool::{attach, detach, host_local, mutations, ranges_file};
use super::prefixes::{assert_in_prefix, contains, keeping, known, node_of_its_own, prefixes};
use super::prefixes_killed::kill_while_asking;

/// An agent's configuration with a pool of the network `mgmt` that has these prefixes.
pub(super) fn pool(prefixes: &Value) -> Value {
    json!({ "pools": [{
        "name": "mgmt", "master": "ens6", "rangesFile": "/run/ranges.json", "cooldownSeconds": 0,
        "prefixes": prefixes,
    }] })
}

pub(super) fn of_ipv4(low: u64, high: u64) -> Value {
    pool(&json!({ "ipv4": { "low": low, "high": high } }))
}

/// The ranges that host-local is told: the subnet, the first and the last address of each.
pub(super) fn listed(node: &VpcNode) -> Vec<[String; 3]> {
    let Ok(text) = fs::read(ranges_file(node)) else {
        return Vec::new();
    };
    let file: Value = serde_json::from_slice(&text).unwrap();
    let sets = file["ranges"].as_array().unwrap();
    let ranges = sets.iter().flat_map(|set| set.as_array().unwrap());
    let keys = ["subnet", "rangeStart", "rangeEnd"];
    ranges
        .map(|range| keys.map(|key| range[key].as_str().unwrap().to_owned()))
        .collect()
}

/// The ranges that are the prefixes which EC2 has on the ENI, in order.
pub(super) fn of_ec2(node: &VpcNode) -> Vec<[String; 3]> {
    let subnet = "10.0.4.0/24";
    let mut firsts: Vec<u8> = prefixes(node)
        .iter()
        .map(|prefix| {
            let first = prefix.strip_prefix("10.0.4.").unwrap();
            first.strip_suffix("/28").unwrap().parse().unwrap()
        })
        .collect();
    firsts.sort_unstable();
    let range = |first: &u8| {
        let address = |last: u8| format!("10.0.4.{last}");
        [subnet.to_owned(), address(*first), address(first + 15)]
    };
    firsts.iter().map(range).collect()
}

/// An agent that has listed this many prefixes.
#[track_caller]
pub(super) fn listing(node: &VpcNode, configuration: &Value, count: usize) -> Agent {
    let agent = Agent::start(node, configuration);
    assert!(
        eventually(|| listed(node).len() == count && prefixes(node).len() == count),
        "{:?}: {}",
        listed(node),
        agent.log()
    );
    agent
}

#[test]
fn the_file_has_one_range_for_each_prefix_and_pods_need_no_call() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let _agent = listing(&node, &of_ipv4(1, 2), 2);
    assert_eq!(listed(&node), of_ec2(&node));
    assert_eq!(calls(&node, ASSIGN), 1);
    let status = node.command(&["status", "--json"]).document();
    let enis = status["enis"].as_array().unwrap().iter();
    let shown: Vec<&Value> = enis
        .flat_map(|eni| eni["prefixes"].as_array().unwrap())
        .map(|prefix| &prefix["rangesFile"])
        .collect();
    assert_eq!(shown, ["/run/ranges.json"; 2], "{status}");
    let before = mutations(&node);
    let result = node.run(&host_local("ADD", &Pod::new("c1"))).ok();
    let ip = &result["ips"][0];
    assert!(ip["address"].as_str().unwrap().ends_with("/24"), "{result}");
    assert_eq!(ip["gateway"], "10.0.4.1", "{result}");
    for id in ["c2", "c3"] {
        let address = attach(&node, &Pod::new(id)).unwrap();
        assert_in_prefix(&node, &address);
        assert_eq!(node.ledger()[&address], "held");
        assert_eq!(vpc.owner(&address), Some(node.eni.clone()));
    }
    assert_eq!(mutations(&node), before);
    assert!(node.addresses().is_empty(), "{:?}", node.addresses());
}

#[test]
fn both_families_have_prefixes_and_the_masks_of_the_subnet() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let both = pool(&json!({ "ipv4": { "low": 1, "high": 1 }, "ipv6": 1 }));
    let _agent = listing(&node, &both, 2);
    let result = node.run(&host_local("ADD", &Pod::new("c1"))).ok();
    let [v4, v6] = &addresses(&result)[..] else {
        panic!("{result}");
    };
    for (ip, address, mask) in [(0, v4, 24), (1, v6, 64)] {
        assert_in_prefix(&node, address);
        assert_eq!(result["ips"][ip]["address"], format!("{address}/{mask}"));
    }
}

#[test]
fn a_pod_gets_an_address_of_each_family_or_waits() {
    let vpc = Vpc::new();
    let node = vpc.node();
    // For IPv6 this is another action.
    let denied = Fault::Error {
        status: 403,
        code: "UnauthorizedOperation".to_owned(),
        message: "no".to_owned(),
    };
    node.lab.fail_next(ASSIGN, u64::MAX, denied);
    let both = pool(&json!({ "ipv4": { "low": 1, "high": 1 }, "ipv6": 1 }));
    let _agent = Agent::start(&node, &both);
    assert!(eventually(
        || prefixes(&node).len() == 1 && ranges_file(&node).exists()
    ));
    assert!(listed(&node).is_empty());
    node.run(&host_local("ADD", &Pod::new("c1"))).error_code(7);
}

#[test]
fn more_prefixes_are_listed_when_pods_have_used_up_what_there_is() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let mut configuration = of_ipv4(1, 1);
    configuration["metrics"] = json!(ADDRESS);
    let agent = listing(&node, &configuration, 1);
    let free = "pool_free_addresses{pool=\"mgmt\",family=\"ipv4\"}";
    assert_eq!(Scrape::of(&node).value(free), 16.0);
    let pods: Vec<Pod> = (0..20).map(|n| Pod::new(&format!("c{n}"))).collect();
    let mut given = BTreeSet::new();
    for pod in &pods {
        let address = Mutex::new(None);
        let is_attached = || {
            let mut address = address.lock().unwrap();
            *address = attach(&node, pod);
            address.is_some()
        };
        assert!(eventually(is_attached), "{}", agent.log());
        given.insert(address.into_inner().unwrap().unwrap());
    }
    assert_eq!(given.len(), pods.len());
    given.iter().for_each(|a| assert_in_prefix(&node, a));
    assert!(node.addresses().is_empty(), "{:?}", node.addresses());
    let is_listed = || listed(&node).len() == 3 && listed(&node) == of_ec2(&node);
    assert!(eventually(is_listed), "{:?}", listed(&node));
    assert_eq!(Scrape::of(&node).value(free), 3.0 * 16.0 - 20.0);
}

/// host-local knows nothing of what eni-sync gives as the IPAM plugin.
#[test]
fn networks_without_addresses_get_none_of_a_pools_prefixes_with_an_agent_and_without() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let agent = listing(&node, &of_ipv4(1, 1), 1);
    let with = add(&node, &sharing(&node, "c1"));
    drop(agent);
    let without = add(&node, &sharing(&node, "c2"));
    let is_in = |address: &String| prefixes(&node).iter().any(|p| contains(p, address));
    assert!(!is_in(&with) && !is_in(&without), "{with} {without}");
    assert_eq!(prefixes(&node).len(), 1);
    // Both have prefixes of their own where the agent keeps them for both.
    let mut both = of_ipv4(1, 1);
    both["prefixes"] = keeping(&json!({ "ipv4": { "low": 1, "high": 1 } }))["prefixes"].take();
    let agent = Agent::start(&node, &both);
    assert!(eventually(|| prefixes(&node).len() == 2), "{}", agent.log());
    let is_given = || is_in(&add(&node, &sharing(&node, "c3")));
    assert!(eventually(is_given));
    let third = addresses_of_ledger(&node).into_iter().find(is_in).unwrap();
    let [[_, first, _]] = &listed(&node)[..] else {
        panic!("{:?}", listed(&node));
    };
    assert!(!contains(&format!("{first}/28"), &third), "{third}");
}

fn addresses_of_ledger(node: &VpcNode) -> Vec<String> {
    node.ledger().into_keys().collect()
}

#[test]
fn nothing_is_listed_before_ec2_has_answered() {
    let vpc = Vpc::new();
    let node = vpc.node();
    for hold in [Hold::BeforeCommit, Hold::AfterCommit] {
        kill_while_asking(&node, &of_ipv4(1, 1), hold);
        assert_eq!(listed(&node), Vec::<[String; 3]>::new(), "{hold:?}");
        // Nothing that was not done is waited for, and what was done is found.
        node.let_time_pass(61);
    }
    // EC2 gave one of which the agent heard nothing: it is still this pool's.
    let _agent = listing(&node, &of_ipv4(1, 1), 1);
    assert_eq!(listed(&node), of_ec2(&node));
    assert_eq!(
        node.run(&host_local("ADD", &Pod::new("c1"))).status,
        Some(0)
    );
}

#[test]
fn what_ec2_does_not_show_any_more_is_not_listed() {
    let vpc = Vpc::new().without_invariants();
    let node = vpc.node();
    drop(listing(&node, &of_ipv4(2, 2), 2));
    let gone = prefixes(&node).remove(0);
    node.lab.unassign_prefix(&node.eni, &gone);
    // No description that is older than the ledger shows it, either.
    node.let_time_pass(120);
    let _agent = Agent::start(&node, &of_ipv4(1, 2));
    let is_unlisted = || {
        !listed(&node)
            .iter()
            .any(|[_, first, _]| contains(&gone, first))
    };
    assert!(eventually(is_unlisted), "{:?}", listed(&node));
    assert_eq!(listed(&node), of_ec2(&node));
}

#[test]
fn addresses_that_are_given_to_nobody_are_not_listed() {
    let vpc = Vpc::new();
    let node = vpc.node();
    drop(listing(&node, &of_ipv4(1, 1), 1));
    let [[subnet, first, last]] = &listed(&node)[..] else {
        panic!("{:?}", listed(&node));
    };
    let number = |text: &str| text.rsplit('.').next().unwrap().parse::<u8>().unwrap();
    let (start, end) = (number(first), number(last));
    let address = |last: u8| format!("10.0.4.{last}");
    let mut configuration = of_ipv4(1, 1);
    configuration["exclude"] = json!([first, format!("{}/30", address(start + 4))]);
    let _agent = Agent::start(&node, &configuration);
    let expected = vec![
        [subnet.clone(), address(start + 1), address(start + 3)],
        [subnet.clone(), address(start + 8), address(end)],
    ];
    let is_listed = || listed(&node).starts_with(&expected);
    assert!(eventually(is_listed), "{:?}", listed(&node));
}

#[test]
fn an_unused_prefix_that_is_found_on_the_eni_belongs_to_the_pool() {
    let vpc = Vpc::new();
    let node = node_of_its_own(&vpc, "10.0.94.0/24");
    let found = "10.0.94.64/28";
    node.lab.assign_prefix(&node.eni, found);
    assert_eq!(node.command(&["sync", "--once"]).status, Some(0));
    assert_eq!(known(&node), [(found.to_owned(), "adopted".to_owned())]);
    // It is used when a second look shows it.
    node.let_time_pass(120);
    assert_eq!(node.command(&["sync", "--once"]).status, Some(0));
    let agent = Agent::start(&node, &of_ipv4(1, 1));
    let is_listed = || {
        listed(&node)
            .iter()
            .any(|[_, first, _]| contains(found, first))
    };
    assert!(eventually(is_listed), "{}", agent.log());
}

#[test]
fn a_pool_of_prefixes_that_makes_no_sense_is_refused() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let ipv4 = json!({ "ipv4": { "low": 1, "high": 1 } });
    let with = |key: &str, value: Value| {
        let mut configuration = pool(&ipv4);
        configuration["pools"][0][key] = value;
        configuration
    };
    let ranges = json!([{ "start": "10.0.4.100", "end": "10.0.4.101" }]);
    let mut two = with("name", json!("other"));
    two["pools"]
        .as_array_mut()
        .unwrap()
        .extend([pool(&ipv4)["pools"][0].clone()]);
    for (configuration, said) in [
        (
            with("ranges", ranges),
            "pool \"mgmt\" has both ranges and prefixes",
        ),
        (
            with("prefixes", Value::Null),
            "pool \"mgmt\" has no ranges and no prefixes",
        ),
        (
            with("high", json!(3)),
            "low and high belong into prefixes.ipv4",
        ),
        (pool(&json!({})), "neither ipv4 nor ipv6 says how many"),
        (of_ipv4(2, 1), "has prefixes: ipv4: low 2 is above high 1"),
        (
            pool(&json!({ "ipv6": 65 })),
            "has prefixes: ipv6 65 is above 64",
        ),
        (pool(&json!({ "ipv5": 1 })), "unknown field `ipv5`"),
        (two, "two pools have the rangesFile \"/run/ranges.json\""),
    ] {
        let (status, errors) = Agent::spawn(&node, &configuration).wait();
        assert_eq!(status, Some(1));
        assert!(errors.contains(said), "{errors}");
    }
}

/// Two nodes, no coordinator: pods come and go in parallel, and prefixes with them.
#[test]
fn no_address_of_a_prefix_is_on_two_running_pods_of_a_cluster() {
    let vpc = Vpc::new();
    let living = Mutex::new(BTreeSet::new());
    thread::scope(|scope| {
        for number in 0..2 {
            let (vpc, living) = (&vpc, &living);
            scope.spawn(move || live(vpc, living, number));
        }
    });
}

fn live(vpc: &Vpc, living: &Mutex<BTreeSet<String>>, number: usize) {
    let node = vpc.node();
    let agent = Agent::start(&node, &of_ipv4(1, 1));
    let mut pods: Vec<(Pod, String)> = Vec::new();
    for life in 0..60 {
        // Up to forty pods, and then down to few: prefixes come and go.
        while pods.len() > 40 || life > 45 && pods.len() > 4 {
            let (pod, address) = pods.remove((life * 7) % pods.len());
            assert!(living.lock().unwrap().remove(&address));
            detach(&node, &pod);
        }
        let pod = Pod::new(&format!("n{number}-{life}"));
        let address = Mutex::new(None);
        let is_attached = || {
            let mut address = address.lock().unwrap();
            *address = attach(&node, &pod);
            address.is_some()
        };
        assert!(eventually(is_attached), "{}", agent.log());
        let address = address.into_inner().unwrap().unwrap();
        assert_eq!(vpc.owner(&address), Some(node.eni.clone()));
        let is_new = living.lock().unwrap().insert(address.clone());
        assert!(is_new, "{address} is on another living pod");
        pods.push((pod, address));
    }
    let mut living = living.lock().unwrap();
    for (_, address) in pods {
        assert!(living.remove(&address));
    }
}
