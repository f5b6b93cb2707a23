//! What a network without addresses, its pods and its runtime can ask for: families, single
//! addresses, routes; and what is refused, by its key.

use std::fs;

use harness::vpc::{Vpc, VpcNode, assert_refused, ip};
use harness::{Call, Pod};
use serde_json::{Value, json};

use super::ipam::{
    ASSIGN, add, addresses, call, call_with, calls, del, intents, ipv4, sharing, whole,
};
use super::prefixes::{kept, one};

#[test]
fn a_network_of_one_family_gets_no_address_of_the_other() {
    let vpc = Vpc::new();
    let node = vpc.node();
    for (family, prefix) in [("ipv4", "10.0.4."), ("ipv6", "2001:db8:4::")] {
        let pod = sharing(&node, family);
        let ipam = json!({ "families": [family] });
        let result = node.run(&call(&node, "ADD", &pod, &ipam)).ok();
        let [address] = &addresses(&result)[..] else {
            panic!("{result}");
        };
        assert!(address.starts_with(prefix), "{result}");
    }
}

#[test]
fn a_family_that_the_subnet_has_not_is_left_out_or_refused_where_it_is_named() {
    let vpc = Vpc::new();
    let subnet = vpc.lab.create_subnet(&vpc.id, "10.0.5.0/24", None);
    let node = vpc.node_in(&subnet);
    let pod = sharing(&node, "c1");
    let ipam = json!({ "families": ["ipv4", "ipv6"] });
    let said = [node.eni.to_string(), subnet.to_string(), "IPv6".to_owned()];
    let said = said.each_ref().map(String::as_str);
    assert_refused(&node, &call(&node, "ADD", &pod, &ipam), 7, &said);
    let result = node.run(&call(&node, "ADD", &pod, &json!({}))).ok();
    assert!(addresses(&result)[0].starts_with("10.0.5."), "{result}");
    assert_eq!(addresses(&result).len(), 1);
}

#[test]
fn routes_and_the_gateway_are_as_the_network_says() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = sharing(&node, "c1");
    let routes = json!([{ "dst": "10.96.0.0/12" }, { "dst": "10.0.0.0/8", "gw": "10.0.4.9" }]);
    let ipam = json!({ "families": ["ipv4"], "gateway": false, "routes": routes });
    let result = node.run(&call(&node, "ADD", &pod, &ipam)).ok();
    assert_eq!(result["ips"][0].get("gateway"), None);
    assert_eq!(result["routes"], routes);
}

/// The ways in which an address is asked for.
fn requests(node: &VpcNode, pod: &Pod, address: &str) -> [Call; 4] {
    let keys = json!({ "runtimeConfig": { "ips": [format!("{address}/24")] } });
    let args = json!({ "args": { "cni": { "ips": [address] } } });
    let named = json!({ "families": ["ipv4"], "addresses": [address] });
    let cni_args = format!("IgnoreUnknown=1;IP={address}");
    [
        call(node, "ADD", pod, &named),
        call_with(node, "ADD", pod, &ipv4(), &keys),
        call_with(node, "ADD", pod, &ipv4(), &args),
        call(node, "ADD", pod, &ipv4()).env("CNI_ARGS", &cni_args),
    ]
}

#[test]
fn an_address_that_is_asked_for_is_given_however_it_is_asked_for() {
    let vpc = Vpc::new();
    let node = vpc.node();
    for way in 0..4 {
        let pod = sharing(&node, &format!("c{way}"));
        let address = format!("10.0.4.{}", 70 + way);
        let result = node.run(&requests(&node, &pod, &address)[way]).ok();
        assert_eq!(addresses(&result), [address.as_str()]);
        assert_eq!(result["ips"][0]["address"], format!("{address}/24"));
        assert_eq!(node.ledger()[&address], "held");
        let other = sharing(&node, &format!("d{way}"));
        let refused = node.run(&requests(&node, &other, &address)[way]);
        let error = refused.error_code(11);
        assert!(error.msg.contains(&address), "{error:?}");
    }
}

#[test]
fn of_a_family_that_is_not_asked_for_by_name_ec2_chooses() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = sharing(&node, "c1");
    let ipam = json!({ "addresses": ["10.0.4.70"] });
    let result = node.run(&call(&node, "ADD", &pod, &ipam)).ok();
    let found = addresses(&result);
    assert_eq!((found.len(), found[0].as_str()), (2, "10.0.4.70"));
    assert!(found[1].starts_with("2001:db8:4::"), "{result}");
    assert_eq!(calls(&node, ASSIGN), 1);
    // The next pod does not get it when it is free: it is somebody's.
    del(&node, &pod);
    node.end_cooldown("10.0.4.70");
    let next = node.run(&call(&node, "ADD", &sharing(&node, "c2"), &ipv4()));
    assert_ne!(addresses(&next.ok()), ["10.0.4.70"]);
}

#[test]
fn an_address_of_a_dead_node_comes_to_the_next_one() {
    let vpc = Vpc::new();
    let (dead, node) = (vpc.node(), vpc.node());
    let ipam = json!({ "families": ["ipv4"], "addresses": ["10.0.4.70"] });
    dead.run(&call(&dead, "ADD", &sharing(&dead, "c1"), &ipam))
        .ok();
    let pod = sharing(&node, "c1");
    let never = json!({ "families": ["ipv4"], "addresses": ["10.0.4.70"], "takeover": "never" });
    node.run(&call(&node, "ADD", &pod, &ipam)).error_code(11);
    node.lab
        .rules(|rules| rules.shutting_down = std::time::Duration::from_secs(3600));
    node.lab.terminate_instance(&dead.instance);
    node.run(&call(&node, "ADD", &pod, &never)).error_code(11);
    node.run(&call(&node, "ADD", &pod, &ipam)).ok();
    assert_eq!(vpc.owner("10.0.4.70"), Some(node.eni.clone()));
}

