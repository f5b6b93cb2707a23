//! The end of a prefix that host-local gives addresses of: it leaves the ranges file first, and
//! the ENI only when nobody has an address of it.

use std::fs::{self, File};
use std::path::Path;

use harness::eni_lab::Hold;
use harness::vpc::{Agent, Vpc, VpcNode, eventually};
use harness::{Pod, is_waited_for};
use nix::fcntl::{Flock, FlockArg};
use serde_json::{Value, json};

use super::pool::{attach, detach, host_local, ranges_file};
use super::pool_of_prefixes::{listed, listing, of_ipv4};
use super::prefixes::{UNASSIGN, contains, known, node_of_its_own, prefixes};

/// Whether a range of the file is in a prefix.
fn lists(node: &VpcNode, prefix: &str) -> bool {
    listed(node)
        .iter()
        .any(|[_, first, _]| contains(prefix, first))
}

/// The prefix of the ENI that is not in the file.
fn unlisted(node: &VpcNode) -> Option<String> {
    prefixes(node)
        .into_iter()
        .find(|prefix| !lists(node, prefix))
}

#[test]
fn a_prefix_leaves_the_file_before_it_leaves_the_eni() {
    let vpc = Vpc::new();
    let node = node_of_its_own(&vpc, "10.0.95.0/24");
    drop(listing(&node, &of_ipv4(2, 2), 2));
    node.lab.hold(UNASSIGN, Hold::BeforeCommit);
    let agent = Agent::start(&node, &of_ipv4(1, 1));
    assert!(eventually(|| node.lab.held() == 1), "{}", agent.log());
    assert_eq!((listed(&node).len(), prefixes(&node).len()), (1, 2));
    let leaving = unlisted(&node).unwrap();
    for id in ["c1", "c2"] {
        let address = attach(&node, &Pod::new(id)).unwrap();
        assert!(!contains(&leaving, &address), "{address} of {leaving}");
    }
    node.lab.release_held();
    assert!(eventually(|| known(&node).len() == 1), "{:?}", known(&node));
    assert!(lists(&node, &prefixes(&node)[0]));
}

#[test]
fn a_prefix_of_which_host_local_has_reserved_an_address_stays() {
    let vpc = Vpc::new();
    let node = node_of_its_own(&vpc, "10.0.96.0/24");
    drop(listing(&node, &of_ipv4(1, 1), 1));
    // The network does not chain eni-sync, so the ledger knows nothing of the pod.
    let pod = Pod::new("c1");
    let result = node.run(&host_local("ADD", &pod)).ok();
    let address = super::ipam::addresses(&result).remove(0);
    let mut none = of_ipv4(1, 1);
    none["pools"] = json!([]);
    let agent = Agent::start(&node, &none);
    assert!(eventually(|| listed(&node).is_empty()), "{}", agent.log());
    // What is closed is closed before the file is written.
    let pooled = (prefixes(&node)[0].clone(), "pooled".to_owned());
    assert_eq!(known(&node), [pooled]);
    assert!(contains(&prefixes(&node)[0], &address));
    node.run(&host_local("DEL", &pod)).ok();
    drop(agent);
    leaves(&node, &none);
}

/// The prefix is closed, and gone when its cool-down is over.
#[track_caller]
fn leaves(node: &VpcNode, configuration: &Value) {
    // What pods have had of it is free.
    assert_eq!(node.command(&["sync", "--once"]).status, Some(0));
    let agent = Agent::start(node, configuration);
    let is_closed = || known(node).iter().all(|(_, state)| state == "releasing");
    assert!(eventually(is_closed), "{}", agent.log());
    drop(agent);
    node.let_time_pass(60);
    let agent = Agent::start(node, configuration);
    assert!(eventually(|| prefixes(node).is_empty()), "{}", agent.log());
}

#[test]
fn a_reserved_address_counts_as_used_also_where_eni_sync_is_not_chained() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let agent = listing(&node, &of_ipv4(1, 1), 1);
    for number in 0..10 {
        node.run(&host_local("ADD", &Pod::new(&format!("c{number}"))))
            .ok();
    }
    // Any plugin that speaks to the agent makes it look.
    let _address = attach(&node, &Pod::new("c10"));
    assert!(eventually(|| listed(&node).len() == 2), "{}", agent.log());
}

