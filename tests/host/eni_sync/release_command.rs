//! `release`: what an operator can give back, and what never.

use std::fs;
use std::os::unix::fs::symlink;

use harness::eni_lab::EniId;
use harness::vpc::{Vpc, VpcNode, device_call, eventually, ip, prev_result};
use harness::{Network, Output, Pod, Resident};
use serde_json::json;

use super::auto::{PUBLISHED, attach};

/// Runs the command; it must end with this status.
#[track_caller]
fn release(node: &VpcNode, arguments: &[&str], status: i32) -> Output {
    let output = node.command(&[&["release"], arguments].concat());
    assert_eq!(output.status, Some(status), "{output}");
    output
}

/// A node on which an attachment has ended, in its cool-down.
fn node_with_ended(vpc: &Vpc, address: &str) -> VpcNode {
    let node = vpc.node();
    let pod = Pod::new("c1");
    node.add(&pod, &[address]).ok();
    node.del(&pod);
    node
}

#[test]
fn release_of_a_network_releases_what_it_does_not_need() {
    let vpc = Vpc::new();
    let node = node_with_ended(&vpc, "10.0.4.70");
    let other = Pod::new("c2");
    let keys = json!({ "name": "other" });
    node.run(&node.conf_call("ADD", &other, &["10.0.4.71"], &keys))
        .ok();
    let output = release(&node, &["--network", "mgmt"], 0);
    assert_eq!(
        output.stdout,
        format!("10.0.4.70 on {}: released\n", node.eni)
    );
    assert_eq!(node.addresses(), ["10.0.4.71"]);
    assert_eq!(node.ledger().len(), 1);
    let output = release(&node, &["--network", "mgmt"], 0);
    assert_eq!(output.stdout, "nothing to release\n");
}

#[test]
fn the_address_of_an_attachment_that_ended_without_a_del_is_released() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.add(&Pod::new("c1"), &["10.0.4.70", "2001:db8:4::70"])
        .ok();
    release(&node, &["--eni", node.eni.as_str()], 0);
    assert!(node.addresses().is_empty());
    assert!(node.ledger().is_empty());
}

#[test]
fn an_existing_attachment_keeps_its_address_and_is_named() {
    let vpc = Vpc::new();
    let node = node_with_ended(&vpc, "10.0.4.70");
    let pod = Pod::new("c2");
    let args = "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0";
    let call = node.pod_call("ADD", &pod, &["10.0.4.71"]);
    node.run(&call.env("CNI_ARGS", args)).ok();
    for force in [
        &["--eni", node.eni.as_str()][..],
        &["--address", "10.0.4.71", "--force"],
    ] {
        let output = release(&node, force, 1);
        let kept = format!(
            "10.0.4.71 on {}: kept: in use by pod default/web-0, container c2, interface net1, network mgmt\n",
            node.eni
        );
        assert!(output.stdout.ends_with(&kept), "{output}");
    }
    assert_eq!(node.addresses(), ["10.0.4.71"], "the other one has gone");
    assert_eq!(node.ledger()["10.0.4.71"], "held");
}

#[test]
fn an_attachment_whose_namespace_cannot_be_seen_keeps_its_address() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    let names = node.run_directory().join("netns");
    fs::create_dir(&names).unwrap();
    symlink(pod.netns.path(), names.join("c1")).unwrap();
    let call = node.pod_call("ADD", &pod, &["10.0.4.70"]);
    node.run(&call.env("CNI_NETNS", "/run/netns/c1")).ok();
    // As in a container that has the runtime's directory without its mounts.
    fs::remove_file(names.join("c1")).unwrap();
    fs::write(names.join("c1"), "").unwrap();
    let output = release(&node, &["--network", "mgmt", "--force"], 1);
    assert!(
        output
            .stdout
            .contains("kept: it may be in use by container c1"),
        "{output}"
    );
    assert_eq!(node.addresses(), ["10.0.4.70"]);
}

