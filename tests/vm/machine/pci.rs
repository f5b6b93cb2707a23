//! host-device, and the masters of ipvlan, with real PCI devices, which only the test VM has.

use std::path::PathBuf;

use fixtures::with;
use harness::vpc::{Agent, Vpc, eventually};
use harness::{Call, Namespace, is_up, pci};
use serde_json::json;

use crate::machine::{
    Alone, Machine, NIC, NIC_MAC, NIC_NAME, OTHER_NAME, OTHER_NIC, VIRTIO, alone, bind, conf,
    driver, hostcni_conf, netdev, pci_device, unbind, write,
};
use crate::master_selector;

#[test]
fn the_published_network_attaches_the_nic_and_gives_it_back() {
    let machine = Machine::new();
    let result = machine.add(&hostcni_conf());
    let sandbox = machine.pod().path();
    let interface = json!({"name": "net1", "mac": NIC_MAC, "sandbox": sandbox});
    let expected = json!({"cniVersion": "0.3.1", "interfaces": [interface], "dns": {}});
    assert_eq!(result, expected);
    let net1 = machine.pod().link("net1").expect("the NIC is in the pod");
    assert!(is_up(&net1));
    assert_eq!(net1["parentdev"], NIC);
    assert_eq!(netdev(NIC), None);

    machine.del(&hostcni_conf());
    machine.is_clean();
}

#[test]
fn the_newest_version_reports_the_mtu_and_the_pci_address() {
    let machine = Machine::new();
    let result = machine.add(&conf());
    let interface = json!({
        "mac": NIC_MAC, "mtu": 1400, "name": "net1", "pciID": NIC,
        "sandbox": machine.pod().path(),
    });
    assert_eq!(result["interfaces"], json!([interface]));
    let attached = with(&conf(), &json!({"prevResult": result}));
    machine.node.run(&machine.call("CHECK", &attached)).ok();
    machine.del(&attached);
    machine.is_clean();
}

#[test]
fn the_nic_is_found_by_every_other_key() {
    for keys in [
        json!({"device": "eni-6"}),
        json!({"hwaddr": NIC_MAC}),
        json!({"kernelpath": "/sys/devices/pci0000:00/0000:00:06.0"}),
        json!({"pciBusID": OTHER_NIC, "runtimeConfig": {"deviceID": NIC}}),
    ] {
        let machine = Machine::new();
        let keys = with(&json!({"pciBusID": null}), &keys);
        let result = machine.add(&with(&conf(), &keys));
        let interface = &result["interfaces"][0];
        assert_eq!(
            (&interface["mac"], &interface["pciID"]),
            (&json!(NIC_MAC), &json!(NIC))
        );
        machine.del(&conf());
        machine.is_clean();
    }
}

#[test]
fn a_hardware_address_means_the_nic_and_not_the_interfaces_above_it() {
    let machine = Machine::new();
    let above = ["link", "add", "link", NIC_NAME, "name"];
    machine.host(&[&above[..], &["above-vlan", "type", "vlan", "id", "7"]].concat());
    machine.host(&[&above[..], &["above-ipvlan", "type", "ipvlan"]].concat());
    let keys = json!({"pciBusID": null, "hwaddr": NIC_MAC, "allowInUse": true});
    let conf = with(&conf(), &keys);
    let status = machine.node.run(&machine.call("STATUS", &conf));
    let result = machine.node.run(&machine.call("ADD", &conf));
    for name in ["above-vlan", "above-ipvlan"] {
        machine.node.netns.try_tool("ip", &["link", "delete", name]);
    }
    status.ok();
    assert_eq!(result.ok()["interfaces"][0]["pciID"], NIC);
    machine.del(&conf);
    machine.is_clean();
}

#[test]
fn a_virtio_nic_is_found_and_reported_by_its_pci_address() {
    let machine = Machine::new();
    for keys in [
        json!({"pciBusID": VIRTIO}),
        json!({"pciBusID": null, "device": "enp0s8"}),
    ] {
        let conf = with(&conf(), &keys);
        let result = machine.add(&conf);
        assert_eq!(result["interfaces"][0]["pciID"], VIRTIO);
        assert!(machine.pod().link("net1").is_some());
        machine.del(&conf);
        assert_eq!(netdev(VIRTIO).as_deref(), Some("enp0s8"));
    }
    machine.is_clean();
}

