//! DEL in every state that a runtime, a pod or a crash can leave.

use std::fs;

use harness::{Call, Namespace, attachment_files, is_up};
use serde_json::{Value, json};

use super::{Fixture, conf, plain, with};

/// A fixture whose device is attached, and its state before.
fn attached() -> (Fixture, super::State) {
    let fixture = Fixture::new();
    let before = fixture.state();
    fixture.add(&conf());
    (fixture, before)
}

// D17, D20
#[test]
fn the_device_gets_back_what_it_was() {
    let fixture = Fixture::new();
    for altname in ["enp0s30", "a-name-longer-than-fifteen-bytes"] {
        fixture.host(&["link", "property", "add", "dev", "hd0", "altname", altname]);
    }
    fixture.host(&["link", "set", "hd0", "alias", "the user's own", "up"]);
    let before = fixture.state();
    fixture.add(&conf());
    let changes = [
        "mtu",
        "1280",
        "address",
        "02:00:00:00:00:99",
        "alias",
        "pod",
    ];
    fixture
        .pod
        .ip(&[&["link", "set", "net1"], &changes[..]].concat());
    fixture.pod.ip(&[
        "link", "property", "del", "dev", "net1", "altname", "enp0s30",
    ]);
    fixture.del(&conf());
    assert_eq!(fixture.state(), before);
    assert!(is_up(&fixture.node.netns.link("hd0").expect("it is back")));
}

#[test]
fn a_device_that_was_down_and_had_no_alias_is_so_again() {
    let (fixture, before) = attached();
    fixture.del(&conf());
    assert_eq!(fixture.state(), before);
    let hd0 = fixture.node.netns.link("hd0").expect("it is back");
    assert!(!is_up(&hd0));
    assert_eq!(hd0["ifalias"], Value::Null);
}

/// The record of c1 is lost, as by a power failure, and its path was given to another pod.
#[test]
fn a_late_del_without_a_record_leaves_the_device_of_the_next_pod_alone() {
    let fixture = Fixture::new();
    let next = fixture.call("ADD", &conf());
    let next = next.attachment("c2", "net1", &fixture.pod.path());
    let result = fixture.node.run(&next).ok();
    let attached = (fixture.pod.description(), fixture.records());
    fixture.del(&with(&conf(), &json!({"prevResult": result})));
    let after = (fixture.pod.description(), fixture.records());
    assert_eq!(after, attached);
}

// D6
#[test]
fn the_device_is_back_before_its_address_is_released() {
    let (fixture, _) = attached();
    fixture.del(&conf());
    let host = fixture.ipam.read("host-links.DEL");
    assert!(host.lines().any(|link| link == "hd0"), "{host}");
}

// D15
#[test]
fn del_may_be_repeated() {
    let (fixture, before) = attached();
    for _ in 0..3 {
        fixture.del(&conf());
    }
    assert_eq!(fixture.state(), before);
    assert_eq!(fixture.ipam.calls().len(), 4);
}

#[test]
fn del_before_any_add_touches_no_interface() {
    let fixture = Fixture::new();
    fixture.pod.ip(&[
        "link", "add", "net1", "type", "veth", "peer", "name", "other",
    ]);
    let before = fixture.state();
    fixture.del(&conf());
    assert_eq!(fixture.state(), before);
    assert_eq!(fixture.ipam.calls(), ["DEL c1 net1"]);
}

// D14
#[test]
fn without_a_netns_the_device_comes_back_and_the_address_is_released() {
    for netns in ["", "/run/netns/none", "/etc/passwd", "/tmp"] {
        let (fixture, before) = attached();
        let del = fixture.call("DEL", &conf()).env("CNI_NETNS", netns);
        fixture.node.run(&del).ok();
        assert_eq!(fixture.state(), before, "{netns:?}");
    }
}

// D14
#[test]
fn the_address_is_released_when_the_pod_and_its_device_are_gone() {
    let (mut fixture, _) = attached();
    let netns = fixture.pod.path();
    fixture.end_pod();
    for netns in ["", &netns] {
        let del = fixture.call("DEL", &conf()).env("CNI_NETNS", netns);
        fixture.node.run(&del).ok();
        assert!(fixture.ipam.reserved().is_empty());
        assert!(fixture.records().is_empty());
    }
}

