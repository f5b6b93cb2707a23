//! ENIs that a configuration does not name any more are taken away, unless they carry pods.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use harness::eni_lab::{Hold, Shown};
use harness::vpc::{device_call, eventually, prev_result, while_held};
use harness::{AwsNode, Call, Host, Output, Pod, Resident};
use serde_json::{Value, json};

use super::{
    DESCRIBE, DETACH, Site, attached, attached_and_settled, detach_call, inventory,
    let_records_settle, record_files, records, refusal,
};
use crate::eni_sync::killed;

fn detach(node: &AwsNode, configuration: &Value, more: &[&str]) -> Output {
    node.node.run(&detach_call(node, configuration, more))
}

/// What a plugin answers to a pod that is to get the interface `ens6`, or one on it.
fn start_pods(node: &AwsNode) -> [Output; 2] {
    let pod = Pod::new("c9");
    let conf = json!({
        "cniVersion": "1.1.0", "name": "on", "type": "ipvlan", "master": "ens6",
    });
    let on_it = Call::ours("ipvlan", "ADD").conf(&conf).pod(&pod, "net1");
    [device_call("ADD", "whole", "ens6", &pod), on_it].map(|call| node.node.run(&call))
}

#[track_caller]
fn assert_kept_from_pods(node: &AwsNode) {
    for output in start_pods(node) {
        let error = output.error();
        let said = "the ENI of \"ens6\" is being detached from this node";
        assert_eq!((error.code, error.msg.as_str()), (11, said), "{output}");
    }
}

/// An address of a pod on the node's first ENI of this kind, which eni-sync registers.
fn register(node: &AwsNode, mac: &str, pod: &Pod, command: &str) -> Output {
    let mut conf = json!({ "cniVersion": "1.1.0", "name": "mgmt", "type": "eni-sync" });
    conf["prevResult"] = prev_result(pod, &[(mac, &["10.0.4.70"])]);
    let call = node.eni_sync().env("CNI_COMMAND", command);
    node.node.run(&call.conf(&conf).pod(pod, "net1"))
}

#[test]
fn what_the_configuration_names_no_more_is_deleted_and_the_rest_stays() {
    let site = Site::new();
    let node = site.node();
    let both = site.configuration(&[site.wanted("control", 1), site.wanted("user", 2)]);
    attached(&node, &both);
    let output = detach(&node, &both, &[]);
    assert_eq!(output.stdout, "nothing to detach\n", "{output}");
    let fewer = site.configuration(&[site.wanted("user", 1)]);
    let_records_settle(&node);
    let report = attached(&node, &fewer);
    assert_eq!(report["unwanted"].as_array().unwrap().len(), 2, "{report}");
    let preview = detach(&node, &fewer, &["--dry-run"]);
    assert_eq!(
        preview.stdout.matches("would be deleted").count(),
        2,
        "{preview}"
    );
    assert_eq!(site.enis().len(), 3);
    let output = detach(&node, &fewer, &["--json"]);
    assert_eq!(output.status, Some(0), "{output}");
    assert_eq!(output.stdout.matches("\"deleted\"").count(), 2, "{output}");
    site.assert_exactly(&node, &[("user", 1)], "fewer");
    assert_eq!(inventory(&node)["enis"].as_array().unwrap().len(), 2);
    assert_eq!(records(&node), 0);
}

#[test]
fn an_eni_with_pods_stays_and_they_are_named() {
    let site = Site::new();
    let node = site.node();
    let before = site.configuration(&[site.wanted("user", 1)]);
    let report = attached(&node, &before);
    let mac = report["enis"][0]["mac"].as_str().unwrap();
    let pod = Pod::new("c1");
    register(&node, mac, &pod, "ADD").ok();
    let without = json!({"enis": []});
    let output = detach(&node, &without, &[]);
    assert_eq!(output.status, Some(1), "{output}");
    for said in [": kept: ", "c1", "10.0.4.70"] {
        assert!(output.stdout.contains(said), "{said}\n{output}");
    }
    site.assert_exactly(&node, &[("user", 1)], "with a pod");
    register(&node, mac, &pod, "DEL").ok();
    let output = detach(&node, &without, &[]);
    assert_eq!(output.status, Some(0), "{output}");
    assert_eq!(site.enis(), []);
}

