//! host-device binding real PCI devices to a driver for user space and giving them
//! back: whole, after a crash anywhere, and not at all where the node needs them.

mod killed;

use std::fs::{self, OpenOptions};
use std::path::PathBuf;

use fixtures::with;
use harness::pci::driver_override;
use harness::{Call, Namespace, Network, Pod, wait_until};
use serde_json::{Value, json};

use crate::machine::{
    Machine, NIC, NIC_MAC, NIC_NAME, OTHER_NIC, VIRTIO, bind, conf, driver, netdev, pci_device,
};

const DRIVERS: [&str; 2] = ["vfio-pci", "uio_pci_generic"];
/// A function of the machine that is not a network device.
const SERIAL: &str = "0000:00:03.0";

/// The network of the NIC with a driver for user space.
fn bound(driver: &str) -> Value {
    with(&conf(), &json!({"driver": driver}))
}

/// Makes sure that nothing of the attachment, nor of the binding, is left.
#[track_caller]
fn is_unbound(machine: &Machine) {
    assert_eq!(driver(NIC), "e1000e");
    assert_eq!(driver_override(NIC), "(null)");
    machine.is_clean();
}

/// Runs ADD, which must be refused and change nothing.
#[track_caller]
fn is_refused(machine: &Machine, conf: &Value, code: u64) -> String {
    let error = machine
        .node
        .run(&machine.call("ADD", conf))
        .error_code(code);
    let status = machine.node.run(&machine.call("STATUS", conf)).error();
    assert_eq!(status.msg, error.msg);
    assert!(machine.node.files().is_empty() && machine.ipam.reserved().is_empty());
    assert_eq!(
        (driver(NIC).as_str(), driver_override(NIC).as_str()),
        ("e1000e", "(null)")
    );
    error.msg
}

#[test]
fn the_nic_is_bound_for_user_space_and_comes_back_with_its_name_and_mtu() {
    for name in DRIVERS {
        let machine = Machine::new();
        let result = machine.add(&bound(name));
        let interface = json!({"name": "net1", "pciID": NIC, "sandbox": machine.pod().path()});
        assert_eq!(result["interfaces"], json!([interface]), "{name}");
        assert_eq!(result["ips"][0]["address"], "10.9.0.5/24");
        assert_eq!((driver(NIC).as_str(), netdev(NIC)), (name, None));
        assert_eq!(machine.pod().links(), ["lo"]);

        let attached = with(&bound(name), &json!({"prevResult": result}));
        machine.node.run(&machine.call("CHECK", &attached)).ok();
        machine.del(&attached);
        is_unbound(&machine);
        machine.del(&attached);
        is_unbound(&machine);
    }
}

#[test]
fn a_published_network_with_a_driver_needs_no_delegate() {
    let machine = Machine::new();
    let network = Network::from_nad(
        r#"
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata:
  name: dpdk
spec:
  config: |
    {
      "cniVersion": "1.0.0",
      "type": "host-device",
      "pciBusID": "0000:00:06.0",
      "driver": "vfio-pci"
    }
"#,
    );
    let pod = Pod::new("c1");
    let result = network.attach(&machine.node, &pod, "net1");
    assert_eq!(result["interfaces"][0]["pciID"], NIC);
    assert_eq!(driver(NIC), "vfio-pci");
    let checked = network.check(&machine.node, &pod, "net1", &result);
    assert!(checked.is_ok(), "{checked:?}");
    network.detach(&machine.node, &pod, "net1", &result);
    is_unbound(&machine);
}

#[test]
fn the_nic_to_bind_is_found_by_every_key_bound_already_or_not() {
    let path = "/sys/devices/pci0000:00/0000:00:06.0";
    for keys in [
        json!({"device": "eni-6"}),
        json!({"hwaddr": NIC_MAC}),
        json!({"kernelpath": path}),
        json!({"pciBusID": OTHER_NIC, "runtimeConfig": {"deviceID": NIC}}),
    ] {
        let machine = Machine::new();
        let keys = with(&json!({"pciBusID": null}), &keys);
        let conf = with(&bound("vfio-pci"), &keys);
        let result = machine.add(&conf);
        assert_eq!(result["interfaces"][0]["pciID"], NIC, "{keys}");
        assert_eq!(driver(NIC), "vfio-pci");
        machine.del(&conf);
        is_unbound(&machine);
    }
    let machine = Machine::new();
    bind(NIC, "vfio-pci");
    let keys = json!({"pciBusID": null, "kernelpath": path});
    let conf = with(&bound("vfio-pci"), &keys);
    assert_eq!(machine.add(&conf)["interfaces"][0]["pciID"], NIC);
    machine.del(&conf);
}

