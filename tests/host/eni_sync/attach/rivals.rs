//! The VPC CNI takes slots and device indexes at the same moment, EC2 throttles, and many nodes
//! start at once.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use harness::AwsNode;
use harness::eni_lab::{Bucket, Buckets, Event, Fault, Hold, InstanceId, Shown};

use super::{
    ATTACH, CREATE, DESCRIBE, MODIFY, Site, attach, attached, call, records, refusal, unknown,
};
use crate::eni_sync::killed;

fn of_vpc_cni(site: &Site) -> usize {
    let all = site.lab.all_enis();
    all.iter().filter(|eni| eni.is_of_vpc_cni()).count()
}

#[test]
fn an_index_that_the_vpc_cni_takes_at_the_same_moment_is_another_one() {
    let site = Site::new();
    let node = site.node();
    let rival = Fault::VpcCniAttaches(node.instance.clone());
    site.lab.fail_next(ATTACH, 1, rival);
    attached(&node, &site.configuration(&[site.wanted("user", 2)]));
    site.assert_exactly(&node, &[("user", 2)], "an index");
    let places: Vec<_> = site.enis().iter().map(|eni| eni.place).collect();
    assert_eq!(places, [Some((0, 2)), Some((0, 3))]);
    assert_eq!(of_vpc_cni(&site), 1);
}

#[test]
fn the_last_slot_that_the_vpc_cni_takes_at_the_same_moment_is_named() {
    let site = Site::new();
    let node = site.node_of_type("c5.large");
    let rival = Fault::VpcCniAttaches(node.instance.clone());
    site.lab.fail_nth(ATTACH, 2, rival);
    let configuration = site.configuration(&[site.wanted("user", 2)]);
    let output = attach(&node, &configuration, &[]);
    assert_eq!(output.status, Some(1), "{output}");
    let who = format!(
        "(the VPC CNI's: description \"aws-K8S-{instance}\", created by AROA0EXAMPLE:{instance}, tags",
        instance = node.instance
    );
    assert!(output.stderr.contains(&who), "{output}");
    // One that could not be attached is kept for the next time, and attached then.
    assert_eq!((site.enis().len(), records(&node)), (2, 2));
    let theirs = site.lab.all_enis().into_iter().find(Shown::is_of_vpc_cni);
    site.lab.detach_eni(&theirs.unwrap().id);
    attached(&node, &configuration);
    site.assert_exactly(&node, &[("user", 2)], "a slot");
    assert_eq!(site.lab.calls()[CREATE], 2);
}

#[test]
fn an_index_that_is_refused_again_and_again_is_given_up_after_some_attempts() {
    let site = Site::new();
    let node = site.node();
    let refused = Fault::Error {
        status: 400,
        code: "InvalidParameterValue".to_owned(),
        message: "Instance already has an interface attached at device index '1'.".to_owned(),
    };
    site.lab.fail_next(ATTACH, 100, refused);
    let configuration = site.configuration(&[site.wanted("user", 1)]);
    let output = attach(&node, &configuration, &[]);
    assert_eq!(output.status, Some(1), "{output}");
    assert!(
        output.stderr.contains("at network card 0, device index"),
        "{output}"
    );
    let calls = site.lab.calls();
    assert_eq!((calls[CREATE], calls[ATTACH]), (1, 7));
    site.lab.clear_faults();
    attached(&node, &configuration);
    site.assert_exactly(&node, &[("user", 1)], "refused");
    assert_eq!(site.lab.calls()[CREATE], 1);
}

#[test]
fn an_eni_that_ec2_does_not_know_yet_is_attached_all_the_same() {
    let site = Site::new();
    let node = site.node();
    site.lab.fail_next(ATTACH, 1, unknown());
    attached(&node, &site.configuration(&[site.wanted("user", 1)]));
    site.assert_exactly(&node, &[("user", 1)], "unknown");
    assert_eq!(site.lab.calls()[CREATE], 1);
}

