//! What must never happen, 3 and 4: an address of another node is taken only from the
//! dead, and nothing is removed from an ENI that another node has.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use harness::eni_lab::{EniId, Fault, Repeat};
use harness::vpc::{DEADLINE, Vpc, VpcNode};
use harness::{Output, Pod};
use serde_json::json;

const ADDRESS: &str = "10.0.4.70";
const ADDRESS_V6: &str = "2001:db8:4::70";
const TAG: &str = "node.k8s.amazonaws.com/no_manage";

/// What became of the owner of an address.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Owner {
    Running,
    Stopped,
    ShuttingDown,
    Terminated,
    Detached,
}

/// Two nodes, the second of which has the address and is then as said.
fn nodes(vpc: &Vpc, address: &str, owner: Owner) -> (VpcNode, VpcNode) {
    let (node, other) = (vpc.node(), vpc.node());
    other.add(&Pod::new("theirs"), &[address]).ok();
    other.lab.delete_on_termination(&other.eni, false);
    match owner {
        Owner::Running => {}
        Owner::Stopped => vpc.lab.stop_instance(&other.instance),
        Owner::ShuttingDown => {
            vpc.lab
                .rules(|rules| rules.shutting_down = Duration::from_secs(3600));
            vpc.lab.terminate_instance(&other.instance);
        }
        Owner::Terminated => vpc.lab.terminate_instance(&other.instance),
        Owner::Detached => vpc.lab.detach_eni(&other.eni),
    }
    (node, other)
}

fn add(node: &VpcNode, address: &str, takeover: &str) -> Output {
    let pod = Pod::new("ours");
    let keys = json!({ "takeover": takeover });
    node.run(&node.conf_call("ADD", &pod, &[address], &keys))
}

#[track_caller]
fn assert_moved(takeover: &str, owner: Owner, address: &str) {
    let vpc = Vpc::new();
    let (node, _) = nodes(&vpc, address, owner);
    add(&node, address, takeover).ok();
    assert_eq!(vpc.owner(address), Some(node.eni.clone()), "{owner:?}");
}

/// Whatever the owner has died of, its address is moved.
fn assert_all_moved(address: &str) {
    thread::scope(|scope| {
        for owner in [Owner::ShuttingDown, Owner::Terminated, Owner::Detached] {
            scope.spawn(move || assert_moved("dead-owner", owner, address));
        }
    });
}

/// The refusal names the address, the ENI that has it, and its instance.
#[track_caller]
fn assert_refused(takeover: &str, owner: Owner, address: &str) {
    let vpc = Vpc::new();
    let (node, other) = nodes(&vpc, address, owner);
    let error = add(&node, address, takeover).error_code(11);
    for named in [address, other.eni.as_str()] {
        assert!(error.msg.contains(named), "{named}: {error:?}");
    }
    if !matches!(owner, Owner::Terminated | Owner::Detached) {
        assert!(error.msg.contains(other.instance.as_str()), "{error:?}");
    }
    assert_eq!(vpc.owner(address), Some(other.eni.clone()), "{owner:?}");
    assert_eq!(node.addresses(), [""; 0]);
}

#[test]
fn rule_3_nothing_is_taken_from_an_instance_that_runs_or_may_run_again() {
    assert_refused("dead-owner", Owner::Running, ADDRESS);
    assert_refused("dead-owner", Owner::Stopped, ADDRESS);
}

#[test]
fn rule_3_an_address_of_a_dead_eni_is_taken() {
    assert_all_moved(ADDRESS);
}

/// Two looks that are a few seconds apart both show the moment in which it was detached.
#[test]
fn rule_3_an_eni_that_was_detached_for_a_moment_keeps_its_addresses_though_descriptions_lag() {
    let vpc = Vpc::new();
    let (node, other) = nodes(&vpc, ADDRESS, Owner::Running);
    node.command(&["sync", "--once"]);
    let let_pass = |seconds| vpc.lab.age(Duration::from_secs(seconds));
    let_pass(60);
    vpc.lab.detach_eni(&other.eni);
    let_pass(20);
    vpc.lab.attach_eni(&other.eni, &other.instance, 1);
    let_pass(12);
    vpc.lab
        .rules(|rules| rules.describe_lag = Duration::from_secs(30));
    let error = add(&node, ADDRESS, "dead-owner").error_code(11);
    assert!(error.msg.contains(other.instance.as_str()), "{error:?}");
    assert_eq!(vpc.owner(ADDRESS), Some(other.eni.clone()));
}

#[test]
fn rule_3_nothing_is_taken_from_anybody_where_takeover_is_never() {
    for owner in [
        Owner::Running,
        Owner::ShuttingDown,
        Owner::Terminated,
        Owner::Detached,
    ] {
        assert_refused("never", owner, ADDRESS);
    }
}