#[test]
fn a_nic_that_is_bound_for_user_space_stays_where_it_is() {
    for name in ["vfio-pci", "uio_pci_generic"] {
        let machine = Machine::new();
        bind(NIC, name);
        let result = machine.add(&conf());
        let interface = json!({"name": "net1", "pciID": NIC, "sandbox": machine.pod().path()});
        assert_eq!(result["interfaces"], json!([interface]), "{name}");
        assert_eq!(result["ips"][0]["address"], "10.9.0.5/24");
        assert_eq!(machine.pod().links(), ["lo"]);
        assert_eq!(driver(NIC), name);

        // D16: the mode is remembered when the driver has gone.
        unbind(NIC);
        let attached = with(&conf(), &json!({"prevResult": result}));
        machine.node.run(&machine.call("CHECK", &attached)).ok();
        machine.del(&conf());
        assert!(machine.ipam.reserved().is_empty() && machine.node.files().is_empty());
        assert!(!pci_device(NIC).join("driver").exists());
    }
}

#[test]
fn a_nic_without_a_driver_is_a_clear_error() {
    let machine = Machine::new();
    unbind(NIC);
    let error = machine
        .node
        .run(&machine.call("ADD", &conf()))
        .error_code(999);
    let expected = "error with host device: lstat /sys/bus/pci/devices/0000:00:06.0/driver";
    assert_eq!(error.msg, expected);
    let error = machine
        .node
        .run(&machine.call("STATUS", &conf()))
        .error_code(50);
    assert_eq!(error.msg, expected);
    write(PathBuf::from("/sys/bus/pci/drivers_probe"), NIC);
}

// D16
#[test]
fn a_driver_that_was_unbound_meanwhile_does_not_keep_the_address() {
    let machine = Machine::new();
    machine.add(&conf());
    unbind(NIC);
    machine.del(&conf());
    assert!(machine.ipam.reserved().is_empty() && machine.node.files().is_empty());
    write(PathBuf::from("/sys/bus/pci/drivers_probe"), NIC);
}

// D17
#[test]
fn whatever_the_pod_has_done_to_the_nic_del_finds_and_restores_it() {
    let machine = Machine::new();
    machine.add(&conf());
    let pod = machine.pod();
    pod.ip(&["link", "set", "net1", "down"]);
    let address = "02:00:00:00:00:99";
    let changes = [
        "address", address, "mtu", "1280", "alias", "lo", "name", "mine",
    ];
    pod.ip(&[&["link", "set", "net1"], &changes[..]].concat());
    pod.ip(&[
        "link", "property", "add", "dev", "mine", "altname", "hostile",
    ]);
    pod.ip(&["link", "property", "del", "dev", "mine", "altname", "eni-6"]);
    pod.ip(&[
        "link", "add", "net1", "type", "veth", "peer", "name", "other",
    ]);
    machine.del(&conf());
    assert_eq!(pod.links(), ["lo", "net1", "other"]);
    machine.is_clean();
}

#[test]
fn del_finds_the_nic_that_the_kernel_has_put_back_and_names_it() {
    let mut machine = Machine::new();
    machine.add(&conf());
    machine.end_pod();
    assert_eq!(netdev(NIC).as_deref(), Some("net1"));
    machine.del(&conf());
    machine.is_clean();
}

/// What the NIC has of its own, as `ip` prints it.
fn addresses_and_routes(namespace: &Namespace, link: &str) -> (Vec<String>, Vec<String>) {
    let table = |table: &str| namespace.ip(&["route", "show", "dev", link, "table", table]);
    let routes = [table("main"), table("77")];
    let routes = routes.iter().flat_map(|text| text.lines());
    let routes = routes.filter(|line| !line.contains("proto kernel"));
    // The emulated network announces addresses and routes of its own.
    let addresses = namespace.addresses(link).into_iter();
    let addresses = addresses.filter(|address| address.starts_with("10."));
    (
        addresses.collect(),
        // The carrier of an emulated NIC is back some time after the NIC.
        routes
            .map(|r| r.replace("linkdown", "").trim().to_owned())
            .collect(),
    )
}

#[test]
fn kept_addresses_and_routes_are_back_after_the_pod_has_died() {
    for command in ["DEL", "GC", "ADD"] {
        let mut machine = Machine::new();
        machine.host(&["address", "add", "10.55.0.5/24", "dev", NIC_NAME]);
        let route = ["route", "add", "10.56.0.0/16", "via", "10.55.0.1"];
        machine.host(&route);
        machine.host(&[&route[..], &["table", "77"]].concat());
        let before = addresses_and_routes(&machine.node.netns, NIC_NAME);
        assert_eq!((before.0.len(), before.1.len()), (1, 2), "{before:?}");

        let keys = json!({"keepAddresses": true, "allowInUse": true});
        let conf = with(&conf(), &keys);
        machine.add(&conf);
        assert_eq!(addresses_and_routes(machine.pod(), "net1").1, before.1);
        machine.end_pod();
        match command {
            "ADD" => {
                machine.pod = Some(Namespace::new());
                let other = with(&conf, &json!({"pciBusID": null, "device": "none"}));
                let call = machine.call("ADD", &other).env("CNI_CONTAINERID", "c2");
                machine.node.run(&call).error_code(999);
            }
            _ => {
                let keys = json!({"cni.dev/valid-attachments": []});
                machine
                    .node
                    .run(&machine.call(command, &with(&conf, &keys)))
                    .ok();
            }
        }
        assert_eq!(
            addresses_and_routes(&machine.node.netns, NIC_NAME),
            before,
            "{command}"
        );
        machine.del(&conf);
        machine.is_clean();
        machine.host(&["address", "flush", "dev", NIC_NAME]);
    }
}