#[test]
fn lost_answers_create_no_extra_eni() {
    let site = Site::new();
    let node = site.node();
    for action in super::CHANGES {
        site.lab.fail_next(action, 1, Fault::DropAfterCommit);
    }
    attached(&node, &site.configuration(&[site.wanted("user", 2)]));
    site.assert_exactly(&node, &[("user", 2)], "lost");
}

/// What the next start meets: descriptions that lag, calls that are throttled, and the VPC CNI,
/// which takes an index at the same moment.
fn trouble(site: &Site, node: &AwsNode, lag: Duration) {
    site.lab.rules(|rules| rules.describe_lag = lag);
    for action in [DESCRIBE, CREATE, MODIFY] {
        let throttled = refusal(503, "RequestLimitExceeded");
        site.lab.fail_next(action, 1, throttled);
    }
    let rival = Fault::VpcCniAttaches(node.instance.clone());
    site.lab.fail_next(ATTACH, 1, rival);
}

#[test]
fn an_attach_that_is_killed_is_completed_while_all_else_goes_wrong() {
    let each = |action, hold| {
        let site = Site::new();
        let node = site.node();
        let configuration = site.configuration(&[site.wanted("user", 2)]);
        let lag = Duration::from_secs(2);
        site.lab.age(lag);
        let begin = call(&node, &configuration, &[]);
        killed::kill_held(&node.node, &site.lab, &begin, (action, hold));
        trouble(&site, &node, lag);
        attached(&node, &configuration);
        let what = format!("{action} {hold:?}");
        site.assert_exactly(&node, &[("user", 2)], &what);
        assert_eq!(of_vpc_cni(&site), 1, "{what}");
        site.lab.terminate_instance(&node.instance);
        assert_eq!(site.enis(), [], "{what}");
    };
    let holds = [Hold::BeforeCommit, Hold::AfterCommit];
    let actions = [CREATE, ATTACH, MODIFY].into_iter();
    thread::scope(|scope| {
        for (action, hold) in actions.flat_map(|action| holds.map(|hold| (action, hold))) {
            scope.spawn(move || each(action, hold));
        }
    });
}

/// The calls that EC2 has refused for their number, and how many it has answered to each node.
fn heard(site: &Site) -> (usize, BTreeMap<Option<InstanceId>, usize>) {
    let (mut refused, mut answered) = (0, BTreeMap::new());
    for event in site.lab.events() {
        match event {
            Event::Called { outcome, .. } if outcome == "RequestLimitExceeded" => refused += 1,
            Event::Called { node, .. } => *answered.entry(node).or_default() += 1,
            _ => {}
        }
    }
    (refused, answered)
}

/// The account has a budget of changes that lasts for a fourth of what the nodes need, and
/// comes back in 15 seconds.
#[test]
fn nodes_that_start_at_once_make_no_call_that_they_do_not_need_and_few_are_refused() {
    const NODES: usize = 20;
    let site = Site::new();
    let nodes: Vec<_> = (0..NODES).map(|_| site.node()).collect();
    site.lab.rules(|rules| {
        let mutating = Bucket {
            burst: 10.0,
            per_second: 2.0,
        };
        rules.token_buckets = Some(Buckets {
            mutating,
            ..Buckets::default()
        });
    });
    let configuration = site.configuration(&[site.wanted("user", 2)]);
    thread::scope(|scope| {
        for node in &nodes {
            scope.spawn(|| attached(node, &configuration));
        }
    });
    let enis = site.enis().into_iter();
    let mut of_nodes: BTreeMap<Option<InstanceId>, usize> = BTreeMap::new();
    enis.for_each(|eni| *of_nodes.entry(eni.instance).or_default() += 1);
    let each = |count| {
        nodes
            .iter()
            .map(move |node| (Some(node.instance.clone()), count))
    };
    assert_eq!(of_nodes, each(2).collect());
    let (refused, answered) = heard(&site);
    // Six changes and six looks.
    assert_eq!(answered, each(12).collect());
    // Pauses of a second and less make more than twice as many.
    assert!(refused * 2 <= 3 * 2 * NODES, "{refused}");
}
