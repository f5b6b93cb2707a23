//! An upgrade of the DaemonSet, and the return to the version before, while pods start: the
//! plugins are installed by the init container, then the next agent takes over.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use fixtures::handover::{STARTING, Until, needs_agent, replace_while_pods_start, serving};
use harness::vpc::{Vpc, eventually};
use harness::{Pod, attachment_files};
use serde_json::{Value, json};

use super::installed::{Site, of_another_version};

/// A pod from its start to its end, by two plugins, of which the second cannot do without an
/// agent.
fn start_and_end(site: &Site, id: &str) {
    let node = &site.node;
    let ipam = json!({
        "type": "host-local", "subnet": "10.0.4.0/24",
        "rangeStart": "10.0.4.70", "rangeEnd": "10.0.4.77",
    });
    let pod = Pod::new(id);
    let reserve = |command: &str| {
        node.node
            .run(&site.call("eni-host-local", command, id, &ipam))
    };
    let added = reserve("ADD").ok();
    let address = added["ips"][0]["address"].as_str().unwrap();
    let address = address.trim_end_matches("/24");
    // None is released meanwhile: EC2 would be asked to show it.
    let keys = json!({ "cooldownSeconds": 3600 });
    let call = node.conf_call("ADD", &pod, &[address], &keys);
    node.run(&needs_agent(call)).ok();
    assert!(node.addresses().contains(&address.to_owned()));
    node.del(&pod);
    reserve("DEL").ok();
}

#[test]
fn no_pod_fails_and_nothing_is_left_while_the_daemonset_is_upgraded_and_rolled_back() {
    let vpc = Vpc::new();
    let site = Site::new(&vpc);
    let first = site.agent(&Value::Null);
    let (is_over, count) = (AtomicBool::new(false), AtomicUsize::new(0));
    let start_pods = |thread: usize| {
        for number in 0.. {
            start_and_end(&site, &format!("c{thread}-{number}"));
            count.fetch_add(1, Ordering::Relaxed);
            if is_over.load(Ordering::Relaxed) {
                break;
            }
        }
    };
    let next = || site.spawn_agent(&Value::Null);
    let last = thread::scope(|scope| {
        let _over = Until(&is_over);
        for thread in 0..STARTING {
            scope.spawn(move || start_pods(thread));
        }
        site.install("other-plugins", of_another_version);
        let upgraded = replace_while_pods_start(&site.node, (first, next), &count);
        site.install("our-plugins", |_| {});
        replace_while_pods_start(&site.node, (upgraded, next), &count)
    });
    let node = &site.node;
    let reserved = attachment_files(&node.node.state().join("networks"));
    assert!(reserved.is_empty(), "{reserved:?}");
    let is_ending = |state: &String| ["releasing", "removed"].contains(&state.as_str());
    let ledger = node.ledger();
    assert!(ledger.values().all(is_ending), "{ledger:?}");
    node.addresses()
        .iter()
        .for_each(|address| node.end_cooldown(address));
    // Who asks wakes the agent.
    assert_eq!(serving(node), Some(last.id()));
    assert!(eventually(|| node.addresses().is_empty()), "{}", last.log());
}