#[test]
fn del_finds_the_nic_under_the_number_that_the_kernel_gave_it() {
    let mut machine = Machine::new();
    machine.add(&conf());
    machine.host(&["link", "add", "net1", "type", "dummy"]);
    machine.end_pod();
    let name = netdev(NIC).unwrap_or_default();
    assert!(name.starts_with("dev"), "the NIC is called {name:?}");
    machine.del(&conf());
    machine.host(&["link", "delete", "net1"]);
    machine.is_clean();
}

#[test]
fn gc_finds_the_nic_that_the_kernel_has_put_back() {
    let mut machine = Machine::new();
    machine.add(&conf());
    machine.end_pod();
    let keys = json!({"cni.dev/valid-attachments": []});
    machine
        .node
        .run(&machine.call("GC", &with(&conf(), &keys)))
        .ok();
    machine.is_clean();
}

#[test]
fn add_finds_the_nic_by_the_name_that_it_had_and_the_old_del_leaves_it_alone() {
    let mut machine = Machine::new();
    machine.add(&conf());
    machine.end_pod();
    machine.pod = Some(Namespace::new());
    let by_name = with(&conf(), &json!({"pciBusID": null, "device": NIC_NAME}));
    let second = |command: &str| {
        let call = machine.call(command, &by_name);
        call.env("CNI_CONTAINERID", "c2")
    };
    machine.node.run(&second("ADD")).ok();
    assert_eq!(machine.ipam.reserved(), ["c1.net1", "c2.net1"]);

    let old = machine.call("DEL", &conf()).env("CNI_NETNS", "");
    machine.node.run(&old).ok();
    assert!(machine.pod().link("net1").is_some());
    assert_eq!(machine.ipam.reserved(), ["c2.net1"]);
    machine.node.run(&second("DEL")).ok();
    machine.is_clean();
}

#[test]
fn a_failing_add_of_another_device_restores_the_name_of_a_returned_nic_too() {
    let mut machine = Machine::new();
    machine.add(&conf());
    machine.end_pod();
    machine.pod = Some(Namespace::new());
    let other = with(&conf(), &json!({"pciBusID": null, "device": "none"}));
    let call = machine.call("ADD", &other).env("CNI_CONTAINERID", "c2");
    machine.node.run(&call).error_code(999);
    machine.has_nic_back();
    assert_eq!(machine.ipam.reserved(), ["c1.net1"]);

    // It is the administrator's again, who may call it something else.
    machine.host(&["link", "set", NIC_NAME, "down"]);
    machine.host(&["link", "set", NIC_NAME, "name", "mine"]);
    machine.del(&conf());
    assert_eq!(netdev(NIC).as_deref(), Some("mine"));
    assert!(machine.ipam.reserved().is_empty() && machine.node.files().is_empty());
}

#[test]
fn a_returned_nic_gets_its_name_even_if_udev_has_made_that_an_alternative_one() {
    let mut machine = Machine::new();
    machine.add(&conf());
    machine.end_pod();
    machine.host(&[
        "link", "property", "add", "dev", "net1", "altname", NIC_NAME,
    ]);
    machine.host(&["link", "set", "net1", "up"]);
    machine.del(&conf());
    machine.is_clean();
}

#[test]
fn a_returned_nic_whose_name_is_taken_keeps_its_address_until_it_is_free() {
    let mut machine = Machine::new();
    machine.add(&conf());
    machine.host(&["link", "add", NIC_NAME, "type", "dummy"]);
    let error = machine
        .node
        .run(&machine.call("DEL", &conf()))
        .error_code(999);
    let expected = "cannot give \"net1\" its name \"enp0s6\" on the host back";
    assert_eq!(error.msg, expected);
    machine.end_pod();
    let error = machine
        .node
        .run(&machine.call("DEL", &conf()))
        .error_code(999);
    assert_eq!(error.msg, expected);
    assert_eq!(machine.ipam.reserved(), ["c1.net1"]);

    machine.host(&["link", "delete", NIC_NAME]);
    machine.del(&conf());
    machine.is_clean();
}

