//! What a pod has made on its NIC, and hidden, does not use the NIC of the next pod.

use fixtures::with;
use harness::{Call, Namespace};
use serde_json::json;

use crate::machine::{Machine, NIC, conf, netdev};

/// Lets the pod make an interface on its NIC that it cannot see itself.
fn hide(machine: &Machine, kind: &str) -> Namespace {
    let third = Namespace::new();
    let above = [
        "link",
        "add",
        "link",
        "net1",
        "name",
        "above",
        "netns",
        &third.path(),
    ];
    machine.pod().ip(&[&above[..], &["type", kind]].concat());
    third
}

fn of_c2(machine: &Machine, command: &str) -> Call {
    machine.call(command, &conf()).env("CNI_CONTAINERID", "c2")
}

#[test]
fn a_nic_that_a_hidden_interface_uses_is_not_restored_until_that_has_ended() {
    for kind in ["macvlan", "ipvlan"] {
        let machine = Machine::new();
        machine.add(&conf());
        let third = hide(&machine, kind);
        let call = machine.call("DEL", &conf());
        let error = machine.node.run(&call).error_code(11);
        assert_eq!(error.msg, "\"net1\" is still used by another interface");
        assert_eq!(machine.pod().links(), ["lo", "net1"], "{kind}");
        assert_eq!(machine.ipam.reserved(), ["c1.net1"]);
        third.ip(&["link", "delete", "above"]);
        machine.del(&conf());
        machine.is_clean();
    }
}

#[test]
fn a_nic_that_something_hidden_uses_is_not_given_to_the_next_pod() {
    let mut machine = Machine::new();
    machine.add(&conf());
    let third = hide(&machine, "macvlan");
    machine.end_pod();
    machine.del(&conf());
    machine.pod = Some(Namespace::new());
    let error = machine.node.run(&of_c2(&machine, "ADD")).error_code(11);
    assert_eq!(error.msg, "\"net1\" is still used by another interface");
    assert_eq!(machine.pod().links(), ["lo"]);
    machine.is_clean();
    third.ip(&["link", "delete", "above"]);
    machine.node.run(&of_c2(&machine, "ADD")).ok();
    machine.node.run(&of_c2(&machine, "DEL")).ok();
    machine.is_clean();
}

#[test]
fn what_a_pod_has_moved_on_is_removed_from_its_nic() {
    for kind in [&["vlan", "id", "7"][..], &["macvlan"], &["ipvlan"]] {
        let machine = Machine::new();
        machine.add(&conf());
        let third = Namespace::new();
        let above = ["link", "add", "link", "net1", "name", "above", "type"];
        machine.pod().ip(&[&above[..], kind].concat());
        machine
            .pod()
            .ip(&["link", "set", "above", "netns", &third.path()]);
        machine.del(&conf());
        assert_eq!(third.links(), ["lo"], "{kind:?}");
        machine.is_clean();
    }
}

/// Whoever takes a NIC that is in use gets it back beside what uses it.
#[test]
fn what_may_be_in_use_is_taken_from_under_what_the_node_has_on_it() {
    let machine = Machine::new();
    let name = netdev(NIC).unwrap_or_default();
    machine.host(&[
        "link", "add", "link", &name, "name", "above", "type", "macvlan",
    ]);
    let conf = with(&conf(), &json!({"allowInUse": true}));
    machine.add(&conf);
    machine.del(&conf);
    assert!(machine.node.netns.link("above").is_some());
    machine.host(&["link", "delete", "above"]);
    machine.is_clean();
}

/// What is made for a moment, to find out whether something hidden uses the NIC, has a name
/// that no pod can have taken.
#[test]
fn no_name_that_a_pod_takes_keeps_del_from_looking_at_its_nic() {
    let machine = Machine::new();
    machine.add(&conf());
    let name = ["dev", "lo", "altname", "cni-is-unused"];
    machine
        .pod()
        .ip(&[&["link", "property", "add"][..], &name].concat());
    machine.del(&conf());
    machine.is_clean();
}
