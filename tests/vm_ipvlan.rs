//! ipvlan, on a kernel that has it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use harness::{Call, Namespace, Network, Node, Output, Pod};
use serde_json::{Value, json};
use tempfile::TempDir;

const VERSIONS: [&str; 7] = [
    "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
];

/// A node with a master `eth1` (MTU 9001) that is up.
fn node() -> Node {
    let node = Node::new();
    let made = node.netns.try_tool(
        "ip",
        &["link", "add", "eth1", "mtu", "9001", "type", "dummy"],
    );
    assert!(
        made.status.success(),
        "this kernel has no dummy and ipvlan interfaces; `make test` runs these tests in a VM"
    );
    node.netns.ip(&["link", "set", "eth1", "up"]);
    node
}

/// A configuration of version 1.1.0 with host-local and 10.0.4.0/24.
fn conf() -> Value {
    json!({
        "cniVersion": "1.1.0", "name": "net", "type": "ipvlan", "master": "eth1", "mode": "l2",
        "ipam": {"type": "host-local", "subnet": "10.0.4.0/24"}
    })
}

fn with(mut conf: Value, changes: Value) -> Value {
    for (key, value) in changes.as_object().unwrap() {
        conf[key] = value.clone();
    }
    conf
}

fn call(command: &str, conf: &Value, pod: &Pod) -> Call {
    Call::ours("ipvlan", command).conf(conf).pod(pod, "net1")
}

#[track_caller]
fn add(node: &Node, conf: &Value, pod: &Pod) -> Value {
    node.run(&call("ADD", conf, pod)).ok()
}

#[track_caller]
fn del(node: &Node, conf: &Value, pod: &Pod) {
    node.run(&call("DEL", conf, pod)).ok();
}

fn check(node: &Node, conf: &Value, pod: &Pod, result: &Value) -> Output {
    let conf = with(conf.clone(), json!({"prevResult": result}));
    node.run(&call("CHECK", &conf, pod))
}

/// An ADD that must fail with `code`, name `thing` and change nothing at all.
#[track_caller]
fn refused(node: &Node, conf: &Value, pod: &Pod, code: u64, thing: &str) {
    let before = (node.netns.links(), pod.netns.links(), reservations(node));
    let output = node.run(&call("ADD", conf, pod));
    let error = output.error_code(code);
    let said = format!("{}: {}", error.msg, error.details);
    assert!(
        said.contains(thing),
        "{said:?} does not name {thing:?}\n{output}"
    );
    assert_eq!(
        (node.netns.links(), pod.netns.links(), reservations(node)),
        before
    );
}

/// Everything the plugins remember: reservations and records, not the marks of the
/// round robin.
fn reservations(node: &Node) -> Vec<String> {
    let is_mark = |file: &String| file.contains("last_reserved_ip.") || file.ends_with("/lock");
    node.files()
        .into_iter()
        .filter(|file| !is_mark(file))
        .collect()
}

