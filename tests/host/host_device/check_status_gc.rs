//! CHECK, STATUS and GC.

use std::fs;

use harness::{Network, Node, Pod};
use serde_json::{Value, json};

use super::{Fixture, conf, plain, with};

fn check_fails(fixture: &Fixture, conf: &Value, expected: &str) {
    let error = fixture
        .node
        .run(&fixture.call("CHECK", conf))
        .error_code(999);
    assert!(error.msg.contains(expected), "{error:?}");
}

#[test]
fn check_succeeds_after_add_and_prints_nothing() {
    let fixture = Fixture::new();
    for version in ["0.4.0", "1.0.0", "1.1.0"] {
        let conf = with(&conf(), &json!({"cniVersion": version}));
        let attached = fixture.attached(&conf);
        let output = fixture.node.run(&fixture.call("CHECK", &attached));
        assert_eq!((output.ok(), output.stdout.as_str()), (Value::Null, ""));
        fixture.del(&attached);
    }
    let calls = fixture.ipam.calls();
    assert_eq!(calls[..3], ["ADD c1 net1", "CHECK c1 net1", "DEL c1 net1"]);
}

// D25
#[test]
fn check_finds_routes_in_every_table_and_host_addresses() {
    let fixture = Fixture::new();
    fixture.ipam.answer(&json!({
        "ips": [{"address": "10.9.0.5/32"}, {"address": "10.9.1.5/24", "gateway": "10.9.1.1"}],
        "routes": [{"dst": "10.8.0.0/16", "table": 77, "gw": "10.9.1.1"}],
    }));
    let attached = fixture.attached(&conf());
    fixture.node.run(&fixture.call("CHECK", &attached)).ok();
}

#[test]
fn check_notices_what_has_changed() {
    let changes: [(&[&str], &str); 4] = [
        (
            &["address", "del", "10.9.0.5/24", "dev", "net1"],
            "Failed to match addr 10.9.0.5/24",
        ),
        (
            &["link", "set", "net1", "address", "02:00:00:00:00:99"],
            "doesn't match container Mac",
        ),
        (
            &["link", "set", "net1", "name", "renamed"],
            "is missing in netns",
        ),
        (
            &["route", "del", "10.8.0.0/16"],
            "Expected Route 10.8.0.0/16",
        ),
    ];
    for (change, expected) in changes {
        let fixture = Fixture::new();
        fixture.ipam.answer(&json!({
            "ips": [{"address": "10.9.0.5/24", "gateway": "10.9.0.1"}],
            "routes": [{"dst": "10.8.0.0/16"}],
        }));
        let attached = fixture.attached(&conf());
        if change.contains(&"name") {
            fixture.pod.ip(&["link", "set", "net1", "down"]);
        }
        fixture.pod.ip(change);
        check_fails(&fixture, &attached, expected);
    }
}

/// CNI specification, section 2, CHECK: a plugin must allow what one behind it has changed.
#[test]
fn check_allows_what_a_chained_plugin_has_changed() {
    for device in [
        "link add hd0 type veth peer name x",
        "link add link up0 name hd0 type macvlan",
        "tuntap add hd0 mode tap",
    ] {
        for tuned in [
            json!({"mtu": 1280}),
            json!({"mac": "02:00:00:00:00:99"}),
            json!({"mtu": 1280, "mac": "02:00:00:00:00:99", "allmulti": true}),
        ] {
            let (node, pod) = (Node::new(), Pod::new("c1"));
            node.netns
                .ip(&["link", "add", "up0", "type", "veth", "peer", "name", "up1"]);
            node.netns.ip(&device.split(' ').collect::<Vec<_>>());
            let ipam = json!({"type": "host-local", "subnet": "10.9.0.0/24"});
            let plugin = json!({"type": "host-device", "device": "hd0", "ipam": ipam});
            let backup = tempfile::tempdir().expect("a temporary directory can be made");
            let tuning = json!({"type": "tuning", "dataDir": backup.path()});
            let network = Network::from_conf(&json!({
                "cniVersion": "1.0.0", "name": "lan", "plugins": [plugin, with(&tuning, &tuned)],
            }));
            let result = network.attach(&node, &pod, "net1");
            let checked = network.check(&node, &pod, "net1", &result);
            assert!(
                checked.is_ok(),
                "{device} {tuned}: {}",
                checked.unwrap_err()
            );
            network.detach(&node, &pod, "net1", &result);
        }
    }
}

