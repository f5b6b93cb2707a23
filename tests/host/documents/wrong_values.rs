//! Every wrong value that the tables of keys show causes the error that they show.

use std::fs;
use std::process::Command;

use fixtures::documents::keys::{rows, set};
use fixtures::documents::root;
use harness::{Call, Node, Pod, log, our_plugin};
use serde_json::{Value, json};

/// Makes sure that each wrong value in the page, put into `base`, causes its error.
fn require_errors(program: &str, page: &str, section: &str, base: &Value) {
    let (node, pod) = (Node::new(), Pod::new("c1"));
    let mut count = 0;
    for row in rows(page, section) {
        for wrong in &row.wrong {
            let mut conf = base.clone();
            if row.key.starts_with("cni.dev/valid-attachments[]") {
                conf["cni.dev/valid-attachments"] = json!([{"containerID": "c1"}]);
            }
            set(&mut conf, &row.key, &wrong.value);
            let call = Call::ours(program, wrong.command).conf(&conf);
            let output = node.run(&call.pod(&pod, "net1"));
            let error = output.error();
            let found = (Some(error.code), error.msg.starts_with(&wrong.text));
            assert_eq!(
                found,
                (wrong.code, true),
                "{}: {wrong:?}\n{output}",
                row.key
            );
            count += 1;
        }
    }
    assert!(count > 0, "{page} has no wrong values");
}

#[test]
fn every_wrong_value_of_ipvlan_causes_the_error_in_the_page() {
    let base = json!({"cniVersion": "1.1.0", "name": "net", "type": "ipvlan"});
    require_errors("ipvlan", "ipvlan.md", "", &base);
}

#[test]
fn every_wrong_value_of_host_device_causes_the_error_in_the_page() {
    // The key that counts last.
    let base = json!({
        "cniVersion": "1.1.0", "name": "net", "type": "host-device", "pciBusID": "0000:00:00.0"
    });
    require_errors("host-device", "host-device.md", "", &base);
}

#[test]
fn every_wrong_value_of_host_local_causes_the_error_in_the_page() {
    let base = json!({
        "cniVersion": "1.1.0", "name": "net",
        "ipam": {
            "type": "host-local", "subnet": "10.0.4.0/24", "routes": [{"dst": "0.0.0.0/0"}]
        }
    });
    require_errors("host-local", "host-local.md", "", &base);
}

#[test]
fn every_wrong_value_of_eni_sync_causes_the_error_in_the_page() {
    let base = json!({"cniVersion": "1.1.0", "name": "net", "type": "eni-sync"});
    require_errors("eni-sync", "eni-sync.md", "\n## As a plugin\n", &base);
}

#[test]
fn every_wrong_value_of_a_network_without_addresses_causes_the_error_in_the_page() {
    let base = json!({
        "cniVersion": "1.1.0", "name": "net", "type": "ipvlan", "ipam": {"type": "eni-sync"}
    });
    require_errors(
        "eni-sync",
        "eni-sync.md",
        "\n## As the IPAM plugin\n",
        &base,
    );
}

/// The configuration of an agent that is in `examples`.
fn agent_example(name: &str) -> Value {
    let path = root().join("examples/agent").join(name);
    let text = fs::read_to_string(path).expect("it can be read");
    serde_json::from_str(&text).expect("it is JSON")
}

/// What an agent with this configuration says that does not start.
fn refusal_of_agent(conf: &Value) -> String {
    let file = tempfile::NamedTempFile::new().expect("a file can be made");
    fs::write(&file, conf.to_string()).expect("it can be written");
    // One that takes it would run for ever.
    let output = Command::new("timeout")
        .arg("20")
        .arg(our_plugin("eni-sync"))
        .args(["agent", "--config"])
        .arg(file.path())
        .output()
        .expect("it can be started");
    assert_eq!(output.status.code(), Some(1), "{conf}: {output:?}");
    log::messages(&String::from_utf8(output.stderr).expect("it is text"))
}

#[test]
fn every_wrong_value_of_the_agent_causes_the_error_in_the_page() {
    let mut base = agent_example("watched.json");
    base["pools"] = agent_example("pools.json")["pools"].clone();
    base["resources"] = agent_example("resources.json")["resources"].clone();
    base["prefixes"] = agent_example("prefixes.json")["prefixes"].clone();
    let mut count = 0;
    for row in rows("eni-sync.md", "\n## Agent\n") {
        assert!(!row.wrong.is_empty(), "{}", row.key);
        for wrong in &row.wrong {
            let mut conf = base.clone();
            // A pool has either prefixes or ranges.
            if row.key.starts_with("pools[].prefixes") {
                conf["pools"] = agent_example("pool-of-prefixes.json")["pools"].clone();
            }
            set(&mut conf, &row.key, &wrong.value);
            let said = refusal_of_agent(&conf);
            assert!(said.contains(&wrong.text), "{}: {wrong:?}\n{said}", row.key);
            count += 1;
        }
    }
    assert!(count > 20, "the page has {count} wrong values");
}

#[test]
fn every_wrong_value_of_enis_causes_the_error_in_the_page() {
    let base = agent_example("enis.json");
    let mut count = 0;
    for row in rows("attach.md", "") {
        assert!(!row.wrong.is_empty(), "{}", row.key);
        for wrong in &row.wrong {
            let mut conf = base.clone();
            // Ids and tags exclude each other.
            if let Some((section, _)) = row.key.split_once('.') {
                set(&mut conf, &format!("enis[].{section}"), &json!({}));
            }
            let key = format!("enis[].{}", row.key);
            set(&mut conf, &key, &wrong.value);
            let said = refusal_of_agent(&conf);
            assert!(said.contains(&wrong.text), "{key}: {wrong:?}\n{said}");
            count += 1;
        }
    }
    assert!(count > 15, "the page has {count} wrong values");
}

#[test]
fn the_agents_of_the_examples_are_taken() {
    let directory = root().join("examples/agent");
    for entry in fs::read_dir(directory).expect("it can be listed") {
        let path = entry.expect("it can be listed").path();
        let mut doctor = Command::new(our_plugin("eni-sync"));
        doctor
            .args(["doctor", "--json", "--agent-config"])
            .arg(&path);
        // Whatever is missing here besides, the configuration is looked at.
        let output =
            Node::new().inside(|| doctor.env("AWS_EC2_METADATA_DISABLED", "true").output());
        let output = output.expect("it can be started");
        let report: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
        let findings = report["findings"].as_array().expect("it has findings");
        let mut found = findings
            .iter()
            .filter(|finding| finding["check"] == "agent-configuration");
        let finding = found.next().expect("the check was made");
        assert_eq!(finding["level"], "ok", "{path:?}: {finding}");
    }
}
