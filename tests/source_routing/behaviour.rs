//! What the plugins that have `sourceRouting` and `enableDad` do in the same way. The
//! tests of each of them call these.

use std::fs;

use serde_json::{Value, json};

use super::fixture::{Fixture, OWN};
use crate::host_device::with;

/// The rules that lead to `table` by default.
pub(super) fn rules(table: u32) -> Vec<String> {
    OWN.map(|own| format!("32765: from {own} lookup {table}"))
        .to_vec()
}

#[track_caller]
pub(crate) fn has(routes: &[String], expected: &str) {
    let found = routes.iter().any(|route| route.starts_with(expected));
    assert!(found, "{expected:?} is missing: {routes:#?}");
}

/// With the option the answer leaves through the second interface.
pub(crate) fn only_with_the_option_does_the_peer_get_an_answer(plugin: &'static str) {
    let fixture = Fixture::new(plugin);
    let without = fixture.conf(&json!({}));
    fixture.add(&without);
    assert_eq!(fixture.rules(), [""; 0]);
    assert_eq!(fixture.answers("1"), [false, false]);
    fixture.del(&without);

    let conf = fixture.routed(&json!(true));
    let result = fixture.add(&conf);
    assert_eq!(fixture.answers("30"), [true, true]);
    for (own, peer) in OWN.into_iter().zip(["198.51.100.2", "fd51::2"]) {
        let way = fixture.pod.ip(&["route", "get", peer, "from", own]);
        assert!(way.contains("dev net1"), "{way}");
        let way = fixture.pod.ip(&["route", "get", peer]);
        assert!(way.contains("dev eth0"), "{way}");
    }
    fixture.check(&conf, &result).ok();
    fixture.del(&conf);
}

/// ADD, CHECK and DEL with the table, the rules and the routes that they are about.
pub(crate) fn the_table_has_what_leads_through_the_interface(plugin: &'static str) {
    let fixture = Fixture::new(plugin);
    let before = fixture.state();
    fixture.answer(&json!([
        {"dst": "0.0.0.0/0"}, {"dst": "::/0", "gw": "fd09::1"},
        {"dst": "10.8.0.0/16", "mtu": 1300}, {"dst": "10.7.0.0/16", "table": 77},
    ]));
    let conf = fixture.routed(&json!(true));
    let result = fixture.add(&conf);
    assert_eq!(fixture.rules(), rules(100));
    let own = fixture.table("100");
    has(&own, "default via 10.9.0.1 dev net1");
    has(&own, "default via fd09::1 dev net1");
    has(&own, "10.9.0.0/24 dev net1 scope link");
    has(&own, "fd09::/64 dev net1");
    has(&own, "10.8.0.0/16 via 10.9.0.1 dev net1 mtu 1300");
    assert_eq!(own.len(), 5, "{own:#?}");
    has(&fixture.table("77"), "10.7.0.0/16 via 10.9.0.1 dev net1");
    let main = fixture.table("main");
    has(&main, "10.8.0.0/16 via 10.9.0.1 dev net1 mtu 1300");
    let defaults: Vec<_> = main.iter().filter(|r| r.starts_with("default")).collect();
    assert_eq!(defaults.len(), 2, "{main:#?}");
    assert!(defaults.iter().all(|route| route.contains("dev eth0")));

    let tables: Vec<&Value> = (0..4).map(|i| &result["routes"][i]["table"]).collect();
    assert_eq!(json!(tables), json!([100, 100, null, 77]));
    fixture.check(&conf, &result).ok();
    fixture.del(&with(&conf, &json!({"prevResult": result})));
    fixture.del(&conf);
    assert_eq!(fixture.state(), before);
}

/// What somebody removes is missed by CHECK.
pub(crate) fn check_misses_a_rule_and_a_route(plugin: &'static str) {
    let damages: [(&[&str], &str); 4] = [
        (
            &["rule", "del", "from", "10.9.0.5"],
            "Expected rule 'from 10.9.0.5 lookup 100' not found",
        ),
        (
            &["-6", "rule", "del", "from", "fd09::5"],
            "Expected rule 'from fd09::5 lookup 100' not found",
        ),
        (
            &["route", "del", "default", "table", "100"],
            "Expected Route 0.0.0.0/0",
        ),
        (
            &["-6", "route", "del", "fd09::/64", "table", "100"],
            "Expected Route fd09::/64",
        ),
    ];
    for (damage, said) in damages {
        let fixture = Fixture::new(plugin);
        let conf = fixture.routed(&json!({"table": 100}));
        let result = fixture.add(&conf);
        fixture.check(&conf, &result).ok();
        fixture.pod.ip(damage);
        let error = fixture.check(&conf, &result).error_code(999);
        assert!(error.msg.starts_with(said), "{error:?}");
        fixture.del(&conf);
        assert_eq!(fixture.rules(), [""; 0]);
    }
}

/// Rules of others stay, whatever they have in common with those of the attachment.
pub(crate) fn del_removes_its_rules_alone(plugin: &'static str) {
    let fixture = Fixture::new(plugin);
    let conf = fixture.routed(&json!({"table": 5000, "priority": 900}));
    fixture.add(&conf);
    let own = OWN.map(|own| format!("900: from {own} lookup 5000"));
    assert_eq!(fixture.rules(), own);
    let others: [&[&str]; 3] = [
        &["from", "10.9.0.5", "lookup", "77", "priority", "901"],
        &["from", "10.9.0.6", "lookup", "5000", "priority", "902"],
        &["to", "10.9.0.5", "lookup", "5000", "priority", "903"],
    ];
    for other in others {
        fixture.pod.ip(&[&["rule", "add"], other].concat());
    }
    // The link may be gone with its pod's namespace still there.
    if plugin == "ipvlan" {
        fixture.pod.ip(&["link", "del", "net1"]);
    }
    fixture.del(&json!({"cniVersion": "1.1.0", "name": "lan", "type": plugin}));
    let left = fixture.rules();
    assert_eq!(left.len(), 3, "{left:#?}");
    assert!(left.iter().all(|rule| !own.contains(rule)), "{left:#?}");
    fixture.del(&conf);
    assert_eq!(fixture.rules(), left);
    assert_eq!(fixture.ipam.reserved(), [""; 0]);
}

