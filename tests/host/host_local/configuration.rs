//! What a configuration may say, and what is said of a wrong one.

use std::fs;

use harness::Call;
use serde_json::{Value, json};

use super::{Network, address};

/// An ADD that must be refused before anything is made.
#[track_caller]
fn refused(network: &Network, code: u64) -> String {
    let error = network.add("c1").error_code(code);
    assert_eq!(network.files().len(), 0);
    assert!(!network.path("").exists(), "a directory was made");
    [error.msg, error.details].join("|")
}

#[test]
fn wrong_ranges_are_code_7_with_the_words_of_go() {
    for (ranges, expected) in [
        (json!([[{}]]), "invalid range set 0: IP <nil> not v4 nor v6"),
        (
            json!([[{"subnet": "10.0.0.0/31"}]]),
            "invalid range set 0: Network 10.0.0.0/31 too small to allocate from",
        ),
        (
            json!([[{"subnet": "10.0.0.0/24"}], []]),
            "invalid range set 1: empty range set",
        ),
        (
            json!([[{"subnet": "10.0.0.9/24"}]]),
            "invalid range set 0: Network has host bits set. For a subnet mask of length 24 the network address is 10.0.0.0",
        ),
        (
            json!([[{"subnet": "10.0.0.0/24"}, {"subnet": "2001:db8::/64"}]]),
            "invalid range set 0: mixed address families",
        ),
        (
            json!([[{"subnet": "10.0.0.0/24"}, {"subnet": "10.0.0.0/16"}]]),
            "invalid range set 0: subnets 10.0.0.1-10.0.0.254 and 10.0.0.1-10.0.255.254 overlap",
        ),
        (
            json!([[{"subnet": "10.0.0.0/24"}], [{"subnet": "10.1.0.0/24"}], [{"subnet": "10.0.0.0/16"}]]),
            "range set 0 overlaps with 2",
        ),
        (
            json!([[{"subnet": "10.0.0.0/24"}], [{"subnet": "10.0.0.0/25"}]]),
            "range set 0 overlaps with 1",
        ),
        (
            json!([[{"subnet": "10.0.0.0/24", "rangeStart": "10.0.1.1"}]]),
            "invalid range set 0: RangeStart 10.0.1.1 not in network 10.0.0.0/24",
        ),
        (
            json!([[{"subnet": "10.0.0.0/24", "rangeEnd": "10.0.1.1"}]]),
            "invalid range set 0: RangeEnd 10.0.1.1 not in network 10.0.0.0/24",
        ),
        (
            json!([[{"subnet": "10.0.0.0"}]]),
            "invalid CIDR address: 10.0.0.0",
        ),
        (json!([[{"subnet": ""}]]), "invalid CIDR address: "),
        (
            json!([[{"subnet": "10.0.0.0/24", "gateway": "x"}]]),
            "invalid IP address: x",
        ),
        (
            json!([[{"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.05"}]]),
            "invalid IP address: 10.0.0.05",
        ),
        (
            json!([[{"subnet": "10.0.0.0/24", "rangeEnd": "y"}]]),
            "invalid IP address: y",
        ),
        (json!([]), "no IP ranges specified"),
        (Value::Null, "no IP ranges specified"),
    ] {
        let network = Network::new(json!({"ranges": ranges}));
        assert_eq!(refused(&network, 7), format!("{expected}|"));
    }
}

#[test]
fn a_configuration_without_ipam_is_code_7() {
    let network = Network::of("10.0.0.0/24").with("ipam", Value::Null);
    assert_eq!(refused(&network, 7), "IPAM config missing 'ipam' key|");
}

