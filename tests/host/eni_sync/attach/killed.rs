//! A process that is killed at any moment leaves a record and never an ENI that nobody knows of:
//! after the next start there are exactly the ENIs that the configuration names.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use harness::eni_lab::Hold;
use harness::fault::{Strike, each_system_call};
use harness::{AwsNode, Call};

use super::{
    ATTACH, CREATE, DESCRIBE, DETACH, MODIFY, Site, attach, attached, attached_and_settled, call,
    detach_call, let_records_settle, records, refusal, unknown,
};
use crate::eni_sync::killed;

/// At least as many system calls as `attach` makes that change something.
const LEAST: usize = 20;

/// Kills the call while EC2 holds its `action`.
fn kill_held(node: &AwsNode, call: &Call, action: &str, hold: Hold) {
    killed::kill_held(&node.node, &node.lab, call, (action, hold));
}

#[test]
fn an_attach_that_is_killed_before_or_behind_any_call_to_ec2_is_completed() {
    let looks = [
        "DescribeInstanceTypes",
        "DescribeSubnets",
        "DescribeSecurityGroups",
    ];
    let actions = [CREATE, ATTACH, MODIFY, DESCRIBE].into_iter().chain(looks);
    for action in actions {
        for hold in [Hold::BeforeCommit, Hold::AfterCommit] {
            let site = Site::new();
            let node = site.node();
            let configuration = site.configuration(&[site.wanted("user", 2)]);
            kill_held(&node, &call(&node, &configuration, &[]), action, hold);
            attached(&node, &configuration);
            site.assert_exactly(&node, &[("user", 2)], &format!("{action} {hold:?}"));
        }
    }
}

#[test]
fn an_attach_that_is_killed_anywhere_is_completed() {
    let kills = AtomicUsize::new(0);
    each_system_call(1, Site::new, |site, nth| {
        let node = site.node();
        let configuration = site.configuration(&[site.wanted("user", 1)]);
        let how = Strike::kill(nth);
        let struck = node.node.strike(&call(&node, &configuration, &[]), how);
        attached(&node, &configuration);
        let what = format!("{nth} {:?}", struck.hit);
        site.assert_exactly(&node, &[("user", 1)], &what);
        site.lab.terminate_instance(&node.instance);
        assert_eq!(site.enis(), [], "{what}");
        kills.fetch_add(usize::from(struck.hit.is_some()), Ordering::Relaxed);
        struck.hit.is_some()
    });
    let kills = kills.into_inner();
    assert!(kills >= LEAST, "only {kills} kills");
}

#[test]
fn a_detach_that_is_killed_anywhere_is_completed_by_the_next_one() {
    let kills = AtomicUsize::new(0);
    let make = || {
        let site = Site::new();
        let node = site.node();
        attached(&node, &site.configuration(&[site.wanted("user", 1)]));
        let_records_settle(&node);
        (site, node)
    };
    each_system_call(1, make, |(site, node), nth| {
        let stays = site.wanted("user", 1);
        let more = site.configuration(&[stays.clone(), site.wanted("old", 1)]);
        attached(node, &more);
        let fewer = site.configuration(&[stays]);
        let how = Strike::kill(nth);
        let struck = node.node.strike(&detach_call(node, &fewer, &[]), how);
        let output = node.node.run(&detach_call(node, &fewer, &[]));
        let what = format!("{nth} {:?}", struck.hit);
        assert_eq!(output.status, Some(0), "{what}: {output}");
        site.assert_exactly(node, &[("user", 1)], &what);
        assert_eq!(records(node), 0, "{what}");
        kills.fetch_add(usize::from(struck.hit.is_some()), Ordering::Relaxed);
        struck.hit.is_some()
    });
    let kills = kills.into_inner();
    assert!(kills >= LEAST, "only {kills} kills");
}

#[test]
fn lagging_descriptions_create_no_extra_eni() {
    for action in [CREATE, ATTACH, MODIFY] {
        let site = Site::new();
        let node = site.node();
        let configuration = site.configuration(&[site.wanted("user", 2)]);
        let lag = Duration::from_secs(2);
        site.lab.rules(|rules| rules.describe_lag = lag);
        site.lab.age(lag);
        let call = call(&node, &configuration, &[]);
        kill_held(&node, &call, action, Hold::AfterCommit);
        attached(&node, &configuration);
        attached(&node, &configuration);
        site.assert_exactly(&node, &[("user", 2)], action);
    }
}

#[test]
fn a_node_whose_state_was_lost_takes_what_was_created_for_it() {
    for action in [CREATE, ATTACH] {
        let site = Site::new();
        let node = site.node();
        let configuration = site.configuration(&[site.wanted("user", 2)]);
        let call = call(&node, &configuration, &[]);
        kill_held(&node, &call, action, Hold::AfterCommit);
        fs::remove_dir_all(node.node.state().join("eni-cni/enis")).unwrap();
        attached(&node, &configuration);
        site.assert_exactly(&node, &[("user", 2)], action);
        assert_eq!(site.lab.calls()[CREATE], 2, "{action}");
    }
}

