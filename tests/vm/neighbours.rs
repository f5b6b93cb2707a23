//! Neighbours of an ipvlan interface, on a kernel that has it: what `neighbours` shows for
//! host-device.

use fixtures::neighbours::behaviour;

const PLUGIN: &str = "ipvlan";

#[test]
fn a_router_advertisement_of_a_neighbour_configures_nothing() {
    behaviour::a_router_advertisement_configures_nothing(PLUGIN);
}

#[test]
fn router_advertisements_are_accepted_where_they_are_asked_for() {
    behaviour::router_advertisements_can_be_asked_for(PLUGIN);
}

#[test]
fn a_redirect_of_a_neighbour_changes_no_route() {
    behaviour::a_redirect_changes_no_route(PLUGIN);
}

#[test]
fn neighbours_are_told_who_has_the_addresses() {
    behaviour::neighbours_are_told_of_the_addresses(PLUGIN);
}