#[test]
fn a_virtio_nic_is_bound_and_returns() {
    let machine = Machine::new();
    machine.host(&["link", "set", "enp0s8", "mtu", "1300"]);
    let keys = json!({"pciBusID": null, "device": "enp0s8"});
    let conf = with(&bound("uio_pci_generic"), &keys);
    assert_eq!(machine.add(&conf)["interfaces"][0]["pciID"], VIRTIO);
    assert_eq!(driver(VIRTIO), "uio_pci_generic");
    machine.del(&conf);
    assert_eq!(netdev(VIRTIO).as_deref(), Some("enp0s8"));
    let link = machine.node.netns.link("enp0s8").expect("it is back");
    assert_eq!(link["mtu"], 1300);
    assert_eq!(driver(VIRTIO), "virtio-pci");
    machine.is_clean();
}

#[test]
fn the_device_that_carries_a_default_route_is_refused() {
    let machine = Machine::new();
    machine.host(&["address", "add", "10.77.0.2/24", "dev", NIC_NAME]);
    let v6 = [
        "-6", "route", "add", "default", "dev", NIC_NAME, "table", "77",
    ];
    for route in [
        &["route", "add", "default", "via", "10.77.0.1"][..],
        &["route", "add", "default", "via", "10.77.0.1", "table", "77"],
        &v6,
    ] {
        machine.host(route);
        let msg = is_refused(&machine, &bound("vfio-pci"), 7);
        let reason = "\"enp0s6\" carries a default route of this node";
        assert_eq!(msg, format!("cannot use driver \"vfio-pci\": {reason}"));
        let family = if route.contains(&"-6") { "-6" } else { "-4" };
        machine.host(&[family, "route", "flush", "default", "table", "all"]);
    }
    machine.host(&["address", "flush", "dev", NIC_NAME]);
    machine.has_nic_back();
}

#[test]
fn a_device_that_others_are_built_on_is_refused() {
    let machine = Machine::new();
    for (kind, more) in [
        ("vlan", &["id", "7"][..]),
        ("ipvlan", &[]),
        ("macvlan", &[]),
    ] {
        let above = [
            "link", "add", "link", NIC_NAME, "name", "above", "type", kind,
        ];
        machine.host(&[&above[..], more].concat());
        let msg = is_refused(&machine, &bound("vfio-pci"), 7);
        assert!(
            msg.ends_with("interface \"above\" is built on \"enp0s6\""),
            "{msg}"
        );
        machine.host(&["link", "delete", "above"]);
    }
    machine.host(&["link", "add", "br0", "type", "bridge"]);
    machine.host(&["link", "set", NIC_NAME, "master", "br0"]);
    let msg = is_refused(&machine, &bound("vfio-pci"), 7);
    assert!(
        msg.ends_with("interface \"br0\" is built on \"enp0s6\""),
        "{msg}"
    );
    machine.host(&["link", "delete", "br0"]);
}

#[test]
fn a_device_under_the_ipvlan_interface_of_a_pod_is_refused() {
    let machine = Machine::new();
    let ipvlan = |command: &str| {
        let conf = json!({
            "cniVersion": "1.1.0", "name": "ipv", "type": "ipvlan", "master": NIC_NAME,
        });
        let call = Call::ours("ipvlan", command).conf(&conf);
        machine
            .node
            .run(&call.attachment("c9", "net1", &machine.pod().path()))
    };
    let result = ipvlan("ADD").ok();
    assert_eq!(result["interfaces"][0]["pciID"], NIC);
    let call = machine
        .call("ADD", &bound("vfio-pci"))
        .env("CNI_IFNAME", "net2");
    let error = machine.node.run(&call).error_code(7);
    let reason = "container c9 has an ipvlan interface on \"enp0s6\"";
    assert_eq!(
        error.msg,
        format!("cannot use driver \"vfio-pci\": {reason}")
    );
    ipvlan("DEL").ok();
    machine.add(&bound("vfio-pci"));
    machine.del(&bound("vfio-pci"));
    is_unbound(&machine);
}