#[test]
fn a_path_that_leads_to_another_pod_now_is_left_alone() {
    let (mut fixture, _) = attached();
    let other = Namespace::new();
    fixture.node.netns.ip(&[
        "link", "add", "hd1", "type", "veth", "peer", "name", "hd1-peer",
    ]);
    let path = other.path();
    fixture.host(&["link", "set", "hd1", "netns", &path]);
    let mac = [
        "link",
        "set",
        "hd1",
        "address",
        "02:00:00:00:00:01",
        "name",
        "net1",
    ];
    other.ip(&mac);
    fixture.pod = Namespace::new();
    let del = fixture.call("DEL", &conf()).env("CNI_NETNS", &path);
    fixture.node.run(&del).ok();
    assert_eq!(other.links(), ["lo", "net1"]);
    assert!(fixture.ipam.reserved().is_empty());
}

#[test]
fn a_stripped_configuration_is_completed_from_the_record() {
    let fixture = Fixture::new();
    let before = fixture.state();
    let ipam = json!({"type": "fake-ipam", "subnet": "10.9.0.0/24", "dataDir": "/elsewhere"});
    fixture.add(&with(&conf(), &json!({"ipam": ipam})));
    fixture.del(&plain(&json!({"ipam": {"type": "fake-ipam"}})));
    assert_eq!(fixture.state(), before);
    let stdin: Value = serde_json::from_str(&fixture.ipam.read("stdin.DEL")).expect("JSON");
    assert_eq!(stdin["ipam"], ipam);
}

#[test]
fn even_the_delegate_may_be_missing_in_the_configuration() {
    let (fixture, before) = attached();
    fixture.del(&plain(&json!({})));
    assert_eq!(fixture.state(), before);
}

#[test]
fn an_unchanged_configuration_reaches_the_delegate_byte_for_byte() {
    let (fixture, _) = attached();
    let text = format!("\n {:#} ", conf());
    let del = fixture.call("DEL", &json!({})).stdin(text.clone());
    fixture.node.run(&del).ok();
    assert_eq!(fixture.ipam.read("stdin.DEL"), text);
}

// D16
#[test]
fn a_selector_that_has_become_wrong_does_not_matter() {
    for keys in [
        json!({"device": null, "pciBusID": "no address"}),
        json!({"device": 5}),
        json!({"runtimeConfig": {"deviceID": "0000:00:1f.0"}}),
    ] {
        let (fixture, before) = attached();
        fixture.del(&with(&conf(), &keys));
        assert_eq!(fixture.state(), before, "{keys}");
    }
}

// D17
#[test]
fn a_device_that_the_pod_has_renamed_is_found() {
    let (fixture, before) = attached();
    fixture.pod.ip(&["link", "set", "net1", "down"]);
    fixture.pod.ip(&["link", "set", "net1", "name", "renamed"]);
    let impostor = [
        "link", "add", "net1", "type", "veth", "peer", "name", "other",
    ];
    fixture.pod.ip(&impostor);
    fixture.del(&conf());
    assert_eq!(fixture.pod.links(), ["lo", "net1", "other"]);
    assert_eq!(fixture.state().0, before.0);
}

// D17
#[test]
fn an_alias_that_the_pod_has_written_decides_nothing() {
    for alias in [
        "eth0",
        "hd0-peer",
        "../../etc",
        "longer-than-any-name-may-be",
        "",
    ] {
        let (fixture, before) = attached();
        fixture.pod.ip(&["link", "set", "net1", "alias", alias]);
        fixture.del(&conf());
        assert_eq!(fixture.state(), before, "{alias:?}");
    }
}

// D17
#[test]
fn alternative_names_that_the_pod_has_added_do_not_come_along() {
    let (fixture, before) = attached();
    for altname in ["hd0-peer", "hd0", "something"] {
        fixture
            .pod
            .ip(&["link", "property", "add", "dev", "net1", "altname", altname]);
    }
    fixture.del(&conf());
    assert_eq!(fixture.state(), before);
}

#[test]
fn a_name_that_is_taken_keeps_the_device_and_its_address_until_it_is_free() {
    let (fixture, before) = attached();
    fixture.host(&["link", "add", "hd0", "type", "veth", "peer", "name", "hd0b"]);
    let taken = fixture.state();
    let error = fixture
        .node
        .run(&fixture.call("DEL", &conf()))
        .error_code(999);
    assert_eq!(
        error.msg,
        "cannot give \"net1\" its name \"hd0\" on the host back"
    );
    assert!(
        error.details.starts_with("interface \"hd0\" with index "),
        "{error:?}"
    );
    assert_eq!(fixture.state(), taken);
    assert_eq!(fixture.ipam.calls(), ["ADD c1 net1"]);

    fixture.host(&["link", "delete", "hd0"]);
    fixture.del(&conf());
    assert_eq!(fixture.state(), before);
}

