//! What ADD does to the device, the pod and the delegate, and what it reports.

use harness::is_up;
use serde_json::{Value, json};

use super::{Fixture, conf, plain, with};

const VERSIONS: [&str; 7] = [
    "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
];

#[test]
fn the_device_is_in_the_pod_with_its_name_there_and_its_addresses_and_up() {
    let fixture = Fixture::new();
    fixture.add(&conf());
    let net1 = fixture.pod.link("net1").expect("the device is in the pod");
    assert!(is_up(&net1));
    assert_eq!(net1["mtu"], 1400);
    assert_eq!(fixture.pod.addresses("net1"), ["10.9.0.5/24"]);
    assert_eq!(fixture.pod.links(), ["lo", "net1"]);
    assert_eq!(fixture.node.netns.links(), ["hd0-peer", "lo"]);
}

#[test]
fn without_a_delegate_the_device_is_up_and_has_no_address() {
    let fixture = Fixture::new();
    let result = fixture.add(&plain(&json!({"device": "hd0"})));
    let interface = json!({
        "mac": "02:00:00:00:00:01", "mtu": 1400, "name": "net1", "sandbox": fixture.pod.path(),
    });
    let expected = json!({"cniVersion": "1.1.0", "interfaces": [interface]});
    assert_eq!(result, expected);
    assert!(is_up(&fixture.pod.link("net1").expect("it is there")));
    assert!(fixture.pod.addresses("net1").is_empty());
}

#[test]
fn the_host_name_is_the_alias_in_the_pod_where_the_go_plugin_looks_for_it() {
    let fixture = Fixture::new();
    fixture.add(&conf());
    let net1 = fixture.pod.link("net1").expect("it is there");
    assert_eq!(net1["ifalias"], "hd0");
}

#[test]
fn the_result_has_the_shape_of_every_version() {
    for version in VERSIONS {
        let fixture = Fixture::new();
        let answer = match version {
            "0.1.0" | "0.2.0" => {
                json!({"ip4": {"ip": "10.9.0.5/24", "routes": [{"dst": "10.8.0.0/16"}]}})
            }
            _ => json!({
                "ips": [{"address": "10.9.0.5/24"}], "routes": [{"dst": "10.8.0.0/16"}]
            }),
        };
        fixture.ipam.answer(&answer);
        let result = fixture.add(&with(&conf(), &json!({"cniVersion": version})));
        let mut interface = json!({
            "name": "net1", "mac": "02:00:00:00:00:01", "sandbox": fixture.pod.path(),
        });
        let mut ip = json!({"interface": 0, "address": "10.9.0.5/24"});
        let mut expected = json!({"cniVersion": version});
        match version {
            "0.1.0" | "0.2.0" => {
                expected["ip4"] = answer["ip4"].clone();
                expected["dns"] = json!({});
            }
            "1.0.0" | "1.1.0" => interface["mtu"] = json!(1400),
            _ => {
                ip["version"] = json!("4");
                expected["dns"] = json!({});
            }
        }
        if expected["ip4"].is_null() {
            expected["interfaces"] = json!([interface]);
            expected["ips"] = json!([ip]);
            expected["routes"] = answer["routes"].clone();
        }
        // An index makes an absent key null, which is the same as absent here.
        expected
            .as_object_mut()
            .expect("an object")
            .retain(|_, v| !v.is_null());
        assert_eq!(result, expected, "{version}");
    }
}

#[test]
fn an_absent_version_is_0_1_0() {
    let fixture = Fixture::new();
    fixture.ipam.answer(&json!({"ip4": {"ip": "10.9.0.5/24"}}));
    let mut conf = conf();
    conf.as_object_mut()
        .expect("an object")
        .remove("cniVersion");
    let result = fixture.add(&conf);
    assert_eq!(result["cniVersion"], "0.1.0");
    assert_eq!(result["ip4"]["ip"], "10.9.0.5/24");
}

#[test]
fn a_default_route_is_reported_with_its_gateway() {
    let fixture = Fixture::new();
    fixture.ipam.answer(&json!({
        "ips": [{"address": "10.9.0.5/24", "gateway": "10.9.0.1"}],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.8.0.0/16"}],
    }));
    let routes = fixture.add(&conf())["routes"].clone();
    let expected = json!([{"dst": "0.0.0.0/0", "gw": "10.9.0.1"}, {"dst": "10.8.0.0/16"}]);
    assert_eq!(routes, expected);
    let kernel = fixture.pod.ip_json(&["route", "show", "default"]);
    assert_eq!(kernel[0]["gateway"], "10.9.0.1");
}

