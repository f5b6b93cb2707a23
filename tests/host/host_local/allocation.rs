//! ADD: which address, and what the result says.

use std::fs;

use serde_json::{Value, json};

use super::{Network, address, addresses};

#[test]
fn every_version_gets_the_result_in_its_own_shape() {
    let old = r#"{"cniVersion":"VERSION","ip4":{"ip":"10.0.0.2/24","gateway":"10.0.0.1","routes":[{"dst":"0.0.0.0/0"}]},"ip6":{"ip":"2001:db8::2/64","gateway":"2001:db8::1","routes":[{"dst":"::/0","gw":"2001:db8::1"}]},"dns":{}}"#;
    let marked = r#"{"cniVersion":"VERSION","ips":[{"version":"4","address":"10.0.0.2/24","gateway":"10.0.0.1"},{"version":"6","address":"2001:db8::2/64","gateway":"2001:db8::1"}],"routes":[{"dst":"0.0.0.0/0"},{"dst":"::/0","gw":"2001:db8::1"}],"dns":{}}"#;
    let new = r#"{"cniVersion":"VERSION","ips":[{"address":"10.0.0.2/24","gateway":"10.0.0.1"},{"address":"2001:db8::2/64","gateway":"2001:db8::1"}],"routes":[{"dst":"0.0.0.0/0"},{"dst":"::/0","gw":"2001:db8::1"}]}"#;
    for (version, shape) in [
        ("", old),
        ("0.1.0", old),
        ("0.2.0", old),
        ("0.3.0", marked),
        ("0.3.1", marked),
        ("0.4.0", marked),
        ("1.0.0", new),
        ("1.1.0", new),
    ] {
        let network = Network::new(json!({
            "ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "2001:db8::/64"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0", "gw": "2001:db8::1"}],
        }));
        let output = network.with("cniVersion", version.into()).add("c1");
        let printed = if version.is_empty() { "0.1.0" } else { version };
        let expected = shape.replace("VERSION", printed);
        assert_eq!(output.ok().to_string(), expected, "{output}");
    }
}

#[test]
fn routes_reach_the_result_with_all_their_attributes() {
    let route = json!({"advmss": 1300, "dst": "10.9.0.5/16", "gw": "10.0.0.9", "mtu": 1400, "priority": 5, "scope": 253, "table": 77});
    let network = Network::of("10.0.0.0/24").with("ipam.routes", json!([route]));
    assert_eq!(network.add("c1").ok()["routes"], json!([route]));
}

#[test]
fn name_resolution_comes_from_resolv_conf() {
    let network = Network::of("10.0.0.0/24");
    let path = network.data_dir().join("resolv.conf");
    fs::write(
        &path,
        "nameserver 192.0.2.53\ndomain a.example\nsearch b c\noptions rotate\n",
    )
    .unwrap();
    let network = network.with("ipam.resolvConf", path.to_str().into());
    assert_eq!(
        network.add("c1").ok()["dns"],
        json!({"nameservers": ["192.0.2.53"], "domain": "a.example", "search": ["b", "c"], "options": ["rotate"]})
    );
}

#[test]
fn a_released_address_is_handed_out_again_only_after_all_others() {
    let network = Network::of("10.0.0.0/29");
    let mut order = Vec::new();
    for _ in 0..6 {
        order.push(address(&network.add("c1")));
        network.del("c1").ok();
    }
    let expected = [
        "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.2",
    ];
    assert_eq!(order, expected.map(|ip| format!("{ip}/29")));
}

#[test]
fn an_exhausted_range_is_refused_with_the_words_of_go() {
    let network = Network::of("10.0.0.0/29");
    for n in 2..=6 {
        assert_eq!(
            address(&network.add(&format!("c{n}"))),
            format!("10.0.0.{n}/29")
        );
    }
    let before = network.files();
    let error = network.add("late").error_code(999);
    assert_eq!(
        error.msg,
        "failed to allocate for range 0: no IP addresses available in range set: 10.0.0.1-10.0.0.6"
    );
    assert_eq!(network.files(), before);
}

#[test]
fn the_address_handed_out_last_is_found_when_it_alone_is_free() {
    let network = Network::of("10.0.0.0/29");
    for n in 2..=6 {
        network.add(&format!("c{n}")).ok();
    }
    network.del("c6").ok();
    assert_eq!(address(&network.add("c7")), "10.0.0.6/29");
}

