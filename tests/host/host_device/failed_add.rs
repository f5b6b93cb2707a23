//! An ADD that fails leaves the node, the pod, the addresses and the records as
//! they were, and reports what went wrong first.

use serde_json::{Value, json};

use super::{Fixture, State, conf, plain, with};
use harness::CniError;

/// Runs an ADD that must fail and change nothing.
#[track_caller]
fn fails(fixture: &Fixture, conf: &Value, code: u64) -> CniError {
    let before: State = fixture.state();
    let output = fixture.node.run(&fixture.call("ADD", conf));
    assert_eq!(fixture.state(), before, "{output}");
    output.error_code(code)
}

#[test]
fn a_missing_device_is_named_and_nothing_is_asked_of_the_delegate() {
    let fixture = Fixture::new();
    let error = fails(&fixture, &with(&conf(), &json!({"device": "eth9"})), 999);
    assert_eq!(
        error.msg,
        "failed to find host device: \"eth9\": Link not found"
    );
    assert!(fixture.ipam.calls().is_empty());
}

#[test]
fn a_device_that_a_container_has_is_reported_with_the_container() {
    let fixture = Fixture::new();
    fixture.add(&conf());
    let other = fixture.call("ADD", &conf());
    let pod = harness::Namespace::new();
    let other = other.attachment("c2", "net1", &pod.path());
    let error = fixture.node.run(&other).error_code(999);
    assert!(
        error.msg.starts_with("failed to find host device: "),
        "{error:?}"
    );
    assert_eq!(error.details, "container c1 has it as \"net1\"");
    assert_eq!(fixture.ipam.reserved(), ["c1.net1"]);
}

#[test]
fn the_loopback_interface_is_refused() {
    let fixture = Fixture::new();
    let error = fails(&fixture, &with(&conf(), &json!({"device": "lo"})), 7);
    assert_eq!(error.msg, "device \"lo\" is the loopback interface");
    let hwaddr = json!({"device": null, "hwaddr": "00:00:00:00:00:00"});
    fails(&fixture, &with(&conf(), &hwaddr), 999);
}

#[test]
fn a_taken_interface_name_leaves_both_interfaces_alone() {
    let fixture = Fixture::new();
    fixture.pod.ip(&[
        "link", "add", "net1", "type", "veth", "peer", "name", "other",
    ]);
    let error = fails(&fixture, &conf(), 999);
    assert!(error.msg.contains("\"net1\" already exists"), "{error:?}");
    assert!(fixture.ipam.calls().is_empty());
}

#[test]
fn a_second_add_of_an_attachment_leaves_the_first_as_it_is() {
    let fixture = Fixture::new();
    fixture.add_device("hd1", "02:00:00:00:00:02");
    let conf = conf();
    fixture.add(&conf);
    fixture.pod.ip(&["link", "set", "net1", "down"]);
    fixture.pod.ip(&["link", "set", "net1", "name", "renamed"]);
    let error = fails(&fixture, &with(&conf, &json!({"device": "hd1"})), 999);
    assert!(error.msg.contains("already exists"), "{error:?}");
    assert_eq!(fixture.ipam.calls(), ["ADD c1 net1"]);
}

#[test]
fn a_device_whose_alternative_name_is_the_wanted_one_is_refused_before_the_move() {
    let fixture = Fixture::new();
    fixture.host(&["link", "property", "add", "dev", "hd0", "altname", "net1"]);
    let error = fails(&fixture, &conf(), 999);
    assert!(
        error
            .msg
            .contains("alternative name of host device \"hd0\""),
        "{error:?}"
    );
}

// D18
#[test]
fn a_move_that_the_kernel_refuses_leaves_the_device_on_the_host() {
    let fixture = Fixture::new();
    fixture.host(&["link", "set", "hd0", "up"]);
    fixture.host(&[
        "link", "property", "add", "dev", "hd0", "altname", "enp0s30",
    ]);
    let clash = [
        "link", "add", "enp0s30", "type", "veth", "peer", "name", "other",
    ];
    fixture.pod.ip(&clash);
    let error = fails(&fixture, &conf(), 999);
    assert!(error.msg.starts_with("failed to move \"hd0\""), "{error:?}");
    assert!(error.details.contains("File exists"), "{error:?}");
    assert!(fixture.ipam.calls().is_empty());
}