#[test]
fn the_result_of_ipvlan_on_a_virtio_nic_has_the_pci_address_of_its_function() {
    let machine = Machine::new();
    machine.host(&["link", "set", "enp0s8", "up"]);
    let conf = json!({
        "cniVersion": "1.1.0", "name": "ipv", "type": "ipvlan", "master": "enp0s8",
    });
    let call = |command: &str| {
        let call = Call::ours("ipvlan", command).conf(&conf);
        machine
            .node
            .run(&call.attachment("c9", "net1", &machine.pod().path()))
    };
    assert_eq!(call("ADD").ok()["interfaces"][0]["pciID"], VIRTIO);
    call("DEL").ok();
}

#[test]
fn a_device_that_is_not_a_network_device_is_refused() {
    let machine = Machine::new();
    let kernelpath = format!("/sys/devices/pci0000:00/{SERIAL}");
    for keys in [
        json!({"pciBusID": SERIAL}),
        json!({"pciBusID": null, "kernelpath": kernelpath}),
        json!({"runtimeConfig": {"deviceID": SERIAL}}),
    ] {
        let before = driver(SERIAL);
        let msg = is_refused(&machine, &with(&bound("vfio-pci"), &keys), 7);
        let reason = "0000:00:03.0 is not a network device";
        assert_eq!(msg, format!("cannot use driver \"vfio-pci\": {reason}"));
        assert_eq!(driver(SERIAL), before);
    }
}

#[test]
fn a_device_that_is_not_on_the_pci_bus_is_refused() {
    let machine = Machine::new();
    machine.host(&["link", "add", "dummy7", "type", "dummy"]);
    let keys = json!({"pciBusID": null, "device": "dummy7"});
    let msg = is_refused(&machine, &with(&bound("vfio-pci"), &keys), 7);
    machine.host(&["link", "delete", "dummy7"]);
    assert_eq!(
        msg,
        "cannot use driver \"vfio-pci\": \"dummy7\" is not a PCI device"
    );
}

#[test]
fn a_driver_that_is_not_loaded_is_named() {
    let machine = Machine::new();
    let msg = is_refused(&machine, &bound("igb_uio"), 999);
    assert_eq!(msg, "driver \"igb_uio\" is not loaded");
    is_unbound(&machine);
}

#[test]
fn a_device_that_was_bound_by_hand_stays_bound() {
    let machine = Machine::new();
    bind(NIC, "vfio-pci");
    machine.add(&bound("vfio-pci"));
    machine.del(&bound("vfio-pci"));
    assert_eq!(
        (driver(NIC).as_str(), driver_override(NIC).as_str()),
        ("vfio-pci", "vfio-pci")
    );
    assert!(machine.node.files().is_empty() && machine.ipam.reserved().is_empty());

    let call = machine.call("ADD", &bound("uio_pci_generic"));
    let error = machine.node.run(&call).error_code(7);
    let reason = "0000:00:06.0 is bound to \"vfio-pci\"";
    assert_eq!(
        error.msg,
        format!("cannot use driver \"uio_pci_generic\": {reason}")
    );
    assert_eq!(driver(NIC), "vfio-pci");
}

#[test]
fn a_device_that_a_container_has_is_not_given_to_another() {
    let machine = Machine::new();
    machine.add(&bound("vfio-pci"));
    let pod = Namespace::new();
    for conf in [bound("vfio-pci"), conf()] {
        let call = machine
            .call("ADD", &conf)
            .attachment("c2", "net1", &pod.path());
        let error = machine.node.run(&call).error_code(999);
        assert_eq!(error.msg, "device 0000:00:06.0 is attached already");
        assert_eq!(error.details, "container c1 has it as \"net1\"");
        machine
            .node
            .run(&machine.call("STATUS", &conf))
            .error_code(50);
    }
    machine
        .node
        .run(&machine.call("ADD", &bound("vfio-pci")))
        .error_code(999);
    assert_eq!(driver(NIC), "vfio-pci");
    machine.del(&bound("vfio-pci"));
    is_unbound(&machine);
}

#[test]
fn check_notices_that_the_device_has_another_driver() {
    let machine = Machine::new();
    let result = machine.add(&bound("vfio-pci"));
    let attached = with(&bound("vfio-pci"), &json!({"prevResult": result}));
    bind(NIC, "uio_pci_generic");
    let error = machine
        .node
        .run(&machine.call("CHECK", &attached))
        .error_code(999);
    let expected = "device 0000:00:06.0 is bound to \"uio_pci_generic\" instead of \"vfio-pci\"";
    assert_eq!(error.msg, expected);
    // Whoever did that has the device now.
    machine.del(&attached);
    assert_eq!(driver(NIC), "uio_pci_generic");
    assert!(machine.node.files().is_empty() && machine.ipam.reserved().is_empty());
}