#[test]
fn every_range_set_gives_one_address() {
    let network = Network::new(json!({
        "ranges": [[{"subnet": "2001:db8::/64"}], [{"subnet": "10.0.0.0/24"}], [{"subnet": "10.1.0.0/24"}]],
    }));
    let output = network.add("c1");
    assert_eq!(
        addresses(&output),
        ["2001:db8::2/64", "10.0.0.2/24", "10.1.0.2/24"]
    );
    let last = |set: &str| network.files()[&format!("last_reserved_ip.{set}")].clone();
    assert_eq!(
        [last("0"), last("1"), last("2")],
        ["2001:db8::2", "10.0.0.2", "10.1.0.2"]
    );
}

#[test]
fn the_ranges_of_one_set_follow_each_other_and_then_wrap_around() {
    let network = Network::new(json!({"ranges": [[
        {"subnet": "10.0.0.0/29", "rangeStart": "10.0.0.5"},
        {"subnet": "10.0.1.0/29", "rangeEnd": "10.0.1.3", "gateway": "10.0.1.2"},
    ]]}));
    let order: Vec<String> = (0..4)
        .map(|n| address(&network.add(&format!("c{n}"))))
        .collect();
    assert_eq!(
        order,
        ["10.0.0.5/29", "10.0.0.6/29", "10.0.1.1/29", "10.0.1.3/29"]
    );
    let error = network.add("late").error_code(999);
    assert!(
        error
            .msg
            .ends_with("range set: 10.0.0.5-10.0.0.6,10.0.1.1-10.0.1.3"),
        "{}",
        error.msg
    );
    network.del("c0").ok();
    assert_eq!(address(&network.add("c9")), "10.0.0.5/29");
}

#[test]
fn the_result_names_the_gateway_of_the_range_that_the_address_is_from() {
    let network = Network::new(json!({"ranges": [[
        {"subnet": "10.0.0.0/29", "rangeStart": "10.0.0.6", "gateway": "192.0.2.1"},
        {"subnet": "10.0.1.0/28", "gateway": "10.0.1.9"},
    ]]}));
    let ips = |id: &str| network.add(id).ok()["ips"].clone();
    assert_eq!(
        ips("a"),
        json!([{"address": "10.0.0.6/29", "gateway": "192.0.2.1"}])
    );
    assert_eq!(
        ips("b"),
        json!([{"address": "10.0.1.1/28", "gateway": "10.0.1.9"}])
    );
}

#[test]
fn configured_ends_are_handed_out_even_if_they_are_network_and_broadcast() {
    let ends =
        json!([[{"subnet": "10.0.0.0/30", "rangeStart": "10.0.0.0", "rangeEnd": "10.0.0.3"}]]);
    let network = Network::new(json!({"ranges": ends}));
    let order: Vec<String> = (0..3)
        .map(|n| address(&network.add(&format!("c{n}"))))
        .collect();
    assert_eq!(order, ["10.0.0.0/30", "10.0.0.2/30", "10.0.0.3/30"]);
}

#[test]
fn an_ipv6_range_ends_with_its_last_address() {
    let network = Network::of("2001:db8::/126");
    assert_eq!(address(&network.add("c1")), "2001:db8::2/126");
    assert_eq!(address(&network.add("c2")), "2001:db8::3/126");
    network.add("c3").error_code(999);
}

#[test]
fn ranges_of_the_runtime_come_first_then_the_inline_range_then_the_list() {
    let network = Network::new(json!({
        "ranges": [[{"subnet": "10.3.0.0/24"}]],
        "subnet": "10.2.0.0/24", "rangeStart": "10.2.0.20", "rangeEnd": "10.2.0.29", "gateway": "10.2.0.20",
    }));
    let network = network.with(
        "runtimeConfig",
        json!({"ipRanges": [[{"subnet": "10.1.0.0/24"}]]}),
    );
    let output = network.add("c1");
    assert_eq!(
        addresses(&output),
        ["10.1.0.2/24", "10.2.0.21/24", "10.3.0.2/24"]
    );
}

#[test]
fn a_range_without_a_subnet_beside_the_list_is_ignored() {
    let network = Network::of("10.0.0.0/24").with("ipam.rangeStart", "10.0.0.77".into());
    assert_eq!(address(&network.add("c1")), "10.0.0.2/24");
}