#[test]
fn what_was_begun_and_is_not_wanted_any_more_is_deleted() {
    let site = Site::new();
    let node = site.node();
    let before = site.configuration(&[site.wanted("old", 1)]);
    let call = call(&node, &before, &[]);
    kill_held(&node, &call, CREATE, Hold::AfterCommit);
    assert_eq!(site.enis().len(), 1);
    attached(&node, &site.configuration(&[site.wanted("user", 1)]));
    site.assert_exactly(&node, &[("user", 1)], "not wanted");
}

#[test]
fn an_eni_whose_request_is_older_than_itself_is_not_taken_for_deleted() {
    let site = Site::new();
    let node = site.node();
    let configuration = site.configuration(&[site.wanted("user", 1)]);
    let call = call(&node, &configuration, &[]);
    kill_held(&node, &call, CREATE, Hold::BeforeCommit);
    let_records_settle(&node);
    let lag = Duration::from_secs(2);
    site.lab.age(lag);
    site.lab.rules(|rules| rules.describe_lag = lag);
    site.lab.fail_next(ATTACH, 1, unknown());
    attached(&node, &configuration);
    site.assert_exactly(&node, &[("user", 1)], "too new");
}

#[test]
fn an_eni_that_is_too_new_to_be_deleted_is_deleted_by_a_later_start() {
    let site = Site::new();
    let node = site.node();
    let after = site.configuration(&[site.wanted("user", 1)]);
    attached(&node, &after);
    let before = site.configuration(&[site.wanted("user", 1), site.wanted("old", 1)]);
    let call = call(&node, &before, &[]);
    kill_held(&node, &call, CREATE, Hold::BeforeCommit);
    site.lab.fail_next("DeleteNetworkInterface", 1, unknown());
    attached(&node, &after);
    attached(&node, &after);
    site.assert_exactly(&node, &[("user", 1)], "deleted later");
}

#[test]
fn a_description_that_is_older_than_the_last_one_creates_no_extra_eni() {
    let site = Site::new();
    let node = site.node();
    let configuration = site.configuration(&[site.wanted("user", 1)]);
    let lag = Duration::from_secs(4);
    site.lab.age(lag);
    attached(&node, &configuration);
    attached(&node, &configuration);
    site.lab.rules(|rules| rules.describe_lag = lag);
    attached(&node, &configuration);
    site.assert_exactly(&node, &[("user", 1)], "older");
}

#[test]
fn a_dry_run_attaches_no_eni_that_was_begun_and_is_not_wanted_any_more() {
    let site = Site::new();
    let node = site.node();
    let fewer = site.configuration(&[site.wanted("user", 1)]);
    attached(&node, &fewer);
    let more = site.configuration(&[site.wanted("user", 2)]);
    let begin = call(&node, &more, &[]);
    kill_held(&node, &begin, ATTACH, Hold::BeforeCommit);
    let output = attach(&node, &more, &["--dry-run"]);
    assert!(output.stdout.contains("would"), "{output}");
    let output = attach(&node, &fewer, &["--dry-run"]);
    assert_eq!(output.status, Some(0), "{output}");
    assert!(!output.stdout.contains("would"), "{output}");
}

#[test]
fn a_pass_asks_once_to_have_an_eni_go_with_the_instance() {
    let site = Site::new();
    let node = site.node();
    let configuration = site.configuration(&[site.wanted("user", 1)]);
    let denied = || refusal(403, "UnauthorizedOperation");
    // The pass that attaches it, and one that finds it attached.
    for pass in ["first", "second"] {
        site.lab.reset_calls();
        site.lab.fail_next(MODIFY, 1, denied());
        let output = attach(&node, &configuration, &[]);
        assert_eq!(output.status, Some(1), "{pass}: {output}");
        assert_eq!(site.lab.calls()[MODIFY], 1, "{pass}");
    }
    attached(&node, &configuration);
    site.assert_exactly(&node, &[("user", 1)], "third");
}

#[test]
fn an_eni_that_leaves_the_node_is_not_made_to_go_with_the_instance() {
    let site = Site::new();
    let node = site.node();
    let configuration = site.configuration(&[site.wanted("user", 1)]);
    attached_and_settled(&node, &configuration);
    let detach = detach_call(&node, &site.configuration(&[]), &[]);
    kill_held(&node, &detach, DETACH, Hold::BeforeCommit);
    site.lab.delete_on_termination(&site.enis()[0].id, false);
    site.lab.reset_calls();
    attached(&node, &configuration);
    assert!(!site.lab.calls().contains_key(MODIFY));
    // It was not detached.
    let_records_settle(&node);
    attached(&node, &configuration);
    site.assert_exactly(&node, &[("user", 1)], "stays");
}
