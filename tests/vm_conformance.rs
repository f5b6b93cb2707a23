//! The conformance suite on a kernel that has ipvlan, and network cards.

use harness::our_plugin;

use crate::conformance::{examined, passes};
use crate::vm_pci::NIC_NAME;

#[test]
fn ipvlan_passes_every_assertion_that_is_about_it() {
    let ours = our_plugin("ipvlan");
    let columns = examined(
        ours.parent().unwrap(),
        &["--plugin", "ipvlan", "--patience", "0"],
    );
    passes(&columns, "ipvlan", &[35, 45, 52, 53, 54, 55, 56, 61]);
}

#[test]
fn a_card_comes_back_to_the_node_from_a_namespace_that_died() {
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