#[test]
fn an_eni_whose_interface_a_pod_has_stays() {
    let site = Site::new();
    let node = site.node();
    attached(&node, &site.configuration(&[site.wanted("user", 1)]));
    let pod = Pod::new("c1");
    let path = pod.netns.path();
    node.node.netns.ip(&["link", "set", "ens6", "netns", &path]);
    let output = detach(&node, &json!({}), &[]);
    assert_eq!(output.status, Some(1), "{output}");
    let said = "its interface is not on the node: a pod or a driver for user space has it";
    assert!(output.stdout.contains(said), "{output}");
    site.assert_exactly(&node, &[("user", 1)], "in a pod");
}

#[test]
fn a_detach_that_is_killed_is_completed_by_the_next_start() {
    for action in [DETACH, "DeleteNetworkInterface"] {
        for hold in [Hold::BeforeCommit, Hold::AfterCommit] {
            let site = Site::new();
            let node = site.node();
            let both = site.configuration(&[site.wanted("old", 1), site.wanted("user", 1)]);
            attached(&node, &both);
            let fewer = site.configuration(&[site.wanted("user", 1)]);
            let call = detach_call(&node, &fewer, &[]);
            killed::kill_held(&node.node, &site.lab, &call, (action, hold));
            attached(&node, &fewer);
            let output = detach(&node, &fewer, &[]);
            assert_eq!(output.status, Some(0), "{output}");
            let what = format!("{action} {hold:?}");
            site.assert_exactly(&node, &[("user", 1)], &what);
        }
    }
}

#[test]
fn a_detach_that_is_killed_is_completed_by_the_next_one() {
    for action in [DESCRIBE, DETACH, "DeleteNetworkInterface"] {
        for hold in [Hold::BeforeCommit, Hold::AfterCommit] {
            let site = Site::new();
            let node = site.node();
            let both = site.configuration(&[site.wanted("old", 2), site.wanted("user", 1)]);
            attached_and_settled(&node, &both);
            let fewer = site.configuration(&[site.wanted("user", 1)]);
            let call = detach_call(&node, &fewer, &[]);
            killed::kill_held(&node.node, &site.lab, &call, (action, hold));
            let output = detach(&node, &fewer, &[]);
            assert_eq!(output.status, Some(0), "{output}");
            let what = format!("{action} {hold:?}");
            site.assert_exactly(&node, &[("user", 1)], &what);
            assert_eq!(records(&node), 0, "{what}");
        }
    }
}

#[test]
fn an_eni_that_is_still_being_detached_is_deleted_by_the_next_detach() {
    let site = Site::new();
    let node = site.node();
    attached(&node, &site.configuration(&[site.wanted("user", 1)]));
    site.lab
        .rules(|rules| rules.detaching = Duration::from_secs(3));
    let call = detach_call(&node, &json!({}), &[]);
    killed::kill_held(&node.node, &site.lab, &call, (DETACH, Hold::AfterCommit));
    let output = detach(&node, &json!({}), &[]);
    assert_eq!(output.status, Some(0), "{output}");
    assert_eq!((site.enis(), records(&node)), (Vec::new(), 0), "{output}");
}

#[test]
fn a_record_that_cannot_be_read_is_named_and_keeps_no_eni() {
    let site = Site::new();
    let node = site.node();
    attached(&node, &site.configuration(&[site.wanted("user", 1)]));
    let damaged = node.node.state().join("eni-cni/enis/damaged.json");
    fs::write(&damaged, "{").unwrap();
    let output = detach(&node, &json!({}), &[]);
    assert_eq!(output.status, Some(1), "{output}");
    assert_eq!(output.stderr.matches("damaged.json").count(), 1, "{output}");
    assert_eq!((site.enis(), records(&node)), (Vec::new(), 1));
}

#[test]
fn an_eni_that_cannot_be_taken_out_of_the_inventory_is_for_pods_again() {
    let site = Site::new();
    let node = site.node();
    let configuration = site.configuration(&[site.wanted("user", 1)]);
    attached_and_settled(&node, &configuration);
    let inventory = node.run_directory().join("eni-cni/enis.json");
    fs::write(inventory, "{").unwrap();
    let output = detach(&node, &json!({}), &[]);
    assert_eq!(output.status, Some(1), "{output}");
    assert!(output.stderr.contains("enis.json"), "{output}");
    assert_eq!((site.enis().len(), records(&node)), (1, 0));
    let output = detach(&node, &json!({}), &[]);
    assert_eq!(output.status, Some(0), "{output}");
    assert_eq!((site.enis(), records(&node)), (Vec::new(), 0));
}