#[test]
fn rule_3_an_address_that_floats_is_taken_from_anybody() {
    for owner in [Owner::Stopped, Owner::Terminated, Owner::Detached] {
        assert_moved("always", owner, ADDRESS);
    }
    let vpc = Vpc::new().without_invariants();
    let (node, _) = nodes(&vpc, ADDRESS, Owner::Running);
    add(&node, ADDRESS, "always").ok();
    assert_eq!(vpc.owner(ADDRESS), Some(node.eni.clone()));
    assert_eq!(
        vpc.lab.invariant_violations().len(),
        1,
        "the lab does see it"
    );
}

#[test]
fn rule_3_an_ipv6_address_moves_only_from_the_dead() {
    assert_refused("dead-owner", Owner::Running, ADDRESS_V6);
    assert_refused("always", Owner::Running, ADDRESS_V6);
    assert_refused("always", Owner::Stopped, ADDRESS_V6);
    assert_refused("never", Owner::Detached, ADDRESS_V6);
    assert_all_moved(ADDRESS_V6);
}

#[test]
fn rule_3_a_primary_address_is_never_moved() {
    for owner in [Owner::Running, Owner::Terminated, Owner::Detached] {
        let vpc = Vpc::new();
        let (node, other) = nodes(&vpc, ADDRESS, owner);
        let primary = vpc.lab.primary(&other.eni).to_string();
        for takeover in ["dead-owner", "always"] {
            let error = add(&node, &primary, takeover).error_code(7);
            let said = format!("{primary} is the primary address of {}", other.eni);
            assert_eq!(error.msg, said);
        }
    }
}

/// An ENI without the tag is the VPC CNI's or somebody's who knows nothing of us.
#[track_caller]
fn assert_stranger_is_left_alone(
    address: &str,
    takeover: &str,
    make: impl Fn(&Vpc, &VpcNode) -> EniId,
) {
    let vpc = Vpc::new();
    let node = vpc.node();
    let stranger = make(&vpc, &node);
    let parsed: IpAddr = address.parse().unwrap();
    vpc.lab.assign(&stranger, &[parsed]);
    let error = add(&node, address, takeover).error_code(11);
    for named in [address, stranger.as_str(), TAG] {
        assert!(format!("{error:?}").contains(named), "{named}: {error:?}");
    }
    assert_eq!(vpc.owner(address), Some(stranger));
}

#[test]
fn rule_2_nothing_is_taken_from_an_eni_without_the_tag_even_if_it_is_dead() {
    for address in [ADDRESS, ADDRESS_V6] {
        assert_stranger_is_left_alone(address, "dead-owner", |vpc, _| {
            vpc.lab.create_eni(&vpc.pods)
        });
        assert_stranger_is_left_alone(address, "always", |vpc, _| vpc.lab.create_eni(&vpc.pods));
        assert_stranger_is_left_alone(address, "always", |vpc, _| {
            let other = vpc.node();
            vpc.lab.tag_eni(&other.eni, TAG, "false");
            other.eni.clone()
        });
    }
}

#[test]
fn rule_5_add_returns_when_the_address_has_moved_and_not_before() {
    let vpc = Vpc::new();
    let (node, _) = nodes(&vpc, ADDRESS, Owner::Stopped);
    vpc.lab
        .rules(|rules| rules.reassign_delay = Duration::from_millis(900));
    add(&node, ADDRESS, "always").ok();
    assert_eq!(vpc.owner(ADDRESS), Some(node.eni.clone()));
    assert_eq!(node.ledger()[ADDRESS], "held");
}

#[test]
fn a_move_whose_answer_is_lost_is_complete() {
    let lose = |repeat, address, action, nth| {
        let vpc = Vpc::new();
        let (node, _) = nodes(&vpc, address, Owner::ShuttingDown);
        vpc.lab.rules(|rules| rules.repeat_assign = repeat);
        vpc.lab.fail_nth(action, nth, Fault::DropAfterCommit);
        add(&node, address, "dead-owner").ok();
        let owner = vpc.owner(address);
        assert_eq!(owner, Some(node.eni.clone()), "{action}, {repeat:?}");
    };
    // An assignment is refused at each of two looks, and the third one is made.
    let calls = [
        (ADDRESS, "UnassignPrivateIpAddresses", 1),
        (ADDRESS, "AssignPrivateIpAddresses", 3),
        (ADDRESS_V6, "UnassignIpv6Addresses", 1),
        (ADDRESS_V6, "AssignIpv6Addresses", 3),
    ];
    thread::scope(|scope| {
        for repeat in [Repeat::Accept, Repeat::Refuse] {
            for (address, action, nth) in calls {
                scope.spawn(move || lose(repeat, address, action, nth));
            }
        }
    });
}

