//! Several nodes that want the address of a dead one at the same time, with EC2 throttling
//! them, showing them the past or losing its answers: one of them gets the address, and
//! nothing is taken from an ENI whose node lives.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use harness::eni_lab::{Bucket, Buckets, EniId, Event, Fault, Hold, InstanceId, Limits, Repeat};
use harness::vpc::{Agent, DEADLINE, Vpc, VpcNode, eventually, while_held};
use harness::{Output, Pod};
use serde_json::json;

use super::killed::kill_while_held;

const ASSIGN: &str = "AssignPrivateIpAddresses";
const UNASSIGN: &str = "UnassignPrivateIpAddresses";
const ADDRESS: &str = "10.0.4.101";
const TAG: &str = "node.k8s.amazonaws.com/no_manage";
/// An instance type that has two network cards.
const SEVERAL_CARDS: &str = "c6in.32xlarge";

/// An ENI for pods that has addresses, of an instance that shuts down for as long as the
/// test takes.
fn dying(vpc: &Vpc, addresses: &[IpAddr]) -> (EniId, InstanceId) {
    let instance = vpc.lab.run_instance("c5.large", &vpc.nodes);
    let eni = vpc.lab.multus_eni(&instance, &vpc.pods);
    vpc.lab.assign(&eni, addresses);
    vpc.lab
        .rules(|rules| rules.shutting_down = Duration::from_secs(3600));
    vpc.lab.terminate_instance(&instance);
    (eni, instance)
}

/// One that is attached to nothing.
fn unattached(vpc: &Vpc, addresses: &[IpAddr]) -> EniId {
    let eni = vpc.lab.create_eni(&vpc.pods);
    vpc.lab.tag_eni(&eni, TAG, "true");
    vpc.lab.assign(&eni, addresses);
    eni
}

fn address(text: &str) -> [IpAddr; 1] {
    [text.parse().unwrap()]
}

fn add(node: &VpcNode, name: &str, address: &str) -> Output {
    node.add(&Pod::new(name), &[address])
}

/// Of the two ADDs one succeeded, the address is on the ENI of its node, and it has been
/// assigned once since it left the dead ENI and taken from no other.
#[track_caller]
fn assert_one_has_it(vpc: &Vpc, dead: &EniId, adds: &[(&VpcNode, &Output)], address: &str) {
    let mut winners = adds.iter().filter(|(_, output)| output.status == Some(0));
    let (winner, _) = winners
        .next()
        .unwrap_or_else(|| panic!("{}", outputs(adds)));
    assert!(winners.next().is_none(), "{}", outputs(adds));
    assert_eq!(
        vpc.owner(address),
        Some(winner.eni.clone()),
        "{}",
        outputs(adds)
    );
    assert_eq!(winner.ledger()[address], "held");
    for (_, output) in adds.iter().filter(|(_, output)| output.status != Some(0)) {
        output.error_code(11);
    }
    assert_left_once(vpc, dead, address);
}

fn outputs(adds: &[(&VpcNode, &Output)]) -> String {
    let texts = adds.iter().map(|(_, output)| output.to_string());
    texts.collect::<Vec<_>>().join("\n")
}

#[track_caller]
fn assert_left_once(vpc: &Vpc, dead: &EniId, text: &str) {
    let [wanted] = address(text);
    for event in vpc.lab.events() {
        match event {
            Event::Unassigned { address, eni, .. } if address == wanted => {
                assert_eq!(eni, *dead, "{text} was removed from another ENI");
            }
            Event::Reassigned { address, .. } => assert_ne!(address, wanted, "{text} was taken"),
            _ => {}
        }
    }
}

