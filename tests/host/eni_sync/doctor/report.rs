//! What the doctor prints, and that it only looks.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use harness::vpc::{Agent, Vpc, VpcNode};
use harness::{Pod, repository};
use serde_json::{Value, json};

use super::{examine, examine_network, network};

#[test]
fn on_a_node_where_all_is_well_every_check_says_so() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.lab.reserve_cidr(&vpc.pods, "10.0.4.64/26", "explicit");
    let pod = Pod::new("c1");
    node.add(&pod, &["10.0.4.72"]).ok();
    let _agent = Agent::start(&node, &json!({}));
    let diagnosis = examine_network(&node, &network());
    for check in [
        "imds",
        "region",
        "credentials",
        "permission",
        "agent",
        "inventory",
        "host-alias",
        "eni-for-pods",
        "eni-interface",
        "source-dest-check",
        "delete-on-termination",
        "slots",
        "owners",
        "registered",
        "attachments",
        "cni-version",
        "plugin-order",
        "keys",
        "master",
        "master-up",
        "master-eni",
        "master-primary",
        "no-manage",
        "range-subnet",
        "range-mask",
        "range-reserved",
        "gateway",
        "range-slots",
        "foreign-owner",
        "cidr-reservation",
    ] {
        diagnosis.is_well(check);
    }
    let others = diagnosis.findings.iter().filter(|f| f["level"] != "ok");
    assert_eq!(others.count(), 0, "{}", diagnosis.output);
    assert_eq!(diagnosis.of("permission").len(), 5, "{}", diagnosis.output);
}

#[test]
fn nothing_is_written_and_nothing_changed() {
    let vpc = Vpc::new();
    let node = vpc.node();
    examine(&node, &[]);
    assert_eq!(fs::read_dir(node.node.state()).unwrap().count(), 0);
    assert_eq!(fs::read_dir(node.run_directory()).unwrap().count(), 0);
    let calls = node.lab.calls();
    let reading = |action: &String| action.starts_with("Describe") || action.starts_with("Get");
    assert!(calls.keys().all(reading), "{calls:?}");
}

#[test]
fn the_report_has_a_line_for_each_fault_and_what_to_do() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.lab.delete_on_termination(&node.eni, false);
    let output = node.command(&["doctor"]);
    assert_eq!(output.status, Some(0), "{output}");
    let lines: Vec<&str> = output.stdout.lines().collect();
    let at = lines
        .iter()
        .position(|line| line.starts_with("  warning  delete-on-termination"));
    let at = at.unwrap_or_else(|| panic!("{output}"));
    assert!(lines[at].contains(node.eni.as_str()), "{output}");
    assert!(
        lines[at + 1].trim().starts_with("set DeleteOnTermination"),
        "{output}"
    );
    let last = lines.last().unwrap();
    assert!(last.ends_with("errors: 0, warnings: 2"), "{output}");
    assert_eq!(lines[0], "the node", "{output}");
    let is_finding = |line: &&&str| line.starts_with("  ok") || line.starts_with("  info");
    assert_eq!(lines.iter().filter(is_finding).count(), 0, "{output}");
    let whole = node.command(&["doctor", "--all"]);
    let whole: Vec<&str> = whole.stdout.lines().collect();
    assert!(whole.iter().filter(is_finding).count() > 5, "{whole:#?}");
}

/// What libcni keeps of an attachment of a network.
fn keep(node: &VpcNode, directory: &str, network: &Value) {
    let directory = node.node.state().join(directory);
    fs::create_dir_all(&directory).unwrap();
    let name = network["name"].as_str().unwrap();
    let cached = json!({
        "kind": "cniCacheV1", "containerId": "c1", "ifName": "net1", "networkName": name,
        "config": base64(network.to_string().as_bytes()),
    });
    fs::write(
        directory.join(format!("{name}-c1-net1")),
        cached.to_string(),
    )
    .unwrap();
}

