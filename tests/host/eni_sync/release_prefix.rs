//! `release --prefix`: an operator gives a prefix back, unless anybody has an address of it. And
//! where host-local has its reservations, which the agent's configuration says.

use std::fs;
use std::path::PathBuf;

use harness::Output;
use harness::eni_lab::Hold;
use harness::vpc::{Vpc, VpcNode, eventually, ip};
use serde_json::{Value, json};

use super::ipam::{ASSIGN, add, call, calls, del, ipv4, sharing};
use super::prefixes::{UNASSIGN, assert_in_prefix, kept, known, node_of_its_own, one, prefixes};
use super::prefixes_killed::kill_while_asking;

/// What the command says as soon as it ends with this status: processes of others may be in
/// namespaces that cannot be read for a moment.
#[track_caller]
fn release(node: &VpcNode, arguments: &[&str], status: i32) -> Output {
    let arguments = [&["release"], arguments].concat();
    let run = || node.command(&arguments);
    assert!(eventually(|| run_is(&run(), status)), "{}", run());
    run()
}

fn run_is(output: &Output, status: i32) -> bool {
    let is_hidden = output.stdout.contains("addresses of it may be in use");
    output.status == Some(status) && !is_hidden
}

/// The same of what changes something, once.
#[track_caller]
fn release_at_last(node: &VpcNode, prefix: &str, more: &[&str]) {
    let arguments = [&["release", "--prefix", prefix], more].concat();
    let is_released = || node.command(&arguments).status == Some(0);
    assert!(eventually(is_released), "{:?}", known(node));
}

/// A node whose agent has got a prefix, and has ended.
fn node_with_prefix(vpc: &Vpc, subnet: &str) -> (VpcNode, String) {
    let node = node_of_its_own(vpc, subnet);
    drop(kept(&node, &one(), 1));
    let prefix = prefixes(&node).remove(0);
    (node, prefix)
}

#[test]
fn a_prefix_that_nobody_has_is_given_back_when_it_is_named() {
    let vpc = Vpc::new();
    let (node, prefix) = node_with_prefix(&vpc, "10.0.81.0/24");
    let output = release(&node, &["--prefix", &prefix, "--dry-run"], 0);
    let expected = format!("{prefix} on {}: would be released\n", node.eni);
    assert_eq!(output.stdout, expected);
    assert_eq!(
        (prefixes(&node), calls(&node, UNASSIGN)),
        (vec![prefix.clone()], 0)
    );
    release_at_last(&node, &prefix, &[]);
    assert!(prefixes(&node).is_empty() && known(&node).is_empty());
    let output = release(&node, &["--prefix", &prefix], 0);
    assert_eq!(output.stdout, format!("{prefix}: nothing to release\n"));
    assert_eq!(calls(&node, UNASSIGN), 1);
}

#[test]
fn a_prefix_with_a_pod_is_refused_naming_the_pod_and_serves_others_on() {
    let vpc = Vpc::new();
    let (node, prefix) = node_with_prefix(&vpc, "10.0.82.0/24");
    let pod = sharing(&node, "c1");
    let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0";
    let add_call = call(&node, "ADD", &pod, &ipv4()).env("CNI_ARGS", args);
    let result = node.run(&add_call).ok();
    let address = super::ipam::addresses(&result).remove(0);
    let before = known(&node);
    let kept = format!(
        "{prefix} on {}: kept: {address} of it: in use by pod default/web-0, container c1, interface net1, network mgmt\n",
        node.eni
    );
    for more in [&["--dry-run"][..], &["--force"], &[]] {
        let output = release(&node, &[&["--prefix", &prefix], more].concat(), 1);
        assert_eq!(output.stdout, kept, "{output}");
        assert_eq!(known(&node), before);
    }
    node.lab.reset_calls();
    assert_in_prefix(&node, &add(&node, &sharing(&node, "c2")));
    assert_eq!((calls(&node, ASSIGN), calls(&node, UNASSIGN)), (0, 0));
}

#[test]
fn a_prefix_goes_with_the_addresses_that_are_in_their_cool_down() {
    let vpc = Vpc::new();
    let (node, prefix) = node_with_prefix(&vpc, "10.0.83.0/24");
    let pod = sharing(&node, "c1");
    let address = add(&node, &pod);
    del(&node, &pod);
    assert_eq!(node.ledger()[&address], "releasing");
    // The pod has not let go of it.
    let cidr = format!("{address}/24");
    pod.netns.ip(&["address", "add", &cidr, "dev", "net1"]);
    let output = release(&node, &["--prefix", &prefix], 1);
    let said = format!("kept: {address} of it: it is on an interface of a pod");
    assert!(output.stdout.contains(&said), "{output}");
    assert_eq!(node.ledger()[&address], "releasing");
    pod.netns.ip(&["address", "del", &cidr, "dev", "net1"]);
    release_at_last(&node, &prefix, &[]);
    assert!(prefixes(&node).is_empty() && known(&node).is_empty());
    assert!(node.ledger().is_empty(), "{:?}", node.ledger());
}

#[test]
fn a_prefix_that_nobody_knows_is_given_back_only_by_force() {
    let vpc = Vpc::new();
    let node = node_of_its_own(&vpc, "10.0.84.0/24");
    let prefix = "10.0.84.64/28";
    for is_adopted in [false, true] {
        node.lab.assign_prefix(&node.eni, prefix);
        if is_adopted {
            // What was removed a moment ago is not adopted.
            node.let_time_pass(120);
            node.command(&["sync", "--once"]);
            assert_eq!(known(&node), [(prefix.to_owned(), "adopted".to_owned())]);
        }
        let output = release(&node, &["--prefix", prefix], 1);
        let said = "kept: its owner is not known; --force releases it\n";
        assert!(output.stdout.ends_with(said), "{output}");
        assert_eq!(prefixes(&node), [prefix]);
        release_at_last(&node, prefix, &["--force"]);
        assert!(prefixes(&node).is_empty() && known(&node).is_empty());
    }
}

