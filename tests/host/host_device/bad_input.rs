//! Input that is wrong: the error has the right code, names the thing, and nothing
//! changes.

use serde_json::{Value, json};

use super::{Fixture, plain};

/// Keys, the error's code, and what its text must contain.
fn table() -> Vec<(Value, u64, &'static str)> {
    let id = |id: &str| json!({"runtimeConfig": {"deviceID": id}});
    vec![
        (
            json!({}),
            7,
            "specify either \"device\", \"hwaddr\", \"kernelpath\" or \"pciBusID\"",
        ),
        (json!({"device": "a/b"}), 7, "invalid device \"a/b\""),
        (json!({"device": ".."}), 7, "invalid device \"..\""),
        (json!({"device": "a b"}), 7, "invalid device \"a b\""),
        (
            json!({"device": "x".repeat(128)}),
            7,
            "invalid device \"xxx",
        ),
        (json!({"device": 7}), 6, "failed to load netconf"),
        (json!({"device": ["hd0"]}), 6, "failed to load netconf"),
        (
            json!({"hwaddr": "zz"}),
            7,
            "failed to parse MAC address \"zz\"",
        ),
        (json!({"hwaddr": "02:00:00:00:00"}), 7, "hwaddr"),
        (
            json!({"kernelpath": "sys/devices/x"}),
            7,
            "kernel device path \"sys/devices/x\" must be",
        ),
        (
            json!({"kernelpath": "/etc"}),
            7,
            "must be absolute and begin with /sys/devices/",
        ),
        (
            json!({"kernelpath": "/sys/devices/../../etc"}),
            7,
            "invalid kernelpath",
        ),
        (
            json!({"kernelpath": "/sys/devices/none"}),
            999,
            "failed to find host device: ",
        ),
        (
            json!({"pciBusID": "06:00.0"}),
            7,
            "invalid pciBusID \"06:00.0\"",
        ),
        (
            json!({"pciBusID": "../../../etc"}),
            7,
            "invalid pciBusID \"../../../etc\"",
        ),
        (
            json!({"pciBusID": "0000:00:06.0/.."}),
            7,
            "invalid pciBusID",
        ),
        (
            json!({"pciBusID": "ffff:ff:1f.7"}),
            999,
            "error with host device: lstat ",
        ),
        (
            id("../devices"),
            7,
            "invalid runtimeConfig.deviceID \"../devices\"",
        ),
        (id(".."), 7, "invalid runtimeConfig.deviceID \"..\""),
        (
            id("none.sf.1"),
            999,
            "runtime config DeviceID none.sf.1 not found or unsupported",
        ),
        (
            json!({"device": "hd0", "driver": "e1000e"}),
            7,
            "unknown driver: \"e1000e\": it is one of vfio-pci, uio_pci_generic, igb_uio",
        ),
        (
            json!({"device": "hd0", "driver": ["vfio-pci"]}),
            7,
            "unknown driver: [\"vfio-pci\"]",
        ),
        (
            json!({"device": "hd0", "driver": "vfio-pci"}),
            7,
            "cannot use driver \"vfio-pci\": \"hd0\" is not a PCI device",
        ),
        (
            json!({"device": "hd0", "runtimeConfig": {"CNIDeviceInfoFile": "run/x"}}),
            7,
            "invalid runtimeConfig.CNIDeviceInfoFile: \"run/x\"",
        ),
        (
            json!({"device": "hd0", "runtimeConfig": {"CNIDeviceInfoFile": 7}}),
            7,
            "invalid runtimeConfig.CNIDeviceInfoFile: 7",
        ),
        (
            json!({"device": "hd0", "keepAddresses": "yes"}),
            7,
            "invalid keepAddresses: \"yes\"",
        ),
        (
            json!({"device": "hd0", "keepAddresses": true, "driver": "vfio-pci"}),
            7,
            "keepAddresses true cannot be combined with driver \"vfio-pci\"",
        ),
        (json!({"device": "hd0", "ipam": 5}), 6, "ipam: invalid type"),
        (
            json!({"device": "hd0", "prevResult": 5}),
            6,
            "could not parse prevResult",
        ),
        (
            json!({"device": "hd0", "cniVersion": "9.9.9"}),
            1,
            "incompatible CNI versions",
        ),
        (
            json!({"device": "hd0", "name": ""}),
            7,
            "missing network name",
        ),
        (
            json!({"device": "hd0", "name": "../x"}),
            7,
            "invalid characters found in network name",
        ),
    ]
}

#[test]
fn every_wrong_configuration_is_named_and_changes_nothing() {
    let fixture = Fixture::new();
    let before = fixture.state();
    for (keys, code, expected) in table() {
        let output = fixture.node.run(&fixture.call("ADD", &plain(&keys)));
        let error = output.error_code(code);
        let text = format!("{}: {}", error.msg, error.details);
        assert!(text.contains(expected), "{keys}: {text}");
        assert_eq!(fixture.state(), before, "{keys}");
    }
}

// A configuration that ADD refuses was never attached, or has been edited since.
#[test]
fn del_succeeds_with_every_device_that_add_refuses() {
    let fixture = Fixture::new();
    let before = fixture.state();
    for (keys, _, _) in table() {
        if ["ipam", "prevResult", "cniVersion", "name"]
            .iter()
            .any(|k| !keys[k].is_null())
        {
            continue;
        }
        fixture.del(&plain(&keys));
    }
    assert_eq!(fixture.state(), before);
}

#[test]
fn every_missing_or_wrong_variable_is_named_and_changes_nothing() {
    let fixture = Fixture::new();
    let before = fixture.state();
    let conf = plain(&json!({"device": "hd0"}));
    for (name, value, expected) in [
        (
            "CNI_CONTAINERID",
            "",
            "required env variables [CNI_CONTAINERID] missing",
        ),
        (
            "CNI_CONTAINERID",
            "../c",
            "invalid characters in containerID",
        ),
        (
            "CNI_NETNS",
            "",
            "required env variables [CNI_NETNS] missing",
        ),
        (
            "CNI_IFNAME",
            "",
            "required env variables [CNI_IFNAME] missing",
        ),
        (
            "CNI_IFNAME",
            "sixteen-bytes-xx",
            "interface name is too long",
        ),
        ("CNI_IFNAME", "..", "interface name is . or .."),
        ("CNI_COMMAND", "BAD", "unknown CNI_COMMAND: BAD"),
    ] {
        let call = fixture.call("ADD", &conf).env(name, value);
        let error = fixture.node.run(&call).error_code(4);
        assert_eq!(error.msg, expected);
    }
    for stdin in ["", "{", "[]"] {
        let call = fixture.call("ADD", &conf).stdin(stdin);
        fixture.node.run(&call).error_code(6);
    }
    assert_eq!(fixture.state(), before);
}