#[test]
fn a_pod_that_still_has_its_address_keeps_it() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    node.add(&pod, &["10.0.4.183"]).ok();
    node.del(&pod);
    pod.netns
        .ip(&["address", "add", "10.0.4.183/24", "dev", "lo"]);
    let output = release(&node, &["--address", "10.0.4.183", "--force"], 1);
    assert!(
        output
            .stdout
            .contains("kept: it is on an interface of a pod, in \""),
        "{output}"
    );
    assert_eq!(node.addresses(), ["10.0.4.183"]);
    assert_eq!(node.ledger()["10.0.4.183"], "releasing");
}

#[test]
fn an_address_of_an_unknown_owner_is_released_only_by_force() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.lab.assign(&node.eni, &[ip("10.0.4.98")]);
    node.command(&["sync", "--once"]);
    assert_eq!(node.ledger()["10.0.4.98"], "adopted");
    node.lab.assign(&node.eni, &[ip("10.0.4.99")]);
    let output = release(&node, &["--eni", node.eni.as_str()], 1);
    let kept = "kept: its owner is not known; --force releases it\n";
    assert_eq!(output.stdout.matches(kept).count(), 2, "{output}");
    assert_eq!(node.addresses(), ["10.0.4.98", "10.0.4.99"]);
    assert_eq!(node.ledger().len(), 1, "nothing is written");
    release_at_last(&node, &["10.0.4.98", "10.0.4.99"]);
    assert!(node.addresses().is_empty());
    assert!(node.ledger().is_empty());
}

/// The ledger is lost, and the runtime gives namespaces no names, as ctr and nerdctl do.
#[test]
fn what_a_container_has_that_only_its_process_shows_is_not_released_by_force() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("nameless");
    let address = "10.0.4.187";
    pod.netns
        .ip(&["address", "add", "10.0.4.187/24", "dev", "lo"]);
    node.lab.assign(&node.eni, &[ip(address)]);
    let process = Resident::inside(&pod.netns.path());
    let dry = ["--address", address, "--force", "--dry-run"];
    for arguments in [&dry[..3], &dry] {
        let output = release(&node, arguments, 1);
        let kept = "kept: it is on an interface of a pod, in \"/proc/";
        assert!(output.stdout.contains(kept), "{output}");
    }
    assert_eq!(node.addresses(), [address]);
    drop(process);
    release_at_last(&node, &[address]);
}

/// Releases what nobody knows, as soon as every process is in a namespace that can be read:
/// those of another test may be in one that changes.
#[track_caller]
fn release_at_last(node: &VpcNode, addresses: &[&str]) {
    let arguments = [&["release", "--force", "--address"], addresses].concat();
    let is_released = || node.command(&arguments).status == Some(0);
    assert!(eventually(is_released), "{:?}", node.ledger());
}

#[test]
fn what_is_in_a_pool_is_released_only_by_force() {
    let vpc = Vpc::new();
    let node = node_with_ended(&vpc, "10.0.4.70");
    node.edit_ledger("10.0.4.70", |entry| entry["state"] = json!("pooled"));
    let output = release(&node, &["--eni", node.eni.as_str()], 1);
    assert!(
        output
            .stdout
            .contains("the agent's pool would have it again"),
        "{output}"
    );
    release(&node, &["--eni", node.eni.as_str(), "--force"], 0);
    assert!(node.addresses().is_empty());
}

#[test]
fn a_dry_run_changes_nothing() {
    let vpc = Vpc::new();
    let node = node_with_ended(&vpc, "10.0.4.70");
    node.lab.reset_calls();
    let output = release(&node, &["--network", "mgmt", "--dry-run"], 0);
    let expected = format!("10.0.4.70 on {}: would be released\n", node.eni);
    assert_eq!(output.stdout, expected);
    assert_eq!(node.addresses(), ["10.0.4.70"]);
    assert_eq!(node.ledger()["10.0.4.70"], "releasing");
    assert!(
        !node
            .lab
            .calls()
            .keys()
            .any(|action| action.contains("assign"))
    );
}