#[test]
fn a_prefix_of_a_lost_answer_is_given_back_without_force() {
    let vpc = Vpc::new();
    let node = node_of_its_own(&vpc, "10.0.85.0/24");
    kill_while_asking(&node, &one(), Hold::AfterCommit);
    let prefix = prefixes(&node).remove(0);
    release_at_last(&node, &prefix, &[]);
    assert!(prefixes(&node).is_empty() && known(&node).is_empty());
}

#[test]
fn prefixes_of_other_nodes_and_of_enis_that_are_not_for_pods_stay() {
    let vpc = Vpc::new();
    let (node, _) = node_with_prefix(&vpc, "10.0.86.0/24");
    let other = vpc.node();
    let theirs = "10.0.4.64/28";
    node.lab.assign_prefix(&other.eni, theirs);
    let output = release(&node, &["--prefix", theirs, "--force"], 0);
    assert_eq!(output.stdout, format!("{theirs}: nothing to release\n"));
    let primary = node.lab.enis(&node.instance).remove(0);
    let of_primary = "10.0.1.64/28";
    node.lab.assign_prefix(&primary, of_primary);
    let output = release(&node, &["--prefix", of_primary, "--force"], 1);
    let kept = format!("{of_primary} on {primary}: kept: the ENI is not for pods\n");
    assert_eq!(output.stdout, kept);
    release(&node, &["--prefix", theirs, "--network", "mgmt"], 2);
    release(&node, &["--prefix", "10.0.4.64"], 2);
    assert_eq!(node.lab.prefixes(&other.eni), [theirs]);
    assert_eq!(node.lab.prefixes(&primary), [of_primary]);
}

/// Reserves an address in a directory of host-local that only a configuration names, and returns
/// the path of the configuration and what it says of the file.
fn reserve(node: &VpcNode, key: &str, address: &str) -> (PathBuf, String) {
    let store = node.run_directory().join("reservations/theirs");
    fs::create_dir_all(&store).unwrap();
    fs::write(store.join(address), "c9\neth0").unwrap();
    let mut network = json!({ "name": "theirs", "master": "ens6", "dataDir": "/run/reservations" });
    if key == "pools" {
        let more = json!({
            "rangesFile": "/run/ranges.json", "low": 1, "high": 2,
            "ranges": [{ "start": "10.0.4.50", "end": "10.0.4.59" }],
        });
        let more = more.as_object().unwrap().clone();
        network.as_object_mut().unwrap().extend(more);
    }
    let configuration: Value = json!({ key: [network] });
    fs::write(
        node.run_directory().join("agent.json"),
        configuration.to_string(),
    )
    .unwrap();
    let file = format!("/run/reservations/theirs/{address}");
    (PathBuf::from("/run/agent.json"), file)
}

/// The pods have no records: another ipvlan has made their interfaces.
#[test]
fn what_is_reserved_where_the_agents_configuration_says_is_not_what_others_have_left() {
    for key in ["networks", "pools"] {
        let vpc = Vpc::new();
        let node = vpc.node();
        let address = "10.0.4.70";
        node.lab.assign(&node.eni, &[ip(address)]);
        let (path, file) = reserve(&node, key, address);
        let path = path.display().to_string();
        let line = |fate: &str| format!("{address} on {}: {fate}\n", node.eni);
        let alone = ["--foreign", "--address", address, "--dry-run"];
        let output = release(&node, &alone, 0);
        assert_eq!(output.stdout, line("would be released"), "{output}");
        let told = ["--foreign", "--agent-config", &path, "--address", address];
        let kept = line(&format!("kept: host-local has it: {file}"));
        let output = release(&node, &told, 1);
        assert_eq!(output.stdout, kept, "{output}");
        assert_eq!(node.addresses(), [address]);
    }
}

#[test]
fn what_is_reserved_where_the_agents_configuration_says_keeps_its_prefix() {
    let vpc = Vpc::new();
    let (node, prefix) = node_with_prefix(&vpc, "10.0.87.0/24");
    let address = prefix.replace("/28", "");
    let (path, _) = reserve(&node, "networks", &address);
    let path = path.display().to_string();
    let told = ["--prefix", &prefix, "--agent-config", &path];
    let output = release(&node, &told, 1);
    let said = format!("kept: host-local has {address} of it reserved\n");
    assert!(output.stdout.ends_with(&said), "{output}");
    let target = tempfile::tempdir().unwrap();
    let target = target.path().display().to_string();
    let uninstall = ["uninstall", "--agent-config", &path, "--target", &target];
    assert!(eventually(|| node
        .command(&uninstall)
        .stdout
        .contains(&said)));
    assert_eq!(prefixes(&node), [prefix]);
}

/// What it does not say must not be released for that.
#[test]
fn a_configuration_that_cannot_be_read_releases_nothing_of_others() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.lab.assign(&node.eni, &[ip("10.0.4.70")]);
    let output = release(&node, &["--foreign", "--agent-config", "/run/none.json"], 1);
    assert!(output.stderr.contains("/run/none.json"), "{output}");
    assert_eq!(node.addresses(), ["10.0.4.70"]);
}