/// An IPAM plugin made of a shell script; `$CNI_COMMAND` decides.
fn script(directory: &Path, name: &str, text: &str) {
    let path = directory.join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A configuration whose IPAM plugin is a script, and the call with its directory.
fn with_script(text: &str) -> (TempDir, Value) {
    let directory = tempfile::tempdir().unwrap();
    script(directory.path(), "fake-ipam", text);
    (
        directory,
        with(conf(), json!({"ipam": {"type": "fake-ipam"}})),
    )
}

fn in_path(call: Call, directory: &TempDir) -> Call {
    call.env("CNI_PATH", directory.path().to_str().unwrap())
}

#[test]
fn the_interface_has_the_name_kind_mode_master_and_mtu_that_were_asked_for() {
    let node = node();
    for mode in ["l2", "l3", "l3s"] {
        let pod = Pod::new("c1");
        let conf = with(conf(), json!({"mode": mode, "mtu": 1400}));
        add(&node, &conf, &pod);
        assert_eq!(pod.netns.links(), ["lo", "net1"]);
        let link = pod.netns.link("net1").unwrap();
        let master = node.netns.link("eth1").unwrap();
        assert_eq!(link["linkinfo"]["info_kind"], "ipvlan");
        assert_eq!(link["linkinfo"]["info_data"]["mode"], mode);
        assert_eq!(link["link_index"], master["ifindex"]);
        assert_eq!(link["address"], master["address"]);
        assert_eq!(link["mtu"], 1400);
        assert!(link["flags"].to_string().contains("\"UP\""));
        assert_eq!(node.netns.links(), ["eth1", "lo"]);
        del(&node, &conf, &pod);
        assert_eq!(pod.netns.links(), ["lo"]);
        assert_eq!(reservations(&node), [""; 0]);
    }
}

#[test]
fn every_version_of_the_specification_gets_its_own_shape() {
    let node = node();
    for version in VERSIONS {
        let pod = Pod::new("c1");
        let conf = with(conf(), json!({"cniVersion": version}));
        let result = add(&node, &conf, &pod);
        assert_eq!(result["cniVersion"], version);
        let sandbox = pod.netns.path();
        match version {
            "0.1.0" | "0.2.0" => {
                assert!(result["ip4"]["ip"].as_str().unwrap().ends_with("/24"));
                assert_eq!(result["interfaces"], Value::Null);
            }
            _ => {
                assert_eq!(result["interfaces"].as_array().unwrap().len(), 1);
                assert_eq!(result["interfaces"][0]["sandbox"], sandbox.as_str());
                assert_eq!(result["interfaces"][0]["name"], "net1");
                assert_eq!(result["ips"][0]["interface"], 0);
                assert_eq!(result["ips"][0]["gateway"], "10.0.4.1");
                let is_new = version.starts_with('1');
                assert_eq!(
                    result["interfaces"][0]["mtu"],
                    if is_new { json!(9001) } else { Value::Null }
                );
                assert_eq!(
                    result["ips"][0]["version"],
                    if is_new { Value::Null } else { json!("4") }
                );
            }
        }
        if version >= "0.4.0" {
            check(&node, &conf, &pod, &result).ok();
        } else {
            assert_eq!(
                check(&node, &conf, &pod, &result).error_code(1).msg,
                "config version does not allow CHECK"
            );
        }
        del(&node, &conf, &pod);
    }
}

#[test]
fn an_mtu_that_is_not_given_is_the_masters() {
    let (node, pod) = (node(), Pod::new("c1"));
    add(&node, &conf(), &pod);
    assert_eq!(pod.netns.link("net1").unwrap()["mtu"], 9001);
}

/// D12: the Go plugin waits for duplicate address detection, or returns with a
/// tentative address.
#[test]
fn no_ipv6_address_is_tentative_when_add_returns() {
    let node = node();
    let ranges = json!([[{"subnet": "2001:db8::/64"}], [{"subnet": "10.0.4.0/24"}]]);
    for mode in ["l2", "l3"] {
        let pod = Pod::new(mode);
        let ipam = json!({"type": "host-local", "ranges": ranges, "routes": [{"dst": "::/0"}]});
        add(
            &node,
            &with(conf(), json!({"mode": mode, "ipam": ipam, "name": mode})),
            &pod,
        );
        let shown = pod.netns.ip(&["-6", "address", "show", "dev", "net1"]);
        assert!(shown.contains("2001:db8::2/64"), "{shown}");
        let global = shown
            .lines()
            .find(|line| line.contains("2001:db8::2"))
            .unwrap_or_default();
        assert!(
            !global.contains("tentative") && !global.contains("dadfailed"),
            "{shown}"
        );
        // The kernel makes the link-local address; it takes no detection for it either.
        let accept_dad = pod
            .netns
            .tool("cat", &["/proc/sys/net/ipv6/conf/net1/accept_dad"]);
        assert_eq!(accept_dad.trim(), "0");

        assert_eq!(
            pod.netns.addresses("net1"),
            ["10.0.4.2/24", "2001:db8::2/64"]
        );
        assert!(
            pod.netns
                .ip(&["-6", "route"])
                .contains("default via 2001:db8::1 dev net1")
        );
    }
}

#[test]
fn two_pods_reach_each_other_in_every_mode() {
    let node = node();
    for mode in ["l2", "l3", "l3s"] {
        let conf = with(conf(), json!({"mode": mode, "name": mode}));
        let (first, second) = (Pod::new("c1"), Pod::new("c2"));
        add(&node, &conf, &first);
        add(&node, &conf, &second);
        first
            .netns
            .tool("ping", &["-c", "1", "-W", "30", "-I", "net1", "10.0.4.3"]);
        del(&node, &conf, &first);
        del(&node, &conf, &second);
    }
}

/// The kernel refuses a new link whose name exists in the namespace it is asked in:
/// the Go plugin needs a temporary name, ours asks in the container's.
#[test]
fn an_interface_of_the_same_name_on_the_node_is_no_obstacle() {
    let (node, pod) = (node(), Pod::new("c1"));
    node.netns.ip(&["link", "add", "net1", "type", "dummy"]);
    add(&node, &conf(), &pod);
    assert_eq!(
        pod.netns.link("net1").unwrap()["linkinfo"]["info_kind"],
        "ipvlan"
    );
    del(&node, &conf(), &pod);
    assert_eq!(node.netns.links(), ["eth1", "lo", "net1"]);
}

#[test]
fn the_master_is_found_by_an_alternative_name() {
    let (node, pod) = (node(), Pod::new("c1"));
    node.netns.ip(&[
        "link",
        "property",
        "add",
        "dev",
        "eth1",
        "altname",
        "a-name-longer-than-fifteen-bytes",
    ]);
    let conf = with(
        conf(),
        json!({"master": "a-name-longer-than-fifteen-bytes"}),
    );
    add(&node, &conf, &pod);
    assert_eq!(
        pod.netns.link("net1").unwrap()["link_index"],
        node.netns.link("eth1").unwrap()["ifindex"]
    );
}

#[test]
fn without_a_master_the_default_route_decides() {
    let (node, pod) = (node(), Pod::new("c1"));
    let conf = with(conf(), json!({"master": ""}));
    refused(&node, &conf, &pod, 7, "no default route interface found");
    node.netns
        .ip(&["address", "add", "192.0.2.2/24", "dev", "eth1"]);
    node.netns
        .ip(&["route", "add", "default", "via", "192.0.2.1"]);
    add(&node, &conf, &pod);
    assert_eq!(
        pod.netns.link("net1").unwrap()["link_index"],
        node.netns.link("eth1").unwrap()["ifindex"]
    );
}

/// D4: the Go plugin never resolves the master on CHECK, and fails without one.
#[test]
fn check_works_without_a_master_in_the_configuration() {
    let (node, pod) = (node(), Pod::new("c1"));
    node.netns
        .ip(&["address", "add", "192.0.2.2/24", "dev", "eth1"]);
    node.netns
        .ip(&["route", "add", "default", "via", "192.0.2.1"]);
    let conf = with(conf(), json!({"master": ""}));
    let result = add(&node, &conf, &pod);
    check(&node, &conf, &pod, &result).ok();
}

/// D5: the Go plugin needs the default route again on DEL, and leaks the address.
#[test]
fn del_needs_no_master() {
    let (node, pod) = (node(), Pod::new("c1"));
    node.netns
        .ip(&["address", "add", "192.0.2.2/24", "dev", "eth1"]);
    node.netns
        .ip(&["route", "add", "default", "via", "192.0.2.1"]);
    let conf = with(conf(), json!({"master": "", "cniVersion": "0.3.1"}));
    add(&node, &conf, &pod);
    node.netns.ip(&["route", "del", "default"]);
    del(&node, &conf, &pod);
    assert_eq!(pod.netns.links(), ["lo"]);
    assert_eq!(reservations(&node), [""; 0]);
}

#[test]
fn the_master_may_be_inside_the_container() {
    let (node, pod) = (node(), Pod::new("c1"));
    pod.netns.ip(&["link", "add", "eno1", "type", "dummy"]);
    pod.netns.ip(&["link", "set", "eno1", "up"]);
    let conf = with(conf(), json!({"master": "eno1", "linkInContainer": true}));
    let result = add(&node, &conf, &pod);
    assert_eq!(pod.netns.link("net1").unwrap()["link"], "eno1");
    check(&node, &conf, &pod, &result).ok();
    del(&node, &conf, &pod);
    assert_eq!(pod.netns.links(), ["eno1", "lo"]);
}

/// D2: the Go plugin overwrites the error of the creation and reports "failed to
/// rename ipvlan … Link not found".
#[test]
fn a_master_that_is_missing_inside_the_container_is_named() {
    let (node, pod) = (node(), Pod::new("c1"));
    let conf = with(conf(), json!({"linkInContainer": true}));
    refused(&node, &conf, &pod, 7, "failed to lookup master \"eth1\"");
}

#[test]
fn a_master_that_cannot_serve_is_named_and_nothing_is_made() {
    let (node, pod) = (node(), Pod::new("c1"));
    node.netns.ip(&["link", "add", "eth2", "type", "dummy"]);
    node.netns.ip(&["link", "add", "br0", "type", "bridge"]);
    node.netns.ip(&[
        "link", "add", "eth3", "up", "master", "br0", "type", "dummy",
    ]);
    node.netns
        .ip(&["link", "add", "eth4", "up", "type", "dummy"]);
    node.netns.ip(&[
        "link", "add", "link", "eth4", "name", "mv0", "type", "macvlan",
    ]);
    let master = |name: &str| with(conf(), json!({"master": name}));
    refused(
        &node,
        &master("eth9"),
        &pod,
        7,
        "failed to lookup master \"eth9\": Link not found",
    );
    refused(&node, &master("eth2"), &pod, 7, "master \"eth2\" is down");
    refused(
        &node,
        &master("lo"),
        &pod,
        7,
        "master \"lo\" is a loopback interface",
    );
    refused(
        &node,
        &master("eth3"),
        &pod,
        7,
        "master \"eth3\" cannot have ipvlan interfaces: it is a port of a bridge",
    );
    refused(
        &node,
        &master("eth4"),
        &pod,
        7,
        "master \"eth4\" cannot have ipvlan interfaces: it has macvlan",
    );
    refused(
        &node,
        &with(conf(), json!({"mtu": 9002})),
        &pod,
        7,
        "invalid MTU 9002, master \"eth1\" has 9001",
    );
}

#[test]
fn bad_configurations_are_refused_before_anything_is_touched() {
    let (node, pod) = (node(), Pod::new("c1"));
    let table = [
        (json!({"mode": "l4"}), 7, "unknown ipvlan mode: \"l4\""),
        (
            json!({"flag": "bridged"}),
            7,
            "unknown ipvlan flag: \"bridged\"",
        ),
        (json!({"flag": 7}), 7, "unknown ipvlan flag: 7"),
        (json!({"mtu": -1}), 7, "invalid mtu: -1"),
        (
            json!({"mtu": "1500"}),
            6,
            "failed to load netconf: mtu: invalid type: string",
        ),
        (json!({"mtu": 1500.5}), 6, "failed to load netconf"),
        (json!({"master": 7}), 6, "failed to load netconf"),
        (
            json!({"linkInContainer": "yes"}),
            6,
            "linkInContainer: invalid type",
        ),
        (json!({"ipam": []}), 6, "ipam: invalid type: sequence"),
        (
            json!({"ipam": {"type": "../host-local"}}),
            7,
            "invalid plugin name: ../host-local",
        ),
        (
            json!({"ipam": {"type": "no-such-ipam"}}),
            999,
            "failed to find plugin \"no-such-ipam\"",
        ),
        (
            json!({"ipam": {"type": "host-local"}}),
            7,
            "no IP ranges specified",
        ),
        (
            json!({"prevResult": {"ips": 7}}),
            6,
            "could not parse prevResult",
        ),
        (
            json!({"prevResult": {"cniVersion": "0.2.0"}}),
            6,
            "result type supports [1.0.0 1.1.0]",
        ),
        (
            json!({"runtimeConfig": {"mac": "02:00:00:00:00:01"}}),
            7,
            "cannot set mac 02:00:00:00:00:01",
        ),
        (
            json!({"args": {"cni": {"mac": "02:00:00:00:00:01"}}}),
            7,
            "cannot set mac 02:00:00:00:00:01",
        ),
    ];
    for (changes, code, thing) in table {
        refused(&node, &with(conf(), changes), &pod, code, thing);
    }
    let call = call("ADD", &conf(), &pod).env("CNI_ARGS", "IgnoreUnknown=1;MAC=02:00:00:00:00:01");
    assert!(node.run(&call).error_code(7).msg.contains("cannot set mac"));
}

#[test]
fn a_namespace_that_is_none_is_refused() {
    let (node, pod) = (node(), Pod::new("c1"));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("netns");
    fs::write(&file, "").unwrap();
    let run = |netns: &str| {
        node.run(&call("ADD", &conf(), &pod).env("CNI_NETNS", netns))
            .error_code(8)
    };
    assert!(
        run("/no/such/netns")
            .msg
            .starts_with("failed to open netns \"/no/such/netns\": failed to Statfs")
    );
    assert!(
        run(file.to_str().unwrap())
            .msg
            .contains("unknown FS magic on")
    );
    assert!(
        run(directory.path().to_str().unwrap())
            .msg
            .contains("unknown FS magic on")
    );
    assert!(
        run("/proc/self/ns/uts")
            .msg
            .contains("failed to enter netns")
    );
    assert_eq!(reservations(&node), [""; 0]);
}

/// D26: the Go plugin finds out after it has done its work, and prints two documents.
#[test]
fn the_nodes_own_namespace_is_refused_before_anything_is_changed() {
    let (node, pod) = (node(), Pod::new("c1"));
    let call = call("ADD", &conf(), &pod).env("CNI_NETNS", &node.netns.path());
    let error = node.run(&call).error_code(8);
    let said = "plugin's netns and netns from CNI_NETNS should not be the same";
    assert_eq!(error.msg, said);
    assert_eq!(node.netns.links(), ["eth1", "lo"]);
    assert_eq!(reservations(&node), [""; 0]);
}

/// The path of a namespace that is gone may lead to the node's: `/proc/PID/ns/net` of
/// a process whose number was given away again.
#[test]
fn del_releases_the_address_and_leaves_the_node_alone_when_the_path_leads_there() {
    let (node, pod) = (node(), Pod::new("c1"));
    let result = add(&node, &conf(), &pod);
    drop(pod);
    node.netns.ip(&[
        "link", "add", "link", "eth1", "name", "net1", "type", "ipvlan",
    ]);
    let mut conf = with(conf(), json!({"prevResult": result}));
    conf["prevResult"]["interfaces"][0]["sandbox"] = node.netns.path().into();
    for record in ["kept", "lost"] {
        if record == "lost" {
            fs::remove_dir_all(node.state().join("eni-cni")).ok();
        }
        let call = Call::ours("ipvlan", "DEL").conf(&conf);
        node.run(&call.attachment("c1", "net1", &node.netns.path()))
            .ok();
        assert_eq!(node.netns.links(), ["eth1", "lo", "net1"]);
        assert_eq!(reservations(&node), [""; 0]);
    }
}

/// D7: the Go plugin's DEL deletes whatever has the interface's name.
#[test]
fn an_interface_that_is_not_ours_survives_a_failed_add_and_its_del() {
    let (node, pod) = (node(), Pod::new("c1"));
    pod.netns.ip(&["link", "add", "net1", "type", "dummy"]);
    refused(
        &node,
        &conf(),
        &pod,
        999,
        "interface \"net1\" already exists",
    );
    del(&node, &conf(), &pod);
    assert_eq!(pod.netns.links(), ["lo", "net1"]);
}

/// D7, where the other interface is an ipvlan interface too.
#[test]
fn another_networks_interface_survives_a_failed_add_and_its_del() {
    let (node, pod) = (node(), Pod::new("c1"));
    add(&node, &conf(), &pod);
    let other = with(conf(), json!({"name": "other"}));
    refused(
        &node,
        &other,
        &pod,
        999,
        "interface \"net1\" already exists",
    );
    del(&node, &other, &pod);
    assert_eq!(pod.netns.addresses("net1"), ["10.0.4.2/24"]);
}

#[test]
fn a_second_add_of_the_same_attachment_leaves_the_first_as_it_is() {
    let (node, pod) = (node(), Pod::new("c1"));
    add(&node, &conf(), &pod);
    refused(
        &node,
        &conf(),
        &pod,
        999,
        "interface \"net1\" already exists",
    );
    assert_eq!(pod.netns.addresses("net1"), ["10.0.4.2/24"]);
    del(&node, &conf(), &pod);
    assert_eq!(
        (pod.netns.links(), reservations(&node)),
        (vec!["lo".to_owned()], vec![])
    );
}

#[test]
fn a_second_add_from_another_namespace_leaves_the_first_as_it_is() {
    let (node, pod, other) = (node(), Pod::new("c1"), Pod::new("c1"));
    add(&node, &conf(), &pod);
    let thing = "interface \"net1\" already exists";
    refused(&node, &conf(), &other, 999, thing);
    assert_eq!(pod.netns.addresses("net1"), ["10.0.4.2/24"]);
    del(&node, &conf(), &pod);
    assert_eq!(pod.netns.links(), ["lo"]);
    add(&node, &conf(), &other);
}

/// D1, D3: when the interface cannot be configured, the Go plugin leaks the address
/// and leaves the link.
#[test]
fn an_add_that_fails_after_ipam_gives_the_address_back_and_removes_the_link() {
    let (node, pod) = (node(), Pod::new("c1"));
    let routes = json!([{"dst": "10.9.0.0/16", "gw": "192.0.2.1"}]);
    let ipam = json!({"type": "host-local", "subnet": "10.0.4.0/24", "routes": routes});
    refused(
        &node,
        &with(conf(), json!({"ipam": ipam})),
        &pod,
        999,
        "failed to add route '10.9.0.0/16 via 192.0.2.1",
    );
}

/// D3: when IPAM fails, the Go plugin leaves the link.
#[test]
fn an_add_whose_ipam_fails_leaves_no_link() {
    let (node, pod) = (node(), Pod::new("c1"));
    let ipam = json!({"type": "host-local", "subnet": "10.0.4.0/24", "rangeStart": "10.0.4.9", "rangeEnd": "10.0.4.9"});
    let conf = with(conf(), json!({"ipam": ipam}));
    add(&node, &conf, &Pod::new("c0"));
    refused(
        &node,
        &conf,
        &pod,
        999,
        "no IP addresses available in range set: 10.0.4.9-10.0.4.9",
    );
}

/// D27: the specification wants the delegate's DEL after its failed ADD.
#[test]
fn the_delegates_del_runs_when_its_add_fails() {
    let (node, pod) = (node(), Pod::new("c1"));
    let log = tempfile::NamedTempFile::new().unwrap();
    let log_path = log.path().display().to_string();
    let (plugins, conf) = with_script(&format!(
        r#"echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME" >> {log_path}
           [ "$CNI_COMMAND" = DEL ] || {{ echo '{{"code": 42, "msg": "no luck", "details": "today"}}'; exit 1; }}"#
    ));
    let error = node
        .run(&in_path(call("ADD", &conf, &pod), &plugins))
        .error_code(42);
    assert_eq!(
        (error.msg.as_str(), error.details.as_str()),
        ("no luck", "today")
    );
    assert_eq!(
        fs::read_to_string(log.path()).unwrap(),
        "ADD c1 net1\nDEL c1 net1\n"
    );
    assert_eq!(
        (pod.netns.links(), reservations(&node)),
        (vec!["lo".to_owned()], vec![])
    );
}

#[test]
fn a_delegate_that_answers_nonsense_is_reported_and_undone() {
    let node = node();
    let table = [
        (
            "echo '{\"cniVersion\":\"1.1.0\"}'",
            999,
            "IPAM plugin returned missing IP config",
        ),
        (
            "echo nonsense",
            6,
            "failed to parse the result of the IPAM plugin",
        ),
        (
            "echo '{\"cniVersion\":\"0.2.0\",\"ip4\":{\"ip\":\"10.0.0.1/8\"}}'",
            6,
            "result type supports",
        ),
        ("exit 1", 999, "netplugin failed with no error message"),
        (
            "echo 'out of luck' >&2; exit 1",
            999,
            "netplugin failed: \"out of luck\"",
        ),
        (
            "echo nonsense; exit 1",
            999,
            "netplugin failed but error parsing its diagnostic message \"nonsense\"",
        ),
    ];
    for (answer, code, thing) in table {
        let pod = Pod::new("c1");
        let (plugins, conf) = with_script(&format!("[ $CNI_COMMAND = DEL ] && exit 0\n{answer}"));
        let output = node.run(&in_path(call("ADD", &conf, &pod), &plugins));
        let error = output.error_code(code);
        assert!(
            format!("{}: {}", error.msg, error.details).contains(thing),
            "{output}"
        );
        assert_eq!(
            (pod.netns.links(), reservations(&node)),
            (vec!["lo".to_owned()], vec![])
        );
    }
}

#[test]
fn the_delegate_gets_our_stdin_byte_for_byte_and_our_environment() {
    let (node, pod) = (node(), Pod::new("c1"));
    let seen = tempfile::tempdir().unwrap();
    let (plugins, _) = with_script(&format!(
        r#"cat > {0}/$CNI_COMMAND.stdin; env > {0}/$CNI_COMMAND.env
           echo '{{"cniVersion":"1.1.0","ips":[{{"address":"10.1.1.1/24"}}]}}'"#,
        seen.path().display()
    ));
    let stdin = "{ \"cniVersion\":\"1.1.0\",\n\"name\" : \"net\", \"Master\": \"eth1\", \"ipam\":{\"type\":\"fake-ipam\",\"a\":null}, \"x\":1.50 }\n";
    for command in ["ADD", "DEL"] {
        let call = in_path(call(command, &json!({}), &pod).stdin(stdin), &plugins);
        node.run(
            &call
                .env("CNI_ARGS", "K8S_POD_NAME=p")
                .env("TRACEPARENT", "00-1"),
        )
        .ok();
        assert_eq!(
            fs::read_to_string(seen.path().join(format!("{command}.stdin"))).unwrap(),
            stdin
        );
        let environment = fs::read_to_string(seen.path().join(format!("{command}.env"))).unwrap();
        for line in [
            &format!("CNI_COMMAND={command}"),
            "CNI_CONTAINERID=c1",
            "CNI_IFNAME=net1",
            "CNI_ARGS=K8S_POD_NAME=p",
            "TRACEPARENT=00-1",
        ] {
            assert!(
                environment.lines().any(|l| l == line),
                "{line} is not in\n{environment}"
            );
        }
    }
}

/// D6: the Go plugin releases the address while the interface still has it.
#[test]
fn del_removes_the_interface_before_it_releases_the_address() {
    let (node, pod) = (node(), Pod::new("c1"));
    let log = tempfile::NamedTempFile::new().unwrap();
    let (plugins, conf) = with_script(&format!(
        r#"[ $CNI_COMMAND = DEL ] && nsenter --net=$CNI_NETNS ip -o link show > {}
           echo '{{"cniVersion":"1.1.0","ips":[{{"address":"10.1.1.1/24"}}]}}'"#,
        log.path().display()
    ));
    node.run(&in_path(call("ADD", &conf, &pod), &plugins)).ok();
    assert_eq!(pod.netns.addresses("net1"), ["10.1.1.1/24"]);
    node.run(&in_path(call("DEL", &conf, &pod), &plugins)).ok();
    let links_at_release = fs::read_to_string(log.path()).unwrap();
    assert!(
        links_at_release.contains("lo:") && !links_at_release.contains("net1"),
        "{links_at_release}"
    );
}

#[test]
fn a_failing_release_is_reported_and_can_be_repeated() {
    let (node, pod) = (node(), Pod::new("c1"));
    let (plugins, conf) = with_script(
        r#"[ $CNI_COMMAND = DEL ] && { echo '{"code": 11, "msg": "address not found"}'; exit 1; }
           echo '{"cniVersion":"1.1.0","ips":[{"address":"10.1.1.1/24"}]}'"#,
    );
    node.run(&in_path(call("ADD", &conf, &pod), &plugins)).ok();
    let error = node
        .run(&in_path(call("DEL", &conf, &pod), &plugins))
        .error_code(11);
    assert_eq!(
        error.msg, "address missing",
        "containerd takes \"not found\" for success"
    );
    assert_eq!(pod.netns.links(), ["lo"]);
    script(plugins.path(), "fake-ipam", "exit 0");
    node.run(&in_path(call("DEL", &conf, &pod), &plugins)).ok();
    assert_eq!(reservations(&node), [""; 0]);
}

#[test]
fn del_is_success_before_any_add_and_as_often_as_it_comes() {
    let (node, pod) = (node(), Pod::new("c1"));
    del(&node, &conf(), &pod);
    add(&node, &conf(), &pod);
    for _ in 0..3 {
        del(&node, &conf(), &pod);
        assert_eq!(
            (pod.netns.links(), reservations(&node)),
            (vec!["lo".to_owned()], vec![])
        );
    }
}

#[test]
fn del_releases_the_address_whatever_has_become_of_the_namespace() {
    let node = node();
    let directory = tempfile::tempdir().unwrap();
    let bogus = directory.path().join("bogus");
    fs::write(&bogus, "x").unwrap();
    for netns in [
        "",
        "/no/such/netns",
        bogus.to_str().unwrap(),
        "/proc/self/ns/uts",
    ] {
        let pod = Pod::new("c1");
        add(&node, &conf(), &pod);
        let call = call("DEL", &conf(), &pod).env("CNI_NETNS", netns);
        drop(pod);
        node.run(&call).ok();
        assert_eq!(reservations(&node), [""; 0], "{netns:?}");
    }
    assert_eq!(fs::read_to_string(&bogus).unwrap(), "x");
}

#[test]
fn del_without_a_namespace_still_removes_the_interface_of_one_that_lives() {
    let (node, pod) = (node(), Pod::new("c1"));
    add(&node, &conf(), &pod);
    node.run(&call("DEL", &conf(), &pod).without("CNI_NETNS"))
        .ok();
    assert_eq!(
        (pod.netns.links(), reservations(&node)),
        (vec!["lo".to_owned()], vec![])
    );
}

#[test]
fn del_leaves_an_interface_in_another_namespace_at_the_same_path_alone() {
    let node = node();
    let (first, second) = (Pod::new("c1"), Pod::new("c2"));
    add(&node, &conf(), &first);
    add(&node, &conf(), &second);
    let call = call("DEL", &conf(), &first).env("CNI_NETNS", &second.netns.path());
    node.run(&call).ok();
    assert_eq!(second.netns.addresses("net1"), ["10.0.4.3/24"]);
    assert_eq!(first.netns.links(), ["lo"]);
}

#[test]
fn del_works_from_a_stripped_configuration() {
    let node = node();
    let directory = tempfile::tempdir().unwrap();
    let ipam = json!({"type": "host-local", "subnet": "10.0.4.0/24", "dataDir": directory.path()});
    let conf = with(conf(), json!({"ipam": ipam}));
    for stripped in [
        json!({"cniVersion": "1.1.0", "name": "net", "type": "ipvlan", "ipam": {"type": "host-local"}}),
        json!({"cniVersion": "", "name": "net", "type": "ipvlan", "ipam": {}}),
        json!({"cniVersion": "1.1.0", "name": "net", "type": "ipvlan"}),
    ] {
        let pod = Pod::new("c1");
        let result = add(&node, &conf, &pod);
        let mut stripped = stripped;
        if stripped["cniVersion"] == "1.1.0" {
            stripped["prevResult"] = result;
        }
        del(&node, &stripped, &pod);
        assert_eq!(pod.netns.links(), ["lo"]);
        assert_eq!(reservations(&node), [""; 0]);
        let address = directory.path().join("net").join("10.0.4.2");
        assert!(
            !address.exists()
                && fs::read_dir(directory.path().join("net"))
                    .unwrap()
                    .all(|f| {
                        !f.unwrap()
                            .file_name()
                            .to_string_lossy()
                            .starts_with("10.0.4.")
                    })
        );
    }
}

#[test]
fn del_succeeds_whatever_has_become_of_the_configuration() {
    let node = node();
    for changes in [
        json!({"ipam": []}),
        json!({"ipam": {"type": 7}}),
        json!({"ipam": {"type": "another"}}),
        json!({"mode": "l4", "mtu": -1, "master": 7}),
        json!({"prevResult": 7}),
        json!({"dns": "x"}),
    ] {
        let pod = Pod::new("c1");
        add(&node, &conf(), &pod);
        del(&node, &with(conf(), changes), &pod);
        assert_eq!(pod.netns.links(), ["lo"]);
        assert_eq!(reservations(&node), [""; 0]);
    }
}

#[test]
fn del_succeeds_when_the_master_is_gone() {
    let (node, pod) = (node(), Pod::new("c1"));
    add(&node, &conf(), &pod);
    node.netns.ip(&["link", "del", "eth1"]);
    del(&node, &conf(), &pod);
    assert_eq!(reservations(&node), [""; 0]);
}

#[test]
fn del_leaves_the_other_interfaces_of_the_pod_and_other_pods_alone() {
    let node = node();
    let (first, second) = (Pod::new("c1"), Pod::new("c2"));
    add(&node, &conf(), &first);
    node.run(
        &Call::ours("ipvlan", "ADD")
            .conf(&conf())
            .pod(&first, "net2"),
    )
    .ok();
    add(&node, &conf(), &second);
    del(&node, &conf(), &first);
    assert_eq!(first.netns.links(), ["lo", "net2"]);
    assert_eq!(second.netns.links(), ["lo", "net1"]);
    assert_eq!(reservations(&node).len(), 4);
}

#[test]
fn an_add_that_was_killed_is_cleaned_up_by_the_next_one() {
    let (node, pod) = (node(), Pod::new("c1"));
    add(&node, &conf(), &pod);
    pod.netns.ip(&["link", "del", "net1"]);
    add(&node, &conf(), &pod);
    assert_eq!(pod.netns.addresses("net1"), ["10.0.4.3/24"]);
    assert_eq!(reservations(&node).len(), 2);
}

#[test]
fn an_interface_that_the_go_plugin_made_is_removed_when_its_result_shows_it() {
    let (node, pod) = (node(), Pod::new("c1"));
    let conf = with(conf(), json!({"cniVersion": "1.0.0"}));
    let result = node
        .run(&Call::go("ipvlan", "ADD").conf(&conf).pod(&pod, "net1"))
        .ok();
    del(&node, &with(conf, json!({"prevResult": result})), &pod);
    assert_eq!(
        (pod.netns.links(), reservations(&node)),
        (vec!["lo".to_owned()], vec![])
    );
}

#[test]
fn a_record_that_is_damaged_does_not_break_del() {
    let (node, pod) = (node(), Pod::new("c1"));
    for damage in ["", "{", "[]", "null", "\u{0}\u{ff}"] {
        let result = add(&node, &conf(), &pod);
        fs::write(node.state().join("eni-cni/ipvlan/net/c1:net1.json"), damage).unwrap();
        del(&node, &with(conf(), json!({"prevResult": result})), &pod);
        assert_eq!(
            (pod.netns.links(), reservations(&node)),
            (vec!["lo".to_owned()], vec![]),
            "{damage:?}"
        );
    }
}

/// D8: the Go plugin throws the name servers of the IPAM plugin away.
#[test]
fn dns_of_ipam_and_of_the_configuration_are_merged() {
    let (node, pod) = (node(), Pod::new("c1"));
    let resolv_conf = tempfile::NamedTempFile::new().unwrap();
    fs::write(
        resolv_conf.path(),
        "nameserver 192.0.2.53\nsearch example.org\n",
    )
    .unwrap();
    let ipam =
        json!({"type": "host-local", "subnet": "10.0.4.0/24", "resolvConf": resolv_conf.path()});
    let result = add(
        &node,
        &with(
            conf(),
            json!({"ipam": ipam, "dns": {"search": ["example.com"]}}),
        ),
        &pod,
    );
    assert_eq!(
        result["dns"],
        json!({"nameservers": ["192.0.2.53"], "search": ["example.com"]})
    );
}

/// D9: the Go plugin drops the interfaces of the result before it.
#[test]
fn the_result_of_the_plugin_before_is_passed_through() {
    let (node, pod) = (node(), Pod::new("c1"));
    let sandbox = pod.netns.path();
    let prev_result = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "br0"}, {"name": "eth0", "sandbox": sandbox, "mac": "02:00:00:00:00:01"}],
        "ips": [{"address": "10.9.9.9/24", "interface": 1}],
        "routes": [{"dst": "10.8.0.0/16", "gw": "10.9.9.1"}],
        "dns": {"domain": "example.org"}
    });
    let conf = with(conf(), json!({"prevResult": prev_result}));
    let result = add(&node, &conf, &pod);
    let names: Vec<_> = result["interfaces"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| i["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["br0", "eth0", "net1"]);
    assert_eq!(result["ips"][0], prev_result["ips"][0]);
    assert_eq!(
        result["ips"][1],
        json!({"address": "10.0.4.2/24", "gateway": "10.0.4.1", "interface": 2})
    );
    assert_eq!(result["routes"], prev_result["routes"]);
    assert_eq!(result["dns"], prev_result["dns"]);
    assert_eq!(pod.netns.addresses("net1"), ["10.0.4.2/24"]);
}

#[test]
fn the_master_and_the_addresses_can_come_from_the_plugin_before() {
    let (node, pod) = (node(), Pod::new("c1"));
    let prev_result = json!({
        "cniVersion": "1.1.0", "interfaces": [{"name": "eth1"}],
        "ips": [{"address": "10.0.4.99/24", "gateway": "10.0.4.1", "interface": 0}],
        "routes": [{"dst": "0.0.0.0/0"}]
    });
    let conf =
        json!({"cniVersion": "1.1.0", "name": "net", "type": "ipvlan", "prevResult": prev_result});
    let result = add(&node, &conf, &pod);
    assert_eq!(pod.netns.addresses("net1"), ["10.0.4.99/24"]);
    assert!(
        pod.netns
            .ip(&["route"])
            .contains("default via 10.0.4.1 dev net1")
    );
    assert_eq!(result["ips"][0]["interface"], 1);
    assert_eq!(result["interfaces"][1]["name"], "net1");
    assert_eq!(
        result["routes"],
        json!([{"dst": "0.0.0.0/0", "gw": "10.0.4.1"}])
    );
    check(&node, &conf, &pod, &result).ok();
    del(&node, &with(conf, json!({"prevResult": result})), &pod);
    assert_eq!(
        (pod.netns.links(), reservations(&node)),
        (vec!["lo".to_owned()], vec![])
    );
}

#[test]
fn a_container_interface_in_the_result_before_is_no_master_of_the_node() {
    let (node, pod) = (node(), Pod::new("c1"));
    let prev_result = json!({"cniVersion": "1.1.0", "interfaces": [{"name": "eth1", "sandbox": pod.netns.path()}]});
    let conf = with(conf(), json!({"master": "", "prevResult": prev_result}));
    refused(
        &node,
        &conf,
        &pod,
        7,
        "chained master failure. PrevResult lacks a single named interface",
    );
}

/// D10: the Go plugin creates the link and then fails with "no plugin name provided".
#[test]
fn without_ipam_the_interface_comes_alone() {
    let (node, pod) = (node(), Pod::new("c1"));
    let conf = with(conf(), json!({"ipam": {}}));
    let result = add(&node, &conf, &pod);
    assert_eq!(result["ips"], Value::Null);
    assert_eq!(pod.netns.addresses("net1"), [""; 0]);
    assert!(
        pod.netns.link("net1").unwrap()["flags"]
            .to_string()
            .contains("\"UP\"")
    );
    check(&node, &conf, &pod, &result).ok();
    del(&node, &conf, &pod);
    assert_eq!(pod.netns.links(), ["lo"]);
}

#[test]
fn without_ipam_the_versions_that_cannot_say_so_are_undone() {
    let (node, pod) = (node(), Pod::new("c1"));
    let conf = with(conf(), json!({"ipam": {}, "cniVersion": "0.2.0"}));
    refused(
        &node,
        &conf,
        &pod,
        999,
        "cannot convert: no valid IP addresses",
    );
}

/// D11: the Go plugin echoes `mtu` and `advmss` and never programs them.
#[test]
fn every_attribute_of_a_route_reaches_the_kernel() {
    let (node, pod) = (node(), Pod::new("c1"));
    let routes = json!([
        {"dst": "10.1.0.0/16", "mtu": 1300, "advmss": 1200, "priority": 77},
        {"dst": "10.2.0.0/16", "table": 1000, "gw": "10.0.4.9"},
        {"dst": "10.3.0.0/16", "scope": 253},
        {"dst": "10.4.5.6/16"}
    ]);
    let ipam = json!({"type": "host-local", "subnet": "10.0.4.0/24", "routes": routes});
    let conf = with(conf(), json!({"ipam": ipam}));
    let result = add(&node, &conf, &pod);
    let main = pod.netns.ip(&["route"]);
    assert!(
        main.contains("10.1.0.0/16 via 10.0.4.1 dev net1 metric 77 mtu 1300 advmss 1200"),
        "{main}"
    );
    assert!(main.contains("10.4.0.0/16 via 10.0.4.1 dev net1"), "{main}");
    let other = pod.netns.ip(&["route", "show", "table", "1000"]);
    assert!(
        other.contains("10.2.0.0/16 via 10.0.4.9 dev net1"),
        "{other}"
    );
    assert_eq!(result["routes"][0]["mtu"], 1300);
    assert_eq!(result["routes"][3]["dst"], "10.4.5.6/16");
    // D25: the Go plugin's CHECK looks only in the main table.
    check(&node, &conf, &pod, &result).ok();
}

/// D25: the Go plugin's CHECK wants a connected route, which a /32 does not have.
#[test]
fn check_accepts_a_host_address() {
    let (node, pod) = (node(), Pod::new("c1"));
    let (plugins, conf) = with_script(
        r#"echo '{"cniVersion":"1.1.0","ips":[{"address":"10.1.1.1/32"}],"routes":[{"dst":"10.2.0.0/16"}]}'"#,
    );
    let result = node.run(&in_path(call("ADD", &conf, &pod), &plugins)).ok();
    let conf = with(conf, json!({"prevResult": result}));
    node.run(&in_path(call("CHECK", &conf, &pod), &plugins))
        .ok();
}

/// D25: the Go plugin expects every address of the result on the one interface.
#[test]
fn check_looks_for_each_address_on_its_own_interface() {
    let (node, pod) = (node(), Pod::new("c1"));
    let mut result = add(&node, &conf(), &pod);
    result["interfaces"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "eth0", "sandbox": pod.netns.path()}));
    result["ips"]
        .as_array_mut()
        .unwrap()
        .push(json!({"address": "10.9.9.9/24", "interface": 1}));
    check(&node, &conf(), &pod, &result).ok();
}

