//! The Go plugin and ours take each other's place while pods are running: what one has
//! attached the other detaches, in every version, by every key that names a device, and
//! with every form of DEL that runtimes send.

use harness::{Call, FakeSys, Namespace};
use serde_json::{Value, json};

use super::selectors::{PCI, with_pci_device};
use super::{Fixture, conf, plain, with};

const MAC: &str = "02:00:00:00:00:01";
const VERSIONS: [&str; 7] = [
    "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
];

/// The same call of the Go plugin. Debian's is older than 1.1.0: its pods are of 1.0.0.
fn go(fixture: &Fixture, command: &str, conf: &Value) -> Call {
    let conf = match conf["cniVersion"] == "1.1.0" {
        true => with(conf, &json!({"cniVersion": "1.0.0"})),
        false => conf.clone(),
    };
    Call::go("host-device", command)
        .attachment("c1", "net1", &fixture.pod.path())
        .env("CNI_PATH", &fixture.ipam.cni_path())
        .conf(&conf)
}

/// Every key that names the device.
fn selectors() -> [Value; 5] {
    [
        json!({"device": "hd0"}),
        json!({"hwaddr": MAC}),
        json!({"kernelpath": "/sys/devices/system/nic"}),
        json!({"pciBusID": PCI}),
        json!({"runtimeConfig": {"deviceID": PCI}}),
    ]
}

/// A node on which each of them means `hd0`.
pub(super) fn fixture() -> (Fixture, [FakeSys; 2]) {
    let (mut fixture, bus) = with_pci_device("ena");
    let devices = FakeSys::new();
    devices.netdev("nic", "net", "hd0");
    fixture.node.bind(devices.path(), "/sys/devices/system");
    (fixture, [bus, devices])
}

/// The forms of a DEL: how complete its configuration is, and whether libcni still has the
/// result, which it passes since 0.4.0.
fn forms(conf: &Value, result: &Value) -> Vec<Value> {
    let stripped = json!({
        "cniVersion": conf["cniVersion"], "name": conf["name"], "type": conf["type"],
        "ipam": {"type": conf["ipam"]["type"]},
    });
    let mut forms = vec![stripped, conf.clone()];
    if conf["cniVersion"].as_str() >= Some("0.4.0") {
        let with_result = |form: &Value| with(form, &json!({"prevResult": result}));
        forms.extend([with_result(&forms[0]), with_result(conf)]);
    }
    forms
}

/// Whether a DEL says which device it means: one that has no address on a bus is known by
/// its name, its MAC, or the result.
fn names_the_device(form: &Value) -> bool {
    ["device", "hwaddr", "prevResult"]
        .iter()
        .any(|key| !form[*key].is_null())
}

/// A fixture for this version, whose results were others before 0.3.0.
fn fixture_for(version: &str) -> (Fixture, [FakeSys; 2]) {
    let (fixture, sys) = fixture();
    if version < "0.3.0" {
        let answer = json!({"cniVersion": version, "ip4": {"ip": "10.9.0.5/24"}});
        fixture.ipam.answer(&answer);
    }
    (fixture, sys)
}

/// From the Go plugin to ours: the device is back, or DEL fails and leaves all as it is.
fn ours_follows(version: &str, selector: &Value) {
    let (fixture, _sys) = fixture_for(version);
    let before = fixture.state();
    let keys = json!({"cniVersion": version, "ipam": {"type": "fake-ipam"}});
    let conf = plain(&with(&keys, selector));
    let result = fixture.node.run(&go(&fixture, "ADD", &conf)).ok();
    for form in forms(&conf, &result) {
        let attached = fixture.state();
        let output = fixture.node.run(&fixture.call("DEL", &form));
        if !names_the_device(&form) {
            output.error_code(7);
            assert_eq!(fixture.state(), attached, "{form}");
            continue;
        }
        output.ok();
        assert_eq!(fixture.state(), before, "{form}");
        fixture.node.run(&go(&fixture, "ADD", &conf)).ok();
    }
}

/// From ours to the Go plugin, and to ours again.
fn go_follows(version: &str, selector: &Value) {
    let (fixture, _sys) = fixture_for(version);
    let before = fixture.state();
    let keys = json!({"cniVersion": version, "ipam": {"type": "fake-ipam"}});
    let conf = plain(&with(&keys, selector));
    fixture.add(&conf);
    fixture.node.run(&go(&fixture, "DEL", &conf)).ok();
    assert_eq!(fixture.node.netns.links(), ["hd0", "hd0-peer", "lo"]);
    assert!(fixture.ipam.reserved().is_empty());
    // Ours is called again, for what the Go plugin knows nothing of.
    fixture.del(&conf);
    assert_eq!(fixture.state(), before, "{conf}");
}

