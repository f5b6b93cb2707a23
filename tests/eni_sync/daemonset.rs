//! An upgrade of the DaemonSet, and the return to the version before, while pods start: the
//! plugins are installed by the init container, then the next agent takes over.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use harness::{Agent, Pod, attachment_files};
use serde_json::{Value, json};

use super::fixture::{Vpc, eventually};
use super::handover::{needs_agent, serving};
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
    let call = node.pod_call("ADD", &pod, &[address]);
    node.run(&needs_agent(call)).ok();
    assert!(node.addresses().contains(&address.to_owned()));
    node.del(&pod);
    reserve("DEL").ok();
}

/// The agent of a pod that was started while the one before serves, which ends then.
fn replace(site: &Site, agent: Agent) -> Agent {
    let next = site.agent(&Value::Null);
    assert!(eventually(|| serving(&site.node) == Some(next.id())));
    assert_eq!(agent.stop(), Some(0));
    next
}

#[test]
fn no_pod_fails_and_nothing_is_left_while_the_daemonset_is_upgraded_and_rolled_back() {
    let vpc = Vpc::new();
    let site = Site::new(&vpc);
    let first = site.agent(&Value::Null);
    let is_over = AtomicBool::new(false);
    let start_pods = |thread: u8| {
        let mut pods = 0;
        while !is_over.load(Ordering::Relaxed) {
            start_and_end(&site, &format!("c{thread}-{pods}"));
            pods += 1;
        }
        pods
    };
    let (last, pods) = thread::scope(|scope| {
        let pods: Vec<_> = (0..2).map(|n| scope.spawn(move || start_pods(n))).collect();
        site.install("other-plugins", of_another_version);
        let upgraded = replace(&site, first);
        site.install("our-plugins", |_| {});
        let last = replace(&site, upgraded);
        is_over.store(true, Ordering::Relaxed);
        let pods: u32 = pods.into_iter().map(|pods| pods.join().unwrap()).sum();
        (last, pods)
    });
    assert!(pods > 3, "{pods} pods were started");
    let node = &site.node;
    let reserved = attachment_files(&node.node.state().join("networks"));
    assert!(reserved.is_empty(), "{reserved:?}");
    let is_ending = |state: &String| ["releasing", "removed"].contains(&state.as_str());
    let ledger = node.ledger();
    assert!(ledger.values().all(is_ending), "{ledger:?}");
    node.addresses()
        .iter()
        .for_each(|address| node.end_cooldown(address));
    assert!(eventually(|| node.addresses().is_empty()), "{}", last.log());
}
