//! The ways to say which device is meant.

use std::fs;

use harness::FakeSys;
use serde_json::{Value, json};

use super::{Fixture, plain};

pub(super) const PCI: &str = "0000:00:1e.0";
const PCI_PATH: &str = "pci/devices/0000:00:1e.0";

/// A node on which the device `hd0` seems to be a PCI function.
pub(super) fn with_pci_device(driver: &str) -> (Fixture, FakeSys) {
    let (mut fixture, sys) = (Fixture::new(), FakeSys::new());
    sys.netdev(PCI_PATH, "net", "hd0");
    sys.bind(PCI_PATH, driver);
    fixture.node.bind(sys.path(), "/sys/bus");
    (fixture, sys)
}

/// Adds by `keys` and makes sure that `hd0` is what came.
#[track_caller]
fn attaches_hd0(fixture: &Fixture, keys: &Value) -> Value {
    let result = fixture.add(&plain(keys));
    let net1 = fixture.pod.link("net1").expect("the device is in the pod");
    assert_eq!(net1["address"], "02:00:00:00:00:01");
    assert_eq!(fixture.node.netns.links(), ["hd0-peer", "lo"]);
    result
}

#[test]
fn a_device_is_found_by_its_name() {
    attaches_hd0(&Fixture::new(), &json!({"device": "hd0"}));
}

#[test]
fn a_device_is_found_by_an_alternative_name_of_any_length() {
    for altname in ["enp0s30", "a-name-longer-than-fifteen-bytes"] {
        let fixture = Fixture::new();
        fixture.host(&["link", "property", "add", "dev", "hd0", "altname", altname]);
        attaches_hd0(&fixture, &json!({"device": altname}));
    }
}

#[test]
fn a_device_is_found_by_its_hardware_address_in_any_form() {
    for hwaddr in ["02:00:00:00:00:01", "02-00-00-00-00-01", "0200.0000.0001"] {
        attaches_hd0(&Fixture::new(), &json!({"hwaddr": hwaddr}));
    }
}

#[test]
fn a_hardware_address_of_several_interfaces_is_an_error_that_names_them() {
    let fixture = Fixture::new();
    fixture.add_device("hd1", "02:00:00:00:00:01");
    let before = fixture.state();
    let conf = plain(&json!({"hwaddr": "02:00:00:00:00:01"}));
    let error = fixture
        .node
        .run(&fixture.call("ADD", &conf))
        .error_code(999);
    assert!(
        error.msg.contains("02:00:00:00:00:01 is ambiguous"),
        "{error:?}"
    );
    assert!(error.details.contains("hd0") && error.details.contains("hd1"));
    assert_eq!(fixture.state(), before);
}

#[test]
fn a_device_is_found_by_its_pci_address() {
    let (fixture, _sys) = with_pci_device("ena");
    let result = attaches_hd0(&fixture, &json!({"pciBusID": PCI}));
    assert_eq!(result["interfaces"][0]["pciID"], PCI);
}

#[test]
fn a_virtio_device_is_found_by_the_pci_address_of_its_function() {
    let (mut fixture, sys) = (Fixture::new(), FakeSys::new());
    sys.netdev(PCI_PATH, "virtio3/net", "hd0");
    sys.bind(PCI_PATH, "virtio-pci");
    fixture.node.bind(sys.path(), "/sys/bus");
    attaches_hd0(&fixture, &json!({"pciBusID": PCI}));
}

#[test]
fn a_device_id_that_is_a_pci_address_overrides_the_configured_one() {
    let (fixture, _sys) = with_pci_device("ena");
    let keys = json!({"pciBusID": "0000:00:1f.0", "runtimeConfig": {"deviceID": PCI}});
    attaches_hd0(&fixture, &keys);
}

#[test]
fn a_device_id_may_be_the_name_of_an_auxiliary_device() {
    let (mut fixture, sys) = (Fixture::new(), FakeSys::new());
    sys.netdev("auxiliary/devices/mlx5_core.sf.4", "net", "hd0");
    fixture.node.bind(sys.path(), "/sys/bus");
    // Multus writes the same value into pciBusID, where it is not a PCI address.
    let id = "mlx5_core.sf.4";
    let keys = json!({"pciBusID": id, "deviceID": id, "runtimeConfig": {"deviceID": id}});
    let result = attaches_hd0(&fixture, &keys);
    assert_eq!(result["interfaces"][0]["pciID"], Value::Null);
}

#[test]
fn a_device_id_that_no_bus_has_is_an_error_that_names_it() {
    let (fixture, _sys) = with_pci_device("ena");
    let conf = plain(&json!({"runtimeConfig": {"deviceID": "0000:00:1f.0"}}));
    let error = fixture
        .node
        .run(&fixture.call("ADD", &conf))
        .error_code(999);
    let expected = "runtime config DeviceID 0000:00:1f.0 not found or unsupported";
    assert_eq!(error.msg, expected);
}

#[test]
fn a_device_is_found_by_its_kernel_path() {
    let (mut fixture, sys) = (Fixture::new(), FakeSys::new());
    sys.netdev("nic", "net", "hd0");
    fixture.node.bind(sys.path(), "/sys/devices/system");
    attaches_hd0(&fixture, &json!({"kernelpath": "/sys/devices/system/nic"}));
}