#[test]
fn check_accepts_routes_that_a_chained_plugin_moved_to_another_table() {
    let (node, pod) = (node(), Pod::new("c1"));
    let ipam =
        json!({"type": "host-local", "subnet": "10.0.4.0/24", "routes": [{"dst": "0.0.0.0/0"}]});
    let conf = with(conf(), json!({"ipam": ipam}));
    let result = add(&node, &conf, &pod);
    pod.netns.ip(&["route", "del", "default"]);
    pod.netns.ip(&[
        "route", "add", "default", "via", "10.0.4.1", "dev", "net1", "table", "100",
    ]);
    check(&node, &conf, &pod, &result).ok();
}

#[test]
fn check_finds_whatever_is_not_as_add_left_it() {
    let node = node();
    node.netns
        .ip(&["link", "add", "eth2", "up", "type", "dummy"]);
    let ipam =
        json!({"type": "host-local", "subnet": "10.0.4.0/24", "routes": [{"dst": "0.0.0.0/0"}]});
    let conf = with(conf(), json!({"ipam": ipam, "mtu": 1500}));
    type Damage = Box<dyn Fn(&Pod)>;
    let ip = |arguments: &'static [&'static str]| -> Damage {
        Box::new(move |pod| drop(pod.netns.ip(arguments)))
    };
    let state = node.state().to_owned();
    let table: Vec<(Damage, &str)> = vec![
        (ip(&["link", "del", "net1"]), "net1 is missing"),
        (
            ip(&["link", "set", "net1", "type", "ipvlan", "mode", "l3"]),
            "Container IPVlan mode l3 does not match expected value: l2",
        ),
        (
            ip(&["link", "set", "net1", "mtu", "1400"]),
            "MTU 1400 does not match expected value: 1500",
        ),
        (
            ip(&["address", "flush", "dev", "net1"]),
            "Failed to match addr 10.0.4.",
        ),
        (ip(&["route", "del", "default"]), "Expected Route 0.0.0.0/0"),
        (
            ip(&["route", "replace", "default", "via", "10.0.4.200"]),
            "Expected Route 0.0.0.0/0",
        ),
        (
            Box::new(move |_| {
                for file in fs::read_dir(state.join("networks/net")).unwrap().flatten() {
                    if file.file_name().to_string_lossy().starts_with("10.0.4.") {
                        fs::remove_file(file.path()).unwrap();
                    }
                }
            }),
            "Failed to find address added by container",
        ),
    ];
    for (damage, said) in table {
        let pod = Pod::new("c1");
        let result = add(&node, &conf, &pod);
        check(&node, &conf, &pod, &result).ok();
        damage(&pod);
        let output = check(&node, &conf, &pod, &result);
        let error = output.error();
        assert!(
            format!("{}: {}", error.msg, error.details).contains(said),
            "{said:?} was expected\n{output}"
        );
        del(&node, &conf, &pod);
    }
}

