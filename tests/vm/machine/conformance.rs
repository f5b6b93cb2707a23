//! The conformance suite on a kernel that has ipvlan, and network cards.

use fixtures::conformance::{examined, passes};
use harness::our_plugin;

use crate::machine::NIC_NAME;

/// Of kills, of many calls at once and of memory, which cost most in the VM: `faults` has
/// more of the first two, and `make conformance` has all of them.
const COSTLY: [u64; 6] = [36, 56, 57, 58, 59, 63];

#[test]
fn ipvlan_passes_every_assertion_that_is_about_it() {
    let ours = our_plugin("ipvlan");
    let numbers: Vec<String> = (1..=63)
        .filter(|number| !COSTLY.contains(number))
        .map(|number| number.to_string())
        .collect();
    let mut arguments = vec!["--plugin", "ipvlan", "--patience", "0"];
    arguments.extend(numbers.iter().flat_map(|n| ["--assertion", n]));
    let columns = examined(ours.parent().unwrap(), &arguments);
    passes(&columns, "ipvlan", &[35, 45, 52, 53, 54, 55, 61]);
}

#[test]
fn a_nic_returns_to_the_node_from_a_namespace_that_has_ended() {
    let ours = our_plugin("host-device");
    let arguments = [
        "--plugin",
        "host-device",
        "--assertion",
        "45",
        "--card",
        NIC_NAME,
    ];
    passes(
        &examined(ours.parent().unwrap(), &arguments),
        "host-device",
        &[],
    );
}
