//! `exclude`: addresses inside a range that are never handed out.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Network, address, addresses, at_once};

/// A network of 10.0.0.2 to 10.0.0.6 without these addresses.
fn without(exclude: Value) -> Network {
    Network::of("10.0.0.0/29").with("ipam.exclude", exclude)
}

/// The last number of every address, until there is none left.
fn all_given(network: &Network) -> Vec<String> {
    let mut given = Vec::new();
    loop {
        let output = network.add(&format!("c{}", given.len()));
        if output.status != Some(0) {
            assert_eq!(
                output.error_code(999).msg,
                "failed to allocate for range 0: no IP addresses available in range set: 10.0.0.1-10.0.0.6"
            );
            return given;
        }
        given.push(address(&output).replace("10.0.0.", "").replace("/29", ""));
    }
}

#[test]
fn an_excluded_address_is_never_handed_out() {
    for (exclude, left) in [
        (json!([]), vec!["2", "3", "4", "5", "6"]),
        (Value::Null, vec!["2", "3", "4", "5", "6"]),
        (json!(["10.0.0.3"]), vec!["2", "4", "5", "6"]),
        (json!(["10.0.0.2", "10.0.0.6/32"]), vec!["3", "4", "5"]),
        (json!(["10.0.0.4/31", "10.0.0.5"]), vec!["2", "3", "6"]),
        // Host bits say nothing.
        (json!(["10.0.0.3/30"]), vec!["4", "5", "6"]),
        // Outside of the range, there is nothing to exclude.
        (
            json!(["192.0.2.0/24", "10.0.0.200"]),
            vec!["2", "3", "4", "5", "6"],
        ),
        (json!(["0.0.0.0/0"]), vec![]),
    ] {
        assert_eq!(all_given(&without(exclude.clone())), left, "{exclude}");
    }
}

#[test]
fn an_exclusion_beside_ranges_is_that_of_every_set() {
    let network = Network::new(json!({
        "subnet": "10.0.0.0/24",
        "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "2001:db8::/64"}]],
        "exclude": ["10.0.0.2", "10.1.0.0/29", "10.3.0.2", "2001:db8::2/127"],
    }))
    .with(
        "runtimeConfig",
        json!({"ipRanges": [[{"subnet": "10.3.0.0/24"}]]}),
    );
    assert_eq!(
        addresses(&network.add("c1")),
        [
            "10.3.0.3/24",
            "10.0.0.3/24",
            "10.1.0.8/24",
            "2001:db8::4/64"
        ]
    );
}

#[test]
fn an_exclusion_inside_a_range_is_that_of_the_range() {
    let network = Network::new(json!({
        "ranges": [
            [{"subnet": "10.0.0.0/29", "exclude": ["10.0.0.2/31", "10.0.0.4/30", "10.1.0.0/16"]},
             {"subnet": "10.1.0.0/24", "exclude": ["10.1.0.2"]}],
            [{"subnet": "2001:db8::/64", "exclude": ["2001:db8::2"]}],
        ],
        "exclude": ["10.1.0.3"],
    }));
    assert_eq!(
        addresses(&network.add("c1")),
        ["10.1.0.4/24", "2001:db8::3/64"]
    );
}

#[test]
fn a_requested_address_that_is_excluded_is_refused() {
    let network = without(json!(["10.0.0.4/31"]));
    let request = |network: &Network| {
        let call = network.call("ADD", "c1").env("CNI_ARGS", "IP=10.0.0.5");
        call.run()
    };
    assert_eq!(
        request(&network).error_code(999).msg,
        "failed to allocate for range 0: requested ip 10.0.0.5 is excluded"
    );
    assert!(network.reserved().is_empty());
    let network = network.with("ipam.exclude", json!(["10.0.0.4"]));
    assert_eq!(address(&request(&network)), "10.0.0.5/29");
}

#[test]
fn a_wrong_exclusion_is_code_7_with_key_and_value_before_anything_is_made() {
    for (exclude, expected) in [
        (
            json!(["10.0.0"]),
            "exclude \"10.0.0\" is neither an address nor a CIDR",
        ),
        (
            json!(["10.0.0.3", "10.0.0.4-10.0.0.5"]),
            "exclude \"10.0.0.4-10.0.0.5\" is neither an address nor a CIDR",
        ),
        (
            json!([["10.0.0.3"]]),
            "exclude [\"10.0.0.3\"] is neither an address nor a CIDR",
        ),
        (
            json!("10.0.0.3"),
            "exclude \"10.0.0.3\" is not a list of addresses",
        ),
    ] {
        let common = without(exclude.clone());
        let ranges = json!([[{"subnet": "10.0.0.0/29", "exclude": exclude}]]);
        for network in [common, Network::new(json!({"ranges": ranges}))] {
            for output in [network.add("c1"), network.check("c1"), network.status()] {
                assert_eq!(output.error_code(7).msg, expected, "{output}");
            }
            assert_eq!(fs::read_dir(network.data_dir()).unwrap().count(), 0);
        }
    }
}