#[test]
fn a_dry_run_names_what_a_detach_that_was_killed_has_left() {
    let site = Site::new();
    let node = site.node();
    let configuration = site.configuration(&[site.wanted("user", 1)]);
    attached(&node, &configuration);
    let call = detach_call(&node, &json!({}), &[]);
    killed::kill_held(&node.node, &site.lab, &call, (DETACH, Hold::AfterCommit));
    let output = detach(&node, &json!({}), &["--dry-run"]);
    let said = format!("{} of user: would be deleted", site.enis()[0].id);
    assert!(output.stdout.contains(&said), "{said}\n{output}");
    // Whoever wants it again has it attached.
    let output = detach(&node, &configuration, &[]);
    assert_eq!(output.stdout, "nothing to detach\n", "{output}");
    attached(&node, &configuration);
    site.assert_exactly(&node, &[("user", 1)], "again");
}

#[test]
fn a_detach_gives_up_after_its_time_and_begins_with_no_other_eni() {
    let site = Site::new();
    let node = site.node();
    attached(&node, &site.configuration(&[site.wanted("user", 2)]));
    site.lab.hold("DeleteNetworkInterface", Hold::BeforeCommit);
    let output = detach(&node, &json!({}), &["--timeout", "4"]);
    site.lab.release_held();
    assert_eq!(output.status, Some(1), "{output}");
    let on_node = |eni: &&Shown| eni.instance.is_some();
    let enis = site.enis();
    let left: Vec<&Shown> = enis.iter().filter(on_node).collect();
    let [left] = left[..] else {
        panic!("{enis:#?}\n{output}");
    };
    let said = format!("timed out before it was the turn of {}", left.id);
    assert!(output.stderr.contains(&said), "{said}\n{output}");
    let output = detach(&node, &json!({}), &[]);
    assert_eq!(output.status, Some(0), "{output}");
    assert_eq!((site.enis(), records(&node)), (Vec::new(), 0));
}

#[test]
fn an_eni_that_ec2_takes_long_to_detach_is_named_when_the_time_is_over() {
    let site = Site::new();
    let node = site.node();
    attached(&node, &site.configuration(&[site.wanted("user", 1)]));
    site.lab
        .rules(|rules| rules.detaching = Duration::from_secs(3600));
    let output = detach(&node, &json!({}), &["--timeout", "4"]);
    assert_eq!(output.status, Some(1), "{output}");
    let said = format!("timed out waiting for EC2 to detach {}", site.enis()[0].id);
    assert!(output.stderr.contains(&said), "{said}\n{output}");
}

#[test]
fn a_pod_that_starts_while_its_eni_is_detached_does_not_get_it() {
    let site = Site::new();
    let node = site.node();
    attached(&node, &site.configuration(&[site.wanted("user", 1)]));
    let call = detach_call(&node, &json!({}), &[]);
    let held = (DETACH, Hold::BeforeCommit);
    let detach = || node.node.run(&call);
    let (output, ()) = while_held(&site.lab, held, detach, || {
        assert_kept_from_pods(&node);
        assert_eq!(inventory(&node)["enis"].as_array().unwrap().len(), 1);
    });
    assert_eq!(output.status, Some(0), "{output}");
    assert_eq!((site.enis(), records(&node)), (Vec::new(), 0));
}

#[test]
fn an_eni_that_ec2_does_not_detach_is_for_pods_again() {
    let site = Site::new();
    let node = site.node();
    attached(&node, &site.configuration(&[site.wanted("user", 1)]));
    let denied = refusal(403, "UnauthorizedOperation");
    site.lab.fail_next(DETACH, 1, denied);
    let output = detach(&node, &json!({}), &[]);
    assert_eq!(output.status, Some(1), "{output}");
    assert_eq!(inventory(&node)["enis"].as_array().unwrap().len(), 2);
    let [whole, _] = start_pods(&node);
    whole.ok();
}

#[test]
fn an_eni_that_was_not_detached_when_detach_was_killed_is_for_pods_again_a_minute_later() {
    let site = Site::new();
    let node = site.node();
    let configuration = site.configuration(&[site.wanted("user", 1)]);
    attached(&node, &configuration);
    let call = detach_call(&node, &json!({}), &[]);
    killed::kill_held(&node.node, &site.lab, &call, (DETACH, Hold::BeforeCommit));
    attached(&node, &configuration);
    // EC2 may still detach it.
    assert_kept_from_pods(&node);
    let_records_settle(&node);
    attached(&node, &configuration);
    assert_eq!(inventory(&node)["enis"].as_array().unwrap().len(), 2);
    let [whole, _] = start_pods(&node);
    whole.ok();
}

