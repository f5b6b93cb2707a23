//! What EC2 has confirmed and what was only wanted: pools, ranges files and slots know
//! the difference, and no single look at EC2 is believed against the ledger.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use harness::damage::{DAMAGES, replace_by};
use harness::vpc::{Agent, Vpc, VpcNode, eventually, ip};
use harness::{Pod, Resident};
use serde_json::{Value, json};

const ASSIGN: &str = "AssignPrivateIpAddresses";
const UNASSIGN: &str = "UnassignPrivateIpAddresses";

/// An agent's configuration with a pool that has these addresses and so many free.
pub(super) fn pool(first: u8, last: u8, free: usize) -> Value {
    json!({ "pools": [{
        "name": "mgmt", "master": "ens6", "rangesFile": "/run/ranges.json", "cooldownSeconds": 0,
        "ranges": [{ "start": format!("10.0.4.{first}"), "end": format!("10.0.4.{last}") }],
        "low": free, "high": free,
    }] })
}

/// The addresses that host-local may hand out; nothing while there is no file.
pub(super) fn listed(node: &VpcNode) -> Option<BTreeSet<String>> {
    let text = fs::read(node.run_directory().join("ranges.json")).ok()?;
    let file: Value = serde_json::from_slice(&text).unwrap();
    let octet = |address: &Value| {
        let address: IpAddr = address.as_str().unwrap().parse().unwrap();
        match address {
            IpAddr::V4(v4) => v4.octets()[3],
            IpAddr::V6(_) => panic!("{address} is not of the pool"),
        }
    };
    let sets = file["ranges"].as_array().unwrap();
    let ranges = sets.iter().flat_map(|set| set.as_array().unwrap());
    let octets = ranges.flat_map(|r| octet(&r["rangeStart"])..=octet(&r["rangeEnd"]));
    Some(octets.map(|n| format!("10.0.4.{n}")).collect())
}

pub(super) fn calls(node: &VpcNode, action: &str) -> u64 {
    node.lab.calls().get(action).copied().unwrap_or_default()
}

/// Runs an agent that compares the ledger with EC2 and keeps its pool, until it has
/// written the file and `is_done`. Returns what it has said.
fn run_until(node: &VpcNode, configuration: &Value, is_done: impl Fn() -> bool) -> String {
    let file = node.run_directory().join("ranges.json");
    fs::remove_file(&file).ok();
    let agent = Agent::start(node, configuration);
    let is_kept = || listed(node).is_some() && is_done();
    assert!(eventually(is_kept), "{:?}\n{}", node.ledger(), agent.log());
    let log = agent.log();
    agent.stop();
    log
}

/// The same until the file is there: what the pool takes back is in it from the start.
fn run_once(node: &VpcNode, configuration: &Value) -> String {
    run_until(node, configuration, || true)
}

/// The same until so many addresses are free.
pub(super) fn fill(node: &VpcNode, configuration: &Value, count: usize) {
    let is_full = || listed(node).is_some_and(|listed| listed.len() == count);
    run_until(node, configuration, is_full);
}

#[test]
fn what_was_refused_to_a_pool_is_never_handed_out() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.lab.rules(|rules| {
        rules.denied_actions.insert(ASSIGN.to_owned());
    });
    run_until(&node, &pool(64, 65, 2), || calls(&node, ASSIGN) > 0);
    for _ in 0..3 {
        node.let_time_pass(40);
        run_once(&node, &pool(64, 65, 2));
        assert_eq!(listed(&node), Some(BTreeSet::new()), "{:?}", node.ledger());
    }
    assert!(node.addresses().is_empty());
}

#[test]
fn two_agents_that_want_the_same_addresses_list_what_is_theirs() {
    let vpc = Vpc::new();
    let nodes = [vpc.node(), vpc.node()];
    let slow = Duration::from_millis(300);
    vpc.lab.rules(|rules| {
        rules.latency_of.insert(ASSIGN.to_owned(), slow);
    });
    let configuration = pool(64, 65, 2);
    let agents = nodes
        .each_ref()
        .map(|node| Agent::start(node, &configuration));
    let taken = || nodes.iter().map(|n| n.addresses().len()).sum::<usize>() == 2;
    assert!(eventually(taken));
    for agent in agents {
        agent.stop();
    }
    for _ in 0..2 {
        for node in &nodes {
            node.let_time_pass(120);
            run_once(node, &configuration);
            let own: BTreeSet<String> = node.addresses().into_iter().collect();
            assert_eq!(listed(node), Some(own), "{:?}", node.ledger());
        }
    }
}

