//! What disturbs a call: an error or a lost answer of EC2, throttling, SIGKILL.

use harness::eni_lab::Fault;
use harness::{Call, Output, Random};

use super::site::Site;

const ACTIONS: [&str; 5] = [
    "AssignPrivateIpAddresses",
    "UnassignPrivateIpAddresses",
    "AssignIpv6Addresses",
    "UnassignIpv6Addresses",
    "DescribeNetworkInterfaces",
];
const KILLED_AT: [&str; 4] = ["?rename,?renameat,?renameat2", "fsync", "connect", "flock"];

/// How a call is disturbed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Trouble {
    None,
    Fault,
    Kill,
}

/// Runs a call on a node, perhaps with a fault or a kill, and says which.
pub(super) fn run(random: &mut Random, site: &Site, call: &Call) -> (Output, Trouble) {
    let trouble = match random.below(6) {
        0 => Trouble::Fault,
        1 => Trouble::Kill,
        _ => Trouble::None,
    };
    let output = match trouble {
        Trouble::None => site.aws.run(call),
        Trouble::Fault => {
            let lab = &site.aws.lab;
            let action = *random.of(&ACTIONS);
            lab.fail_next(action, 1, fault(random));
            let output = site.aws.run(call);
            lab.clear_faults();
            output
        }
        Trouble::Kill => {
            let (system_call, nth) = (random.of(&KILLED_AT), 1 + random.below(5));
            let inject = format!("inject={system_call}:signal=KILL:when={nth}");
            let arguments = ["-f", "-qq", "-o", "/dev/null", "-e", &inject];
            let inside = || call.run_under("strace", &arguments);
            site.aws.node.inside(inside)
        }
    };
    (output, trouble)
}

fn fault(random: &mut Random) -> Fault {
    let error = |code: &str| Fault::Error {
        status: 400,
        code: code.to_owned(),
        message: "because".to_owned(),
    };
    match random.below(7) {
        0 => Fault::Throttle,
        1 => Fault::DropAfterCommit,
        2 => Fault::DropBeforeCommit,
        3 => Fault::Garbage,
        4 => error("UnauthorizedOperation"),
        5 => error("InvalidParameterValue"),
        _ => Fault::ExpiredCredentials,
    }
}