#[test]
fn check_finds_an_interface_on_another_master() {
    let (node, pod) = (node(), Pod::new("c1"));
    node.netns.ip(&["link", "add", "eth2", "type", "dummy"]);
    let mac = node.netns.link("eth1").unwrap()["address"]
        .as_str()
        .unwrap()
        .to_owned();
    node.netns
        .ip(&["link", "set", "eth2", "mtu", "9001", "address", &mac, "up"]);
    let conf = conf();
    let result = add(&node, &conf, &pod);
    pod.netns.ip(&["link", "del", "net1"]);
    node.netns.ip(&[
        "link", "add", "link", "eth2", "name", "tmp", "type", "ipvlan", "mode", "l2",
    ]);
    let target = pod.netns.path();
    node.netns
        .ip(&["link", "set", "tmp", "name", "net1", "netns", &target]);
    pod.netns
        .ip(&["address", "add", "10.0.4.2/24", "dev", "net1"]);
    pod.netns.ip(&["link", "set", "net1", "up"]);
    let error = check(&node, &conf, &pod, &result).error_code(999);
    assert!(error.msg.contains("is not on its master"), "{error:?}");
    // The interface is not ours any more: DEL leaves it.
    del(&node, &conf, &pod);
    assert_eq!(pod.netns.links(), ["lo", "net1"]);
}

