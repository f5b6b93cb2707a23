//! The agent attaches what is missing later, and deletes what instances have left that have gone.

use harness::eni_lab::Hold;
use harness::vpc::eventually;
use harness::{Agent, AwsNode, Host, Node, Output};
use serde_json::{Value, json};

use super::{
    CREATE, DESCRIBE, Site, attached, call, inventory, let_records_settle, records, refusal,
};
use crate::eni_sync::killed;

fn with(mut configuration: Value, key: &str, value: Value) -> Value {
    configuration[key] = value;
    configuration
}

fn has(site: &Site, node: &AwsNode, count: usize) -> bool {
    let enis = site.enis();
    let of_node = |eni: &&harness::eni_lab::Shown| eni.instance.as_ref() == Some(&node.instance);
    enis.iter()
        .filter(of_node)
        .filter(|eni| eni.delete_on_termination)
        .count()
        == count
}

#[test]
fn an_agent_attaches_what_is_missing_and_asks_for_nothing_then() {
    let site = Site::new();
    let node = site.node();
    let configuration = site.configuration(&[site.wanted("user", 2)]);
    let configuration = with(configuration, "reconcileSeconds", json!(1));
    let agent = Agent::start(&node, &configuration);
    assert!(eventually(|| has(&site, &node, 2)), "{}", agent.log());
    site.assert_exactly(&node, &[("user", 2)], "by the agent");
    // The agent has written down that they are attached when it has the inventory.
    let known = || inventory(&node)["enis"].as_array().map_or(0, Vec::len);
    assert!(eventually(|| known() == 3), "{}", agent.log());
    let_records_settle(&node);
    assert!(eventually(|| records(&node) == 0), "{}", agent.log());
    let lost = site.enis().remove(0).id;
    site.lab.detach_eni(&lost);
    site.lab.delete_eni(&lost);
    assert!(eventually(|| has(&site, &node, 2)), "{}", agent.log());
    site.assert_exactly(&node, &[("user", 2)], "again");
    assert_eq!(site.lab.calls()[CREATE], 3);
}

#[test]
fn an_agent_that_has_all_enis_makes_no_call_for_them() {
    let site = Site::new();
    let node = site.node();
    let configuration = site.configuration(&[site.wanted("user", 1)]);
    attached(&node, &configuration);
    site.lab.reset_calls();
    let agent = Agent::start(&node, &configuration);
    let reconciled = || site.lab.calls().contains_key(DESCRIBE);
    assert!(eventually(reconciled), "{}", agent.log());
    // It looks at the records without a call until they have settled, and once with one then.
    let_records_settle(&node);
    assert!(eventually(|| records(&node) == 0), "{}", agent.log());
    assert_eq!(site.lab.calls()[DESCRIBE], 3);
    assert_eq!(site.changes(), 0);
}

#[test]
fn what_an_agent_cannot_attach_is_an_error_in_its_log_once() {
    let site = Site::new();
    let node = site.node_of_type("c5.large");
    let configuration = site.configuration(&[site.wanted("user", 3)]);
    let agent = Agent::start(&node, &configuration);
    let said = "there is no room for one more ENI";
    assert!(eventually(|| agent.log().contains(said)), "{}", agent.log());
    assert!(eventually(|| has(&site, &node, 2)), "{}", agent.log());
    assert_eq!(agent.log().matches(said).count(), 1, "{}", agent.log());
}

/// Makes the ENIs of all instances older than agents and commands wait for.
fn let_time_pass(site: &Site) {
    for eni in site.enis() {
        site.lab
            .tag_eni(&eni.id, "eni-cni/created", "2026-01-01T00:00:00.000Z");
    }
}

/// A node that was killed when EC2 had created an ENI for it, and is terminated.
fn leave_one(site: &Site) {
    let gone = site.node();
    let configuration = site.configuration(&[site.wanted("user", 1)]);
    let call = call(&gone, &configuration, &[]);
    killed::kill_held(&gone.node, &site.lab, &call, (CREATE, Hold::AfterCommit));
    site.lab.terminate_instance(&gone.instance);
}

fn detach_leaked(node: &AwsNode, more: &[&str]) -> Output {
    let arguments = [&["detach", "--leaked"][..], more].concat();
    node.node.run(&node.eni_sync().arguments(&arguments))
}

#[test]
fn the_agent_of_another_node_deletes_what_an_instance_has_left_that_has_gone() {
    let site = Site::new();
    leave_one(&site);
    let_time_pass(&site);
    let node = site.node();
    let configuration = site.configuration(&[site.wanted("user", 1)]);
    // Eight comparisons are its hour.
    let configuration = with(configuration, "reconcileSeconds", json!(1));
    let agent = Agent::start(&node, &configuration);
    let is_clean = |site: &Site| site.enis().iter().all(|eni| eni.instance.is_some());
    assert!(
        eventually(|| is_clean(&site) && has(&site, &node, 1)),
        "{}",
        agent.log()
    );
    site.assert_exactly(&node, &[("user", 1)], "leaked");
    let said = "the instance that it was created for has gone";
    assert!(eventually(|| agent.log().contains(said)), "{}", agent.log());
}