/// What a delegate answers that gives an IPv6 address.
fn ipv6() -> Value {
    json!({"ips": [{"address": "2001:db8::5/64"}]})
}

#[test]
fn a_bridge_cannot_leave_the_node_and_is_named() {
    let fixture = Fixture::new();
    fixture.host(&["link", "add", "br0", "type", "bridge"]);
    let error = fails(&fixture, &with(&conf(), &json!({"device": "br0"})), 7);
    let said = "device \"br0\" cannot leave the node";
    assert!(error.msg.starts_with(said), "{error:?}");
}

#[test]
fn an_mtu_that_is_too_small_for_ipv6_is_named() {
    let fixture = Fixture::new();
    fixture.host(&["link", "set", "hd0", "mtu", "1279"]);
    fixture.ipam.answer(&ipv6());
    let error = fails(&fixture, &conf(), 7);
    let said = "IPv6 needs an MTU of 1280 bytes, and \"net1\" has 1279";
    assert_eq!(error.msg, said);
}

#[test]
fn a_kernel_without_ipv6_is_named() {
    let mut fixture = Fixture::new();
    let directory = tempfile::tempdir().unwrap();
    fixture.node.bind(directory.path(), "/proc/sys/net");
    fixture.ipam.answer(&ipv6());
    let error = fails(&fixture, &conf(), 7);
    let said = "the kernel of this node has no IPv6, and \"net1\" is to have an IPv6 address";
    assert_eq!(error.msg, said);
}

// D18, D27
#[test]
fn an_add_of_the_delegate_that_fails_is_undone_by_its_del_and_the_device_returns() {
    let fixture = Fixture::new();
    fixture.host(&["link", "set", "hd0", "up", "alias", "uplink"]);
    let document = r#"{"code": 11, "msg": "no addresses", "details": "left"}"#;
    fixture.ipam.fail("ADD", document);
    let error = fails(&fixture, &conf(), 11);
    assert_eq!(
        (error.msg.as_str(), error.details.as_str()),
        ("no addresses", "left")
    );
    assert_eq!(fixture.ipam.calls(), ["ADD c1 net1", "DEL c1 net1"]);
}