#[test]
fn a_move_that_floats_is_complete_when_its_answer_is_lost() {
    for repeat in [Repeat::Accept, Repeat::Refuse] {
        let vpc = Vpc::new();
        let (node, _) = nodes(&vpc, ADDRESS, Owner::Stopped);
        vpc.lab.rules(|rules| {
            rules.repeat_assign = repeat;
            rules.reassign_delay = Duration::from_millis(300);
        });
        vpc.lab
            .fail_nth("AssignPrivateIpAddresses", 2, Fault::DropAfterCommit);
        add(&node, ADDRESS, "always").ok();
        assert_eq!(vpc.owner(ADDRESS), Some(node.eni.clone()), "{repeat:?}");
    }
}

#[test]
fn an_address_that_floats_is_not_taken_back_by_a_call_that_was_throttled() {
    let vpc = Vpc::new();
    let (node, _) = nodes(&vpc, ADDRESS, Owner::Stopped);
    let third = vpc.node();
    let assign = "AssignPrivateIpAddresses";
    vpc.lab.reset_calls();
    // What the first node asks for is throttled, and looked for after that.
    vpc.lab.fail_nth(assign, 2, Fault::Throttle);
    vpc.lab.rules(|rules| {
        rules.latency_of.insert(
            "DescribeNetworkInterfaces".to_owned(),
            Duration::from_millis(100),
        );
    });
    let (first, last) = thread::scope(|scope| {
        let first = scope.spawn(|| add(&node, ADDRESS, "always"));
        assert!(vpc.lab.wait_for_call(assign, 2, DEADLINE));
        vpc.lab.take(&third.eni, &[ADDRESS.parse().unwrap()]);
        (first.join().unwrap(), third.eni.clone())
    });
    let error = first.error_code(11);
    assert!(error.msg.contains(last.as_str()), "{error:?}");
    assert_eq!(vpc.owner(ADDRESS), Some(last));
}

#[test]
fn rule_4_an_eni_that_went_to_another_node_keeps_its_addresses() {
    let vpc = Vpc::new();
    let (node, other) = (vpc.node(), vpc.node());
    let pod = Pod::new("c1");
    node.add(&pod, &[ADDRESS, ADDRESS_V6]).ok();
    node.del(&pod);
    vpc.lab.detach_eni(&node.eni);
    vpc.lab.attach_eni(&node.eni, &other.instance, 2);
    // That it went away is believed when a later look says so as well.
    for _ in 0..2 {
        node.let_time_pass(120);
        node.gc(&[]);
    }
    assert_eq!(node.addresses(), [ADDRESS, ADDRESS_V6]);
    assert_eq!(
        node.ledger(),
        BTreeMap::new(),
        "they are no business of this node"
    );
}

/// What the node itself shows is younger.
#[test]
fn rule_4_an_eni_that_went_to_another_node_keeps_its_addresses_while_descriptions_are_old() {
    let vpc = Vpc::new();
    let (node, other) = (vpc.node(), vpc.node());
    let pod = Pod::new("c1");
    node.add(&pod, &[ADDRESS]).ok();
    node.del(&pod);
    vpc.lab.age(Duration::from_secs(7200));
    vpc.lab
        .rules(|rules| rules.describe_lag = Duration::from_secs(600));
    vpc.lab.detach_eni(&node.eni);
    node.node.netns.ip(&["link", "del", "ens6"]);
    vpc.lab.attach_eni(&node.eni, &other.instance, 2);
    node.end_cooldown(ADDRESS);
    let output = node.run(&node.gc_call(&[]));
    output.ok();
    let why = format!("{ADDRESS} stays: the ENI may be on another node");
    assert!(output.stderr.contains(&why), "{output}");
    assert_eq!(node.addresses(), [ADDRESS]);
}

#[test]
fn rule_4_an_eni_that_is_attached_to_nothing_keeps_its_addresses() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    node.add(&pod, &[ADDRESS]).ok();
    node.del(&pod);
    vpc.lab.detach_eni(&node.eni);
    node.end_cooldown(ADDRESS);
    node.gc(&[]);
    assert_eq!(node.addresses(), [ADDRESS]);
}

#[test]
fn an_address_in_its_cooldown_on_another_eni_of_the_node_is_moved() {
    for address in [ADDRESS, ADDRESS_V6] {
        let vpc = Vpc::new();
        let node = vpc.node();
        let second = node.lab.multus_eni(&node.instance, &vpc.pods);
        let pod = Pod::new("c1");
        node.add(&pod, &[address]).ok();
        let result = |pod: &Pod| {
            let mac = node.lab.mac(&second);
            json!({ "prevResult": harness::vpc::prev_result(pod, &[(&mac, &[address])]) })
        };
        let next = Pod::new("c2");
        let call = node.conf_call("ADD", &next, &[], &result(&next));
        let error = node.run(&call).error_code(11);
        assert!(error.msg.contains(node.eni.as_str()), "{error:?}");
        assert_eq!(vpc.owner(address), Some(node.eni.clone()));
        node.del(&pod);
        node.run(&call).ok();
        assert_eq!(vpc.owner(address), Some(second.clone()));
        assert_eq!(node.ledger(), BTreeMap::new());
    }
}