// D8
#[test]
fn name_servers_of_the_delegate_complete_those_of_the_configuration() {
    let fixture = Fixture::new();
    fixture.ipam.answer(&json!({
        "ips": [{"address": "10.9.0.5/24"}],
        "dns": {"nameservers": ["10.9.0.2"], "domain": "ipam"},
    }));
    let result = fixture.add(&with(&conf(), &json!({"dns": {"domain": "conf"}})));
    let expected = json!({"nameservers": ["10.9.0.2"], "domain": "conf"});
    assert_eq!(result["dns"], expected);
}

// D9
#[test]
fn the_result_of_the_plugins_before_is_passed_on() {
    let fixture = Fixture::new();
    let earlier = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "eth0", "sandbox": fixture.pod.path()}, {"name": "veth7"}],
        "ips": [{"address": "10.1.0.2/24", "interface": 0}],
        "routes": [{"dst": "10.7.0.0/16", "gw": "10.1.0.1"}],
        "dns": {"search": ["earlier"]},
    });
    let result = fixture.add(&with(&conf(), &json!({"prevResult": earlier})));
    let names: Vec<&Value> = (0..3).map(|i| &result["interfaces"][i]["name"]).collect();
    assert_eq!(names, ["eth0", "veth7", "net1"]);
    let own = json!({"address": "10.9.0.5/24", "gateway": "10.9.0.1", "interface": 2});
    assert_eq!(result["ips"], json!([earlier["ips"][0], own]));
    assert_eq!(result["routes"], earlier["routes"]);
    assert_eq!(result["dns"], earlier["dns"]);
}

// D11
#[test]
fn the_mtu_and_segment_size_of_a_route_are_programmed() {
    let fixture = Fixture::new();
    fixture.ipam.answer(&json!({
        "ips": [{"address": "10.9.0.5/24", "gateway": "10.9.0.1"}],
        "routes": [{
            "dst": "10.8.0.0/16", "mtu": 1300, "advmss": 1200, "priority": 7
        }],
    }));
    fixture.add(&conf());
    let route = fixture.pod.ip(&["route", "show", "10.8.0.0/16"]);
    for part in ["mtu 1300", "advmss 1200", "metric 7"] {
        assert!(route.contains(part), "{part} is missing: {route}");
    }
}

// D12
#[test]
fn an_ipv6_address_is_usable_when_add_returns() {
    let fixture = Fixture::new();
    // Without its other end the link has no carrier, and detection would never end.
    fixture.host(&["link", "set", "hd0-peer", "up"]);
    let address = json!({"address": "fd00::5/64", "gateway": "fd00::1"});
    fixture
        .ipam
        .answer(&json!({"ips": [address], "routes": [{"dst": "::/0"}]}));
    fixture.add(&conf());
    let global = fixture
        .pod
        .ip_json(&["address", "show", "dev", "net1", "scope", "global"]);
    let infos = &global[0]["addr_info"];
    assert_eq!(infos[0]["local"], "fd00::5");
    assert_eq!(infos[0]["tentative"], Value::Null, "{global}");
    // Nobody has waited for detection either.
    assert_eq!(infos[0]["nodad"], true, "{global}");
}

// D19
#[test]
fn the_device_moves_with_one_message_and_without_a_namespace_between() {
    let fixture = Fixture::new();
    let trace = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    // ADD also sets the device up, and DEL names what has come when that is the device.
    for (command, expected) in [("ADD", 2), ("DEL", 2)] {
        let call = fixture.call(command, &conf());
        let status = fixture.node.inside(|| {
            let process = call.process();
            let mut strace = std::process::Command::new("strace");
            strace.args(["-f", "-qq", "-e", "trace=sendto,sendmsg,unshare", "-o"]);
            strace.arg(trace.path()).arg(process.get_program());
            let variables = process.get_envs().filter_map(|(k, v)| Some((k, v?)));
            strace.env_clear().envs(variables);
            call.run_as(strace).status
        });
        assert_eq!(status, Some(0));
        let text = std::fs::read_to_string(trace.path()).expect("strace has written it");
        // strace knows the type by name only when it could look the socket up.
        let is_change = |l: &&str| l.contains("=RTM_SETLINK,") || l.contains("=0x13 /*");
        assert_eq!(text.lines().filter(is_change).count(), expected, "{text}");
        assert!(!text.contains("CLONE_NEWNET"), "{text}");
    }
}

