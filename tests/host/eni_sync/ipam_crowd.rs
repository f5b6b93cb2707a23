//! Many pods of a network without addresses at once, and EC2 that has no address for all of
//! them, or no answer.

use std::net::IpAddr;
use std::thread;

use harness::eni_lab::{Event, Fault, Hold, Limits, OK};
use harness::vpc::{DEADLINE, Vpc, VpcNode, eventually};
use harness::{Agent, Output, Pod};
use serde_json::json;

use super::ipam::{ASSIGN, add, addresses, call, calls, del, intents, ipv4, sharing};

/// Pods that ask while EC2 does not let the call for the first of them pass; `meanwhile` happens
/// when all of them wait, and lets it. The outputs are in the order of the pods.
fn add_together(node: &VpcNode, pods: &[Pod], meanwhile: impl FnOnce()) -> Vec<Output> {
    let before = calls(node, ASSIGN);
    thread::scope(|scope| {
        let add = |pod| {
            let call = call(node, "ADD", pod, &ipv4());
            scope.spawn(move || node.run(&call))
        };
        let first = add(&pods[0]);
        assert!(node.lab.wait_for_call(ASSIGN, before + 1, DEADLINE));
        let others: Vec<_> = pods[1..].iter().map(add).collect();
        assert!(
            eventually(|| waiting(node) == pods.len()),
            "{:?}",
            intents(node)
        );
        meanwhile();
        let all = [first].into_iter().chain(others);
        all.map(|add| add.join().unwrap()).collect()
    })
}

/// How many pods wait for an address of EC2's choice.
fn waiting(node: &VpcNode) -> usize {
    let names = intents(node).into_iter();
    names.filter(|name| name.starts_with(".wanted-")).count()
}

/// The same where EC2 has got that call already.
fn add_behind_one(node: &VpcNode, pods: &[Pod], meanwhile: impl FnOnce()) -> Vec<Output> {
    node.lab.hold(ASSIGN, Hold::BeforeCommit);
    add_together(node, pods, || {
        meanwhile();
        node.lab.release_held();
    })
}

/// How many calls EC2 has carried out.
fn done(node: &VpcNode) -> usize {
    let is_done = |event: &Event| {
        matches!(event, Event::Called { action, outcome, .. }
            if action == ASSIGN && outcome == OK)
    };
    node.lab
        .events()
        .iter()
        .filter(|event| is_done(event))
        .count()
}

fn pods(node: &VpcNode, count: usize) -> Vec<Pod> {
    (1..=count)
        .map(|number| sharing(node, &format!("c{number}")))
        .collect()
}

/// Each look at what other pods have costs the more, the more pods there are.
#[test]
fn an_add_reads_what_another_pod_has_only_where_that_may_have_changed() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let other = add(&node, &sharing(&node, "c1"));
    let pod = sharing(&node, "c2");
    let add = call(&node, "ADD", &pod, &ipv4());
    let traced = ["-f", "-qq", "-e", "trace=openat"];
    let output = node.node.inside(|| add.run_under("strace", &traced));
    assert_ne!(addresses(&output.clone().ok())[0], other);
    let entry = format!("{}/{other}\"", node.eni);
    let read = output.stderr.lines().filter(|line| line.contains(&entry));
    let read = read.count();
    // Once before it waits, once before EC2 is asked for all, once before its answer is given to
    // pods, and then for each step.
    assert!((1..=12).contains(&read), "{read} times: {}", output.stderr);
}

#[test]
fn pods_that_wait_together_get_their_addresses_with_one_call() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pods = pods(&node, 6);
    let outputs = add_behind_one(&node, &pods, || {});
    let given = outputs
        .iter()
        .map(|output| addresses(&output.ok()).remove(0));
    let mut given: Vec<String> = given.collect();
    given.sort();
    given.dedup();
    assert_eq!(given.len(), pods.len());
    assert_eq!(node.addresses().len(), pods.len());
    assert_eq!(calls(&node, ASSIGN), 2);
    assert_eq!(intents(&node), [""; 0]);
}

#[test]
fn pods_that_come_while_a_call_waits_to_be_sent_again_are_served_by_it() {
    for has_agent in [false, true] {
        let vpc = Vpc::new();
        let node = vpc.node();
        let _agent = has_agent.then(|| Agent::start(&node, &json!({})));
        node.lab.fail_next(ASSIGN, u64::MAX, Fault::Throttle);
        let outputs = add_together(&node, &pods(&node, 4), || node.lab.clear_faults());
        for output in outputs {
            output.ok();
        }
        assert_eq!((node.addresses().len(), done(&node)), (4, 1), "{has_agent}");
    }
}

#[test]
fn a_pod_that_is_served_does_not_wait_for_one_that_came_later() {
    for has_agent in [false, true] {
        let vpc = Vpc::new();
        let node = vpc.node();
        let _agent = has_agent.then(|| Agent::start(&node, &json!({})));
        let pods = pods(&node, 2);
        node.lab.hold(ASSIGN, Hold::BeforeCommit);
        thread::scope(|scope| {
            let first = scope.spawn(|| add(&node, &pods[0]));
            assert!(node.lab.wait_for_call(ASSIGN, 1, DEADLINE));
            let second = scope.spawn(|| add(&node, &pods[1]));
            assert!(eventually(|| waiting(&node) == 2), "{:?}", intents(&node));
            node.lab.pass_held();
            // EC2 has been asked for the second one once, and has not answered.
            let is_alone = || calls(&node, ASSIGN) == 2 && node.lab.held() == 1;
            let is_alone = eventually(|| first.is_finished() && is_alone());
            node.lab.release_held();
            assert!(is_alone, "{has_agent}");
            let given = [first, second].map(|add| add.join().unwrap());
            assert_ne!(given[0], given[1]);
        });
    }
}

