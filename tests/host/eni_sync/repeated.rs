//! A request that EC2 throttles or does not answer is repeated for a while. What it removes may
//! be another node's by then: the ENI has gone there, and a pod has the address.

use std::thread;

use harness::Pod;
use harness::eni_lab::{Event, Fault, Lab};
use harness::vpc::{Agent, DEADLINE, Vpc, VpcNode, eventually, prev_result};
use serde_json::json;

use super::ipam::calls;
use super::prefixes::{UNASSIGN, keeping, kept, one, prefixes};

const ADDRESS: &str = "10.0.4.70";
const DESCRIBE: &str = "DescribeNetworkInterfaces";

/// Moves the ENI of a node that is asking EC2 to remove something from it, in vain so far, and
/// waits until the node has looked at the ENI again or has removed it.
fn move_away(node: &VpcNode, other: &VpcNode, is_removed: impl Fn() -> bool) {
    // The call is counted when it arrives. It counts as one about the ENI when it is decided.
    let is_decided =
        |event: &Event| matches!(event, Event::Called { action, .. } if action == UNASSIGN);
    let decided = |lab: &Lab| lab.events().iter().any(is_decided);
    assert!(node.lab.wait_until(DEADLINE, decided));
    node.lab.detach_eni(&node.eni);
    node.lab.attach_eni(&node.eni, &other.instance, 2);
    let (looks, requests) = (calls(node, DESCRIBE), calls(node, UNASSIGN));
    let has_looked = || calls(node, DESCRIBE) > looks;
    // The first request may have been made because of a look before the move.
    let is_repeated = || has_looked() || calls(node, UNASSIGN) >= requests + 2;
    assert!(eventually(is_repeated), "{:?}", node.lab.calls());
    node.lab.clear_faults();
    let is_over = || has_looked() || is_removed();
    assert!(eventually(is_over), "{:?}", node.lab.calls());
}

fn release_while_the_eni_moves(fault: Fault, with_agent: bool) {
    let vpc = Vpc::new();
    let (node, other) = (vpc.node(), vpc.node());
    let pod = Pod::new("c1");
    node.add(&pod, &[ADDRESS]).ok();
    node.del(&pod);
    node.end_cooldown(ADDRESS);
    node.lab.reset_calls();
    node.lab.fail_next(UNASSIGN, 99, fault.clone());
    let is_removed = || node.addresses().is_empty();
    thread::scope(|scope| {
        let agent = with_agent.then(|| Agent::start(&node, &json!({ "links": false })));
        let gc = (!with_agent).then(|| scope.spawn(|| node.run(&node.gc_call(&[]))));
        move_away(&node, &other, is_removed);
        // A node that has the ENI finds the address there, and a pod gets it.
        assert_eq!(node.addresses(), [ADDRESS], "{fault:?}, {with_agent}");
        let next = Pod::new("c2");
        let result = prev_result(&next, &[(&node.mac, &[ADDRESS])]);
        let keys = json!({ "prevResult": result });
        other.run(&other.conf_call("ADD", &next, &[], &keys)).ok();
        if let Some(gc) = gc {
            gc.join().unwrap();
        }
        drop(agent);
    });
    assert_eq!(node.addresses(), [ADDRESS], "{fault:?}, {with_agent}");
}

#[test]
fn rule_4_a_release_is_not_repeated_when_the_eni_has_gone_to_another_node() {
    thread::scope(|scope| {
        for fault in [Fault::Throttle, Fault::DropBeforeCommit] {
            for with_agent in [false, true] {
                let fault = fault.clone();
                scope.spawn(move || release_while_the_eni_moves(fault, with_agent));
            }
        }
    });
}

#[test]
fn rule_4_a_prefix_is_not_given_back_when_the_eni_has_gone_to_another_node() {
    let vpc = Vpc::new();
    let (node, other) = (vpc.node(), vpc.node());
    let two = keeping(&json!({ "ipv4": { "low": 2, "high": 2 } }));
    drop(kept(&node, &two, 2));
    node.lab.reset_calls();
    node.lab.fail_next(UNASSIGN, 99, Fault::Throttle);
    let agent = Agent::start(&node, &one());
    let is_removed = || prefixes(&node).len() < 2;
    move_away(&node, &other, is_removed);
    // The agent may have looked at the ENI for another reason.
    let is_said = || agent.log().contains("the ENI is not on this node any more");
    assert!(eventually(|| is_said() || is_removed()), "{}", agent.log());
    assert_eq!(prefixes(&node).len(), 2, "{}", agent.log());
}