#[test]
fn what_was_refused_to_a_pod_in_a_pools_range_is_not_pooled() {
    let vpc = Vpc::new();
    let (node, other) = (vpc.node(), vpc.node());
    other.add(&Pod::new("theirs"), &["10.0.4.70"]).ok();
    let keys = json!({ "cooldownSeconds": 0 });
    let pod = Pod::new("c1");
    let call = node.conf_call("ADD", &pod, &["10.0.4.70"], &keys);
    node.run(&call).error_code(11);
    for _ in 0..3 {
        run_once(&node, &pool(70, 70, 1));
        assert_eq!(listed(&node), Some(BTreeSet::new()), "{:?}", node.ledger());
        node.let_time_pass(120);
    }
    assert_eq!(calls(&node, UNASSIGN), 0, "it never was on the ENI");
}

#[test]
fn what_was_never_on_the_eni_is_forgotten_after_two_looks_and_not_unassigned() {
    let vpc = Vpc::new();
    let (node, other) = (vpc.node(), vpc.node());
    other.add(&Pod::new("theirs"), &["10.0.4.70"]).ok();
    node.add(&Pod::new("c1"), &["10.0.4.70"]).error_code(11);
    for _ in 0..2 {
        assert_eq!(node.ledger()["10.0.4.70"], "withdrawn");
        node.let_time_pass(120);
        node.gc(&[]);
    }
    assert!(node.ledger().is_empty(), "{:?}", node.ledger());
    assert_eq!(calls(&node, UNASSIGN), 0);
}

#[test]
fn what_was_claimed_and_is_on_the_eni_after_all_leaves_it() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.lab.rules(|rules| {
        rules.denied_actions.insert(ASSIGN.to_owned());
    });
    node.add(&Pod::new("c1"), &["10.0.4.70"]).error_code(100);
    node.lab.assign(&node.eni, &[ip("10.0.4.70")]);
    node.let_time_pass(120);
    node.gc(&[]);
    assert!(node.addresses().is_empty() && node.ledger().is_empty());
}

/// Earlier versions wrote the same for what was refused as for what was on the ENI.
#[test]
fn what_an_earlier_version_has_written_is_looked_for_before_it_is_handed_out() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.lab
        .assign(&node.eni, &[ip("10.0.4.64"), ip("10.0.4.66")]);
    // Descriptions are younger than the attachment.
    vpc.lab.age(Duration::from_secs(3600));
    fs::create_dir_all(node.ledger_path()).unwrap();
    for (last, state) in [
        (64, json!({ "state": "pooled" })),
        (65, json!({ "state": "pooled" })),
        (
            66,
            json!({ "state": "releasing", "after": 1, "asked": false }),
        ),
        (
            67,
            json!({ "state": "releasing", "after": 1, "asked": false }),
        ),
    ] {
        let mut entry = state;
        let address = format!("10.0.4.{last}");
        entry["address"] = json!(address);
        entry["since"] = json!(1);
        fs::write(node.ledger_path().join(address), entry.to_string()).unwrap();
    }
    run_once(&node, &pool(64, 67, 2));
    let there = BTreeSet::from(["10.0.4.64".to_owned(), "10.0.4.66".to_owned()]);
    assert_eq!(listed(&node), Some(there), "{:?}", node.ledger());
    assert_eq!(calls(&node, ASSIGN) + calls(&node, UNASSIGN), 0);
}

#[test]
fn a_description_that_is_old_takes_nothing_from_a_pool() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.add(&Pod::new("c0"), &["10.0.4.60"]).ok();
    let lag = Duration::from_secs(3);
    node.lab.rules(|rules| rules.describe_lag = lag);
    let configuration = pool(64, 79, 4);
    fill(&node, &configuration, 4);
    let before = listed(&node);
    let output = node.command(&["sync", "--once"]);
    assert!(output.stdout.contains("gone: 0, missing: 0"), "{output}");
    run_once(&node, &configuration);
    assert_eq!(listed(&node), before, "{:?}", node.ledger());
}

#[test]
fn an_address_that_another_program_removed_is_not_handed_out_and_forgotten_at_the_second_look() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let configuration = pool(64, 65, 2);
    fill(&node, &configuration, 2);
    assert!(node.ledger().values().all(|state| state == "pooled"));
    node.lab.unassign(&node.eni, &[ip("10.0.4.64")]);
    node.let_time_pass(120);
    node.lab.rules(|rules| {
        rules.denied_actions.insert(ASSIGN.to_owned());
    });
    let log = run_once(&node, &configuration);
    assert!(log.contains("gone: 0, missing: 1"), "{log}");
    let left = BTreeSet::from(["10.0.4.65".to_owned()]);
    assert_eq!(listed(&node), Some(left.clone()));
    node.let_time_pass(120);
    let log = run_once(&node, &configuration);
    assert!(log.contains("gone: 1, missing: 0"), "{log}");
    assert_eq!(listed(&node), Some(left));
}

