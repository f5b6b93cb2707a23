//! What the delegate gets, and what becomes of its answers.

use std::fs;

use fixtures::dhcp;
use harness::Pod;
use serde_json::json;

use super::{call, in_path, node, reservations, script, with_script};

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
fn a_dhcp_server_sees_a_lease_acquired_and_released() {
    dhcp::a_lease_is_taken_and_given_back("ipvlan");
}