/// Runs an ADD with a request in one of the ways there are.
fn add_requesting(way: &str, ips: &[&str]) -> harness::Output {
    let network = Network::of("10.0.0.0/24");
    match way {
        "CNI_ARGS" => network
            .call("ADD", "c1")
            .env("CNI_ARGS", &format!("IP={}", ips.concat()))
            .run(),
        "args" => network.with("args", json!({"cni": {"ips": ips}})).add("c1"),
        _ => network.with("runtimeConfig", json!({"ips": ips})).add("c1"),
    }
}

#[test]
fn an_address_can_be_requested_in_three_ways() {
    for way in ["CNI_ARGS", "args", "runtimeConfig"] {
        for text in [
            "10.0.0.77",
            "10.0.0.77/16",
            "::ffff:10.0.0.77",
            "::ffff:10.0.0.77/120",
        ] {
            let output = add_requesting(way, &[text]);
            assert_eq!(address(&output), "10.0.0.77/24", "{way} {text}");
        }
    }
}

#[test]
fn an_empty_address_in_cni_args_requests_nothing() {
    assert_eq!(address(&add_requesting("CNI_ARGS", &[""])), "10.0.0.2/24");
}

#[test]
fn what_is_requested_in_all_ways_at_once_is_requested_once() {
    let network = Network::of("10.0.0.0/24")
        .with("args", json!({"cni": {"ips": ["10.0.0.77/24"]}}))
        .with("runtimeConfig", json!({"ips": ["10.0.0.77"]}));
    let call = network.call("ADD", "c1").env("CNI_ARGS", "IP=10.0.0.77");
    assert_eq!(address(&call.run()), "10.0.0.77/24");
}

#[test]
fn cni_args_come_before_args_and_those_before_the_runtime_config() {
    let network = Network::of("10.0.0.0/24")
        .with("args", json!({"cni": {"ips": ["10.0.0.78", "10.0.0.79"]}}))
        .with("runtimeConfig", json!({"ips": ["10.0.0.80"]}));
    let call = network.call("ADD", "c1").env("CNI_ARGS", "IP=10.0.0.77");
    assert_eq!(
        call.run().error_code(999).msg,
        "failed to allocate all requested IPs: 10.0.0.78 10.0.0.79 10.0.0.80"
    );
    let error = network.add("c1").error_code(999);
    assert!(
        error.msg.ends_with(": 10.0.0.79 10.0.0.80"),
        "{}",
        error.msg
    );
}

#[test]
fn the_doubled_cni_args_of_multus_are_understood() {
    let once = "IgnoreUnknown=true;K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod;IP=10.0.0.77;K8S_POD_UID=1-2";
    let call = Network::of("10.0.0.0/24").call("ADD", "c1");
    let output = call.env("CNI_ARGS", &format!("{once};{once}")).run();
    assert_eq!(address(&output), "10.0.0.77/24");
}

#[test]
fn every_set_takes_the_requested_address_that_is_its_own() {
    let network = Network::new(json!({
        "ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "2001:db8::/64"}], [{"subnet": "10.1.0.0/24"}]],
    }));
    let network = network.with(
        "runtimeConfig",
        json!({"ips": ["10.1.0.7", "2001:DB8::0:7"]}),
    );
    let output = network.add("c1");
    assert_eq!(
        addresses(&output),
        ["10.0.0.2/24", "2001:db8::7/64", "10.1.0.7/24"]
    );
    assert!(network.reserved().contains(&"2001:db8::7".to_owned()));
}

#[test]
fn a_requested_address_moves_the_round_robin() {
    let mut network =
        Network::of("10.0.0.0/24").with("args", json!({"cni": {"ips": ["10.0.0.77"]}}));
    network.add("c1").ok();
    assert_eq!(network.files()["last_reserved_ip.0"], "10.0.0.77");
    network.set("args", Value::Null);
    assert_eq!(address(&network.add("c2")), "10.0.0.78/24");
}