fn base64(bytes: &[u8]) -> String {
    let mut process = Command::new("base64");
    process
        .arg("-w0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut process = process.spawn().unwrap();
    process.stdin.take().unwrap().write_all(bytes).unwrap();
    String::from_utf8(process.wait_with_output().unwrap().stdout).unwrap()
}

#[test]
fn networks_are_found_on_the_node_and_each_is_a_group() {
    let vpc = Vpc::new();
    let mut node = vpc.node();
    let etc = tempfile::tempdir().unwrap();
    for (path, text) in [
        (
            "cni/net.d/10-aws.conflist",
            r#"{"name":"aws-cni","plugins":[{"type":"aws-cni"}]}"#,
        ),
        (
            "eni-sync/agent.json",
            r#"{"networks":[{"name":"x","master":"ens9"}]}"#,
        ),
    ] {
        let path = etc.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let authorities = "ssl/certs/ca-certificates.crt";
    fs::create_dir_all(etc.path().join("ssl/certs")).unwrap();
    fs::copy(
        Path::new("/etc").join(authorities),
        etc.path().join(authorities),
    )
    .unwrap();
    node.node.bind(etc.path(), "/etc");
    keep(&node, "results", &network());
    let mut second = network();
    second["name"] = json!("second");
    second["plugins"][1]["takover"] = json!("never");
    keep(&node, "multus/results", &second);
    keep(&node, "multus/results", &network());
    let diagnosis = examine(&node, &[]);
    assert_eq!(diagnosis.of("cni-version").len(), 2, "{}", diagnosis.output);
    diagnosis.has(
        "agent-configuration",
        "error",
        "network x: there is no interface \"ens9\"",
    );
    let output = node.command(&["doctor"]);
    assert_eq!(output.status, Some(1), "{output}");
    let (_, group) = output
        .stdout
        .split_once("\nsecond (of a running pod)\n")
        .unwrap();
    assert!(
        group.contains("unknown-keys   eni-sync does not know takover"),
        "{output}"
    );
    assert!(group.contains("networks: 3, "), "{output}");
}

#[test]
fn configurations_come_from_files_of_all_kinds_from_stdin_and_from_a_directory() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let config = network().to_string();
    let definition = |name: &str| {
        json!({
            "apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
            "metadata": { "name": name, "namespace": "default" }, "spec": { "config": config },
        })
    };
    let write = |name: &str, text: String| {
        let path = node.run_directory().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let list = json!({ "kind": "List", "items": [definition("a"), definition("b")] });
    write("list.json", list.to_string());
    write(
        "one.yaml",
        format!("---\n{}\n---\nkind: Service\n", definition("c")),
    );
    write("net.d/10-x.conflist", config.clone());
    write("net.d/README", "not a configuration".to_owned());
    let arguments = [
        "--nad",
        "/run/list.json",
        "/run/one.yaml",
        "--cni-conf-dir",
        "/run/net.d",
    ];
    let diagnosis = examine(&node, &arguments);
    let subjects = |check: &str| -> Vec<String> {
        let findings = diagnosis.findings.iter().filter(|f| f["check"] == check);
        findings
            .map(|f| f["subject"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        subjects("cni-version"),
        [
            "default/a (/run/list.json)",
            "default/b (/run/list.json)",
            "default/c (/run/one.yaml)",
            "mgmt (/run/net.d/10-x.conflist)",
        ]
    );
    let real = repository().join("tests/data/ipvlan-conf-ens6.yaml");
    fs::copy(real, node.run_directory().join("real.yaml")).unwrap();
    let diagnosis = examine(&node, &["--nad", "/run/real.yaml"]);
    diagnosis.has(
        "range-subnet",
        "error",
        "100.64.30.10-100.64.30.100/19 is not in",
    );
    let call = node.call("").without("CNI_COMMAND").stdin(config);
    let mut process = call.process();
    process
        .args(["doctor", "--all", "--nad", "-"])
        .stdout(Stdio::piped());
    let output = node.node.inside(|| call.run_as(process));
    let (_, group) = output.stdout.split_once("\nmgmt (-)\n").unwrap();
    assert!(
        group.contains("cni-version") && group.contains("1.0.0"),
        "{output}"
    );
}