#[test]
fn the_delegate_reads_what_the_runtime_wrote_byte_for_byte() {
    let fixture = Fixture::new();
    let conf = format!(
        "  {:#}\n",
        with(&conf(), &json!({"x-unknown": [1.50, null]}))
    );
    let call = fixture.call("ADD", &json!({})).stdin(conf.clone());
    let result = fixture.node.run(&call).ok();
    assert_eq!(fixture.ipam.read("stdin.ADD"), conf);

    let with_result: Value = serde_json::from_str(&conf).expect("it is JSON");
    let with_result = with(&with_result, &json!({"prevResult": result}));
    let conf = format!("\n{with_result:#} ");
    let call = fixture.call("CHECK", &json!({})).stdin(conf.clone());
    fixture.node.run(&call).ok();
    assert_eq!(fixture.ipam.read("stdin.CHECK"), conf);
}

#[test]
fn the_attachment_is_recorded_with_what_the_device_was() {
    let fixture = Fixture::new();
    fixture.host(&["link", "set", "hd0", "alias", "uplink", "up"]);
    fixture.add(&conf());
    assert_eq!(fixture.records(), ["eni-cni/host-device/lan/c1:net1.json"]);
    let path = fixture.node.state().join(&fixture.records()[0]);
    let text = std::fs::read_to_string(path).expect("the record is readable");
    let record: Value = serde_json::from_str(&text).expect("the record is JSON");
    let device = &record["device"];
    assert_eq!(
        (
            &device["mode"],
            &device["name"],
            &device["alias"],
            &device["up"]
        ),
        (
            &json!("netdev"),
            &json!("hd0"),
            &json!("uplink"),
            &json!(true)
        )
    );
}

#[test]
fn two_interfaces_of_one_container_are_two_attachments() {
    let fixture = Fixture::new();
    fixture.add_device("hd1", "02:00:00:00:00:02");
    let before = fixture.state();
    let other = with(&conf(), &json!({"device": "hd1"}));
    fixture.add(&conf());
    let net2 = |command| fixture.call(command, &other).env("CNI_IFNAME", "net2");
    fixture
        .ipam
        .answer(&json!({"ips": [{"address": "10.9.0.6/24"}]}));
    fixture.node.run(&net2("ADD")).ok();
    assert_eq!(fixture.pod.links(), ["lo", "net1", "net2"]);

    fixture.del(&conf());
    assert_eq!(fixture.pod.links(), ["lo", "net2"]);
    assert_eq!(fixture.pod.addresses("net2"), ["10.9.0.6/24"]);
    assert_eq!(fixture.ipam.reserved(), ["c1.net2"]);
    fixture.node.run(&net2("DEL")).ok();
    assert_eq!(fixture.state(), before);
}

#[test]
fn an_add_after_a_del_that_never_came_ends_the_earlier_attachment_first() {
    let mut fixture = Fixture::new();
    fixture.add(&conf());
    // The pod and its veth end; the runtime makes the same container anew.
    fixture.end_pod();
    fixture.add_device("hd1", "02:00:00:00:00:02");
    let result = fixture.add(&with(&conf(), &json!({"device": "hd1"})));
    assert_eq!(result["interfaces"][0]["mac"], "02:00:00:00:00:02");
    let calls = ["ADD c1 net1", "DEL c1 net1", "ADD c1 net1"];
    assert_eq!(fixture.ipam.calls(), calls);
    assert_eq!(fixture.ipam.reserved(), ["c1.net1"]);
}

/// Go's plugin does not look at arguments that it does not need, and runtimes write them as
/// they like.
#[test]
fn arguments_that_are_not_pairs_do_not_matter() {
    for args in ["K=a;", "K", "K=a=b", ";", "IgnoreUnknown=1;;K8S_POD_NAME=p"] {
        for plugin in [
            harness::go_plugin("host-device"),
            harness::our_plugin("host-device"),
        ] {
            let fixture = Fixture::new();
            let conf = plain(&json!({"device": "hd0", "cniVersion": "1.0.0"}));
            let call = |command| {
                let call = fixture.call(command, &conf).of_program(&plugin);
                fixture.node.run(&call.env("CNI_ARGS", args)).ok()
            };
            call("ADD");
            call("DEL");
        }
    }
}