#[test]
fn primary_addresses_and_enis_that_are_not_for_pods_are_left_alone() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let primary = node.lab.primary(&node.eni).to_string();
    let output = release(&node, &["--address", &primary, "--force"], 1);
    assert!(
        output
            .stdout
            .ends_with("kept: it is the ENI's primary address\n"),
        "{output}"
    );

    let first = node.lab.enis(&node.instance)[0].clone();
    node.lab.assign(&first, &[ip("10.0.1.99")]);
    let output = release(&node, &["--address", "10.0.1.99", "--force"], 1);
    assert!(
        output.stdout.ends_with("kept: the ENI is not for pods\n"),
        "{output}"
    );
    let output = release(&node, &["--eni", first.as_str(), "--force"], 1);
    assert!(
        output.stderr.contains("is the primary ENI of this node"),
        "{output}"
    );

    node.lab.assign(&node.eni, &[ip("10.0.4.99")]);
    node.lab
        .untag_eni(&node.eni, "node.k8s.amazonaws.com/no_manage");
    let output = release(&node, &["--eni", node.eni.as_str(), "--force"], 1);
    assert!(output.stderr.contains("is not tagged"), "{output}");
    assert_eq!(node.addresses(), ["10.0.4.99"]);
}

#[test]
fn an_eni_of_another_node_is_refused() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let other = vpc.node();
    node.lab.assign(&other.eni, &[ip("10.0.4.99")]);
    let output = release(&node, &["--eni", other.eni.as_str(), "--force"], 1);
    assert!(
        output
            .stderr
            .contains("is neither an ENI of this node nor in its ledger"),
        "{output}"
    );
    let output = release(&node, &["--address", "10.0.4.99", "--force"], 0);
    assert_eq!(output.stdout, "10.0.4.99: nothing to release\n");
    assert_eq!(other.addresses(), ["10.0.4.99"]);
}

#[test]
fn what_aws_does_not_release_stays_due() {
    let vpc = Vpc::new();
    let node = node_with_ended(&vpc, "10.0.4.70");
    let action = "UnassignPrivateIpAddresses".to_owned();
    node.lab.rules(|rules| {
        rules.denied_actions.insert(action);
    });
    let output = release(&node, &["--network", "mgmt"], 1);
    assert!(
        output.stdout.contains("does not permit ec2:Unassign"),
        "{output}"
    );
    assert_eq!(node.ledger()["10.0.4.70"], "releasing");
    node.lab.rules(|rules| rules.denied_actions.clear());
    node.command(&["sync", "--once"]);
    assert!(node.addresses().is_empty(), "it was due at once");
}

/// Adds a second ENI for pods to the node. Addresses of ended attachments are on both, and the
/// ENI that is looked at last is for pods no more. Returns both in order, with their addresses.
pub(super) fn let_the_second_eni_fail(vpc: &Vpc, node: &VpcNode) -> [(EniId, &'static str); 2] {
    let second = node.lab.multus_eni(&node.instance, &vpc.pods);
    let mut enis = [(node.eni.clone(), "10.0.4.70"), (second, "10.0.4.71")];
    for (eni, address) in &enis {
        let pod = Pod::new("c1");
        let result = prev_result(&pod, &[(&node.lab.mac(eni), &[address])]);
        node.run(&node.conf_call("ADD", &pod, &[], &json!({ "prevResult": result })))
            .ok();
        assert_eq!(node.addresses_of(eni), [*address]);
    }
    enis.sort();
    let tag = "node.k8s.amazonaws.com/no_manage";
    node.lab.untag_eni(&enis[1].0, tag);
    enis
}

#[test]
fn an_eni_that_fails_hides_nothing_of_the_others() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let [(good, released), (bad, stays)] = let_the_second_eni_fail(&vpc, &node);
    let line = |fate: &str| format!("{released} on {good}: {fate}\n");
    let output = release(&node, &["--network", "mgmt", "--dry-run"], 1);
    assert_eq!(output.stdout, line("would be released"), "{output}");
    let output = release(&node, &["--network", "mgmt"], 1);
    assert_eq!(output.stdout, line("released"), "{output}");
    assert!(output.stderr.contains(bad.as_str()), "{output}");
    assert!(output.stderr.contains("is not tagged"), "{output}");
    assert_eq!(node.addresses_of(&good), [""; 0]);
    assert_eq!(node.addresses_of(&bad), [stays]);
    // What cannot be looked at is not called empty.
    let output = release(&node, &["--network", "mgmt"], 1);
    assert_eq!(output.stdout, "", "{output}");
}