#[test]
fn an_address_that_no_pod_can_have_is_refused() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = sharing(&node, "c1");
    let primary = node.lab.primary(&node.eni).to_string();
    for (address, said) in [
        ("10.9.0.1", "is not in the subnet"),
        ("10.0.4.1", "is reserved by AWS"),
        (primary.as_str(), "itself"),
    ] {
        let ipam = json!({ "families": ["ipv4"], "addresses": [address] });
        assert_refused(&node, &call(&node, "ADD", &pod, &ipam), 7, &[address, said]);
    }
    let ipam = json!({ "families": ["ipv6"], "addresses": ["10.0.4.70"] });
    let said = ["10.0.4.70", "families"];
    assert_refused(&node, &call(&node, "ADD", &pod, &ipam), 7, &said);
    assert!(node.ledger().is_empty() && intents(&node).is_empty());
}

#[test]
fn a_wrong_value_is_named_with_its_key_and_touches_nothing() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = sharing(&node, "c1");
    let wrong: [(&str, Value); 14] = [
        ("families", json!([])),
        ("families", json!(["ipv5"])),
        ("families", json!(["ipv4", "ipv4"])),
        ("families", json!("ipv4")),
        ("addresses", json!("10.0.4.70")),
        ("addresses", json!(["10.0.4.700"])),
        ("takeover", json!("sometimes")),
        ("routes", json!([{ "dst": "nowhere" }])),
        ("routes", json!({})),
        ("gateway", json!("10.0.4.1")),
        ("cooldownSeconds", json!(-1)),
        ("cooldownSeconds", json!(86401)),
        ("subnet", json!("10.0.4.0/24")),
        ("ranges", json!([])),
    ];
    for (key, value) in wrong {
        for command in ["ADD", "CHECK", "STATUS"] {
            let ipam = json!({ key: value });
            assert_refused(&node, &call(&node, command, &pod, &ipam), 7, &[key]);
        }
        // Whatever is wrong, DEL releases.
        let ipam = json!({ key: value });
        node.run(&call(&node, "DEL", &pod, &ipam)).ok();
    }
    assert!(node.ledger().is_empty());
}

#[test]
fn a_whole_eni_brings_its_own_addresses_and_keeps_them() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.lab
        .assign(&node.eni, &["10.0.4.30", "2001:db8:4::30"].map(ip));
    let primary = node.lab.primary(&node.eni).to_string();
    let pod = whole(&node, "c1");
    let result = node.run(&call(&node, "ADD", &pod, &json!({}))).ok();
    let own = [primary.as_str(), "10.0.4.30", "2001:db8:4::30"];
    assert_eq!(addresses(&result), own);
    let mut checked = result.clone();
    checked["interfaces"] =
        json!([{ "name": "net1", "mac": node.mac, "sandbox": pod.netns.path() }]);
    let keys = json!({ "prevResult": checked });
    node.run(&call_with(&node, "CHECK", &pod, &json!({}), &keys))
        .ok();
    del(&node, &pod);
    node.command(&["sync", "--once"]);
    assert_eq!(node.ledger()["10.0.4.30"], "adopted");
    node.gc(&[]);
    assert_eq!(node.addresses(), ["10.0.4.30", "2001:db8:4::30"]);
    node.lab.unassign(&node.eni, &[ip("10.0.4.30")]);
    node.run(&call_with(&node, "CHECK", &pod, &json!({}), &keys))
        .error_code(999);
}

#[test]
fn a_whole_eni_without_an_address_of_a_named_family_is_refused() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = whole(&node, "c1");
    let ipam = json!({ "families": ["ipv6"] });
    let said = [node.eni.to_string(), "IPv6".to_owned()];
    let said = said.each_ref().map(String::as_str);
    assert_refused(&node, &call(&node, "ADD", &pod, &ipam), 7, &said);
}

#[test]
fn a_device_without_an_interface_is_known_by_the_record_of_host_device() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    let keys = json!({ "type": "host-device", "device": "ens6" });
    let conf = json!({
        "cniVersion": "1.1.0", "name": "mgmt", "type": "host-device", "device": "ens6",
    });
    let attach = Call::ours("host-device", "ADD")
        .conf(&conf)
        .pod(&pod, "net1");
    node.run(&attach).ok();
    // As a driver for user space takes it from the kernel.
    pod.netns.ip(&["link", "del", "net1"]);
    let result = node.run(&call_with(&node, "ADD", &pod, &json!({}), &keys));
    let primary = node.lab.primary(&node.eni).to_string();
    assert_eq!(addresses(&result.ok()), [primary]);
}

/// `detach` has written down that the ENI leaves, and looks then who has an address of it.
#[test]
fn an_eni_that_is_being_detached_gives_no_address_also_where_no_call_is_needed() {
    let vpc = Vpc::new();
    let node = vpc.node();
    drop(kept(&node, &one(), 1));
    let name = format!("eni-cni/enis/leaving-{}.json", node.mac);
    let record = node.node.state().join(name);
    fs::create_dir_all(record.parent().unwrap()).unwrap();
    fs::write(&record, "{}").unwrap();
    let pod = sharing(&node, "c1");
    node.lab.reset_calls();
    let said = "being detached from this node";
    assert_refused(&node, &call(&node, "ADD", &pod, &ipv4()), 11, &[said]);
    assert!(!node.ledger().values().any(|state| state == "held"));
    fs::remove_file(record).unwrap();
    add(&node, &pod);
}