#[test]
fn an_exclusion_of_a_family_that_no_range_has_is_code_7() {
    let network = without(json!(["10.0.0.3", "2001:db8::/64"]));
    assert_eq!(
        network.add("c1").error_code(7).msg,
        "exclude \"2001:db8::/64\" is of another family than every range"
    );
    let network = Network::new(json!({
        "ranges": [[{"subnet": "2001:db8::/64"}], [{"subnet": "10.0.0.0/24", "exclude": ["2001:db8::2"]}]],
    }));
    assert_eq!(
        network.add("c1").error_code(7).msg,
        "invalid range set 1: exclude \"2001:db8::2\" is of another family than network 10.0.0.0/24"
    );
    assert!(!network.path("").exists());
}

#[test]
fn status_is_code_50_when_nothing_but_excluded_addresses_is_free() {
    let network = without(json!(["10.0.0.3/32", "10.0.0.4/30"]));
    network.status().ok();
    network.add("c1").ok();
    assert_eq!(
        network.status().error_code(50).msg,
        "no IP addresses available in range set: 10.0.0.1-10.0.0.6"
    );
    network.del("c1").ok();
    network.status().ok();
}

#[test]
fn status_is_code_50_when_everything_is_excluded_even_before_the_first_add() {
    let network = without(json!(["10.0.0.0/29"]));
    network.status().error_code(50);
    assert!(!network.path("").exists());
}

#[test]
fn an_address_that_is_excluded_later_stays_with_its_holder() {
    let mut network = without(json!([]));
    let result = network.add("c1").ok();
    network.add("c2").ok();
    network.set("ipam.exclude", json!(["10.0.0.2", "10.0.0.3"]));
    network.set("prevResult", result);
    network.check("c1").ok();
    // Taking turns goes on after the address that was handed out last.
    assert_eq!(address(&network.add("c3")), "10.0.0.4/29");
    network.del("c1").ok();
    assert_eq!(network.reserved(), ["10.0.0.3", "10.0.0.4"]);
    network.gc(json!([{"containerID": "c3"}])).ok();
    assert_eq!(network.reserved(), ["10.0.0.4"]);
    network.set("prevResult", Value::Null);
    let given = ["c4", "c5"].map(|id| address(&network.add(id)));
    assert_eq!(given, ["10.0.0.5/29", "10.0.0.6/29"]);
    network.add("c6").error_code(999);
}

#[test]
fn the_round_robin_continues_after_an_address_that_is_excluded_now() {
    let network = without(json!(["10.0.0.4", "10.0.0.6"]));
    for (last, next) in [("4", "5"), ("3", "5"), ("5", "2"), ("6", "2")] {
        network.write("last_reserved_ip.0", &format!("10.0.0.{last}"));
        assert_eq!(address(&network.add("c1")), format!("10.0.0.{next}/29"));
        network.del("c1").ok();
    }
}

#[test]
fn half_of_an_ipv6_network_is_skipped_at_once() {
    let network = Network::new(json!({"ranges": [[{"subnet": "2001:db8::/64"}]]}))
        .with("ipam.exclude", json!(["2001:db8::/65"]));
    let begin = Instant::now();
    assert_eq!(address(&network.add("c1")), "2001:db8:0:0:8000::/64");
    network.status().ok();
    network.write("last_reserved_ip.0", "2001:db8::7:7");
    assert_eq!(address(&network.add("c2")), "2001:db8::8000:0:0:1/64");
    let all = network.with("ipam.exclude", json!(["2001:db8::/65", "2001:db8::/64"]));
    all.add("c3").error_code(999);
    // Counting would take longer than any machine lasts.
    assert!(begin.elapsed() < Duration::from_secs(180), "it was counted");
}

#[test]
fn parallel_adds_get_exactly_what_is_not_excluded() {
    let network = Network::of("10.0.0.0/26").with(
        "ipam.exclude",
        json!(["10.0.0.8/29", "10.0.0.32/28", "10.0.0.50"]),
    );
    let outputs = at_once(60, |n| network.add(&format!("c{n}")));
    let given = outputs.iter().filter(|output| output.status == Some(0));
    // 61 hosts without the gateway: 8, 16 and 1 are excluded.
    assert_eq!(given.count(), 36);
    let mut expected: Vec<String> = (2..=62)
        .filter(|n| !(8..16).contains(n) && !(32..48).contains(n) && *n != 50)
        .map(|n| format!("10.0.0.{n}"))
        .collect();
    expected.sort();
    assert_eq!(network.reserved(), expected);
}