#[test]
fn check_needs_the_result_of_add() {
    let (node, pod) = (node(), Pod::new("c1"));
    add(&node, &conf(), &pod);
    let error = node.run(&call("CHECK", &conf(), &pod)).error_code(7);
    assert_eq!(error.msg, "Required prevResult missing");
}

#[test]
fn status_says_whether_an_add_could_be_served() {
    let node = node();
    let status = |conf: &Value| node.run(&Call::ours("ipvlan", "STATUS").conf(conf));
    assert_eq!(status(&conf()).stdout, "");
    status(&conf()).ok();
    assert!(
        status(&with(conf(), json!({"master": "eth9"})))
            .error_code(50)
            .msg
            .contains("\"eth9\"")
    );
    assert!(
        status(&with(conf(), json!({"mode": "l4"})))
            .error_code(7)
            .msg
            .contains("l4")
    );
    node.netns.ip(&["link", "set", "eth1", "down"]);
    assert!(status(&conf()).error_code(50).msg.contains("is down"));
    node.netns.ip(&["link", "set", "eth1", "up"]);
    let ipam = json!({"type": "host-local", "subnet": "10.0.4.0/24", "rangeStart": "10.0.4.9", "rangeEnd": "10.0.4.9"});
    let conf = with(conf(), json!({"ipam": ipam}));
    status(&conf).ok();
    add(&node, &conf, &Pod::new("c1"));
    status(&conf).error_code(50);
}