/// The ENI has gone to another instance with its addresses.
#[test]
fn an_address_that_went_elsewhere_with_its_eni_is_not_called_released() {
    let vpc = Vpc::new();
    let node = node_with_ended(&vpc, "10.0.4.70");
    let other = node.lab.run_instance("c5.large", &vpc.nodes);
    node.lab.detach_eni(&node.eni);
    node.lab.attach_eni_to_card(&node.eni, &other, (0, 1));
    for _ in 0..2 {
        let output = release(&node, &["--address", "10.0.4.70", "--force"], 1);
        assert!(
            output
                .stdout
                .contains("kept: the ENI is not attached to this node"),
            "{output}"
        );
        assert_eq!(node.addresses(), ["10.0.4.70"]);
        node.let_time_pass(600);
    }
}

#[test]
fn an_address_that_is_on_another_eni_is_not_called_released() {
    let vpc = Vpc::new();
    let node = node_with_ended(&vpc, "10.0.4.70");
    let other = vpc.node();
    node.lab.unassign(&node.eni, &[ip("10.0.4.70")]);
    node.lab.assign(&other.eni, &[ip("10.0.4.70")]);
    let output = release(&node, &["--address", "10.0.4.70"], 0);
    assert!(output.stdout.ends_with(": not on the ENI\n"), "{output}");
    assert_eq!(other.addresses(), ["10.0.4.70"]);
}

#[test]
fn something_must_be_selected() {
    let vpc = Vpc::new();
    let node = vpc.node();
    release(&node, &[], 2);
    release(&node, &["--force"], 2);
}

/// What the init container of an AWS sample leaves: secondary addresses of pods that are gone,
/// assigned by their own calls to EC2.
#[test]
fn what_others_have_left_is_listed_and_then_released() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    node.add(&pod, &["10.0.4.70"]).ok();
    let left = ["10.0.4.95", "10.0.4.96", "10.0.4.97", "10.0.4.98"];
    node.lab.assign(&node.eni, &left.map(ip));
    // One is known to the ledger by now, the others are not.
    let other = Pod::new("other");
    other
        .netns
        .ip(&["address", "add", "10.0.4.96/24", "dev", "lo"]);
    let reservations = node.node.state().join("networks/theirs");
    fs::create_dir_all(&reservations).unwrap();
    fs::write(reservations.join("10.0.4.97"), "c7\neth0").unwrap();
    let before = node.addresses();
    let eni = &node.eni;
    let expected = [
        format!("10.0.4.95 on {eni}: would be released"),
        format!("10.0.4.96 on {eni}: kept: it is on an interface of a pod"),
        format!("10.0.4.97 on {eni}: kept: host-local has it: /var/lib/cni/networks/theirs/"),
        format!("10.0.4.98 on {eni}: would be released"),
    ];
    let process = Resident::inside(&other.netns.path());
    // Processes of others may be in namespaces that cannot be read for a moment.
    assert!(eventually(|| {
        let output = release(&node, &["--foreign", "--dry-run"], 1);
        let lines: Vec<&str> = output.stdout.lines().collect();
        let mut pairs = lines.iter().zip(&expected);
        lines.len() == 4 && pairs.all(|(line, expected)| line.starts_with(expected))
    }));
    assert_eq!(node.addresses(), before);
    node.command(&["sync", "--once"]);
    assert_eq!(node.ledger()["10.0.4.98"], "adopted");
    assert!(eventually(|| {
        release(&node, &["--foreign"], 1);
        node.addresses() == ["10.0.4.70", "10.0.4.96", "10.0.4.97"]
    }));
    assert_eq!(node.ledger()["10.0.4.70"], "held");
    drop(process);
}