#[test]
fn an_eni_stays_while_a_pod_has_an_address_of_one_of_its_prefixes() {
    let site = Site::new();
    let node = site.node();
    attached(&node, &site.configuration(&[site.wanted("user", 1)]));
    site.lab.assign_prefix(&site.enis()[0].id, "10.0.4.96/28");
    let pod = Pod::new("c1");
    pod.netns
        .ip(&["address", "add", "10.0.4.100/32", "dev", "lo"]);
    let process = Resident::inside(&pod.netns.path());
    let output = detach(&node, &json!({}), &[]);
    assert_eq!(output.status, Some(1), "{output}");
    let said = "10.0.4.96/28: 10.0.4.100: it is on an interface of a pod";
    assert!(output.stdout.contains(said), "{output}");
    drop(process);
    // Processes of other tests may be in namespaces that change.
    let is_detached = || detach(&node, &json!({}), &[]).status == Some(0);
    assert!(eventually(is_detached));
    assert_eq!(site.enis(), []);
}

#[test]
fn an_eni_that_is_still_being_detached_is_not_for_pods_until_it_is_back() {
    let site = Site::new();
    let node = site.node();
    let configuration = site.configuration(&[site.wanted("user", 1)]);
    attached(&node, &configuration);
    site.lab
        .rules(|rules| rules.detaching = Duration::from_secs(3600));
    let call = detach_call(&node, &json!({}), &[]);
    killed::kill_held(&node.node, &site.lab, &call, (DETACH, Hold::AfterCommit));
    for _ in 0..2 {
        let_records_settle(&node);
        attached(&node, &configuration);
        assert_kept_from_pods(&node);
    }
    site.lab.rules(|rules| rules.detaching = Duration::ZERO);
    site.lab.detach_eni(&site.enis()[0].id);
    attached(&node, &configuration);
    site.assert_exactly(&node, &[("user", 1)], "again");
    let [whole, _] = start_pods(&node);
    whole.ok();
}

#[test]
fn an_eni_that_somebody_else_detaches_meanwhile_has_a_record_until_it_is_deleted() {
    let site = Site::new();
    let node = site.node();
    attached(&node, &site.configuration(&[site.wanted("user", 1)]));
    let call = detach_call(&node, &json!({}), &[]);
    site.lab
        .rules(|rules| rules.detaching = Duration::from_secs(3600));
    let held = (DESCRIBE, Hold::AfterCommit);
    let detach = || node.node.run(&call);
    let (output, ()) = while_held(&site.lab, held, detach, || {
        site.lab.detach_eni(&site.enis()[0].id);
        site.lab
            .fail_next(DETACH, 1, refusal(400, "IncorrectState"));
    });
    assert_eq!(output.status, Some(1), "{output}");
    assert!(output.stderr.contains("IncorrectState"), "{output}");
    assert_kept_from_pods(&node);
    site.lab.rules(|rules| rules.detaching = Duration::ZERO);
    site.lab.detach_eni(&site.enis()[0].id);
    attached(&node, &site.configuration(&[site.wanted("other", 1)]));
    site.assert_exactly(&node, &[("other", 1)], "deleted");
}

/// What is done with an ENI can take longer than the age at which its record says nothing any
/// more. The look that showed it attached is older still.
#[test]
fn an_eni_that_a_detach_could_not_finish_is_kept_from_pods_however_long_that_took() {
    for (action, status) in [("DeleteNetworkInterface", 403), (DETACH, 500)] {
        let site = Site::new();
        let node = site.node();
        let configuration = site.configuration(&[site.wanted("user", 1)]);
        attached_and_settled(&node, &configuration);
        site.lab
            .rules(|rules| rules.detaching = Duration::from_secs(3600));
        site.lab
            .fail_next(action, u64::MAX, refusal(status, "Unavailable"));
        let call = detach_call(&node, &json!({}), &[]);
        let detach = || node.node.run(&call);
        let (output, ()) = while_held(&site.lab, (action, Hold::BeforeCommit), detach, || {
            let_records_settle(&node);
        });
        assert_eq!(output.status, Some(1), "{output}");
        assert!(output.stderr.contains("Unavailable"), "{output}");
        assert_eq!(records(&node), 1, "{action}\n{output}");
        let known = inventory(&node)["enis"].as_array().unwrap().len();
        assert_eq!(known, 1, "{action}\n{output}");
        assert_kept_from_pods(&node);
    }
}