/// D21: the Go plugin answers success to GC and does nothing.
#[test]
fn gc_removes_what_is_not_listed_and_nothing_else() {
    let node = node();
    let pods: Vec<Pod> = ["c1", "c2", "c3"].map(Pod::new).into();
    for pod in &pods {
        add(&node, &conf(), pod);
    }
    let other = json!({"name": "other", "ipam": {"type": "host-local", "subnet": "10.0.5.0/24"}});
    let other = with(conf(), other);
    let elsewhere = Pod::new("c4");
    add(&node, &other, &elsewhere);
    let gc = |changes: Value| {
        node.run(&Call::ours("ipvlan", "GC").conf(&with(conf(), changes)))
            .ok()
    };
    gc(json!({}));
    assert_eq!(reservations(&node).len(), 8, "a missing list says nothing");
    gc(json!({"cni.dev/valid-attachments": [{"containerID": "c2", "ifname": "net1"}]}));
    let links: Vec<_> = pods.iter().map(|pod| pod.netns.links().len()).collect();
    assert_eq!(links, [1, 2, 1]);
    assert_eq!(reservations(&node).len(), 4);
    gc(json!({"cni.dev/valid-attachments": null}));
    assert_eq!(pods[1].netns.links(), ["lo"]);
    assert_eq!(elsewhere.netns.links(), ["lo", "net1"]);
    assert_eq!(
        reservations(&node),
        [
            "eni-cni/ipvlan/other/c4:net1.json",
            "networks/other/10.0.5.2"
        ]
    );
}

#[test]
fn gc_goes_on_after_a_failure_and_reports_it() {
    let node = node();
    let (plugins, conf) = with_script(
        r#"[ $CNI_COMMAND$CNI_CONTAINERID = DELc1 ] && { echo '{"code": 5, "msg": "stuck"}'; exit 1; }
           echo '{"cniVersion":"1.1.0","ips":[{"address":"10.1.1.1/24"}]}'"#,
    );
    for pod in ["c1", "c2"].map(Pod::new) {
        node.run(&in_path(call("ADD", &conf, &pod), &plugins)).ok();
    }
    let gc = Call::ours("ipvlan", "GC").conf(&with(conf, json!({"cni.dev/valid-attachments": []})));
    assert!(
        node.run(&in_path(gc, &plugins))
            .error_code(5)
            .msg
            .contains("stuck")
    );
    assert_eq!(reservations(&node), ["eni-cni/ipvlan/net/c1:net1.json"]);
}

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