/// The network of a pod says where host-local has its reservations.
#[test]
fn what_host_local_has_reserved_in_another_directory_is_not_what_others_have_left() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let mut network = Network::published(PUBLISHED);
    network.plugins[0]["ipam"]["dataDir"] = json!("/run/reservations");
    let pod = Pod::new("c1");
    attach(&node, &network, &pod, &node.mac);
    let left = ["10.0.4.70", "10.0.4.95"];
    node.lab.assign(&node.eni, &left.map(ip));
    let output = release(&node, &["--foreign", "--address", "10.0.4.70"], 1);
    let file = format!("/run/reservations/{}/10.0.4.70", network.name);
    let expected = format!(
        "10.0.4.70 on {}: kept: host-local has it: {file}\n",
        node.eni
    );
    assert_eq!(output.stdout, expected, "{output}");
    assert!(eventually(|| {
        release(&node, &["--foreign"], 1);
        node.addresses() == ["10.0.4.70"]
    }));
}

#[test]
fn a_primary_address_and_those_of_other_enis_are_not_what_others_have_left() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let output = release(&node, &["--foreign"], 0);
    assert_eq!(output.stdout, "nothing to release\n");
    let primary = node.lab.primary(&node.eni).to_string();
    let output = release(&node, &["--foreign", "--address", &primary], 1);
    assert!(
        output
            .stdout
            .contains("kept: it is the ENI's primary address"),
        "{output}"
    );
}

/// Gives a pod the whole ENI, which it has then without any interface.
pub(super) fn give_whole_eni(node: &VpcNode, pod: &Pod) {
    node.run(&device_call("ADD", "dpdk", "ens6", pod)).ok();
    // As a driver for user space takes it from the kernel.
    pod.netns.ip(&["link", "del", "net1"]);
}

/// Makes the interface of the ENI again.
pub(super) fn give_interface_back(node: &VpcNode) {
    node.node.netns.ip(&[
        "link", "add", "ens6", "address", &node.mac, "type", "veth", "peer", "name", "vpc6",
    ]);
}

/// Nobody has to claim what a pod gets with a whole ENI, and a driver for user space shows it on
/// no interface.
#[test]
fn the_addresses_of_a_pod_that_has_the_whole_eni_are_not_what_others_have_left() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let address = "10.0.4.30";
    node.lab.assign(&node.eni, &[ip(address)]);
    let pod = Pod::new("c1");
    give_whole_eni(&node, &pod);
    node.command(&["sync", "--once"]);
    assert_eq!(node.ledger()[address], "adopted");
    let whole = "kept: a pod may have it with the whole ENI: its interface is not on the node";
    let recorded = "with the whole ENI: container c1, interface net1, network dpdk\n";
    for kept in [whole, recorded] {
        for more in [&["--foreign"][..], &["--force", "--address", address]] {
            for dry in [&["--dry-run"][..], &[]] {
                // Processes of others may be in namespaces that cannot be read for a moment.
                assert!(eventually(|| {
                    let output = release(&node, &[more, dry].concat(), 1);
                    output.stdout.contains(kept)
                }));
                assert_eq!(node.addresses(), [address]);
                assert_eq!(node.ledger()[address], "adopted");
            }
        }
        // The attachment lives, and its device is not bound to the driver yet.
        if kept == whole {
            give_interface_back(&node);
        }
    }
}