#[test]
fn an_alternative_name_that_is_ours_counts_as_taken() {
    let (fixture, _) = attached();
    fixture.host(&[
        "link", "property", "add", "dev", "hd0-peer", "altname", "hd0",
    ]);
    let taken = fixture.state();
    let error = fixture
        .node
        .run(&fixture.call("DEL", &conf()))
        .error_code(999);
    assert!(
        error
            .details
            .starts_with("interface \"hd0-peer\" with index "),
        "{error:?}"
    );
    assert_eq!(fixture.state(), taken);
}

#[test]
fn when_the_delegate_fails_the_device_is_back_and_the_next_del_leaves_it_alone() {
    let (fixture, before) = attached();
    fixture
        .ipam
        .fail("DEL", r#"{"code": 11, "msg": "store not found"}"#);
    let error = fixture
        .node
        .run(&fixture.call("DEL", &conf()))
        .error_code(11);
    // containerd would take the delegate's words for success.
    assert_eq!(error.msg, "store missing");
    assert_eq!(fixture.state().0, before.0);
    assert_eq!(fixture.records().len(), 1);

    fixture.host(&["link", "set", "hd0", "name", "mine", "mtu", "1300"]);
    let renamed = fixture.state().0;
    fixture.ipam.recover("DEL");
    fixture.del(&conf());
    assert_eq!(fixture.state().0, renamed);
    assert!(fixture.ipam.reserved().is_empty());
    assert!(fixture.records().is_empty());
}

#[test]
fn a_delegate_that_is_gone_is_an_error_that_containerd_repeats() {
    let (fixture, before) = attached();
    let del = fixture.call("DEL", &conf()).env("CNI_PATH", "/none");
    let error = fixture.node.run(&del).error_code(999);
    let text = format!("{} {}", error.msg, error.details).to_lowercase();
    assert!(!text.contains("not found") && !text.contains("no such file or directory"));
    assert_eq!(fixture.state().0, before.0);
    fixture.del(&conf());
    assert_eq!(fixture.state(), before);
}

#[test]
fn after_a_reboot_the_address_is_released_and_no_interface_is_touched() {
    let (mut fixture, _) = attached();
    fixture.node.reboot();
    fixture.end_pod();
    fixture.add_device("renamed", "02:00:00:00:00:01");
    let before = fixture.state();
    let del = fixture.call("DEL", &conf()).env("CNI_NETNS", "");
    fixture.node.run(&del).ok();
    assert_eq!(fixture.state().0, before.0);
    assert!(fixture.ipam.reserved().is_empty());
    assert!(fixture.records().is_empty());
}

/// Somebody has edited the network's name, and the runtime has no copy of the old one.
#[test]
fn a_network_that_was_renamed_detaches_what_it_has_attached() {
    let ranges = json!([[{"subnet": "10.9.0.0/24"}]]);
    let conf = with(
        &conf(),
        &json!({"ipam": {"type": "host-local", "ranges": ranges}}),
    );
    let bare = json!({"device": null, "ipam": {"type": "host-local"}});
    for (keys, has_result, ends_first) in [
        (json!({}), false, false),
        (
            json!({"device": null, "hwaddr": "02:00:00:00:00:01"}),
            false,
            false,
        ),
        (bare.clone(), true, false),
        (json!({}), false, true),
    ] {
        let mut fixture = Fixture::new();
        let before = fixture.state();
        let call = |fixture: &Fixture, command: &str, conf: &Value| {
            let call = Call::ours("host-device", command).conf(conf);
            let call = call.attachment("c1", "net1", &fixture.pod.path());
            fixture.node.run(&call)
        };
        let result = call(&fixture, "ADD", &conf).ok();
        if ends_first {
            fixture.end_pod();
        }
        let mut renamed = with(&with(&conf, &json!({"name": "wan"})), &keys);
        if has_result {
            renamed["prevResult"] = result;
        }
        call(&fixture, "DEL", &renamed).ok();
        assert!(
            attachment_files(fixture.node.state()).is_empty(),
            "{renamed}"
        );
        if !ends_first {
            assert_eq!((fixture.state().0, fixture.state().1), (before.0, before.1));
        }
    }
}

/// Nothing says that the DEL is about the device that the container has.
#[test]
fn a_network_of_another_name_ends_nothing_without_proof() {
    let (fixture, _) = attached();
    let attached = fixture.state();
    let other = with(&conf(), &json!({"name": "wan"}));
    for keys in [json!({"device": "hd9"}), json!({"device": null})] {
        let del = fixture.call("DEL", &with(&other, &keys));
        let output = fixture.node.run(&del);
        let said = "interface net1 of container c1 belongs to network \"lan\", and is not changed";
        assert!(output.stderr.contains(said), "{output}");
        assert_eq!(
            (fixture.state().0, fixture.state().1),
            (attached.0.clone(), attached.1.clone())
        );
        assert_eq!(fixture.records(), attached.2);
    }
    // The path is another container's by now.
    let elsewhere = Namespace::new();
    let del = fixture
        .call("DEL", &other)
        .env("CNI_NETNS", &elsewhere.path());
    fixture.node.run(&del).ok();
    assert_eq!(fixture.records(), attached.2);
}

/// A file system may have the name of a new file on the disk before its content.
#[test]
fn a_record_that_a_power_cut_has_emptied_is_removed() {
    let (mut fixture, _) = attached();
    let record = &fixture.records()[0];
    fs::write(fixture.node.state().join(record), "").expect("the state can be written");
    fixture.node.reboot();
    fixture.end_pod();
    let del = fixture.call("DEL", &conf()).env("CNI_NETNS", "");
    fixture.node.run(&del).ok();
    assert!(fixture.ipam.reserved().is_empty());
    assert!(fixture.records().is_empty());
}

#[test]
fn del_of_one_attachment_leaves_the_others_alone() {
    let (fixture, _) = attached();
    let before = fixture.state();
    for (name, value) in [("CNI_CONTAINERID", "c2"), ("CNI_IFNAME", "net2")] {
        let del = fixture.call("DEL", &conf()).env(name, value);
        fixture.node.run(&del).ok();
    }
    fixture.del(&with(&conf(), &json!({"name": "wan", "device": "hd9"})));
    assert_eq!((fixture.state().0, fixture.state().1), (before.0, before.1));
    assert_eq!(fixture.records().len(), 1);
}

/// As eni-sync's agent says it, which ends attachments whose containers have ended: one of them may
/// have been started again.
#[test]
fn a_del_for_an_earlier_attachment_of_the_container_leaves_the_present_one_alone() {
    let (fixture, before) = attached();
    let del = |identity: &str| {
        let only = ("ENI_CNI_ONLY_ATTACHMENT", identity);
        let del = fixture.call("DEL", &conf()).env(only.0, only.1);
        fixture.node.run(&del).ok();
    };
    let records = fixture.records();
    let attached = fixture.state();
    del("an-earlier-boot 4026532000 0 0");
    assert_eq!(fixture.state(), attached);
    assert_eq!(fixture.records(), records);
    let path = fixture.node.state().join(&records[0]);
    let text = fs::read(&path).unwrap();
    let record: Value = serde_json::from_slice(&text).unwrap();
    let namespace = &record["netnsId"];
    let number = |key: &str| namespace[key].as_i64().unwrap_or_default();
    let identity = format!(
        "{} {} {} {}",
        record["bootId"].as_str().unwrap(),
        number("inode"),
        number("made"),
        number("cookie"),
    );
    // What cannot be read does not tell whether it is the one that is meant.
    fs::write(&path, "{").unwrap();
    let only = ("ENI_CNI_ONLY_ATTACHMENT", identity.as_str());
    let unreadable = fixture.call("DEL", &conf()).env(only.0, only.1);
    fixture.node.run(&unreadable).error_code(5);
    assert_eq!(fixture.state(), attached);
    fs::write(&path, &text).unwrap();
    del(&identity);
    assert_eq!(fixture.state(), before);
    assert_eq!(fixture.records(), [""; 0]);
    // There is no attachment any more, and nothing is looked for.
    fixture.pod.ip(&[
        "link", "add", "net1", "type", "veth", "peer", "name", "other",
    ]);
    del(&identity);
    assert!(fixture.pod.links().contains(&"net1".to_owned()));
}
