//! `sourceRouting` and `enableDad` with host-device and a veth as the device. The same
//! with ipvlan is in `tests/vm`.

use std::fs;

use fixtures::source_routing::behaviour::{has, rules};
use fixtures::source_routing::{Fixture, behaviour};
use fixtures::with;
use harness::Call;
use serde_json::json;

const PLUGIN: &str = "host-device";

#[test]
fn the_answer_to_a_peer_behind_a_router_leaves_through_the_second_interface() {
    behaviour::only_with_the_option_does_the_peer_get_an_answer(PLUGIN);
}

#[test]
fn the_own_table_is_filled_reported_checked_and_removed() {
    behaviour::the_table_has_what_leads_through_the_interface(PLUGIN);
}

#[test]
fn check_finds_a_rule_or_a_route_that_is_missing() {
    behaviour::check_misses_a_rule_and_a_route(PLUGIN);
}

#[test]
fn del_leaves_the_rules_of_others() {
    behaviour::del_removes_its_rules_alone(PLUGIN);
}

#[test]
fn a_rule_that_the_kernel_refuses_undoes_the_add() {
    behaviour::a_failed_add_leaves_no_rule(PLUGIN);
}

#[test]
fn with_detection_no_address_is_tentative_when_add_returns() {
    behaviour::add_waits_until_no_address_is_tentative(PLUGIN);
}

#[test]
fn a_duplicate_address_is_named_and_the_add_undone() {
    behaviour::a_duplicate_address_fails_the_add(PLUGIN);
}

#[test]
fn two_gateways_of_one_destination_are_two_ways() {
    behaviour::routes_by_two_gateways_are_both_added_and_checked(PLUGIN);
}

/// A table is in use when it has a route of any kind or is looked into, in any family.
#[test]
fn the_table_is_the_first_that_nothing_uses() {
    let fixture = Fixture::new(PLUGIN);
    let uses: [&[&str]; 4] = [
        &["route", "add", "blackhole", "10.0.0.0/8", "table", "100"],
        &[
            "-6",
            "route",
            "add",
            "fd77::/64",
            "dev",
            "eth0",
            "table",
            "101",
        ],
        &["rule", "add", "fwmark", "7", "lookup", "102"],
        &["-6", "rule", "add", "iif", "eth0", "lookup", "103"],
    ];
    for used in uses {
        fixture.pod.ip(used);
    }
    let conf = fixture.routed(&json!(true));
    let result = fixture.add(&conf);
    let own = fixture.rules().into_iter().filter(|r| r.contains("104"));
    assert_eq!(own.count(), 2, "{:#?}", fixture.rules());
    fixture.check(&conf, &result).ok();
}

#[test]
fn a_table_that_is_in_use_is_named_before_the_device_moves() {
    let fixture = Fixture::new(PLUGIN);
    let used = ["-6", "rule", "add", "fwmark", "7", "lookup", "4294967295"];
    fixture.pod.ip(&used);
    let before = fixture.state();
    let conf = fixture.routed(&json!({"table": 4_294_967_295_u32}));
    let error = fixture.run("ADD", &conf).error_code(999);
    let said = "sourceRouting: table 4294967295 is in use in netns";
    assert!(error.msg.starts_with(said), "{error:?}");
    assert_eq!(fixture.state(), before);

    let conf = fixture.routed(&json!({"table": 4_294_967_294_u32}));
    let result = fixture.add(&conf);
    has(&fixture.table("4294967294"), "default via 10.9.0.1");
    fixture.check(&conf, &result).ok();
    fixture.del(&conf);
    assert_eq!(fixture.state(), before);
}

#[test]
fn a_wrong_value_is_named_before_anything_is_touched() {
    for plugin in [PLUGIN, "ipvlan"] {
        let fixture = Fixture::new(plugin);
        let before = fixture.state();
        for (keys, said) in [
            (json!({"sourceRouting": 1}), "invalid sourceRouting 1"),
            (
                json!({"sourceRouting": {"table": 254}}),
                "invalid sourceRouting.table 254",
            ),
            (
                json!({"sourceRouting": {"priority": 32766}}),
                "invalid sourceRouting.priority 32766",
            ),
            (json!({"enableDad": "yes"}), "invalid enableDad \"yes\""),
        ] {
            let output = fixture.run("ADD", &fixture.conf(&keys));
            let error = output.error_code(7);
            assert_eq!(error.msg, said);
            assert!(!error.details.is_empty());
            assert_eq!(fixture.state(), before);
        }
    }
}

#[test]
fn check_finds_the_table_of_an_attachment_without_a_record() {
    let fixture = Fixture::new(PLUGIN);
    let conf = fixture.routed(&json!(true));
    let result = fixture.add(&conf);
    for record in fixture.node.files() {
        fs::remove_file(fixture.node.state().join(record)).expect("it is ours");
    }
    fixture.check(&conf, &result).ok();
    fixture.pod.ip(&["rule", "del", "from", "10.9.0.5"]);
    let error = fixture.check(&conf, &result).error_code(999);
    assert_eq!(error.msg, "Expected rule 'from 10.9.0.5' not found");
}

#[test]
fn del_removes_what_an_add_that_was_killed_anywhere_has_left() {
    let fixture = Fixture::new(PLUGIN);
    let before = fixture.state();
    let conf = fixture.routed(&json!(true));
    let mut most = 0;
    for nth in 1.. {
        assert!(nth < 100, "ADD has no end");
        let was_killed = fixture.is_killed(&conf, nth);
        most = most.max(fixture.rules().len());
        fixture.del(&conf);
        assert_eq!(fixture.state(), before, "message {nth}");
        if !was_killed {
            break;
        }
    }
    assert_eq!(most, 2);
}