#[test]
fn what_one_plugin_has_attached_the_other_detaches() {
    std::thread::scope(|scope| {
        for version in VERSIONS {
            for selector in selectors() {
                scope.spawn(move || {
                    ours_follows(version, &selector);
                    go_follows(version, &selector);
                });
            }
        }
    });
}

/// A pod of the Go plugin's, and the DEL of its network.
fn attached_by_go() -> (Fixture, Value) {
    let fixture = Fixture::new();
    let conf = with(&conf(), &json!({"cniVersion": "1.0.0"}));
    let result = fixture.node.run(&go(&fixture, "ADD", &conf)).ok();
    let del = with(&conf, &json!({"prevResult": result}));
    (fixture, del)
}

#[test]
fn a_result_of_another_container_proves_nothing() {
    let (fixture, mut del) = attached_by_go();
    let attached = fixture.state();
    del["device"] = json!("other");
    del["prevResult"]["interfaces"][0]["sandbox"] = json!("/run/netns/other");
    let error = fixture.node.run(&fixture.call("DEL", &del)).error_code(7);
    let expected = "cannot tell whether interface \"net1\" is the host device to give back";
    assert_eq!(error.msg, expected);
    assert!(error.details.contains("calls \"hd0\""), "{error:?}");
    assert_eq!(fixture.state(), attached);
}

#[test]
fn a_tap_that_go_has_attached_is_not_left_in_the_pod_with_a_success() {
    for has_result in [true, false] {
        let fixture = Fixture::new();
        fixture.host(&["tuntap", "add", "dev", "tap0", "mode", "tap"]);
        let keys = json!({"cniVersion": "1.0.0", "device": "tap0"});
        let conf = with(&conf(), &keys);
        let result = fixture.node.run(&go(&fixture, "ADD", &conf)).ok();
        let del = match has_result {
            true => with(&conf, &json!({"prevResult": result})),
            false => conf,
        };
        let attached = fixture.state();
        let error = fixture.node.run(&fixture.call("DEL", &del)).error_code(7);
        let expected = "cannot tell whether interface \"net1\" is the host device to give back";
        assert_eq!(error.msg, expected);
        assert!(error.details.contains("no \"tap0\""), "{error:?}");
        assert_eq!(fixture.state(), attached);
        fixture.pod.ip(&["link", "set", "net1", "down"]);
        let node = fixture.node.netns.path();
        fixture
            .pod
            .ip(&["link", "set", "net1", "netns", &node, "name", "tap0"]);
        fixture.del(&del);
        assert!(fixture.node.netns.links().contains(&"tap0".to_owned()));
    }
}

/// The pod hides the device and puts something in its place, which would get onto the node
/// under the name in its alias.
#[test]
fn a_decoy_in_the_place_of_what_go_has_attached_stays_in_the_pod() {
    for alias in ["hd0", "evil0"] {
        let (fixture, del) = attached_by_go();
        let deeds = format!(
            "ip link set net1 down; ip link set net1 name mine alias ''
             ip link add net1 address {MAC} type veth peer name other
             ip link set net1 alias {alias}"
        );
        fixture.pod.tool("bash", &["-ec", &deeds]);
        fixture.del(&del);
        assert_eq!(fixture.pod.links(), ["lo", "net1", "other"], "{alias}");
        assert_eq!(fixture.node.netns.links(), ["hd0", "hd0-peer", "lo"]);
    }
}

/// The device of another attachment of the same pod, which has a record.
#[test]
fn what_another_attachment_has_is_not_taken_for_it() {
    let fixture = Fixture::new();
    let add = fixture.call("ADD", &conf()).env("CNI_IFNAME", "net2");
    let result = fixture.node.run(&add).ok();
    let attached = (fixture.state().0, fixture.state().1);
    fixture.del(&conf());
    let named = with(&result, &json!({}));
    let mut named = with(&conf(), &json!({"prevResult": named}));
    named["prevResult"]["interfaces"][0]["name"] = json!("net1");
    fixture.del(&named);
    assert_eq!((fixture.state().0, fixture.state().1), attached);
}

/// The path of the container leads to another pod by now.
#[test]
fn del_without_a_namespace_touches_no_other_pod() {
    let (mut fixture, del) = attached_by_go();
    let attached = fixture.pod.description();
    let pod = std::mem::replace(&mut fixture.pod, Namespace::new());
    fixture.del(&del);
    assert_eq!(pod.description(), attached);
}