#[test]
fn of_two_nodes_one_takes_an_address_also_when_the_other_is_throttled() {
    thread::scope(|scope| {
        for stagger in [100, 200, 400] {
            scope.spawn(move || {
                let vpc = Vpc::new();
                let nodes = [vpc.node(), vpc.node()];
                let (dead, _) = dying(&vpc, &address(ADDRESS));
                // Both ask for it twice, and one takes it. What the other one tries then is
                // refused twice and, as the SDK has it, sent again.
                for action in [ASSIGN, UNASSIGN] {
                    let first = if action == ASSIGN { 5 } else { 2 };
                    for nth in [first, first + 1] {
                        vpc.lab.fail_nth(action, nth, Fault::Throttle);
                    }
                }
                let outputs = thread::scope(|scope| {
                    let first = scope.spawn(|| add(&nodes[0], "c1", ADDRESS));
                    thread::sleep(Duration::from_millis(stagger));
                    let second = scope.spawn(|| add(&nodes[1], "c2", ADDRESS));
                    [first, second].map(|add| add.join().unwrap())
                });
                let adds = [(&nodes[0], &outputs[0]), (&nodes[1], &outputs[1])];
                assert_one_has_it(&vpc, &dead, &adds, ADDRESS);
            });
        }
    });
}

#[test]
fn of_two_nodes_that_want_an_address_at_the_same_moment_one_takes_it() {
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let vpc = Vpc::new();
                let nodes = [vpc.node(), vpc.node()];
                let (dead, _) = dying(&vpc, &address(ADDRESS));
                let outputs = add_on_both(&nodes);
                let adds = [(&nodes[0], &outputs[0]), (&nodes[1], &outputs[1])];
                assert_one_has_it(&vpc, &dead, &adds, ADDRESS);
            });
        }
    });
}

fn add_on_both(nodes: &[VpcNode; 2]) -> [Output; 2] {
    thread::scope(|scope| {
        let adds = [0, 1].map(|n| scope.spawn(move || add(&nodes[n], &format!("c{n}"), ADDRESS)));
        adds.map(|add| add.join().unwrap())
    })
}

#[test]
fn a_node_with_old_descriptions_takes_nothing_from_a_quicker_one() {
    let vpc = Vpc::new();
    let nodes = [vpc.node(), vpc.node()];
    let (dead, _) = dying(&vpc, &address(ADDRESS));
    for node in &nodes {
        node.command(&["sync", "--once"]);
    }
    let past = Instant::now();
    let first = add(&nodes[0], "c1", ADDRESS);
    first.ok();
    vpc.lab.rules(|rules| rules.describe_lag = past.elapsed());
    let second = add(&nodes[1], "c2", ADDRESS);
    let adds = [(&nodes[0], &first), (&nodes[1], &second)];
    assert_one_has_it(&vpc, &dead, &adds, ADDRESS);
}

#[test]
fn an_eni_that_is_attached_to_nothing_gives_its_addresses_to_one_node() {
    let vpc = Vpc::new();
    let nodes = [vpc.node(), vpc.node()];
    let dead = unattached(&vpc, &address(ADDRESS));
    let outputs = add_on_both(&nodes);
    let adds = [(&nodes[0], &outputs[0]), (&nodes[1], &outputs[1])];
    assert_one_has_it(&vpc, &dead, &adds, ADDRESS);
}

#[test]
fn an_eni_that_is_only_between_two_nodes_keeps_its_addresses() {
    let vpc = Vpc::new();
    let (node, other) = (vpc.node(), vpc.node());
    let eni = unattached(&vpc, &address(ADDRESS));
    let output = thread::scope(|scope| {
        let add = scope.spawn(|| add(&node, "c1", ADDRESS));
        // It has been looked at once when its owner was looked for.
        assert!(
            vpc.lab
                .wait_for_call("DescribeNetworkInterfaces", 3, DEADLINE)
        );
        vpc.lab.attach_eni(&eni, &other.instance, 2);
        add.join().unwrap()
    });
    let error = output.error_code(11);
    assert!(error.msg.contains(other.instance.as_str()), "{error:?}");
    assert_eq!(vpc.owner(ADDRESS), Some(eni));
}

