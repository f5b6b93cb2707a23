//! The inventory of a node's ENIs, which every process of the node reads and some write.

use std::fs::{self, File};
use std::thread;

use harness::eni_lab::Hold;
use harness::vpc::{DEADLINE, Vpc};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

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
        let path = node.run_directory().join("eni-cni/.enis.lock");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let file = File::options().append(true).create(true).open(path);
        let locked = Flock::lock(file.unwrap(), FlockArg::LockExclusiveNonblock);
        node.lab.release_held();
        let locked = locked.map(drop).map_err(|(_, errno)| errno);
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
