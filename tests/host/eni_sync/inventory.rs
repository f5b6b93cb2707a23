//! The inventory of a node's ENIs, which every process of the node reads and some write.

use std::fs::File;
use std::thread;

use harness::eni_lab::Hold;
use harness::vpc::{DEADLINE, Vpc};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// Two that ask at the same time would write to the same temporary file, and one of
/// them would not find it when it is to be renamed.
#[test]
fn only_one_process_at_a_time_asks_for_the_enis_of_the_node() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.lab.hold("DescribeSubnets", Hold::AfterCommit);
    let mut sync = node.call("").without("CNI_COMMAND").process();
    sync.args(["sync", "--once"]);
    thread::scope(|scope| {
        let sync = scope.spawn(|| node.node.inside(|| sync.output().unwrap()));
        assert!(node.lab.wait_for_call("DescribeSubnets", 1, DEADLINE));
        let lock = File::open(node.run_directory().join("eni-cni/.enis.lock"));
        let locked = lock.map(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock));
        node.lab.release_held();
        let output = sync.join().unwrap();
        assert!(output.status.success(), "{output:?}");
        let refused = locked.map(|lock| lock.map_err(|(_, errno)| errno));
        assert!(
            matches!(refused, Ok(Err(Errno::EWOULDBLOCK))),
            "{refused:?}"
        );
    });
}
