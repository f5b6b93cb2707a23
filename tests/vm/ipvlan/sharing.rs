//! Foreign plugins beside ours, reboots, and the flags of a master that several pods share.

use std::fs;

use harness::{Call, Namespace, Network, Pod};
use serde_json::{Value, json};

use super::{add, call, check, conf, del, node, refused, reservations, script, with};

#[test]
fn go_plugins_serve_as_delegates() {
    let node = node();
    let pod = Pod::new("c1");
    let ipam = json!({"type": "static", "addresses": [{"address": "10.5.5.5/24", "gateway": "10.5.5.1"}], "routes": [{"dst": "0.0.0.0/0"}]});
    let conf_static = with(conf(), json!({"cniVersion": "1.0.0", "ipam": ipam}));
    let result = add(&node, &conf_static, &pod);
    assert_eq!(pod.netns.addresses("net1"), ["10.5.5.5/24"]);
    check(&node, &conf_static, &pod, &result).ok();
    del(&node, &conf_static, &pod);

    let conf = with(conf(), json!({"cniVersion": "1.0.0"}));
    let go_first = |call: Call| call.env("CNI_PATH", "/usr/lib/cni");
    let result = node.run(&go_first(call("ADD", &conf, &pod))).ok();
    let checked = with(conf.clone(), json!({"prevResult": result}));
    node.run(&go_first(call("CHECK", &checked, &pod))).ok();
    assert_eq!(pod.netns.addresses("net1"), ["10.0.4.2/24"]);
    node.run(&go_first(call("DEL", &conf, &pod))).ok();
    assert_eq!(
        (pod.netns.links(), reservations(&node)),
        (vec!["lo".to_owned()], vec![])
    );
}

#[test]
fn go_tuning_runs_behind_our_ipvlan() {
    let (node, pod) = (node(), Pod::new("c1"));
    let network = Network::from_conf(&json!({
        "cniVersion": "1.0.0", "name": "net", "plugins": [
            conf(), {"type": "tuning", "sysctl": {"net.ipv4.conf.net1.arp_filter": "1"}, "mtu": 1400}
        ]
    }));
    let result = network.attach(&node, &pod, "net1");
    assert_eq!(result["interfaces"][0]["name"], "net1");
    assert_eq!(pod.netns.link("net1").unwrap()["mtu"], 1400);
    network
        .check(&node, &pod, "net1", &result)
        .unwrap_or_else(|output| panic!("{output}"));
    network.detach(&node, &pod, "net1", &result);
    assert_eq!(
        (
            pod.netns.links(),
            reservations(&node)
                .iter()
                .filter(|f| !f.starts_with("tuning"))
                .count()
        ),
        (vec!["lo".to_owned()], 0)
    );
}

/// The published network that delegates to somebody else's IPAM plugin and has Go's
/// sbr behind it. The IPAM plugin is a stand-in that answers as whereabouts does.
#[test]
fn the_published_network_with_whereabouts_and_sbr_works() {
    let (node, pod) = (node(), Pod::new("c1"));
    let network = Network::published("whereabouts-sbr.yaml");
    let directory = tempfile::tempdir().unwrap();
    script(
        directory.path(),
        "whereabouts",
        r#"[ $CNI_COMMAND = DEL ] && exit 0
           echo '{"cniVersion":"0.3.1","ips":[{"version":"4","address":"10.0.4.5/24","gateway":"10.0.4.1"}],"dns":{}}'"#,
    );
    let path = format!("{}:/usr/lib/cni", directory.path().display());
    let mut result = Value::Null;
    for plugin in &network.plugins {
        let call = network
            .call(plugin, "ADD", &result)
            .pod(&pod, "net1")
            .env("CNI_PATH", &path);
        result = node.run(&call).ok();
    }
    assert_eq!(pod.netns.addresses("net1"), ["10.0.4.5/24"]);
    assert!(pod.netns.ip(&["rule"]).contains("from 10.0.4.5 lookup 100"));
    for plugin in network.plugins.iter().rev() {
        let call = network
            .call(plugin, "DEL", &result)
            .pod(&pod, "net1")
            .env("CNI_PATH", &path);
        node.run(&call).ok();
    }
    assert_eq!(pod.netns.links(), ["lo"]);
}

#[test]
fn after_a_reboot_the_addresses_are_free_and_late_dels_succeed() {
    let mut node = node();
    let pod = Pod::new("c1");
    let netns = pod.netns.path();
    add(&node, &conf(), &pod);
    let reservation = node.state().join("networks/net/10.0.4.2");
    Namespace::of_thread().tool(
        "touch",
        &["-d", "2001-01-01", reservation.to_str().unwrap()],
    );
    node.reboot();
    drop(pod);
    let call = Call::ours("ipvlan", "DEL")
        .conf(&conf())
        .attachment("c1", "net1", &netns);
    add(
        &node,
        &with(
            conf(),
            json!({"ipam": {"type": "host-local", "subnet": "10.0.4.0/24"}}),
        ),
        &Pod::new("c2"),
    );
    assert!(
        !reservation.exists(),
        "the address of the earlier boot is free"
    );
    node.run(&call.env("CNI_NETNS", "")).ok();
    assert_eq!(
        reservations(&node),
        ["eni-cni/ipvlan/net/c2:net1.json", "networks/net/10.0.4.3"]
    );
}