/// Nobody can detect anything on a link without a carrier, so ADD has to give up.
#[test]
fn detection_that_does_not_end_fails_the_add_in_time() {
    let fixture = Fixture::new(PLUGIN);
    fixture.router.ip(&["link", "set", "r0", "down"]);
    let before = fixture.state();
    let output = fixture.run("ADD", &fixture.conf(&json!({"enableDad": true})));
    let error = output.error_code(999);
    let said = "address fd09::5/64 of \"net1\" is still tentative: duplicate address \
                detection has not ended within 5 s";
    assert_eq!(error.msg, said);
    assert_eq!(fixture.state(), before);
}

/// Two attachments of one pod: each has a table, and the DEL of one is not the other's.
#[test]
fn two_attachments_of_a_pod_have_a_table_each() {
    let fixture = Fixture::new(PLUGIN);
    let link = [
        "link", "add", "hd1", "up", "type", "veth", "peer", "name", "x",
    ];
    fixture.node.netns.ip(&link);
    let first = fixture.routed(&json!(true));
    fixture.add(&first);
    let second = with(&first, &json!({"device": "hd1", "name": "lan2"}));
    fixture.ipam.answer(&json!({
        "ips": [{"address": "10.10.0.5/24", "gateway": "10.10.0.1"}],
        "routes": [{"dst": "10.11.0.0/16", "scope": 253}],
    }));
    let call = |command: &str| {
        let call = Call::ours(PLUGIN, command)
            .attachment("c1", "net2", &fixture.pod.path())
            .env("CNI_PATH", &fixture.ipam.cni_path())
            .conf(&second);
        fixture.node.run(&call).ok()
    };
    call("ADD");
    assert_eq!(fixture.rules().len(), 3);
    assert_eq!(
        fixture.table("101"),
        [
            "default via 10.10.0.1 dev net2 linkdown",
            "10.10.0.0/24 dev net2 scope link linkdown",
            "10.11.0.0/16 dev net2 scope link linkdown"
        ]
    );
    call("DEL");
    assert_eq!(fixture.rules(), rules(100));
    fixture.del(&first);
    assert_eq!(fixture.rules(), [""; 0]);
}

/// Answers would leave through another interface, with an address that nobody knows there.
#[test]
fn an_address_without_a_gateway_is_named_and_the_add_undone() {
    let fixture = Fixture::new(PLUGIN);
    let before = fixture.state();
    for routes in [json!([]), json!([{"dst": "0.0.0.0/0"}])] {
        let ips = json!([
            {"address": "fd09::5/64", "gateway": "fd09::1"}, {"address": "10.9.0.5/24"},
        ]);
        fixture.ipam.answer(&json!({"ips": ips, "routes": routes}));
        let error = fixture
            .run("ADD", &fixture.routed(&json!(true)))
            .error_code(7);
        let said = "sourceRouting: address 10.9.0.5/24 has no gateway";
        assert_eq!(error.msg, said);
        assert!(error.details.contains("name one"), "{error:?}");
        assert_eq!(fixture.state(), before);
    }
}

#[test]
fn a_default_route_stands_for_a_gateway() {
    let ways = [json!({"gw": "10.9.0.1"}), json!({"scope": 253})];
    for (way, shown) in ways
        .iter()
        .zip(["default via 10.9.0.1 dev net1", "default dev net1"])
    {
        let fixture = Fixture::new(PLUGIN);
        let route = with(&json!({"dst": "0.0.0.0/0"}), way);
        let ips = json!([{"address": "10.9.0.5/24"}]);
        fixture.ipam.answer(&json!({"ips": ips, "routes": [route]}));
        let conf = fixture.routed(&json!(true));
        let result = fixture.add(&conf);
        has(&fixture.table("100"), shown);
        fixture.check(&conf, &result).ok();
    }
}

/// AWS reserves the second address of a subnet for its router.
#[test]
fn without_a_gateway_the_router_of_the_subnet_of_the_eni_is_taken() {
    let mut fixture = Fixture::new(PLUGIN);
    let run = tempfile::tempdir().expect("a temporary directory can be made");
    fixture.node.bind(run.path(), "/run");
    let link = fixture.node.netns.link("hd0").expect("it is there");
    let eni = json!({
        "id": "eni-01", "mac": link["address"], "interface": "eth1", "deviceIndex": 1,
        "subnetId": "subnet-01", "subnetCidrs": ["fd09::/64", "10.8.0.0/14"], "vpcId": "vpc-01",
        "noManage": true, "primaryAddresses": ["10.9.0.10"], "prefixes": [],
        "ipv4Limit": 50, "ipv6Limit": 50,
    });
    let inventory = json!({
        "region": "us-west-2", "instanceId": "i-01", "instanceType": "c5.large", "enis": [eni],
    });
    fs::create_dir(run.path().join("eni-cni")).expect("it is empty");
    fs::write(run.path().join("eni-cni/enis.json"), inventory.to_string()).expect("it is ours");
    let ips = json!([{"address": "10.9.0.5/14"}]);
    fixture
        .ipam
        .answer(&json!({"ips": ips, "routes": [{"dst": "0.0.0.0/0"}]}));
    let conf = fixture.routed(&json!(true));
    let result = fixture.add(&conf);
    assert_eq!(result["ips"][0]["gateway"], "10.8.0.1");
    has(&fixture.table("100"), "default via 10.8.0.1 dev net1");
    fixture.check(&conf, &result).ok();
}