#[test]
fn the_name_comes_before_every_other_key() {
    let (fixture, _sys) = with_pci_device("vfio-pci");
    let keys = json!({
        "device": "hd0",
        "hwaddr": "02:00:00:00:00:77",
        "kernelpath": "/sys/devices/none",
        "pciBusID": PCI,
        "runtimeConfig": {"deviceID": "0000:00:1f.0"},
    });
    attaches_hd0(&fixture, &keys);
}

#[test]
fn the_deviceid_beside_the_runtime_configuration_is_ignored() {
    let fixture = Fixture::new();
    let conf = plain(&json!({"deviceID": PCI}));
    let error = fixture.node.run(&fixture.call("ADD", &conf)).error_code(7);
    let expected = "specify either \"device\", \"hwaddr\", \"kernelpath\" or \"pciBusID\"";
    assert_eq!(error.msg, expected);
}

#[test]
fn keys_that_are_empty_or_null_are_unset() {
    let keys = json!({
        "device": "", "hwaddr": null, "kernelpath": "", "pciBusID": null,
        "runtimeConfig": null, "HWADDR": "02:00:00:00:00:01",
    });
    attaches_hd0(&Fixture::new(), &keys);
}

#[test]
fn a_pci_device_without_a_driver_is_a_clear_error() {
    let (fixture, sys) = with_pci_device("ena");
    sys.unbind(PCI_PATH);
    let conf = plain(&json!({"pciBusID": PCI}));
    let error = fixture
        .node
        .run(&fixture.call("ADD", &conf))
        .error_code(999);
    let expected = "error with host device: lstat /sys/bus/pci/devices/0000:00:1e.0/driver";
    assert_eq!(error.msg, expected);
}

#[test]
fn a_device_for_user_space_stays_and_its_addresses_are_reported() {
    for driver in ["vfio-pci", "uio_pci_generic", "igb_uio"] {
        let (fixture, _sys) = with_pci_device(driver);
        let before = fixture.state();
        let conf = plain(&json!({"pciBusID": PCI, "ipam": {"type": "fake-ipam"}}));
        let result = fixture.add(&conf);
        let interface = json!({"name": "net1", "pciID": PCI, "sandbox": fixture.pod.path()});
        assert_eq!(result["interfaces"], json!([interface]), "{driver}");
        let ip = json!({"address": "10.9.0.5/24", "gateway": "10.9.0.1", "interface": 0});
        assert_eq!(result["ips"], json!([ip]));
        assert_eq!(
            (fixture.state().0, fixture.state().1),
            (before.0.clone(), before.1.clone())
        );

        fixture.del(&conf);
        assert_eq!(fixture.state(), before);
    }
}

#[test]
fn a_device_for_user_space_needs_no_delegate() {
    let (fixture, _sys) = with_pci_device("vfio-pci");
    let conf = plain(&json!({"cniVersion": "0.3.1", "pciBusID": PCI}));
    let interface = json!({"name": "net1", "sandbox": fixture.pod.path()});
    let expected = json!({"cniVersion": "0.3.1", "interfaces": [interface], "dns": {}});
    assert_eq!(fixture.add(&conf), expected);
}

// D16: the mode is remembered, not detected again.
#[test]
fn check_and_del_of_a_device_for_user_space_do_not_need_its_driver() {
    let (fixture, sys) = with_pci_device("vfio-pci");
    let before = fixture.state();
    let conf = plain(&json!({"pciBusID": PCI, "ipam": {"type": "fake-ipam"}}));
    let attached = fixture.attached(&conf);
    sys.unbind(PCI_PATH);
    fixture.node.run(&fixture.call("CHECK", &attached)).ok();
    fixture.del(&attached);
    assert_eq!(fixture.state(), before);
}

// D16: neither is the device itself.
#[test]
fn del_gives_a_device_back_whose_bus_does_not_show_it_any_more() {
    let (fixture, sys) = with_pci_device("ena");
    let before = fixture.state();
    let conf = plain(&json!({
        "runtimeConfig": {"deviceID": PCI}, "ipam": {"type": "fake-ipam"}
    }));
    let attached = fixture.attached(&conf);
    fs::remove_dir_all(sys.path().join(PCI_PATH)).expect("it exists");
    fixture.node.run(&fixture.call("CHECK", &attached)).ok();
    fixture.del(&attached);
    assert_eq!(fixture.state(), before);
}

// D14, for a device that is not in the pod at all.
#[test]
fn del_of_a_device_for_user_space_releases_the_address_without_a_netns() {
    let (fixture, _sys) = with_pci_device("vfio-pci");
    let conf = plain(&json!({"pciBusID": PCI, "ipam": {"type": "fake-ipam"}}));
    fixture.add(&conf);
    let del = fixture.call("DEL", &conf).env("CNI_NETNS", "");
    fixture.node.run(&del).ok();
    assert!(fixture.ipam.reserved().is_empty());
    assert!(fixture.records().is_empty());
}