#[test]
fn what_may_be_attached_yet_is_not_deleted() {
    let site = Site::new();
    leave_one(&site);
    let node = site.node();
    let detach = |more: &[&str]| {
        let output = detach_leaked(&node, more);
        assert_eq!(output.status, Some(0), "{output}");
        output.stdout
    };
    // It is younger than five minutes.
    assert_eq!(detach(&[]), "nothing to detach\n");
    let_time_pass(&site);
    let id = site.enis()[0].id.clone();
    assert_eq!(detach(&["--dry-run"]), format!("{id}: would be deleted\n"));
    assert_eq!(site.enis().len(), 1);
    assert_eq!(detach(&[]), format!("{id}: deleted\n"));
    assert_eq!(site.enis(), []);
    // What a living instance has not attached yet is its own.
    let living = site.node();
    let configuration = site.configuration(&[site.wanted("user", 1)]);
    let call = call(&living, &configuration, &[]);
    killed::kill_held(&living.node, &site.lab, &call, (CREATE, Hold::AfterCommit));
    let_time_pass(&site);
    assert_eq!(detach(&[]), "nothing to detach\n");
}

#[test]
fn what_is_left_in_another_vpc_is_left_to_its_nodes() {
    let site = Site::new();
    leave_one(&site);
    let_time_pass(&site);
    let vpc = site.lab.create_vpc("10.1.0.0/16");
    let nodes = site.lab.create_subnet(&vpc, "10.1.1.0/24", None);
    let node = AwsNode::new(Node::new(), &site.lab, "m5.xlarge", &nodes);
    let output = detach_leaked(&node, &[]);
    assert_eq!(output.status, Some(0), "{output}");
    assert_eq!(output.stdout, "nothing to detach\n", "{output}");
    assert_eq!(site.enis().len(), 1);
}

#[test]
fn what_is_deleted_is_told_when_ec2_refuses_another_one() {
    let site = Site::new();
    for _ in 0..2 {
        leave_one(&site);
    }
    let_time_pass(&site);
    let node = site.node();
    let denied = refusal(403, "UnauthorizedOperation");
    site.lab.fail_next("DeleteNetworkInterface", 1, denied);
    let output = detach_leaked(&node, &[]);
    assert_eq!(output.status, Some(1), "{output}");
    let left = site.enis();
    assert_eq!(left.len(), 1, "{output}");
    assert_eq!(output.stdout.matches(": deleted\n").count(), 1, "{output}");
    assert!(output.stderr.contains(left[0].id.as_str()), "{output}");
}

#[test]
fn the_metrics_and_the_doctor_tell_what_is_wanted_and_what_others_have() {
    let site = Site::new();
    let node = site.node_of_type("c5.large");
    let other = site.lab.create_eni(&site.pods);
    site.lab.attach_eni(&other, &node.instance, 1);
    let configuration = site.configuration(&[site.wanted("user", 2)]);
    let configuration = with(configuration, "metrics", json!("127.0.0.1:9809"));
    let agent = Agent::start(&node, &configuration);
    assert!(eventually(|| has(&site, &node, 1)), "{}", agent.log());
    let scrape = || {
        let arguments = ["-fsS", "http://127.0.0.1:9809/metrics"];
        node.node.netns.tool("curl", &arguments)
    };
    for line in [
        "eni_sync_enis{state=\"wanted\"} 2",
        "eni_sync_enis{state=\"missing\"} 1",
        "eni_sync_interface_slots_used{network_card=\"0\",holder=\"network\"} 1",
        "eni_sync_interface_slots_used{network_card=\"0\",holder=\"vpc-cni\"} 1",
        "eni_sync_interface_slots_limit{network_card=\"0\"} 3",
        "eni_sync_enis{state=\"attached\"} 1",
        "eni_sync_enis{state=\"down\"} 1",
        "eni_sync_enis{state=\"foreign\"} 1",
    ] {
        assert!(
            eventually(|| scrape().contains(line)),
            "{line}\n{}",
            scrape()
        );
    }
    let arguments = ["doctor", "--json", "--agent-config", "/run/agent.json"];
    let output = node.node.run(&node.eni_sync().arguments(&arguments));
    let report: Value = serde_json::from_str(&output.stdout).unwrap();
    let finding = |check: &str| {
        let findings = report["findings"].as_array().unwrap();
        let found = findings.iter().find(|finding| finding["check"] == check);
        found.unwrap_or_else(|| panic!("{report:#}")).clone()
    };
    let wanted = finding("enis-wanted");
    assert_eq!(wanted["says"], "1 of 2 are attached");
    assert_eq!(wanted["level"], "error");
    let slots = finding("interface-slots")["says"].clone();
    let says = format!(
        "{other} (the VPC CNI's: created by 123456789012, tags node.k8s.amazonaws.com/instance_id="
    );
    assert!(slots.as_str().unwrap().contains(&says), "{slots}");
}