/// A runtime that is killed between unmounting a namespace and removing its file leaves an
/// empty one.
#[test]
fn a_container_that_cannot_be_seen_keeps_no_other_pod_from_the_master() {
    let (node, hidden, pod) = (node(), Pod::new("c1"), Pod::new("c2"));
    add(&node, &conf(), &hidden);
    let left = tempfile::NamedTempFile::new().unwrap();
    let record = node.state().join("eni-cni/ipvlan/net/c1:net1.json");
    let text = fs::read_to_string(&record).unwrap();
    let path = left.path().to_str().unwrap();
    fs::write(&record, text.replace(&hidden.netns.path(), path)).unwrap();
    add(&node, &conf(), &pod);
    let other = with(conf(), json!({"name": "other", "mode": "l3"}));
    let error = node
        .run(&call("ADD", &other, &Pod::new("c3")))
        .error_code(7);
    assert!(error.msg.contains("by network \"net\""), "{error:?}");
}

/// What may keep pods apart is a property of the master: see the issue 1032 of the Go
/// plugins, where users ask for it.
#[test]
fn pods_of_a_private_network_do_not_reach_each_other_and_those_of_a_bridge_do() {
    let node = node();
    for mode in ["l2", "l3"] {
        for (flag, reach) in [("private", false), ("vepa", false), ("bridge", true)] {
            let conf = with(
                conf(),
                json!({"name": format!("{mode}-{flag}"), "mode": mode, "flag": flag}),
            );
            let (first, second) = (Pod::new("c1"), Pod::new("c2"));
            let result = add(&node, &conf, &first);
            add(&node, &conf, &second);
            let shown = first.netns.ip(&["-details", "link", "show", "net1"]);
            assert!(shown.contains(&format!("mode {mode} {flag}")), "{shown}");
            check(&node, &conf, &first, &result).ok();
            let wait = if reach { "30" } else { "2" };
            let ping = first
                .netns
                .try_tool("ping", &["-c", "1", "-W", wait, "-I", "net1", "10.0.4.3"]);
            assert_eq!(ping.status.success(), reach, "{mode} {flag}");
            del(&node, &conf, &first);
            del(&node, &conf, &second);
        }
    }
}

#[test]
fn check_finds_another_flag() {
    let (node, pod) = (node(), Pod::new("c1"));
    let conf = with(conf(), json!({"flag": "private"}));
    let result = add(&node, &conf, &pod);
    pod.netns
        .ip(&["link", "set", "net1", "type", "ipvlan", "bridge"]);
    let error = check(&node, &conf, &pod, &result).error_code(999);
    assert_eq!(
        error.msg,
        "Container IPVlan flag bridge does not match expected value: private"
    );
}

/// D10: in the kernel, mode and flag belong to the master; with the Go plugin the last
/// network silently changes them for every pod on an ENI.
#[test]
fn a_master_is_not_changed_under_the_pods_that_use_it() {
    let node = node();
    let (first, second) = (Pod::new("c1"), Pod::new("c2"));
    add(&node, &with(conf(), json!({"flag": "private"})), &first);
    let ipam = json!({"type": "host-local", "subnet": "10.0.5.0/24"});
    for changes in [
        json!({"mode": "l3", "flag": "private"}),
        json!({"flag": "bridge"}),
        json!({"flag": "vepa"}),
        json!({}),
    ] {
        let other = with(
            with(conf(), json!({"name": "other", "ipam": ipam})),
            changes,
        );
        refused(
            &node,
            &other,
            &second,
            7,
            "master \"eth1\" is used in mode l2 private by network \"net\"",
        );
    }
    let shown = first.netns.ip(&["-details", "link", "show", "net1"]);
    assert!(shown.contains("mode l2 private"), "{shown}");
    let same = with(
        conf(),
        json!({"name": "other", "ipam": ipam, "flag": "private"}),
    );
    add(&node, &same, &second);
}

#[test]
fn the_record_of_a_pod_that_is_gone_does_not_keep_its_master_in_a_mode() {
    let node = node();
    let (first, second) = (Pod::new("c1"), Pod::new("c2"));
    add(&node, &with(conf(), json!({"flag": "private"})), &first);
    drop(first);
    add(&node, &with(conf(), json!({"mode": "l3"})), &second);
    assert!(
        second
            .netns
            .ip(&["-details", "link", "show", "net1"])
            .contains("mode l3 bridge")
    );
}

#[test]
fn another_master_may_be_used_in_another_mode() {
    let node = node();
    node.netns
        .ip(&["link", "add", "eth2", "up", "type", "dummy"]);
    add(&node, &conf(), &Pod::new("c1"));
    let other = json!({"name": "other", "master": "eth2", "mode": "l3", "flag": "private"});
    add(&node, &with(conf(), other), &Pod::new("c2"));
}
