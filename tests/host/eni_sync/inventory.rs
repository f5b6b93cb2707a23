//! The inventory of a node's ENIs, which every process of the node reads and some write.

use std::fs::{self, File};
use std::thread;

use harness::Pod;
use harness::eni_lab::Hold;
use harness::vpc::{DEADLINE, Vpc, VpcNode, while_held};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// Tries to take the lock of the inventory.
fn lock(node: &VpcNode) -> Result<Flock<File>, Errno> {
    let path = node.run_directory().join("eni-cni/.enis.lock");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let file = File::options().append(true).create(true).open(path);
    let locked = Flock::lock(file.unwrap(), FlockArg::LockExclusiveNonblock);
    locked.map_err(|(_, errno)| errno)
}

/// Tries to take the lock of the inventory while EC2 holds its answer to a call of `sync --once`.
fn lock_during(action: &str) -> Result<(), Errno> {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.lab.hold(action, Hold::AfterCommit);
    let mut sync = node.call("").without("CNI_COMMAND").process();
    sync.args(["sync", "--once"]);
    thread::scope(|scope| {
        let sync = scope.spawn(|| node.node.inside(|| sync.output().unwrap()));
        assert!(node.lab.wait_for_call(action, 1, DEADLINE));
        let locked = lock(&node).map(drop);
        node.lab.release_held();
        let output = sync.join().unwrap();
        assert!(output.status.success(), "{output:?}");
        locked
    })
}

/// Two that ask at the same time would write to the same temporary file, and one of
/// them would not find it when it is to be renamed.
#[test]
fn only_one_process_at_a_time_asks_for_the_enis_of_the_node() {
    assert_eq!(lock_during("DescribeSubnets"), Err(Errno::EWOULDBLOCK));
}

/// No ADD depends on them.
#[test]
fn nobody_waits_for_who_asks_for_the_limits_of_the_instance_type() {
    assert_eq!(lock_during("DescribeInstanceTypes"), Ok(()));
}

/// The ADD that asks for them has its inventory already.
#[test]
fn an_add_whose_limits_cannot_be_written_down_succeeds() {
    let vpc = Vpc::new();
    let node = vpc.node();
    fs::remove_file(node.run_directory().join("eni-cni/enis.json")).ok();
    let pod = Pod::new("c1");
    let add = || node.add(&pod, &["10.0.4.70"]);
    let held = ("DescribeInstanceTypes", Hold::AfterCommit);
    let (output, lock) = while_held(&vpc.lab, held, add, || lock(&node).unwrap());
    drop(lock);
    assert_eq!(output.status, Some(0), "{output}");
    assert!(output.stderr.contains(".enis.lock"), "{output}");
    assert_eq!(node.addresses(), ["10.0.4.70"]);
}