#[test]
fn the_old_result_has_room_for_one_address_of_each_family_only() {
    let ranges = json!({"ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "10.1.0.0/24"}]]});
    for (version, expected) in [
        (
            "0.2.0",
            "CNI version 0.2.0 does not support more than 1 address per family|",
        ),
        (
            "",
            "CNI version  does not support more than 1 address per family|",
        ),
    ] {
        let network = Network::new(ranges.clone()).with("cniVersion", version.into());
        assert_eq!(refused(&network, 7), expected);
    }
    let six = json!({"ranges": [[{"subnet": "2001:db8::/64"}], [{"subnet": "2001:db8:1::/64"}]]});
    refused(&Network::new(six).with("cniVersion", "0.1.0".into()), 7);
    Network::new(ranges)
        .with("cniVersion", "0.3.0".into())
        .add("c1")
        .ok();
}

#[test]
fn a_value_of_the_wrong_type_is_code_6() {
    for (path, value) in [
        ("ipam.ranges", json!({"subnet": "10.0.0.0/24"})),
        ("ipam.dataDir", json!(7)),
        ("ipam.routes", json!([{"dst": "10.0.0.0"}])),
        ("ipam.subnet", json!(true)),
        ("runtimeConfig", json!([1])),
        ("args", json!({"cni": {"ips": "10.0.0.5"}})),
    ] {
        let network = Network::of("10.0.0.0/24").with(path, value);
        let said = refused(&network, 6);
        assert!(
            said.starts_with("failed to load the host-local configuration|"),
            "{said}"
        );
    }
}

#[test]
fn a_wrong_requested_address_is_named() {
    for (way, expected) in [
        ("runtimeConfig", "invalid IP address 10.0.0|"),
        ("args", "invalid IP address 10.0.0|"),
    ] {
        let ips = json!(["10.0.0"]);
        let value = if way == "args" {
            json!({"cni": {"ips": ips}})
        } else {
            json!({"ips": ips})
        };
        assert_eq!(
            refused(&Network::of("10.0.0.0/24").with(way, value), 7),
            expected
        );
    }
    let empty = Network::of("10.0.0.0/24").with("runtimeConfig", json!({"ips": [""]}));
    assert_eq!(
        refused(&empty, 7),
        "cannot understand ip: IP <nil> not v4 nor v6|"
    );
}

#[test]
fn wrong_cni_args_are_code_4_with_the_words_of_libcni() {
    for (text, expected) in [
        ("IP=10.0.0.5;", "ARGS: invalid pair \"\""),
        ("IP", "ARGS: invalid pair \"IP\""),
        ("IP=1=2", "ARGS: invalid pair \"IP=1=2\""),
        (
            "IP=x",
            "ARGS: error parsing value of pair \"IP=x\": invalid IP address x",
        ),
        (
            "A=b;IP=10.0.0.5;C=d",
            "ARGS: unknown args [\"A=b\" \"C=d\"]",
        ),
        ("A=b;IgnoreUnknown=0", "ARGS: unknown args [\"A=b\"]"),
        ("ip=10.0.0.5", "ARGS: unknown args [\"ip=10.0.0.5\"]"),
        (
            "IgnoreUnknown=yes",
            "ARGS: error parsing value of pair \"IgnoreUnknown=yes\": boolean unmarshal error: invalid input yes",
        ),
    ] {
        let network = Network::of("10.0.0.0/24");
        for command in ["ADD", "CHECK"] {
            let output = network.call(command, "c1").env("CNI_ARGS", text).run();
            assert_eq!(output.error_code(4).msg, expected, "{output}");
        }
        assert!(!network.path("").exists());
    }
}

#[test]
fn unknown_cni_args_are_ignored_when_asked_to() {
    for flag in ["1", "true", "TRUE"] {
        let call = Network::of("10.0.0.0/24").call("ADD", "c1");
        let output = call
            .env("CNI_ARGS", &format!("A=b;IgnoreUnknown={flag};IP=10.0.0.9"))
            .run();
        assert_eq!(address(&output), "10.0.0.9/24");
    }
}

#[test]
fn a_path_that_is_not_absolute_is_code_7_and_named() {
    for key in ["dataDir", "resolvConf"] {
        let network = Network::of("10.0.0.0/24").with(&format!("ipam.{key}"), "some/where".into());
        assert_eq!(
            refused(&network, 7),
            format!("{key} \"some/where\" is not an absolute path|")
        );
        assert_eq!(
            network.status().error_code(7).msg,
            network.check("c1").error_code(7).msg
        );
    }
    let network = Network::of("10.0.0.0/24").with("ipam.dataDir", "some/where".into());
    network.gc(json!([])).error_code(7);
}

#[test]
fn an_unreadable_resolv_conf_is_code_5_and_nothing_is_allocated() {
    for path in ["/nonexistent/resolv.conf", "/proc"] {
        let network = Network::of("10.0.0.0/24").with("ipam.resolvConf", path.into());
        let said = refused(&network, 5);
        assert!(
            said.starts_with(&format!("failed to read resolvConf {path:?}|")),
            "{said}"
        );
    }
}

#[test]
fn a_resolv_conf_may_be_a_symbolic_link_but_never_blocks() {
    let network = Network::of("10.0.0.0/24");
    let target = network.data_dir().join("target");
    fs::write(&target, "nameserver 192.0.2.53\n").unwrap();
    let link = network.data_dir().join("link");
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let fifo = network.data_dir().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let network = network.with("ipam.resolvConf", link.to_str().into());
    assert_eq!(
        network.add("c1").ok()["dns"],
        json!({"nameservers": ["192.0.2.53"]})
    );
    let network = network.with("ipam.resolvConf", fifo.to_str().into());
    assert_eq!(network.add("c2").ok()["dns"], Value::Null);
}

#[test]
fn a_resolv_conf_that_is_too_large_is_code_5() {
    let network = Network::of("10.0.0.0/24").with("ipam.resolvConf", "/dev/zero".into());
    assert!(refused(&network, 5).ends_with("|the file is too large"));
}

#[test]
fn keys_are_read_in_any_case_and_null_is_not_set() {
    let network = Network::of("10.0.0.0/24");
    let directory = network.data_dir().to_str().unwrap();
    let text = format!(
        r#"{{"CNIVersion":"1.0.0","Name":"n","runtimeConfig":null,"args":{{"cni":null}},"IPAM":{{
            "TYPE":"host-local","DATADIR":"/wrong","dataDir":"{directory}","resolvConf":"","routes":null,
            "subnet":null,"rangeStart":null,"ranges":[[{{"Subnet":"10.0.0.0/24","RANGESTART":"10.0.0.7","rangeEnd":null,
            "gateway":"","unknown":[1]}}]]}}}}"#
    );
    let call = Call::ours("host-local", "ADD").attachment("c1", "net1", super::NO_NETNS);
    assert_eq!(address(&call.stdin(text).run()), "10.0.0.7/24");
    assert_eq!(network.reserved(), ["10.0.0.7"]);
}

#[test]
fn keys_of_other_plugins_do_not_matter() {
    let network = Network::of("10.0.0.0/24")
        .with("capabilities", json!({"ips": true}))
        .with(
            "runtimeConfig",
            json!({"portMappings": [{"hostPort": 1}], "mac": "02:00:00:00:00:01"}),
        )
        .with(
            "args",
            json!({"cni": {"mac": "02:00:00:00:00:01"}, "other": 1}),
        );
    assert_eq!(address(&network.add("c1")), "10.0.0.2/24");
}