#[test]
fn a_clock_that_is_set_makes_no_second_look_of_the_next_one() {
    for seconds in [120, -3600] {
        let vpc = Vpc::new();
        let node = vpc.node();
        let configuration = pool(64, 65, 2);
        fill(&node, &configuration, 2);
        node.lab.unassign(&node.eni, &[ip("10.0.4.64")]);
        node.let_time_pass(120);
        node.lab.rules(|rules| {
            rules.denied_actions.insert(ASSIGN.to_owned());
        });
        for looks in 1..=2 {
            let log = run_once(&node, &configuration);
            let missing = log.matches("gone: 0, missing: 1").count();
            assert_eq!(missing, looks, "{seconds}: {log}");
            node.set_clock(seconds);
        }
        node.let_time_pass(120);
        let log = run_once(&node, &configuration);
        assert!(log.contains("gone: 1, missing: 0"), "{seconds}: {log}");
    }
}

#[test]
fn an_unknown_address_returns_to_its_pool_unless_it_is_in_use() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let configuration = pool(64, 67, 4);
    fill(&node, &configuration, 4);
    fs::remove_dir_all(node.ledger_path()).unwrap();
    let reserved = node.node.state().join("networks/other");
    fs::create_dir_all(&reserved).unwrap();
    fs::write(reserved.join("10.0.4.64"), "c9\r\nnet1").unwrap();
    let pod = Pod::new("unknown");
    pod.netns
        .ip(&["address", "add", "10.0.4.65/24", "dev", "lo"]);
    let names = node.run_directory().join("netns");
    fs::create_dir(&names).unwrap();
    std::os::unix::fs::symlink(pod.netns.path(), names.join("unknown")).unwrap();
    run_once(&node, &configuration);
    assert_eq!(
        listed(&node),
        Some(BTreeSet::new()),
        "one look is not enough"
    );
    node.let_time_pass(61);
    let said = run_once(&node, &configuration);
    let free = BTreeSet::from(["10.0.4.66".to_owned(), "10.0.4.67".to_owned()]);
    assert_eq!(listed(&node), Some(free), "{:?}\n{said}", node.ledger());
    for kept in ["10.0.4.64", "10.0.4.65"] {
        assert_eq!(node.ledger()[kept], "adopted");
    }
    assert_eq!(node.addresses().len(), 4);
}

#[test]
fn a_pool_takes_nothing_that_a_container_has_whose_namespace_has_no_name() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let configuration = pool(188, 189, 2);
    fill(&node, &configuration, 2);
    fs::remove_dir_all(node.ledger_path()).unwrap();
    let pod = Pod::new("nameless");
    pod.netns
        .ip(&["address", "add", "10.0.4.189/24", "dev", "lo"]);
    let _process = Resident::inside(&pod.netns.path());
    run_once(&node, &configuration);
    node.let_time_pass(61);
    let free = BTreeSet::from(["10.0.4.188".to_owned()]);
    run_until(&node, &configuration, || {
        listed(&node) == Some(free.clone())
    });
    assert_eq!(node.ledger()["10.0.4.189"], "adopted");
}

#[test]
fn a_damaged_entry_stays_as_it_is_and_so_does_its_address() {
    let vpc = Vpc::new();
    let node = vpc.node_of_type("m5.4xlarge");
    let mut damaged = Vec::new();
    for (last, (what, damage)) in (70..).zip(DAMAGES) {
        let address = format!("10.0.4.{last}");
        node.add(&Pod::new("c0"), &[&address]).ok();
        let path = node.ledger_path().join(&address);
        replace_by(&path, damage);
        let found = path.symlink_metadata().unwrap();
        damaged.push((what, address, path, found));
    }
    let output = node.command(&["sync", "--once"]);
    assert!(output.stdout.contains("adopted: 0"), "{output}");
    let free = "10.0.4.90".to_owned();
    let is_filled = || node.addresses().contains(&free);
    run_until(&node, &pool(70, 90, 12), is_filled);
    for (what, address, path, before) in damaged {
        let output = node.command(&["release", "--address", &address, "--force"]);
        assert!(output.stdout.contains("kept: "), "{what}\n{output}");
        let after = path.symlink_metadata().unwrap();
        assert_eq!(after.file_type(), before.file_type(), "{what}");
        let times = [after.modified().unwrap(), before.modified().unwrap()];
        assert_eq!(times[0], times[1], "{what}");
        assert!(node.addresses().contains(&address), "{what}");
        assert!(!listed(&node).unwrap().contains(&address), "{what}");
    }
}

