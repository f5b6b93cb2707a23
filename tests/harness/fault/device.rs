//! The devices of a scene with host-device: veths, and the network cards of the test VM.
//! Each has all the properties that could be lost.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use super::scene::{Maker, Subject};
use crate::Namespace;
use crate::pci;

/// The network cards and their names.
const NICS: [(&str, &str); 2] = [(pci::NIC, pci::NIC_NAME), (pci::OTHER_NIC, pci::OTHER_NAME)];

/// The network cards, which are reset when this value is dropped.
pub(super) struct Cards {
    _private: (),
}

impl Cards {
    /// The network cards of this machine, which must be the test VM.
    #[track_caller]
    pub(super) fn new() -> Self {
        assert!(
            pci::pci_device(pci::NIC).exists(),
            "this is not the test VM: run `make test`, or `tests/vm/run`"
        );
        Self { _private: () }
    }
}

impl Drop for Cards {
    fn drop(&mut self) {
        pci::reset();
    }
}

/// The key and the value by which the configuration selects the device of the pod with
/// this number.
pub(super) fn selector(subject: Subject, number: usize) -> (&'static str, String) {
    match subject.has_nics() {
        true => ("pciBusID", NICS[number].0.to_owned()),
        false => ("device", veth(number)),
    }
}

fn veth(number: usize) -> String {
    format!("hd-c{number}")
}

/// Makes the device of a pod, with addresses and routes if these are `kept`.
pub(super) fn make_veth(node: &Namespace, number: usize, maker: Maker, kept: bool) {
    let (name, mac) = (veth(number), format!("02:00:00:00:00:{number:02x}"));
    let (peer, peer_mac) = (
        format!("{name}-peer"),
        format!("06:00:00:00:00:{number:02x}"),
    );
    // The device can be in any namespace; it is deleted together with its other end.
    node.try_tool("ip", &["link", "delete", &peer]);
    let veth = [
        "link", "add", &name, "address", &mac, "mtu", "1400", "type", "veth",
    ];
    node.ip(&[&veth[..], &["peer", "name", &peer, "address", &peer_mac]].concat());
    // The state after DEL of each plugin: the Go plugin stores the name in the alias and
    // leaves the device down.
    let (alias, state) = match maker {
        Maker::Ours => ("uplink", "up"),
        Maker::Go => (name.as_str(), "down"),
    };
    node.ip(&["link", "set", &name, "alias", alias, state]);
    let altname = format!("other-name-of-{name}");
    node.ip(&["link", "property", "add", "dev", &name, "altname", &altname]);
    node.ip(&["link", "set", &peer, "up"]);
    if kept {
        for change in network_of(&name, number) {
            node.ip(&Vec::from_iter(change.split(' ')));
        }
    }
}

/// Resets the network cards, and gives them all the properties that could be lost.
pub(super) fn set_up_nics() {
    pci::reset();
    pci::require_machine();
    let mut changes = Vec::new();
    for (number, (_, name)) in NICS.iter().enumerate() {
        changes.push(format!(
            "link property add dev {name} altname eni-{}",
            number + 6
        ));
        changes.push(format!("link set {name} mtu 1400 alias uplink up"));
        changes.extend(network_of(name, number));
    }
    let made = pci::ip_batch(&changes);
    assert!(made.status.success(), "{made:?}");
}

/// The arguments of `ip` for the addresses, routes and neighbours of a device.
fn network_of(name: &str, number: usize) -> [String; 5] {
    let (v4, v6) = (format!("10.1.{number}"), format!("2001:db8:1{number}:"));
    [
        format!("address add {v4}.7/24 brd + dev {name}"),
        format!("address add {v6}:7/64 nodad dev {name}"),
        format!("route add 10.2.{number}.0/24 via {v4}.1 dev {name} mtu 1300"),
        format!("route add 2001:db8:2{number}::/64 via {v6}:1 dev {name}"),
        format!("neighbour add {v4}.9 lladdr 02:00:00:00:09:09 nud permanent dev {name}"),
    ]
}

/// A line for each route and neighbour of a namespace that the kernel has not made by
/// itself.
pub(super) fn network(node: &Namespace) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for family in ["-4", "-6"] {
        let routes = node.ip_json(&[family, "route", "show", "table", "all"]);
        let made = list(&routes).filter(|route| route["protocol"] != "kernel");
        all.extend(made.map(|route| {
            let keys = ["dst", "gateway", "dev", "table", "metric", "metrics"];
            format!(
                "node: route {}",
                keys.map(|key| route[key].to_string()).join(" ")
            )
        }));
    }
    let neighbours = node.ip_json(&["neighbour", "show", "nud", "permanent"]);
    all.extend(list(&neighbours).map(|one| {
        let values = ["dst", "dev", "lladdr"].map(|key| one[key].to_string());
        format!("node: neighbour {}", values.join(" "))
    }));
    all
}

fn list(all: &Value) -> impl Iterator<Item = &Value> {
    all.as_array().into_iter().flatten()
}

/// A line for the driver of each network card.
pub(super) fn drivers() -> BTreeSet<String> {
    let line = |(address, _): &(&str, &str)| {
        let (driver, wanted) = (pci::driver(address), pci::driver_override(address));
        let enabled = fs::read_to_string(pci::pci_device(address).join("enable"));
        let enabled = enabled.unwrap_or_default();
        format!(
            "{address}: driver {driver}, override {wanted}, enabled {}",
            enabled.trim()
        )
    };
    NICS.iter().map(line).collect()
}