#[test]
fn an_eni_that_moved_from_a_dead_to_a_running_instance_keeps_its_addresses() {
    let vpc = Vpc::new();
    let (node, other) = (vpc.node(), vpc.node());
    let (eni, _) = dying(&vpc, &address(ADDRESS));
    // What EC2 says of the instance is about the past when it is heard.
    let held = ("DescribeInstances", Hold::AfterCommit);
    let (output, ()) = while_held(
        &vpc.lab,
        held,
        || add(&node, "c1", ADDRESS),
        || {
            vpc.lab.detach_eni(&eni);
            vpc.lab.attach_eni(&eni, &other.instance, 2);
        },
    );
    let error = output.error_code(11);
    assert!(error.msg.contains(other.instance.as_str()), "{error:?}");
    assert_eq!(vpc.owner(ADDRESS), Some(eni));
}

/// Somebody else can have the turn while an ADD waits for its second look, which comes after
/// so many descriptions of ENIs.
#[track_caller]
fn assert_turn_is_free(vpc: &Vpc, node: &VpcNode, descriptions: u64) -> Output {
    thread::scope(|scope| {
        let taking = scope.spawn(|| add(node, "c1", ADDRESS));
        let action = "DescribeNetworkInterfaces";
        assert!(vpc.lab.wait_for_call(action, descriptions, DEADLINE));
        let turn = File::open(node.ledger_path().join(".turn")).unwrap();
        let is_free = || turn.try_lock().is_ok() || taking.is_finished();
        assert!(eventually(is_free));
        let ledger = node.ledger();
        turn.unlock().unwrap();
        assert_eq!(ledger[ADDRESS], "claiming", "the turn was free too late");
        taking.join().unwrap()
    })
}

#[test]
fn the_lock_is_free_while_a_second_look_at_an_eni_is_awaited() {
    thread::scope(|scope| {
        for is_attached in [false, true] {
            scope.spawn(move || {
                let vpc = Vpc::new();
                let node = vpc.node();
                let dead = match is_attached {
                    true => dying(&vpc, &address(ADDRESS)).0,
                    false => unattached(&vpc, &address(ADDRESS)),
                };
                // The inventory, this ENI, and the one that has the address.
                let output = assert_turn_is_free(&vpc, &node, 3);
                assert_one_has_it(&vpc, &dead, &[(&node, &output)], ADDRESS);
            });
        }
    });
}

#[test]
fn the_lock_is_free_while_a_second_look_at_a_refused_repetition_is_awaited() {
    let vpc = Vpc::new();
    let node = vpc.node();
    vpc.lab.rules(|rules| rules.repeat_assign = Repeat::Refuse);
    vpc.lab.assign(&node.eni, &address(ADDRESS));
    // The inventory and this ENI.
    assert_turn_is_free(&vpc, &node, 2).ok();
    assert_eq!(node.ledger()[ADDRESS], "held");
}

#[test]
fn nothing_is_taken_from_a_dead_eni_for_one_that_is_full() {
    let full: Vec<String> = (61..70).map(|n| format!("10.0.4.{n}")).collect();
    let full: Vec<&str> = full.iter().map(String::as_str).collect();
    for is_one_ending in [false, true] {
        let vpc = Vpc::new();
        let node = vpc.node();
        let (dead, _) = dying(&vpc, &address(ADDRESS));
        let pod = Pod::new("c1");
        node.add(&pod, &full[1..]).ok();
        let other = Pod::new("c2");
        node.add(&other, &full[..1]).ok();
        if is_one_ending {
            node.del(&other);
        }
        let output = add(&node, "c3", ADDRESS);
        match is_one_ending {
            true => assert_one_has_it(&vpc, &dead, &[(&node, &output)], ADDRESS),
            false => {
                let error = output.error_code(11);
                assert!(error.msg.contains("10 of 10 addresses used"), "{error:?}");
                assert_eq!(vpc.owner(ADDRESS), Some(dead));
                let is_free = |event: &Event| matches!(event, Event::Unassigned { .. });
                assert!(
                    !vpc.lab.events().iter().any(is_free),
                    "it was free meanwhile"
                );
            }
        }
    }
}