#[test]
fn check_notices_another_device_under_the_same_name_and_address() {
    let fixture = Fixture::new();
    let keys = json!({"device": "hd0", "ipam": null});
    let attached = fixture.attached(&with(&conf(), &keys));
    fixture.pod.ip(&["link", "set", "net1", "down"]);
    fixture.pod.ip(&["link", "set", "net1", "name", "moved"]);
    let mac = "02:00:00:00:00:01";
    fixture.pod.ip(&[
        "link", "add", "net1", "mtu", "1400", "address", mac, "type", "bridge",
    ]);
    check_fails(
        &fixture,
        &attached,
        "is not the host device \"hd0\" that was attached",
    );
}

#[test]
fn check_needs_the_result_and_passes_the_error_of_the_delegate_on() {
    let fixture = Fixture::new();
    let attached = fixture.attached(&conf());
    let call = fixture.call("CHECK", &conf());
    let error = fixture.node.run(&call).error_code(7);
    assert_eq!(error.msg, "Required prevResult missing");
    fixture
        .ipam
        .fail("CHECK", r#"{"code": 123, "msg": "no reservation"}"#);
    let call = fixture.call("CHECK", &attached);
    let error = fixture.node.run(&call).error_code(123);
    assert_eq!(error.msg, "no reservation");
}

fn status_fails(fixture: &Fixture, conf: &Value, code: u64) -> String {
    let error = fixture
        .node
        .run(&fixture.call("STATUS", conf))
        .error_code(code);
    error.msg
}

#[test]
fn status_succeeds_when_the_device_is_there_and_asks_the_delegate() {
    let fixture = Fixture::new();
    let call = fixture.call("STATUS", &conf());
    let call = call.attachment("", "", "");
    assert_eq!(fixture.node.run(&call).stdout, "");
    assert_eq!(fixture.ipam.read("stdin.STATUS"), conf().to_string());
}

#[test]
fn status_is_50_when_the_device_is_missing_or_held() {
    let fixture = Fixture::new();
    let missing = with(&conf(), &json!({"device": "eth9"}));
    assert!(status_fails(&fixture, &missing, 50).contains("eth9"));
    fixture.add(&conf());
    assert!(status_fails(&fixture, &conf(), 50).contains("hd0"));
}

// D21
#[test]
fn status_passes_the_error_of_the_delegate_on() {
    let fixture = Fixture::new();
    fixture
        .ipam
        .fail("STATUS", r#"{"code": 51, "msg": "exhausted"}"#);
    assert_eq!(status_fails(&fixture, &conf(), 51), "exhausted");
}

#[test]
fn status_needs_no_device_when_every_container_brings_its_own() {
    let fixture = Fixture::new();
    let ipam = json!({"type": "fake-ipam"});
    let keys = json!({"capabilities": {"deviceID": true}, "ipam": ipam});
    fixture
        .node
        .run(&fixture.call("STATUS", &plain(&keys)))
        .ok();
    assert!(status_fails(&fixture, &plain(&json!({})), 7).starts_with("specify either"));
}

/// Two attachments of `hd0` and `hd1` in the same pod: (c1, net1) and (c2, net2).
fn two_attachments() -> Fixture {
    let fixture = Fixture::new();
    fixture.add_device("hd1", "02:00:00:00:00:02");
    fixture.add(&conf());
    fixture
        .ipam
        .answer(&json!({"ips": [{"address": "10.9.0.6/24"}]}));
    let conf = with(&conf(), &json!({"device": "hd1"}));
    let call = fixture.call("ADD", &conf);
    let call = call.env("CNI_CONTAINERID", "c2").env("CNI_IFNAME", "net2");
    fixture.node.run(&call).ok();
    fixture
}

fn gc(fixture: &Fixture, keys: &Value) -> harness::Output {
    fixture.node.run(&fixture.call("GC", &with(&conf(), keys)))
}

// D21
#[test]
fn gc_ends_what_is_not_valid_and_leaves_the_rest() {
    for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
        let fixture = two_attachments();
        let valid = json!([{"containerID": "c2", "ifname": "net2"}]);
        gc(&fixture, &json!({key: valid})).ok();
        assert_eq!(fixture.pod.links(), ["lo", "net2"], "{key}");
        assert_eq!(
            fixture.node.netns.links(),
            ["hd0", "hd0-peer", "hd1-peer", "lo"]
        );
        assert_eq!(fixture.ipam.reserved(), ["c2.net2"]);
        assert_eq!(fixture.records(), ["eni-cni/host-device/lan/c2:net2.json"]);
    }
}

// D21
#[test]
fn gc_is_forwarded_to_the_delegate_byte_for_byte() {
    let fixture = Fixture::new();
    let keys = json!({"cni.dev/valid-attachments": []});
    gc(&fixture, &keys).ok();
    let expected = with(&conf(), &keys).to_string();
    assert_eq!(fixture.ipam.read("stdin.GC"), expected);
}

#[test]
fn gc_with_null_or_an_empty_list_ends_everything_of_this_network() {
    for none in [json!(null), json!([])] {
        let fixture = two_attachments();
        let keys = json!({"name": "wan", "cni.dev/valid-attachments": none});
        gc(&fixture, &keys).ok();
        assert_eq!(fixture.records().len(), 2);
        gc(&fixture, &json!({"cni.dev/valid-attachments": none})).ok();
        assert_eq!(fixture.pod.links(), ["lo"]);
        assert!(fixture.records().is_empty() && fixture.ipam.reserved().is_empty());
    }
}

#[test]
fn gc_without_the_list_changes_nothing() {
    let fixture = two_attachments();
    let before = fixture.state();
    gc(&fixture, &json!({})).ok();
    assert_eq!(fixture.state(), before);
    let wrong = gc(
        &fixture,
        &json!({"cni.dev/valid-attachments": [{"ifname": "x"}]}),
    );
    wrong.error_code(7);
    assert_eq!(fixture.state(), before);
}

#[test]
fn a_record_that_is_about_another_attachment_ends_nothing() {
    let fixture = two_attachments();
    let records = fixture.node.state().join("eni-cni/host-device");
    fs::create_dir(records.join("wan")).expect("the state is writable");
    let copy = records.join("wan/c1:net1.json");
    fs::copy(records.join("lan/c1:net1.json"), copy).expect("it is a file");
    let before = fixture.state();
    let keys = json!({"name": "wan", "cni.dev/valid-attachments": []});
    let error = gc(&fixture, &keys).error_code(5);
    assert_eq!(fixture.state(), before);
    assert!(error.details.contains("it is about another attachment"));
}

#[test]
fn gc_goes_on_after_an_attachment_that_cannot_be_ended_and_reports_it() {
    let fixture = two_attachments();
    fixture.host(&[
        "link", "property", "add", "dev", "hd0-peer", "altname", "hd0",
    ]);
    let broken = fixture
        .node
        .state()
        .join("eni-cni/host-device/lan/c3:net3.json");
    fs::write(&broken, "{").expect("the state is writable");
    fixture.ipam.fail("GC", r#"{"code": 11, "msg": "busy"}"#);
    let error = gc(&fixture, &json!({"cni.dev/valid-attachments": []})).error_code(5);
    assert!(
        error.msg.contains("its name \"hd0\" on the host back"),
        "{error:?}"
    );
    assert!(error.msg.contains("c3:net3.json"), "{error:?}");
    assert!(error.msg.contains("busy"), "{error:?}");
    assert_eq!(fixture.pod.links(), ["lo", "net1"]);
    assert_eq!(fixture.ipam.reserved(), ["c1.net1"]);
}
