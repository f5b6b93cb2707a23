//! The Go host-local and ours take turns on one directory.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use harness::{Call, Output, go_plugin, our_plugin};
use serde_json::json;

use crate::host_local::{NO_NETNS, Network, address, addresses, at_once};

/// Whose plugin is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Party {
    Go,
    Ours,
}

/// Both orders of the two parties.
const ORDERS: [(Party, Party); 2] = [(Party::Go, Party::Ours), (Party::Ours, Party::Go)];

impl Party {
    pub(super) fn call(self, network: &Network, command: &str, id: &str) -> Call {
        let plugin = match self {
            Self::Go => go_plugin("host-local"),
            Self::Ours => our_plugin("host-local"),
        };
        Call::new(plugin, command)
            .attachment(id, "net1", NO_NETNS)
            .conf(network.conf())
    }

    fn run(self, network: &Network, command: &str, id: &str) -> Output {
        self.call(network, command, id).run()
    }
}

fn dual_stack() -> Network {
    let ranges = json!([[{"subnet": "10.0.0.0/24"}], [{"subnet": "2001:db8::/64"}]]);
    Network::new(json!({"ranges": ranges})).with("cniVersion", "1.0.0".into())
}

#[test]
fn what_one_adds_the_other_checks_and_deletes() {
    for (first, second) in ORDERS {
        let network = dual_stack();
        first.run(&network, "ADD", "c1").ok();
        first.run(&network, "ADD", "c2").ok();
        second.run(&network, "CHECK", "c1").ok();
        second.run(&network, "DEL", "c1").ok();
        first.run(&network, "CHECK", "c1").error_code(999);
        first.run(&network, "CHECK", "c2").ok();
        assert_eq!(network.reserved(), ["10.0.0.3", "2001:db8::3"], "{first:?}");
    }
}

#[test]
fn they_share_the_round_robin_over_the_range() {
    for (first, second) in ORDERS {
        let network = dual_stack();
        let turns = [(first, "a"), (second, "b"), (first, "c"), (second, "d")];
        let given = turns.map(|(party, id)| addresses(&party.run(&network, "ADD", id)));
        for (index, given) in given.iter().enumerate() {
            let n = index + 2;
            assert_eq!(
                *given,
                [format!("10.0.0.{n}/24"), format!("2001:db8::{n}/64")]
            );
        }
    }
}

#[test]
fn a_last_address_of_another_length_is_understood_by_the_other() {
    for (first, second) in ORDERS {
        let network = Network::of("10.0.0.0/24").with("cniVersion", "1.0.0".into());
        network.write("last_reserved_ip.0", "10.0.0.254");
        assert_eq!(address(&first.run(&network, "ADD", "a")), "10.0.0.2/24");
        assert_eq!(address(&second.run(&network, "ADD", "b")), "10.0.0.3/24");
    }
}

#[test]
fn each_refuses_the_duplicate_of_the_other() {
    for (first, second) in ORDERS {
        let network = dual_stack();
        first.run(&network, "ADD", "c1").ok();
        let error = second.run(&network, "ADD", "c1").error_code(999);
        assert_eq!(
            error.msg,
            "failed to allocate for range 0: 10.0.0.2 has been allocated to c1, duplicate allocation is not allowed"
        );
        assert_eq!(network.reserved(), ["10.0.0.2", "2001:db8::2"]);
    }
}

#[test]
fn sixty_adds_of_both_at_once_get_sixty_addresses() {
    let network = dual_stack();
    let outputs = at_once(60, |n| {
        let party = if n % 2 == 0 { Party::Go } else { Party::Ours };
        party.run(&network, "ADD", &format!("c{n}"))
    });
    let unique: BTreeSet<String> = outputs.iter().flat_map(addresses).collect();
    assert_eq!(unique.len(), 120);
    assert_eq!(network.reserved().len(), 120);
}

#[test]
fn dels_of_both_at_once_release_everything() {
    let network = dual_stack();
    for n in 0..30 {
        let party = if n % 2 == 0 { Party::Go } else { Party::Ours };
        party.run(&network, "ADD", &format!("c{n}")).ok();
    }
    at_once(30, |n| {
        let party = if n % 3 == 0 { Party::Go } else { Party::Ours };
        party.run(&network, "DEL", &format!("c{n}")).ok()
    });
    assert!(network.reserved().is_empty(), "{:?}", network.reserved());
}

#[test]
fn a_directory_of_old_go_plugins_is_taken_over() {
    let network = Network::of("10.0.0.0/24").with("cniVersion", "1.0.0".into());
    for id in ["a", "b"] {
        Party::Go.run(&network, "ADD", id).ok();
    }
    network.write("10.0.0.50", "legacy");
    for (name, bits) in [
        ("10.0.0.2", 0o644),
        ("10.0.0.50", 0o644),
        ("last_reserved_ip.0", 0o644),
        ("", 0o755),
    ] {
        fs::set_permissions(network.path(name), Permissions::from_mode(bits)).unwrap();
    }
    Party::Ours.run(&network, "CHECK", "a").ok();
    Party::Ours.run(&network, "CHECK", "legacy").ok();
    assert_eq!(
        address(&Party::Ours.run(&network, "ADD", "c")),
        "10.0.0.4/24"
    );
    for id in ["a", "b", "legacy"] {
        Party::Ours.run(&network, "DEL", id).ok();
    }
    assert_eq!(network.reserved(), ["10.0.0.4"]);
    // And back again: the older plugin is not confused by what ours has left.
    Party::Go.run(&network, "CHECK", "c").ok();
    Party::Go.run(&network, "DEL", "c").ok();
    assert!(network.reserved().is_empty());
    assert!(network.path(".boot_id").exists());
}
