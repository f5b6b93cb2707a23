//! A kill at any write of ADD or DEL, and what gives the device back then.

use fixtures::with;
use harness::Namespace;
use harness::fault::{Counted, Fault, Strike};
use serde_json::json;

use super::{bound, end_pod, is_unbound};
use crate::machine::{Machine, NIC, driver};

/// Kills `command` at each of these of its writes in turn, and lets `clean` give the device
/// back.
fn is_given_back(command: &str, writes: impl Iterator<Item = usize>, clean: impl Fn(&mut Machine)) {
    let mut was_away = false;
    for nth in writes {
        let mut machine = Machine::new();
        if command == "DEL" {
            machine.add(&bound("vfio-pci"));
        }
        let call = machine.call(command, &bound("vfio-pci"));
        let how = Strike {
            fault: Fault::Kill,
            counted: Counted::Writes,
            nth,
        };
        let struck = machine.node.strike(&call, how);
        was_away |= struck.hit.is_some() && driver(NIC) != "e1000e";
        clean(&mut machine);
        println!("{command}, {nth} {:?}", struck.hit);
        is_unbound(&machine);
        if struck.hit.is_none() {
            break;
        }
    }
    assert!(was_away, "{command} was never killed between two steps");
}

#[test]
fn del_restores_what_an_add_that_was_killed_anywhere_has_bound() {
    is_given_back("ADD", 1.., |machine| {
        machine.del(&bound("vfio-pci"));
    });
}

#[test]
fn del_completes_a_del_that_was_killed_anywhere() {
    is_given_back("DEL", 1.., |machine| {
        machine.del(&bound("vfio-pci"));
    });
}

#[test]
fn gc_restores_what_an_add_that_was_killed_anywhere_has_bound() {
    is_given_back("ADD", (1..).step_by(2), |machine| {
        let keys = json!({"cni.dev/valid-attachments": []});
        let call = machine.call("GC", &with(&bound("vfio-pci"), &keys));
        machine.node.run(&call).ok();
    });
}

#[test]
fn the_next_add_restores_what_an_add_that_was_killed_anywhere_has_bound() {
    is_given_back("ADD", (2..).step_by(2), |machine| {
        end_pod(machine);
        machine.pod = Some(Namespace::new());
        let conf = bound("uio_pci_generic");
        let call = |command: &str| machine.call(command, &conf).env("CNI_CONTAINERID", "c2");
        machine.node.run(&call("ADD")).ok();
        machine.node.run(&call("DEL")).ok();
        machine.del(&bound("vfio-pci"));
    });
}