#[test]
fn a_pod_that_ends_while_it_waits_takes_no_address_with_it() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pods = pods(&node, 3);
    let outputs = add_behind_one(&node, &pods, || {
        del(&node, &pods[0]);
        del(&node, &pods[2]);
    });
    outputs[0].error_code(11);
    let given = addresses(&outputs[1].ok()).remove(0);
    outputs[2].error_code(11);
    // What EC2 chose for the first one is for the second, or leaves.
    for address in node.addresses() {
        if address != given {
            assert_eq!(node.ledger()[&address], "releasing");
            node.end_cooldown(&address);
        }
    }
    node.gc(&[&pods[1]]);
    assert_eq!(node.addresses(), [given]);
    assert_eq!(intents(&node), [""; 0]);
}

#[test]
fn an_eni_that_is_full_is_named_and_what_cools_down_makes_room() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pods = pods(&node, 11);
    let first = add(&node, &pods[0]);
    for pod in &pods[1..9] {
        add(&node, pod);
    }
    let error = node
        .run(&call(&node, "ADD", &pods[9], &ipv4()))
        .error_code(11);
    for said in [node.eni.as_str(), "no room", "10 of 10", "c5.large"] {
        assert!(error.msg.contains(said), "{said}: {error:?}");
    }
    assert_eq!((node.ledger().len(), intents(&node).len()), (9, 0));
    del(&node, &pods[0]);
    let given = add(&node, &pods[10]);
    assert_eq!(node.addresses().len(), 9);
    assert_eq!(vpc.owner(&given), Some(node.eni.clone()));
    assert_ne!(
        node.ledger().get(&first).map(String::as_str),
        Some("releasing")
    );
}

#[test]
fn of_those_that_wait_as_many_get_an_address_as_the_subnet_has() {
    let vpc = Vpc::new();
    let node = vpc.node_of_type("c5.4xlarge");
    let other = vpc.node_of_type("c5.4xlarge");
    // All but two of the subnet are somebody else's.
    let taken: Vec<_> = (4..255)
        .map(|last| IpAddr::from([10, 0, 4, last]))
        .filter(|address| vpc.lab.owner(&vpc.id, *address).is_none())
        .skip(2)
        .collect();
    vpc.lab.rules(|rules| {
        let limits = Limits {
            interfaces: 8,
            ipv4: 300,
            ipv6: 30,
            cards: 1,
        };
        rules
            .limit_overrides
            .insert("c5.4xlarge".to_owned(), limits);
    });
    vpc.lab.assign(&other.eni, &taken);
    let outputs = add_behind_one(&node, &pods(&node, 4), || {});
    let (given, refused): (Vec<_>, Vec<_>) = outputs.iter().partition(|o| o.status == Some(0));
    assert_eq!((given.len(), refused.len()), (2, 2));
    for output in refused {
        let error = output.error_code(11);
        assert!(error.msg.contains(&vpc.pods.to_string()), "{error:?}");
        assert!(error.details.contains("InsufficientFreeAddressesInSubnet"));
    }
    assert_eq!((node.addresses().len(), node.ledger().len()), (2, 2));
    assert_eq!(intents(&node), [""; 0]);
}

#[test]
fn a_call_that_is_throttled_is_made_again() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.lab.fail_next(ASSIGN, 2, Fault::Throttle);
    let address = add(&node, &sharing(&node, "c1"));
    assert_eq!(node.addresses(), [address]);
    assert_eq!(intents(&node), [""; 0]);
}

#[test]
fn an_answer_that_is_lost_loses_no_address() {
    let lost = [
        Fault::DropBeforeCommit,
        Fault::DropAfterCommit,
        Fault::Garbage,
        Fault::Error {
            status: 500,
            code: "InternalError".to_owned(),
            message: "an internal error has occurred".to_owned(),
        },
    ];
    for fault in lost {
        let vpc = Vpc::new();
        let node = vpc.node();
        node.lab.fail_next(ASSIGN, 1, fault.clone());
        let pod = sharing(&node, "c1");
        let address = add(&node, &pod);
        assert_eq!(node.addresses(), [address], "{fault:?}");
    }
}

#[test]
fn an_ec2_that_never_answers_is_given_up_and_forgotten() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.lab.fail_next(ASSIGN, 9, Fault::DropBeforeCommit);
    let pod = sharing(&node, "c1");
    node.run(&call(&node, "ADD", &pod, &ipv4())).error_code(11);
    assert_eq!(calls(&node, ASSIGN), 3);
    node.lab.clear_faults();
    let address = add(&node, &pod);
    assert_eq!(node.addresses(), [address]);
}

#[test]
fn without_permission_the_error_names_it_and_nothing_is_left() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.lab.rules(|rules| {
        rules.denied_actions.insert(ASSIGN.to_owned());
    });
    let pod = sharing(&node, "c1");
    let output = node.run(&call(&node, "ADD", &pod, &ipv4()));
    let error = output.error_code(100);
    assert!(
        error.msg.contains("ec2:AssignPrivateIpAddresses"),
        "{output}"
    );
    assert!(node.ledger().is_empty() && intents(&node).is_empty());
}