#[test]
fn when_the_delegate_fails_at_everything_the_record_is_kept_for_the_next_del() {
    let fixture = Fixture::new();
    fixture.ipam.fail("ADD", r#"{"code": 100, "msg": "first"}"#);
    fixture
        .ipam
        .fail("DEL", r#"{"code": 101, "msg": "second"}"#);
    let before = fixture.state();
    let call = fixture.call("ADD", &conf());
    let error = fixture.node.run(&call).error_code(100);
    assert_eq!(error.msg, "first");
    let after = fixture.state();
    assert_eq!((&after.0, &after.1), (&before.0, &before.1));
    assert_eq!(fixture.records().len(), 1);

    fixture.ipam.recover("DEL");
    fixture.del(&plain(&json!({})));
    assert_eq!(fixture.state(), before);
}

// D18
#[test]
fn what_the_delegate_answers_but_cannot_be_used_is_undone() {
    let answers = [
        (json!({}), "missing IP config"),
        (json!({"ips": []}), "missing IP config"),
        (
            json!({"ips": [{"address": "x"}]}),
            "failed to parse the result",
        ),
        (json!({"cniVersion": "0.2.0"}), "failed to parse the result"),
        (json!("text"), "failed to parse the result"),
    ];
    for (answer, expected) in answers {
        let fixture = Fixture::new();
        fixture.ipam.answer(&answer);
        let before = fixture.state();
        let error = fixture.node.run(&fixture.call("ADD", &conf())).error();
        assert!(error.msg.contains(expected), "{answer}: {error:?}");
        assert_eq!(fixture.state(), before, "{answer}");
        assert_eq!(fixture.ipam.calls(), ["ADD c1 net1", "DEL c1 net1"]);
    }
}

// D18
#[test]
fn addresses_and_routes_that_the_kernel_refuses_are_undone() {
    let ip = json!({"address": "10.9.0.5/24", "gateway": "10.9.0.1"});
    let answers = [
        (
            json!({"ips": [ip, ip]}),
            "failed to add IP addr 10.9.0.5/24",
        ),
        (
            json!({"ips": [ip], "routes": [{"dst": "10.8.0.0/16", "gw": "10.9.0.255"}]}),
            "failed to add route '10.8.0.0/16",
        ),
    ];
    for (answer, expected) in answers {
        let fixture = Fixture::new();
        fixture.host(&["link", "set", "hd0", "up"]);
        fixture.ipam.answer(&answer);
        let error = fails(&fixture, &conf(), 999);
        assert!(error.msg.starts_with(expected), "{error:?}");
        assert_eq!(fixture.ipam.calls(), ["ADD c1 net1", "DEL c1 net1"]);
    }
}

#[test]
fn a_delegate_that_is_not_installed_is_noticed_before_the_device_moves() {
    let fixture = Fixture::new();
    let error = fails(
        &fixture,
        &with(&conf(), &json!({"ipam": {"type": "none"}})),
        999,
    );
    assert!(
        error
            .msg
            .starts_with("failed to find plugin \"none\" in path [")
    );
    fails(
        &fixture,
        &with(&conf(), &json!({"ipam": {"type": "../fake-ipam"}})),
        7,
    );
}

// D18
#[test]
fn a_version_that_cannot_report_the_attachment_is_refused_before_the_device_moves() {
    for version in ["", "0.1.0", "0.2.0"] {
        let fixture = Fixture::new();
        let keys = json!({"cniVersion": version, "device": "hd0"});
        let error = fails(&fixture, &plain(&keys), 7);
        assert_eq!(error.msg, "cannot convert: no valid IP addresses");
    }
}

// D18: the runtime never learns of this attachment, so it must not exist.
#[test]
fn a_result_that_cannot_be_delivered_is_undone() {
    let fixture = Fixture::new();
    let before = fixture.state();
    let call = fixture.call("ADD", &conf());
    let script = "exec \"$0\" >/dev/full";
    let status = fixture.node.inside(|| {
        let mut shell = std::process::Command::new("sh");
        shell
            .args(["-c", script])
            .arg(harness::our_plugin("host-device"));
        let process = call.process();
        let variables = process.get_envs().filter_map(|(k, v)| Some((k, v?)));
        shell.env_clear().envs(variables);
        call.run_as(shell).status
    });
    assert_eq!(status, Some(1));
    assert_eq!(fixture.state(), before);
    assert_eq!(fixture.ipam.calls(), ["ADD c1 net1", "DEL c1 net1"]);
}

#[test]
fn nothing_moves_when_the_attachment_cannot_be_recorded() {
    let mut fixture = Fixture::new();
    fixture.node.read_only("/var/lib/cni");
    let error = fails(&fixture, &conf(), 5);
    assert!(error.details.contains("Read-only file system"), "{error:?}");
    assert!(fixture.ipam.calls().is_empty());
}

// D26
#[test]
fn the_node_itself_is_refused_as_a_pod_before_anything_changes() {
    let fixture = Fixture::new();
    let before = fixture.state();
    let call = fixture.call("ADD", &conf());
    let call = call.env("CNI_NETNS", &fixture.node.netns.path());
    let error = fixture.node.run(&call).error_code(8);
    let expected = "plugin's netns and netns from CNI_NETNS should not be the same";
    assert_eq!(error.msg, expected);
    assert_eq!(fixture.state(), before);
    assert!(fixture.ipam.calls().is_empty());
}

#[test]
fn a_path_that_is_not_a_namespace_is_refused_before_anything_changes() {
    let fixture = Fixture::new();
    let before = fixture.state();
    for path in ["/run/netns/none", "/tmp", "/etc/passwd"] {
        let call = fixture.call("ADD", &conf()).env("CNI_NETNS", path);
        let error = fixture.node.run(&call).error_code(8);
        assert!(
            error
                .msg
                .starts_with(&format!("failed to open netns {path:?}"))
        );
    }
    assert_eq!(fixture.state(), before);
}

#[test]
fn an_ipam_section_that_is_too_long_to_be_recorded_is_refused_before_anything_changes() {
    let fixture = Fixture::new();
    let long = |bytes: usize| json!({"ipam": {"type": "fake-ipam", "note": "x".repeat(bytes)}});
    let error = fails(&fixture, &with(&conf(), &long(1 << 20)), 7);
    assert!(
        error.msg.starts_with("cannot record the attachment"),
        "{error:?}"
    );
    assert!(fixture.ipam.calls().is_empty());
    let before = fixture.state();
    fixture.add(&with(&conf(), &long(1_000_000)));
    fixture.del(&plain(&json!({})));
    assert_eq!(fixture.state(), before);
}
