//! `sourceRouting` and `enableDad` with ipvlan, on a kernel that has it: what
//! `source_routing` shows for host-device.

use fixtures::source_routing::behaviour::has;
use fixtures::source_routing::{Fixture, behaviour};
use serde_json::json;

const PLUGIN: &str = "ipvlan";

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
fn del_finds_its_rules_when_the_link_is_gone_and_leaves_those_of_others() {
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

/// In the modes where the master's stack routes, there is nobody to ask for addresses.
#[test]
fn every_mode_can_be_routed_and_detected() {
    for mode in ["l2", "l3", "l3s"] {
        let fixture = Fixture::new(PLUGIN);
        let keys = json!({"mode": mode, "sourceRouting": true, "enableDad": true});
        let conf = fixture.conf(&keys);
        let result = fixture.add(&conf);
        fixture.check(&conf, &result).ok();
        fixture.del(&conf);
        assert_eq!(fixture.rules(), [""; 0], "{mode}");
    }
}

/// There, the master's stack knows the way.
#[test]
fn without_a_gateway_the_modes_that_route_lead_through_the_link() {
    for mode in ["l3", "l3s"] {
        let fixture = Fixture::new(PLUGIN);
        fixture
            .ipam
            .answer(&json!({"ips": [{"address": "10.9.0.5/24"}]}));
        let conf = fixture.conf(&json!({"mode": mode, "sourceRouting": true}));
        let result = fixture.add(&conf);
        has(&fixture.table("100"), "default dev net1 scope link");
        fixture.check(&conf, &result).ok();
        fixture.del(&conf);
    }
}
