//! What host-device does not take, whoever asks for it and however: what the node lives
//! on, or what others have built on. And what comes back when that is meant.

use harness::Namespace;
use serde_json::{Value, json};

use super::keep_addresses::routes;
use super::selectors::PCI;
use super::{Fixture, conf, with};

/// What makes a device be in use, as arguments of `ip`, and what the refusal names.
const USES: [(&[&str], &str, &str); 6] = [
    (
        &["route add default via 10.55.0.1"],
        "carries a default route of this node",
        "0.0.0.0/0 via 10.55.0.1 in table 254",
    ),
    (
        &["route add default dev hd0 table 77"],
        "carries a default route of this node",
        "0.0.0.0/0 in table 77",
    ),
    (
        &["-6 route add default via fd55::1"],
        "carries a default route of this node",
        "::/0 via fd55::1 in table 254",
    ),
    (
        &["route add 10.56.0.0/16 via 10.55.0.1 table 4711"],
        "carries a route of table 4711",
        "10.56.0.0/16 via 10.55.0.1 in table 4711",
    ),
    (
        &["link add br0 type bridge", "link set hd0 master br0"],
        "interface \"br0\" is built on \"hd0\"",
        "\"br0\" is above",
    ),
    (
        &["link add link hd0 name above type macvlan"],
        "interface \"above\" is built on \"hd0\"",
        "\"above\" is above",
    ),
];

/// A node whose device is up and has addresses, without which there are no gateways.
fn configured() -> Fixture {
    let fixture = Fixture::new();
    for change in [
        "link set hd0-peer up",
        "link set hd0 up",
        "address add 10.55.0.5/24 dev hd0",
        "address add fd55::5/64 dev hd0 nodad",
    ] {
        ip(&fixture.node.netns, change);
    }
    fixture
}

fn ip(namespace: &Namespace, change: &str) {
    namespace.ip(&change.split(' ').collect::<Vec<_>>());
}

/// All that can change, with the routes through the device.
fn state(fixture: &Fixture) -> (super::State, Vec<String>) {
    (fixture.state(), routes(&fixture.node.netns, "hd0"))
}

/// ADD and STATUS are refused with this reason, and change nothing.
#[track_caller]
fn is_refused(fixture: &Fixture, conf: &Value, reason: &str, details: &str) {
    let before = state(fixture);
    for command in ["ADD", "STATUS"] {
        let error = fixture.node.run(&fixture.call(command, conf)).error_code(7);
        assert!(
            error.msg.starts_with("cannot take host device \"hd0\": "),
            "{error:?}"
        );
        assert!(error.msg.ends_with(reason), "{error:?}");
        assert!(error.details.starts_with(details), "{error:?}");
        assert!(error.details.contains("allowInUse"), "{error:?}");
    }
    assert_eq!(state(fixture), before, "{conf}");
    assert!(
        !fixture
            .ipam
            .calls()
            .iter()
            .any(|call| call.starts_with("ADD"))
    );
}

#[test]
fn a_device_that_is_in_use_is_refused_in_every_mode() {
    for (changes, reason, details) in USES {
        let fixture = configured();
        for change in changes {
            ip(&fixture.node.netns, change);
        }
        is_refused(&fixture, &conf(), reason, details);
        let kept = with(&conf(), &json!({"keepAddresses": true}));
        is_refused(&fixture, &kept, reason, details);
    }
}

#[test]
fn a_device_that_is_in_use_is_refused_by_every_key() {
    let (fixture, _sys) = super::exchange::fixture();
    ip(&fixture.node.netns, "link set hd0 up");
    ip(&fixture.node.netns, "route add default dev hd0");
    for keys in [
        json!({"device": "hd0"}),
        json!({"device": null, "hwaddr": "02:00:00:00:00:01"}),
        json!({"device": null, "kernelpath": "/sys/devices/system/nic"}),
        json!({"device": null, "pciBusID": PCI}),
        json!({"device": null, "runtimeConfig": {"deviceID": PCI}}),
    ] {
        let conf = with(&conf(), &keys);
        is_refused(
            &fixture,
            &conf,
            "carries a default route of this node",
            "0.0.0.0/0",
        );
    }
}

#[test]
fn addresses_and_routes_of_the_main_table_are_no_obstacle() {
    let fixture = configured();
    ip(&fixture.node.netns, "route add 10.56.0.0/16 via 10.55.0.1");
    fixture.add(&conf());
}

/// The kernel learns a default route on every interface that hears a router.
#[test]
fn a_router_that_is_one_of_several_does_not_matter() {
    let fixture = configured();
    let learned = "-6 route add default via fd55::1 dev hd0 proto ra metric 1024";
    ip(&fixture.node.netns, learned);
    let details = "::/0 via fd55::1 in table 254";
    is_refused(
        &fixture,
        &conf(),
        "carries a default route of this node",
        details,
    );
    for change in [
        "link add up0 type veth peer name up0-peer",
        "link set up0 up",
        "-6 route add default dev up0 metric 512",
    ] {
        ip(&fixture.node.netns, change);
    }
    fixture.add(&conf());
}

#[test]
fn what_is_taken_although_it_is_in_use_comes_back_with_all_of_it() {
    for (changes, ..) in USES {
        let fixture = configured();
        for change in changes {
            ip(&fixture.node.netns, change);
        }
        let before = state(&fixture);
        let conf = with(&conf(), &json!({"allowInUse": true}));
        let result = fixture.add(&conf);
        assert_eq!(result["ips"].as_array().map(Vec::len), Some(1));
        assert_eq!(fixture.pod.addresses("net1"), ["10.9.0.5/24"]);
        fixture.del(&conf);
        assert_eq!(state(&fixture), before, "{changes:?}");
    }
}

#[test]
fn a_failed_add_of_what_is_in_use_leaves_the_node_as_it_was() {
    let fixture = configured();
    ip(&fixture.node.netns, "route add default via 10.55.0.1");
    let before = state(&fixture);
    fixture
        .ipam
        .fail("ADD", r#"{"code": 11, "msg": "no addresses"}"#);
    let conf = with(&conf(), &json!({"allowInUse": true}));
    fixture.node.run(&fixture.call("ADD", &conf)).error_code(11);
    assert_eq!(state(&fixture), before);
}

#[test]
fn only_true_and_false_say_whether_a_device_may_be_in_use() {
    let fixture = Fixture::new();
    let conf = with(&conf(), &json!({"allowInUse": "yes"}));
    let error = fixture.node.run(&fixture.call("ADD", &conf)).error_code(7);
    assert_eq!(error.msg, "invalid allowInUse: \"yes\"");
}