#[test]
fn the_prefixes_of_a_pool_that_is_not_configured_any_more_leave_its_file_and_then_the_eni() {
    let vpc = Vpc::new();
    let node = node_of_its_own(&vpc, "10.0.97.0/24");
    let agent = listing(&node, &of_ipv4(2, 2), 2);
    let pod = Pod::new("c1");
    let address = attach(&node, &pod).unwrap();
    drop(agent);
    let mut none = of_ipv4(2, 2);
    none["pools"] = json!([]);
    let agent = Agent::start(&node, &none);
    let states = || -> Vec<String> {
        let known = known(&node).into_iter();
        let mut states: Vec<String> = known.map(|(_, state)| state).collect();
        states.sort();
        states
    };
    // The pod's stays.
    let is_closed = || states() == ["pooled", "releasing"];
    assert!(eventually(is_closed), "{}", agent.log());
    assert!(eventually(|| listed(&node).is_empty()));
    let refused = node.run(&host_local("ADD", &Pod::new("c2")));
    assert!(
        refused.stdout.contains("no IP ranges specified"),
        "{refused}"
    );
    drop(agent);
    node.let_time_pass(60);
    let agent = Agent::start(&node, &none);
    assert!(eventually(|| prefixes(&node).len() == 1), "{}", agent.log());
    assert!(contains(&prefixes(&node)[0], &address));
    detach(&node, &pod);
    drop(agent);
    leaves(&node, &none);
}

#[test]
fn a_prefix_that_an_operator_gives_back_leaves_the_file_without_an_agent() {
    let vpc = Vpc::new();
    let node = node_of_its_own(&vpc, "10.0.98.0/24");
    drop(listing(&node, &of_ipv4(2, 2), 2));
    let [prefix, other] = &prefixes(&node)[..] else {
        panic!("{:?}", prefixes(&node));
    };
    let arguments = ["release", "--prefix", prefix.as_str()];
    assert!(eventually(|| node.command(&arguments).status == Some(0)));
    assert!(
        !lists(&node, prefix) && lists(&node, other),
        "{:?}",
        listed(&node)
    );
    let pod = Pod::new("c1");
    assert!(contains(other, &attach(&node, &pod).unwrap()));
}

#[test]
fn no_prefix_leaves_the_eni_while_its_file_cannot_be_written() {
    let vpc = Vpc::new();
    let node = node_of_its_own(&vpc, "10.0.99.0/24");
    drop(listing(&node, &of_ipv4(2, 2), 2));
    fs::remove_file(ranges_file(&node)).unwrap();
    fs::create_dir(ranges_file(&node)).unwrap();
    let agent = Agent::start(&node, &of_ipv4(1, 1));
    let is_said = || agent.log().contains("failed to write \"/run/ranges.json\"");
    assert!(eventually(is_said), "{}", agent.log());
    assert_eq!(prefixes(&node).len(), 2);
    fs::remove_dir(ranges_file(&node)).unwrap();
    assert!(eventually(|| prefixes(&node).len() == 1), "{}", agent.log());
    assert!(lists(&node, &prefixes(&node)[0]));
}

#[test]
fn a_ranges_file_that_is_lost_is_written_again() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let agent = listing(&node, &of_ipv4(2, 2), 2);
    let before = listed(&node);
    agent.kill();
    fs::remove_file(ranges_file(&node)).unwrap();
    let _agent = Agent::start(&node, &of_ipv4(2, 2));
    assert!(
        eventually(|| listed(&node) == before),
        "{:?}",
        listed(&node)
    );
}

#[test]
fn prefixes_and_their_file_stay_while_the_interface_of_their_pool_cannot_be_found() {
    let vpc = Vpc::new();
    let node = vpc.node();
    drop(listing(&node, &of_ipv4(2, 2), 2));
    let before = (listed(&node), known(&node));
    let ens6 = ["link", "set", "ens6", "down", "name", "away"];
    node.node.netns.ip(&ens6);
    let agent = Agent::start(&node, &of_ipv4(1, 1));
    let is_said = || {
        agent
            .log()
            .contains("pool \"mgmt\": there is no interface \"ens6\"")
    };
    assert!(eventually(is_said), "{}", agent.log());
    assert_eq!((listed(&node), known(&node)), before);
}

/// A process of host-local that is stopped must not keep pods of other networks waiting.
#[test]
fn an_eni_has_its_turn_free_while_adds_of_host_local_are_waited_for() {
    let vpc = Vpc::new();
    let node = node_of_its_own(&vpc, "10.0.86.0/24");
    drop(listing(&node, &of_ipv4(2, 2), 2));
    let pod = Pod::new("c0");
    for command in ["ADD", "DEL"] {
        node.run(&host_local(command, &pod)).ok();
    }
    let path = node.node.state().join("networks/mgmt/lock");
    let take = |path: &Path| {
        let file = File::open(path).unwrap();
        Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno)
    };
    let lock = take(&path).unwrap();
    let agent = Agent::start(&node, &of_ipv4(1, 1));
    let turn = node.ledger_path().join(".turn");
    let is_waiting = || is_waited_for(&path);
    let is_free = || is_waiting() && take(&turn).is_ok() && is_waiting();
    assert!(eventually(is_free), "{}", agent.log());
    assert_eq!(prefixes(&node).len(), 2);
    drop(lock);
    assert!(eventually(|| prefixes(&node).len() == 1), "{}", agent.log());
}