/// A rule that the kernel refuses, when others are there already.
pub(crate) fn a_failed_add_leaves_no_rule(plugin: &'static str) {
    let fixture = Fixture::new(plugin);
    let before = fixture.state();
    // While the delegate runs, somebody else takes a place of the table that is free.
    fixture.ipam.hook(
        "[ $CNI_COMMAND != ADD ] || nsenter --net=$CNI_NETNS \
         /sbin/ip -6 rule add from fd09::5 lookup 100 priority 900",
    );
    let error = fixture
        .run("ADD", &fixture.routed(&json!({"priority": 900})))
        .error_code(999);
    assert_eq!(error.msg, "failed to add rule 'from fd09::5 lookup 100'");
    assert_eq!(fixture.state(), before);
    assert!(!fixture.pod.links().contains(&"net1".to_owned()));
}

/// Duplicate address detection that ends well, and what CHECK says of it.
pub(crate) fn add_waits_until_no_address_is_tentative(plugin: &'static str) {
    let fixture = Fixture::new(plugin);
    let conf = fixture.conf(&json!({"enableDad": true}));
    let result = fixture.add(&conf);
    let shown = fixture.pod.ip(&["-6", "address", "show", "dev", "net1"]);
    assert!(shown.contains("fd09::5/64 scope global"), "{shown}");
    for wrong in ["tentative", "dadfailed", "nodad"] {
        assert!(!shown.contains(wrong), "{shown}");
    }
    fixture.check(&conf, &result).ok();
    fixture.pod.run(|| {
        let transmits = "/proc/sys/net/ipv6/conf/net1/dad_transmits";
        fs::write(transmits, "1000").expect("it is writable");
    });
    for change in ["del", "add"] {
        fixture
            .pod
            .ip(&["address", change, "fd09::5/64", "dev", "net1"]);
    }
    let error = fixture.check(&conf, &result).error_code(999);
    assert_eq!(error.msg, "address fd09::5/64 of \"net1\" is tentative");
}

/// Another node on the link has the address.
pub(crate) fn a_duplicate_address_fails_the_add(plugin: &'static str) {
    let fixture = Fixture::new(plugin);
    let before = fixture.state();
    let duplicate = ["address", "add", "fd09::5/64", "dev", "r0", "nodad"];
    fixture.router.ip(&duplicate);
    let conf = fixture.conf(&json!({"enableDad": true, "sourceRouting": true}));
    let error = fixture.run("ADD", &conf).error_code(999);
    assert_eq!(
        error.msg,
        "address fd09::5/64 of \"net1\" is in use by another node"
    );
    assert_eq!(fixture.state(), before);
    assert!(!fixture.pod.links().contains(&"net1".to_owned()));
}

/// Two routes to one destination are two ways, as with the Go plugins.
pub(crate) fn routes_by_two_gateways_are_both_added_and_checked(plugin: &'static str) {
    let fixture = Fixture::new(plugin);
    fixture.answer(&json!([
        {"dst": "10.8.0.0/16", "gw": "10.9.0.1"}, {"dst": "10.8.0.0/16", "gw": "10.9.0.2"},
        {"dst": "fd08::/64", "gw": "fd09::1"}, {"dst": "fd08::/64", "gw": "fd09::2"},
        {"dst": "10.6.0.0/16", "scope": 253}, {"dst": "fd06::/64", "scope": 253},
    ]));
    let conf = fixture.conf(&json!({}));
    let result = fixture.add(&conf);
    let main = fixture.table("main");
    let to = |dst: &str| main.iter().filter(|r| r.starts_with(dst)).count();
    assert_eq!(to("10.8.0.0/16 via 10.9.0."), 2, "{main:#?}");
    has(&main, "nexthop via fd09::1 dev net1");
    has(&main, "nexthop via fd09::2 dev net1");
    has(&main, "10.6.0.0/16 dev net1 scope link");
    fixture.check(&conf, &result).ok();
    for (dst, gateway) in [("10.8.0.0/16", "10.9.0.2"), ("fd08::/64", "fd09::2")] {
        fixture.pod.ip(&["route", "del", dst, "via", gateway]);
        let error = fixture.check(&conf, &result).error_code(999);
        let said = format!("Expected Route {dst} via {gateway}");
        assert!(error.msg.starts_with(&said), "{error:?}");
        let family = if dst.contains(':') { "-6" } else { "-4" };
        let append = [family, "route", "append", dst, "via", gateway];
        fixture.pod.ip(&append);
        fixture.check(&conf, &result).ok();
    }
    fixture
        .pod
        .ip(&["route", "del", "10.6.0.0/16", "dev", "net1"]);
    let other_scope = ["route", "add", "10.6.0.0/16", "dev", "net1"];
    fixture
        .pod
        .ip(&[&other_scope[..], &["scope", "global"]].concat());
    let error = fixture.check(&conf, &result).error_code(999);
    assert!(error.msg.starts_with("Expected Route 10.6.0.0/16"));
}