/// A pod has an address, and somebody moves it to an ENI that is attached to nothing. Returns
/// whether the next comparison with EC2 takes it back.
fn is_taken_back(takeover: Option<&str>) -> bool {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    let keys = json!({ "takeover": takeover });
    node.run(&node.conf_call("ADD", &pod, &[ADDRESS], &keys))
        .ok();
    if takeover.is_none() {
        // Earlier versions did not write it down.
        node.edit_ledger(ADDRESS, |entry| {
            let owner = entry["owner"].as_object_mut().unwrap();
            assert_eq!(owner.remove("takeover"), Some(json!("dead-owner")));
        });
    }
    node.let_time_pass(120);
    vpc.lab.unassign(&node.eni, &address(ADDRESS));
    let dead = unattached(&vpc, &address(ADDRESS));
    let output = node.command(&["sync", "--once"]);
    assert!(
        output.stdout.contains("lost and assigned again: 1"),
        "{output}"
    );
    let owner = vpc.owner(ADDRESS);
    assert!(
        owner == Some(dead) || owner == Some(node.eni.clone()),
        "{owner:?}"
    );
    owner == Some(node.eni.clone())
}

#[test]
fn what_a_pod_has_lost_is_taken_back_from_the_dead_if_its_network_takes_from_them() {
    assert!(is_taken_back(Some("dead-owner")));
    assert!(is_taken_back(Some("always")));
    assert!(!is_taken_back(Some("never")));
    assert!(!is_taken_back(None));
}

#[test]
fn an_instance_that_ec2_does_not_find_is_not_dead() {
    let vpc = Vpc::new();
    let (node, other) = (vpc.node(), vpc.node());
    add(&other, "theirs", ADDRESS).ok();
    vpc.lab.rules(|rules| {
        rules.hidden_instances.insert(other.instance.clone());
    });
    for takeover in ["dead-owner", "never"] {
        let pod = Pod::new("c1");
        let keys = json!({ "takeover": takeover });
        let output = node.run(&node.conf_call("ADD", &pod, &[ADDRESS], &keys));
        let error = output.error_code(11);
        assert!(error.msg.contains(other.instance.as_str()), "{error:?}");
        assert_eq!(vpc.owner(ADDRESS), Some(other.eni.clone()));
    }
}

#[test]
fn an_address_that_a_killed_takeover_has_unassigned_is_not_lost() {
    thread::scope(|scope| {
        for hold in [Hold::BeforeCommit, Hold::AfterCommit] {
            for goes_elsewhere in [false, true] {
                scope.spawn(move || kill_takeover(hold, goes_elsewhere));
            }
        }
    });
}

fn kill_takeover(hold: Hold, goes_elsewhere: bool) {
    let vpc = Vpc::new();
    let nodes = [vpc.node(), vpc.node()];
    let (dead, _) = dying(&vpc, &address(ADDRESS));
    let pod = Pod::new("c1");
    let call = nodes[0].pod_call("ADD", &pod, &[ADDRESS]);
    kill_while_held(&nodes[0], &call, UNASSIGN, hold);
    let next = if goes_elsewhere { &nodes[1] } else { &nodes[0] };
    if goes_elsewhere {
        nodes[0].del(&pod);
    }
    let output = next.add(&pod, &[ADDRESS]);
    assert_one_has_it(&vpc, &dead, &[(next, &output)], ADDRESS);
    if goes_elsewhere {
        // What the killed one has written down is no reason to remove anything.
        nodes[0].end_cooldown(ADDRESS);
        nodes[0].gc(&[]);
        // One look at EC2 does not forget what was wanted.
        nodes[0].let_time_pass(120);
        nodes[0].gc(&[]);
        assert!(nodes[0].ledger().is_empty());
    }
    assert_eq!(vpc.owner(ADDRESS), Some(next.eni.clone()));
}