#[test]
fn a_failed_add_gives_the_device_back() {
    let machine = Machine::new();
    machine
        .ipam
        .fail("ADD", r#"{"code": 11, "msg": "no addresses"}"#);
    let call = machine.call("ADD", &bound("vfio-pci"));
    assert_eq!(machine.node.run(&call).error_code(11).msg, "no addresses");
    is_unbound(&machine);
}

#[test]
fn a_failed_add_gives_the_device_back_with_its_addresses_and_routes() {
    let machine = Machine::new();
    machine.host(&["address", "add", "10.55.0.5/24", "dev", NIC_NAME]);
    machine.host(&["route", "add", "10.56.0.0/16", "via", "10.55.0.1"]);
    let now = || {
        let routes = machine.host(&["route", "show", "dev", NIC_NAME]);
        // Whether there is a carrier yet is no matter of the route.
        let routes = routes.replace(" linkdown", "");
        (machine.node.netns.addresses(NIC_NAME), routes)
    };
    let before = now();
    assert_eq!(
        (before.0.len(), before.1.lines().count()),
        (1, 2),
        "{before:?}"
    );
    machine
        .ipam
        .fail("ADD", r#"{"code": 11, "msg": "no addresses"}"#);
    let call = machine.call("ADD", &bound("vfio-pci"));
    machine.node.run(&call).error_code(11);
    assert_eq!(now(), before);
    machine.del(&bound("vfio-pci"));
    machine.has_nic_back();
}

#[test]
fn del_does_not_hang_while_a_process_uses_the_device() {
    let machine = Machine::new();
    machine.add(&bound("vfio-pci"));
    let group = fs::canonicalize(pci_device(NIC).join("iommu_group")).expect("there is an IOMMU");
    let number = group.file_name().expect("a group has a number");
    let path = PathBuf::from("/dev/vfio").join(number);
    let user = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .expect("it is unused");
    let error = machine
        .node
        .run(&machine.call("DEL", &bound("vfio-pci")))
        .error_code(11);
    assert_eq!(error.msg, "device 0000:00:06.0 is still in use");
    assert_eq!(machine.ipam.reserved(), ["c1.net1"]);
    drop(user);
    machine.del(&bound("vfio-pci"));
    is_unbound(&machine);
}

/// Ends the pod, after which only the record knows of the attachment.
fn end_pod(machine: &mut Machine) {
    let path = machine.pod().path();
    machine.pod = None;
    wait_until("the pod has ended", || !fs::exists(&path).unwrap_or(true));
}

#[test]
fn gc_gives_the_device_of_a_pod_that_has_ended_back() {
    let mut machine = Machine::new();
    machine.add(&bound("vfio-pci"));
    end_pod(&mut machine);
    let keys = json!({"cni.dev/valid-attachments": []});
    let call = machine.call("GC", &with(&bound("vfio-pci"), &keys));
    machine.node.run(&call).ok();
    is_unbound(&machine);
}

#[test]
fn the_next_add_restores_the_device_of_an_ended_pod_and_binds_it_again() {
    let mut machine = Machine::new();
    machine.add(&bound("uio_pci_generic"));
    end_pod(&mut machine);
    machine.pod = Some(Namespace::new());
    let second = |command: &str| {
        let keys = json!({"pciBusID": null, "device": NIC_NAME});
        let call = machine.call(command, &with(&bound("vfio-pci"), &keys));
        machine.node.run(&call.env("CNI_CONTAINERID", "c2")).ok()
    };
    second("ADD");
    assert_eq!(driver(NIC), "vfio-pci");
    // The late DEL of the first must not take it from the second.
    machine.del(&bound("uio_pci_generic"));
    assert_eq!(driver(NIC), "vfio-pci");
    assert_eq!(machine.ipam.reserved(), ["c2.net1"]);
    second("DEL");
    is_unbound(&machine);
}

#[test]
fn after_a_reboot_the_device_is_what_the_new_boot_has_made_it() {
    let mut machine = Machine::new();
    machine.add(&bound("vfio-pci"));
    machine.node.reboot();
    machine.del(&bound("vfio-pci"));
    assert_eq!(driver(NIC), "vfio-pci");
    assert!(machine.node.files().is_empty() && machine.ipam.reserved().is_empty());
}