#[test]
fn an_eni_that_ec2_does_not_detach_keeps_no_other_one_and_is_named() {
    let site = Site::new();
    let node = site.node();
    attached(&node, &site.configuration(&[site.wanted("user", 2)]));
    let denied = refusal(403, "UnauthorizedOperation");
    site.lab.fail_next(DETACH, 1, denied);
    let output = detach(&node, &json!({}), &[]);
    assert_eq!(output.status, Some(1), "{output}");
    assert_eq!(output.stdout.matches(": deleted").count(), 1, "{output}");
    let left = site.enis();
    assert_eq!(left.len(), 1);
    let said = format!("detach {}", left[0].id);
    assert!(output.stderr.contains(&said), "{said}\n{output}");
}

/// The only ENI of a kind that `attach` reports.
fn only_eni(report: &Value, name: &str) -> String {
    let enis = report["enis"].as_array().unwrap().iter();
    let enis: Vec<&Value> = enis.filter(|eni| eni["name"] == name).collect();
    assert_eq!(enis.len(), 1, "{report}");
    enis[0]["id"].as_str().unwrap().to_owned()
}

#[test]
fn an_eni_that_was_deleted_a_moment_ago_does_not_count_where_descriptions_still_show_it() {
    for is_killed in [false, true] {
        let site = Site::new();
        let node = site.node();
        let other = site.wanted("other", 1);
        let without = site.configuration(std::slice::from_ref(&other));
        let with = site.configuration(&[other, site.wanted("user", 1)]);
        attached_and_settled(&node, &with);
        let before = only_eni(&attached(&node, &with), "user");
        let lag = Duration::from_secs(600);
        site.lab.age(lag);
        if is_killed {
            // The start after that deletes what was detached.
            let call = detach_call(&node, &without, &[]);
            let hold = (DETACH, Hold::AfterCommit);
            killed::kill_held(&node.node, &site.lab, &call, hold);
            attached(&node, &without);
        } else {
            let output = detach(&node, &without, &[]);
            assert_eq!(output.status, Some(0), "{output}");
        }
        site.assert_exactly(&node, &[("other", 1)], "without");
        site.lab.rules(|rules| rules.describe_lag = lag);
        let after = only_eni(&attached(&node, &with), "user");
        assert_ne!(after, before, "{is_killed}");
        site.assert_exactly(&node, &[("other", 1), ("user", 1)], "with");
        // When descriptions have caught up, nothing is left of the first one.
        site.lab.rules(|rules| rules.describe_lag = Duration::ZERO);
        let_records_settle(&node);
        assert_eq!(only_eni(&attached(&node, &with), "user"), after);
        assert_eq!(record_files(&node), [] as [PathBuf; 0]);
    }
}

#[test]
fn an_eni_that_a_killed_detach_was_to_take_is_for_pods_again_after_the_next_one_that_keeps_it() {
    for has_pod in [false, true] {
        let site = Site::new();
        let node = site.node();
        let configuration = site.configuration(&[site.wanted("user", 1)]);
        attached_and_settled(&node, &configuration);
        let call = detach_call(&node, &json!({}), &[]);
        let hold = (DETACH, Hold::BeforeCommit);
        killed::kill_held(&node.node, &site.lab, &call, hold);
        let pod = Pod::new("c1");
        let next = match has_pod {
            false => configuration,
            true => json!({"enis": []}),
        };
        if has_pod {
            let path = pod.netns.path();
            node.node.netns.ip(&["link", "set", "ens6", "netns", &path]);
        }
        let stays = || {
            let output = detach(&node, &next, &[]);
            assert_eq!(output.stdout.contains(": kept: "), has_pod, "{output}");
            inventory(&node)["enis"].as_array().unwrap().len()
        };
        // EC2 may still carry out the request of the killed process.
        assert_eq!((stays(), records(&node)), (1, 1));
        let_records_settle(&node);
        assert_eq!((stays(), records(&node)), (2, 0));
        site.assert_exactly(&node, &[("user", 1)], "kept");
    }
}
