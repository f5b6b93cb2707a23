//! An update of the DaemonSet while pods start: none of them waits for it, and none fails.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use fixtures::handover::{Until, assigned};
use harness::eni_lab::Hold;
use harness::vpc::DEADLINE;

use super::{MACHINE, Machine, Named, Plugins, configuration};
use crate::machine::runtimes::kubelet::{self, await_patiently};

/// Some of the pods that start while the DaemonSet is updated.
#[derive(Clone, Copy)]
struct Batch<'a> {
    pods: &'a [Named],
}

impl Batch<'_> {
    fn names(self) -> BTreeSet<String> {
        self.pods.iter().map(|pod| pod.0.id.clone()).collect()
    }

    /// Runs a command for all of them at once; it succeeds for each.
    fn run(self, command: &str) {
        self.run_again_until(&AtomicBool::new(true), &[command]);
    }

    /// Runs the commands for all of them at once, once and until `is_over` is set.
    fn run_again_until(self, is_over: &AtomicBool, commands: &[&str]) {
        let run = |pod: &Named| {
            let number: u8 = pod.0.id.trim_start_matches('u').parse().unwrap();
            let address = format!("10.0.4.{}", 80 + number);
            loop {
                for command in commands {
                    MACHINE.plugin(command, pod, &address);
                }
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
            }
        };
        thread::scope(|scope| {
            for pod in self.pods {
                scope.spawn(move || run(pod));
            }
        });
    }
}

/// The next agent has been started, and EC2 lets it wait for its first look. Meanwhile the one
/// before serves the pods of `batch`.
fn coming<'a>(machine: &'a Machine, before: &str, batch: Batch<'_>) -> (kubelet::Pod<'a>, String) {
    let lab = &machine.node.lab;
    lab.hold("DescribeNetworkInterfaces", Hold::AfterCommit);
    let next = machine.pod("after", &configuration());
    let id = machine.begin_agent(&next, 0);
    let log = || next.log(machine.agent(), 0);
    assert!(lab.wait_until(DEADLINE, |lab| lab.held() == 1), "{}", log());
    batch.run("ADD");
    assert!(machine.serves(before), "{}", log());
    (next, id)
}

/// As the DaemonSet's surge has it: no plugin may find no agent. Of the 20 pods, four start while
/// the agent before is alone, and four in each time after that: the next one is coming, it takes
/// over, it serves beside the one before, and it is alone. Those of the third time start again and
/// again, so that each of them has been served by both.
#[test]
fn an_update_goes_from_pod_to_pod_while_twenty_others_start() {
    let machine = &*MACHINE;
    let _plugins = Plugins::new();
    let pods: Vec<Named> = (0..20).map(|n| Named::new(&format!("u{n}"))).collect();
    let batches: Vec<Batch<'_>> = pods.chunks(4).map(|pods| Batch { pods }).collect();
    let first = machine.pod("before", &configuration());
    assert_eq!(machine.install(&first).exit_code, 0);
    let before = machine.start_agent(&first, 0);

    batches[0].run("ADD");
    let (second, after) = coming(machine, &before, batches[1]);
    let are_served = |batch: usize, by: &kubelet::Pod<'_>| {
        let names = batches[batch].names();
        names.is_subset(&assigned(&by.log(machine.agent(), 0)))
    };
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| batches[2].run_again_until(&is_over, &["ADD", "DEL"]));
        let _over = Until(&is_over);
        assert!(await_patiently(|| are_served(2, &first)));
        machine.node.lab.release_held();
        let is_next = await_patiently(|| machine.serves(&after) && are_served(2, &second));
        assert!(is_next, "{}", second.log(machine.agent(), 0));
    });
    batches[3].run("ADD");
    machine.await_probes(&second, 0);
    assert!(are_served(0, &first) && are_served(1, &first));
    first.end(&[&before]);
    batches[4].run("ADD");
    let log_after = second.log(machine.agent(), 0);
    assert!(
        are_served(3, &second) && are_served(4, &second),
        "{log_after}"
    );
    assert!(machine.serves(&after), "{log_after}");
    for batch in batches {
        batch.run("DEL");
    }
    let is_released = await_patiently(|| machine.node.addresses().is_empty());
    assert!(is_released, "{}", second.log(machine.agent(), 0));
    second.end(&[&after]);
}