#[test]
fn a_nic_that_could_not_get_its_name_back_gets_it_from_the_next_attachment() {
    let mut machine = Machine::new();
    machine.add(&conf());
    machine.host(&["link", "add", NIC_NAME, "type", "dummy"]);
    machine.end_pod();
    machine.pod = Some(Namespace::new());
    let second = |command: &str| {
        let call = machine.call(command, &conf());
        call.env("CNI_CONTAINERID", "c2")
    };
    machine.node.run(&second("ADD")).ok();
    machine.del(&conf());
    machine.host(&["link", "delete", NIC_NAME]);
    assert!(machine.pod().link("net1").is_some());
    assert_eq!(machine.ipam.reserved(), ["c2.net1"]);
    machine.node.run(&second("DEL")).ok();
    machine.is_clean();
}

#[test]
fn after_a_reboot_a_nic_is_what_the_new_boot_has_made_it() {
    let mut machine = Machine::new();
    machine.add(&conf());
    machine.end_pod();
    machine.node.reboot();
    machine.del(&conf());
    assert_eq!(netdev(NIC).as_deref(), Some("net1"));
    assert!(machine.ipam.reserved().is_empty());
}

#[test]
fn a_failed_add_leaves_the_nic_as_it_was() {
    let machine = Machine::new();
    let ip = json!({"address": "10.9.0.5/24"});
    machine.ipam.answer(&json!({"ips": [ip, ip]}));
    machine
        .node
        .run(&machine.call("ADD", &conf()))
        .error_code(999);
    machine.is_clean();
}

// The published network has no prevResult on DEL, because its version is too old.
#[test]
fn a_nic_that_the_go_plugin_has_attached_is_recognised_by_its_pci_address() {
    let machine = Machine::new();
    let add = Call::go("host-device", "ADD")
        .attachment("c1", "net1", &machine.pod().path())
        .conf(&hostcni_conf());
    machine.node.run(&add).ok();
    assert_eq!(netdev(NIC), None);
    machine.del(&hostcni_conf());
    assert_eq!(netdev(NIC).as_deref(), Some(NIC_NAME));
}

#[test]
fn a_pci_address_leads_to_the_master_of_ipvlan() {
    let machine = Machine::new();
    for (address, name) in [(OTHER_NIC, OTHER_NAME), (VIRTIO, "enp0s8")] {
        machine.host(&["link", "set", name, "up"]);
        let conf = master_selector::conf(&json!({"pciBusID": address}));
        let call = |command| {
            let call = Call::ours("ipvlan", command).conf(&conf);
            call.attachment("c1", "net1", &machine.pod().path())
        };
        machine.node.run(&call("ADD")).ok();
        let master = machine.node.netns.link(name).unwrap();
        let net1 = machine.pod().link("net1").unwrap();
        assert_eq!(net1["link_index"], master["ifindex"]);
        machine.node.run(&call("DEL")).ok();
    }
}

/// As AL2023 leaves an ENI that is attached after the boot: with a name, down, and 1500.
#[test]
fn an_eni_that_is_plugged_in_is_set_up_by_the_agent() {
    let _nics = Nics(alone());
    pci::require_machine();
    let vpc = Vpc::new();
    let node = vpc.node();
    let agent = Agent::start(&node, &json!({}));
    let eni = node.lab.multus_eni(&node.instance, &vpc.pods);
    node.lab.set_mac(&eni, NIC_MAC);
    let (machine, netns) = (Namespace::at("/proc/1/ns/net"), &node.node.netns);
    machine.ip(&["link", "set", NIC_NAME, "netns", &netns.path()]);
    let nic = || netns.link(NIC_NAME).expect("the NIC is on the node");
    assert!(eventually(|| is_up(&nic())));
    assert_eq!(nic()["mtu"], 9001);
    assert!(
        netns
            .tool("ip", &["-4", "-o", "address", "show", "dev", NIC_NAME])
            .is_empty()
    );
    assert!(
        netns
            .tool("ip", &["-4", "route", "show", "dev", NIC_NAME])
            .is_empty()
    );
    netns.ip(&["link", "set", NIC_NAME, "down"]);
    assert!(eventually(|| is_up(&nic())));
    let said = format!("{NIC_NAME} of {eni} was down; it is up, with MTU 9001");
    assert_eq!(agent.log().matches(&said).count(), 2, "{}", agent.log());
}

/// The NICs as they were, when the test and its node have ended.
struct Nics(#[expect(dead_code, reason = "it keeps others away")] Alone);

impl Drop for Nics {
    fn drop(&mut self) {
        pci::reset();
        let machine = Namespace::at("/proc/1/ns/net");
        machine.ip(&["link", "set", NIC_NAME, "address", NIC_MAC]);
    }
}