#[test]
fn a_request_that_cannot_be_met_is_refused_and_nothing_is_reserved() {
    for (ips, expected) in [
        (
            vec!["10.0.0.1"],
            "failed to allocate for range 0: requested ip 10.0.0.1 is subnet's gateway",
        ),
        (
            vec!["10.0.0.9"],
            "failed to allocate for range 0: requested IP address 10.0.0.9 is not available in range set 10.0.0.1-10.0.0.254",
        ),
        (
            vec!["192.0.2.1"],
            "failed to allocate all requested IPs: 192.0.2.1",
        ),
        (
            vec!["10.0.0.7", "10.0.0.8", "2001:db8::1"],
            "failed to allocate all requested IPs: 10.0.0.8 2001:db8::1",
        ),
    ] {
        let network = Network::of("10.0.0.0/24").with("runtimeConfig", json!({"ips": ips}));
        network.write("10.0.0.9", "other\r\nnet1");
        let before = network.files();
        assert_eq!(network.add("c1").error_code(999).msg, expected);
        assert_eq!(network.files(), before, "{expected}");
    }
}

#[test]
fn a_second_add_of_the_same_attachment_is_refused() {
    let network = Network::of("10.0.0.0/24");
    network.add("c1").ok();
    let before = network.files();
    assert_eq!(
        network.add("c1").error_code(999).msg,
        "failed to allocate for range 0: 10.0.0.2 has been allocated to c1, duplicate allocation is not allowed"
    );
    assert_eq!(network.files(), before);
}

#[test]
fn of_several_duplicates_the_first_by_its_name_is_reported() {
    let network = Network::of("10.0.0.0/24");
    for n in [9, 80, 7, 70, 6, 50, 51, 8] {
        network.write(&format!("10.0.0.{n}"), "c1\r\nnet1");
    }
    let error = network.add("c1").error_code(999);
    assert!(error.msg.contains(": 10.0.0.50 has been"), "{}", error.msg);
}

#[test]
fn another_interface_of_the_same_container_gets_an_address_of_its_own() {
    let network = Network::of("10.0.0.0/24");
    network.add("c1").ok();
    let other = network.call("ADD", "c1").env("CNI_IFNAME", "net2").run();
    assert_eq!(address(&other), "10.0.0.3/24");
}

#[test]
fn a_file_that_names_only_the_container_is_a_duplicate_too() {
    let network = Network::of("10.0.0.0/24");
    network.write("10.0.0.50", "c1");
    let error = network.add("c1").error_code(999);
    assert!(
        error.msg.contains("10.0.0.50 has been allocated to c1"),
        "{}",
        error.msg
    );
    assert_eq!(address(&network.add("c11")), "10.0.0.2/24");
}

#[test]
fn an_attachment_with_an_address_outside_of_the_ranges_gets_one_inside() {
    let network = Network::of("10.0.0.0/24");
    network.write("10.9.0.50", "c1\r\nnet1");
    assert_eq!(address(&network.add("c1")), "10.0.0.2/24");
}

#[test]
fn a_failed_add_leaves_the_store_as_it_was() {
    let network = Network::new(json!({
        "ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "10.1.0.0/30"}]],
    }));
    network.add("c1").ok();
    let before = network.files();
    network.add("c2").error_code(999);
    assert_eq!(network.files(), before);
}

/// The Go plugin releases everything that the attachment has.
#[test]
fn a_failed_add_does_not_release_what_it_did_not_reserve() {
    let network =
        Network::of("10.0.0.0/24").with("runtimeConfig", json!({"ips": ["10.0.0.7", "192.0.2.1"]}));
    network.write("10.0.0.5", "c1\r\nnet1");
    network.add("c1").error_code(999);
    assert_eq!(network.reserved(), ["10.0.0.5"]);
}

#[test]
fn the_round_robin_restarts_when_the_last_address_is_not_in_the_range() {
    for last in [
        "10.7.0.9",
        "",
        "10.0.0\0\0",
        "10.0.0.9\n",
        "2001:db8::1",
        "10.0.0.254",
    ] {
        let network = Network::of("10.0.0.0/24");
        network.write("last_reserved_ip.0", last);
        assert_eq!(address(&network.add("c1")), "10.0.0.2/24", "{last:?}");
    }
}

#[test]
fn addresses_that_are_taken_are_passed_over() {
    let network = Network::of("10.0.0.0/24");
    for taken in ["10.0.0.2", "10.0.0.3", "10.0.0.5"] {
        network.write(taken, "other\r\neth0");
    }
    assert_eq!(address(&network.add("c1")), "10.0.0.4/24");
    assert_eq!(address(&network.add("c2")), "10.0.0.6/24");
}
