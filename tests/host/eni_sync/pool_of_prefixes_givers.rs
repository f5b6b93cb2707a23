//! An address of a prefix has one giver: host-local, by the ranges file of a pool, or eni-sync, for
//! networks without addresses. What host-local may still give is given by nobody else, and stays on
//! the ENI.

use std::fs;
use std::path::PathBuf;
use std::thread;

use harness::eni_lab::Hold;
use harness::vpc::{Agent, Vpc, VpcNode, eventually};
use harness::{Output, Pod, is_waited_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::ipam::{ASSIGN, add, addresses, sharing};
use super::pool::host_local;
use super::pool_of_prefixes::{listed, listing, of_ipv4};
use super::prefixes::{contains, keeping, kept, known, node_of_its_own, one, prefixes};

/// The file of the ledger about a prefix.
fn file_of(node: &VpcNode, prefix: &str) -> PathBuf {
    let name = format!(".prefix-{}", prefix.replace('/', "-"));
    node.ledger_path().join(name)
}

#[test]
fn a_prefix_that_is_found_leaves_the_file_of_its_pool_before_others_give_its_addresses() {
    let vpc = Vpc::new();
    let node = node_of_its_own(&vpc, "10.0.88.0/24");
    drop(listing(&node, &of_ipv4(1, 1), 1));
    let found = prefixes(&node).remove(0);
    // The ledger has lost it, and two looks have found it.
    fs::remove_file(file_of(&node, &found)).unwrap();
    for _ in 0..2 {
        assert_eq!(node.command(&["sync", "--once"]).status, Some(0));
        node.let_time_pass(120);
    }
    assert_eq!(known(&node), [(found.clone(), "adopted".to_owned())]);
    let mut both = of_ipv4(1, 1);
    both["prefixes"] = keeping(&json!({ "ipv4": { "low": 1, "high": 1 } }))["prefixes"].take();
    // While EC2 is asked for one of the pool.
    node.lab.hold(ASSIGN, Hold::BeforeCommit);
    let agent = Agent::start(&node, &both);
    assert!(eventually(|| node.lab.held() == 1), "{}", agent.log());
    assert_eq!(known(&node), [(found.clone(), "pooled".to_owned())]);
    let refused = node.run(&host_local("ADD", &Pod::new("c1")));
    assert!(
        refused.stdout.contains("no IP ranges specified"),
        "{refused}"
    );
    node.lab.release_held();
    assert!(eventually(|| listed(&node).len() == 1), "{}", agent.log());
    let given = addresses(&node.run(&host_local("ADD", &Pod::new("c1"))).ok()).remove(0);
    let chosen = add(&node, &sharing(&node, "c2"));
    assert!(!contains(&found, &given), "{given}");
    assert!(contains(&found, &chosen), "{chosen}");
}

/// An ADD of host-local that is stopped under its lock when it has read the ranges file and has
/// reserved nothing.
pub(super) struct Stopping<'a> {
    node: &'a VpcNode,
    trace: PathBuf,
}

impl<'a> Stopping<'a> {
    pub(super) fn new(node: &'a VpcNode) -> Self {
        let trace = node.run_directory().join("strace");
        Self { node, trace }
    }

    /// Runs the ADD, which ends when it was continued.
    pub(super) fn run(&self, pod: &Pod) -> Output {
        let next = "/var/lib/cni/networks/mgmt/.boot_id";
        let stop = "inject=openat:signal=STOP:when=1";
        let options = ["-f", "-o", "/run/strace", "-P", next, "-e", stop];
        let call = host_local("ADD", pod);
        let traced = call.process_under("strace", &options);
        self.node.node.inside(|| call.run_as(traced))
    }

    /// The process that is stopped.
    pub(super) fn process(&self) -> Option<Pid> {
        let trace = fs::read_to_string(&self.trace).ok()?;
        let stopped = trace
            .lines()
            .find(|line| line.contains("stopped by SIGSTOP"))?;
        let id = stopped.split_whitespace().next()?.parse().ok()?;
        Some(Pid::from_raw(id))
    }
}

/// Goes on when this value is dropped.
pub(super) struct Stopped(pub(super) Pid);

impl Drop for Stopped {
    fn drop(&mut self) {
        kill(self.0, Signal::SIGCONT).unwrap();
    }
}

#[test]
fn a_prefix_stays_while_an_add_that_has_read_the_file_with_it_reserves_an_address() {
    let vpc = Vpc::new();
    let node = node_of_its_own(&vpc, "10.0.89.0/24");
    drop(listing(&node, &of_ipv4(2, 2), 2));
    // host-local has a store, and goes on behind the last address of the first prefix.
    let former = Pod::new("c0");
    for command in ["ADD", "DEL"] {
        node.run(&host_local(command, &former)).ok();
    }
    let store = node.node.state().join("networks/mgmt");
    let [first, second] = &listed(&node)[..] else {
        panic!("{:?}", listed(&node));
    };
    fs::write(store.join("last_reserved_ip.0"), &first[2]).unwrap();
    let leaving = format!("{}/28", second[1]);
    let (stopping, pod) = (Stopping::new(&node), Pod::new("c1"));
    let lock = store.join("lock");
    let result = thread::scope(|scope| {
        let reserving = scope.spawn(|| stopping.run(&pod));
        assert!(eventually(|| stopping.process().is_some()));
        let stopped = Stopped(stopping.process().unwrap());
        let agent = Agent::start(&node, &of_ipv4(1, 1));
        let is_decided = || is_waited_for(&lock) || prefixes(&node).len() == 1;
        assert!(eventually(is_decided), "{}", agent.log());
        assert_eq!(
            listed(&node),
            std::slice::from_ref(first),
            "{}",
            agent.log()
        );
        // A stopped process is not waited for for ever.
        let said = "timed out waiting for the lock \"/var/lib/cni/networks/mgmt/lock\"";
        let is_said = || agent.log().contains(said);
        assert!(
            prefixes(&node).len() == 2 && eventually(is_said),
            "{}",
            agent.log()
        );
        drop(stopped);
        let result = reserving.join().unwrap().ok();
        let address = addresses(&result).remove(0);
        let said = format!("{leaving} stays: host-local has {address} of it reserved");
        assert!(
            eventually(|| agent.log().contains(&said)),
            "{}",
            agent.log()
        );
        result
    });
    let address = addresses(&result).remove(0);
    assert!(contains(&leaving, &address), "{address} of {leaving}");
    assert!(prefixes(&node).contains(&leaving), "{:?}", prefixes(&node));
}

/// An earlier version would give the addresses of such a prefix to networks without addresses: it
/// reads none of a newer format.
#[test]
fn only_a_prefix_with_a_ranges_file_is_written_in_the_newer_format() {
    let vpc = Vpc::new();
    let (listing_one, keeping_one) = (vpc.node(), vpc.node());
    drop(listing(&listing_one, &of_ipv4(1, 1), 1));
    drop(kept(&keeping_one, &one(), 1));
    let format = |node: &VpcNode| {
        let text = fs::read(file_of(node, &prefixes(node)[0])).unwrap();
        let file: Value = serde_json::from_slice(&text).unwrap();
        (file["rangesFile"].clone(), file["formatVersion"].clone())
    };
    assert_eq!(format(&listing_one), (json!("/run/ranges.json"), json!(2)));
    assert_eq!(format(&keeping_one), (Value::Null, Value::Null));
}