#[test]
fn a_damaged_entry_is_a_finding_and_has_a_line_in_the_status() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.add(&Pod::new("c0"), &["10.0.4.70"]).ok();
    fs::write(node.ledger_path().join("10.0.4.70"), "{").unwrap();
    let output = node.command(&["doctor"]);
    assert_eq!(output.status, Some(1), "{output}");
    let file = format!("ledger/{}/10.0.4.70", node.eni);
    assert!(output.stdout.contains(&file), "{output}");
    let output = node.command(&["status"]);
    assert!(output.stdout.contains("unreadable"), "{output}");
}

#[test]
fn a_watched_address_that_is_refused_is_told_takes_no_slot_and_is_not_unassigned() {
    let vpc = Vpc::new();
    let (node, other) = (vpc.node(), vpc.node());
    other.add(&Pod::new("theirs"), &["10.0.4.70"]).ok();
    let directory = node.node.state().join("networks/conf-1");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("10.0.4.70"), "c1\r\nnet1").unwrap();
    let watched = json!({ "name": "conf-1", "master": "ens6", "cooldownSeconds": 0 });
    let agent = Agent::start(&node, &json!({ "networks": [watched] }));
    let is_told = || {
        let log = agent.log();
        log.contains("10.0.4.70") && log.contains(other.eni.as_str()) && log.contains("conf-1")
    };
    assert!(eventually(is_told), "{}", agent.log());
    let output = node.command(&["status", "--json"]);
    let status: Value = serde_json::from_str(&output.stdout).unwrap();
    let enis = status["enis"].as_array().unwrap();
    let own = enis.iter().find(|eni| eni["id"] == node.eni.as_str());
    assert_eq!(own.unwrap()["ipv4"]["used"], 1, "{output}");
    fs::remove_file(directory.join("10.0.4.70")).unwrap();
    let is_withdrawn = || node.ledger()["10.0.4.70"] == "withdrawn";
    assert!(eventually(is_withdrawn), "{:?}", node.ledger());
    agent.stop();
    for _ in 0..2 {
        node.let_time_pass(120);
        node.gc(&[]);
    }
    assert!(node.ledger().is_empty(), "{:?}", node.ledger());
    assert_eq!(calls(&node, UNASSIGN), 0);
}

#[test]
fn an_error_about_a_full_eni_has_the_number_of_its_addresses() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let addresses: Vec<String> = (70..81).map(|n| format!("10.0.4.{n}")).collect();
    let texts: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let outputs = node.add_behind_one(&texts, || {});
    let failed = outputs.iter().filter(|output| output.status != Some(0));
    let errors: Vec<String> = failed.map(|output| output.error_code(11).msg).collect();
    assert_eq!(errors.len(), 2, "{errors:?}");
    for error in errors {
        assert!(error.contains("10 of 10 addresses used"), "{error}");
    }
}

#[test]
fn a_pool_goes_round_the_prefixes_of_its_own_and_of_other_enis() {
    for is_own in [false, true] {
        let vpc = Vpc::new();
        let (node, other) = (vpc.node(), vpc.node());
        let holder = if is_own { &node.eni } else { &other.eni };
        node.lab.assign_prefix(holder, "10.0.4.128/28");
        fill(&node, &pool(128, 147, 4), 4);
        let outside = (144..148).map(|n| format!("10.0.4.{n}")).collect();
        assert_eq!(listed(&node), Some(outside), "{:?}", node.ledger());
        assert_eq!(calls(&node, ASSIGN), 1);
    }
}

#[test]
fn an_address_in_a_prefix_of_another_eni_is_refused_with_its_owner() {
    let vpc = Vpc::new();
    let (node, other) = (vpc.node(), vpc.node());
    node.lab.assign_prefix(&other.eni, "10.0.4.128/28");
    let error = node.add(&Pod::new("c1"), &["10.0.4.130"]).error_code(11);
    for said in [
        "10.0.4.130",
        "10.0.4.128/28",
        other.eni.as_str(),
        other.instance.as_str(),
    ] {
        assert!(error.msg.contains(said), "{error:?}");
    }
}