#[test]
fn an_answer_that_is_lost_in_a_takeover_is_looked_for() {
    thread::scope(|scope| {
        for (action, nth) in [(UNASSIGN, 1), (ASSIGN, 3)] {
            for fault in [
                Fault::DropAfterCommit,
                Fault::DropBeforeCommit,
                Fault::Garbage,
            ] {
                scope.spawn(move || {
                    let vpc = Vpc::new();
                    let node = vpc.node();
                    let (dead, _) = dying(&vpc, &address(ADDRESS));
                    vpc.lab.fail_nth(action, nth, fault);
                    let output = add(&node, "c1", ADDRESS);
                    assert_one_has_it(&vpc, &dead, &[(&node, &output)], ADDRESS);
                });
            }
        }
    });
}

/// Two hundred pods on each of two nodes want the two hundred addresses of a dead ENI, some at a
/// time and not in the same order. Descriptions lag, EC2's clock is ahead, and one of the nodes
/// has its ENI at another network card.
fn contend(throttle: Option<Buckets>) {
    let vpc = Vpc::new();
    let large = |cards| Limits {
        interfaces: 3,
        ipv4: 250,
        ipv6: 250,
        cards,
    };
    vpc.lab.rules(|rules| {
        let types = [("c5.large", 1), (SEVERAL_CARDS, 2)];
        let limits = types.map(|(name, cards)| (name.to_owned(), large(cards)));
        rules.limit_overrides.extend(limits);
    });
    let texts: Vec<String> = (40..240).map(|n| format!("10.0.4.{n}")).collect();
    let addresses: Vec<IpAddr> = texts.iter().map(|text| text.parse().unwrap()).collect();
    let nodes = [vpc.node(), vpc.node_at(SEVERAL_CARDS, (1, 0))];
    let (dead, _) = dying(&vpc, &addresses);
    let past = Instant::now();
    vpc.lab.rules(|rules| rules.clock_ahead = 600);
    let _agents = [0, 1].map(|n| Agent::start(&nodes[n], &json!({})));
    vpc.lab.rules(|rules| {
        rules.token_buckets = throttle;
        // What is shown is never from before the node died.
        rules.describe_lag = past.elapsed();
    });
    let succeeded = |node: &VpcNode, texts: &mut dyn Iterator<Item = &String>| {
        let texts: Vec<&String> = texts.collect();
        let mut succeeded = BTreeSet::new();
        for some in texts.chunks(25) {
            let adds = thread::scope(|scope| {
                let add = |text: &&String| {
                    let text = (*text).clone();
                    scope.spawn(move || (add(node, &format!("c{text}"), &text).status, text))
                };
                let adds: Vec<_> = some.iter().map(add).collect();
                adds.into_iter()
                    .map(|add| add.join().unwrap())
                    .collect::<Vec<_>>()
            });
            let won = adds.into_iter().filter(|add| add.0 == Some(0));
            succeeded.extend(won.map(|add| add.1));
        }
        succeeded
    };
    let [first, second] = thread::scope(|scope| {
        let first = scope.spawn(|| succeeded(&nodes[0], &mut texts.iter()));
        let second = scope.spawn(|| succeeded(&nodes[1], &mut texts.iter().rev()));
        [first, second].map(|adds| adds.join().unwrap())
    });
    let both: Vec<_> = first.intersection(&second).collect();
    assert!(both.is_empty(), "{both:?}");
    assert_eq!(first.len() + second.len(), texts.len(), "each has one");
    for text in &texts {
        let node = &nodes[usize::from(second.contains(text))];
        assert_eq!(vpc.owner(text), Some(node.eni.clone()), "{text}");
        assert_left_once(&vpc, &dead, text);
    }
}

#[test]
fn each_of_two_hundred_addresses_that_two_nodes_take_goes_to_one_of_them() {
    contend(None);
}

#[test]
fn each_of_two_hundred_addresses_goes_to_one_node_while_ec2_throttles_both() {
    let bucket = |burst, per_second| Bucket { burst, per_second };
    contend(Some(Buckets {
        mutating: bucket(2.0, 1.0),
        describing: bucket(20.0, 10.0),
        unfiltered: bucket(20.0, 10.0),
    }));
}
