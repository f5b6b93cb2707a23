//! The doctor and the plugins are given the same configurations, right ones and wrong ones:
//! what a plugin refuses is an error of the doctor in the plugin's words, and what it takes
//! is not.

use std::fs;

use harness::vpc::{Vpc, VpcNode};
use harness::{Call, CniError, Pod};
use serde_json::{Value, json};

use super::{Diagnosis, examine};

const CORPUS: &str = include_str!("../../../data/configurations.jsonl");
/// What the doctor says nothing about: a kernel for tests may not have it.
const NO_IPVLAN: &str = "the kernel of this node has no ipvlan";
/// What a plugin answers that could serve the configuration at another time.
const UNAVAILABLE: u64 = 50;

/// The corpus for this node, each a network of its own.
fn corpus(node: &VpcNode) -> Vec<Value> {
    let mac = &node.mac;
    let text = CORPUS
        .replace("\"MAC\"", &json!(mac).to_string())
        .replace("\"UPPER\"", &json!(mac.to_uppercase()).to_string())
        .replace("\"HYPHENS\"", &json!(mac.replace(':', "-")).to_string());
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    let numbered = lines.enumerate().map(|(number, mut conf): (usize, Value)| {
        conf["cniVersion"] = json!("1.1.0");
        conf["name"] = json!(format!("n{number}"));
        conf
    });
    numbered.collect()
}

/// A node with an interface that is down, one that is in use, and files with ranges.
fn node(vpc: &Vpc) -> VpcNode {
    let node = vpc.node();
    let netns = &node.node.netns;
    for name in ["ens8", "ens9"] {
        let peer = format!("p-{name}");
        netns.ip(&["link", "add", name, "type", "veth", "peer", "name", &peer]);
    }
    netns.ip(&["link", "add", "br0", "type", "bridge"]);
    netns.ip(&["link", "set", "ens8", "up", "master", "br0"]);
    for (name, text) in [
        ("right", r#"{"ranges":[[{"subnet":"10.0.6.0/24"}]]}"#),
        ("wrong", r#"{"ranges":[[{"subnet":"10.0.6.9/24"}]]}"#),
        ("empty", ""),
    ] {
        fs::write(node.run_directory().join(format!("{name}.json")), text).unwrap();
    }
    node.command(&["sync", "--once"]);
    node
}

/// The errors and warnings that the doctor has for a network.
fn complaints<'a>(diagnosis: &'a Diagnosis, network: &str) -> Vec<(&'a str, &'a str)> {
    let subject = format!("{network} (");
    let found = diagnosis.findings.iter().filter(|finding| {
        let checks = ["keys", "master", "range"];
        checks.contains(&finding["check"].as_str().unwrap())
            && finding["subject"].as_str().unwrap().starts_with(&subject)
    });
    let texts = found.map(|f| (f["level"].as_str().unwrap(), f["says"].as_str().unwrap()));
    texts.filter(|(level, _)| *level != "ok").collect()
}

fn status(node: &VpcNode, conf: &Value) -> Option<CniError> {
    let output = node.run(&Call::ours(conf["type"].as_str().unwrap(), "STATUS").conf(conf));
    if output.status == Some(0) {
        return None;
    }
    let error = output.try_error().unwrap();
    Some(error).filter(|error| !error.msg.starts_with(NO_IPVLAN))
}

#[test]
fn the_doctor_says_of_a_configuration_what_its_plugin_says() {
    let vpc = Vpc::new();
    let node = node(&vpc);
    let corpus = corpus(&node);
    assert!(corpus.len() >= 150);
    let texts: Vec<String> = corpus.iter().map(Value::to_string).collect();
    fs::write(node.run_directory().join("all.yaml"), texts.join("\n---\n")).unwrap();
    let diagnosis = examine(&node, &["--nad", "/run/all.yaml"]);
    let (mut taken, mut refused) = (0, 0);
    for conf in &corpus {
        let complaints = complaints(&diagnosis, conf["name"].as_str().unwrap());
        let Some(error) = status(&node, conf) else {
            taken += 1;
            assert!(complaints.is_empty(), "{conf}: {complaints:?}");
            continue;
        };
        refused += 1;
        // A device that is missing may be in a pod now.
        let is_elsewhere = error.code == UNAVAILABLE && conf["type"] == "host-device";
        let level = if is_elsewhere { "warning" } else { "error" };
        let is_it = |(l, says): &(&str, &str)| *l == level && says.contains(&error.msg);
        assert!(
            complaints.iter().any(is_it),
            "{conf}: {error:?}, {complaints:?}"
        );
    }
    assert!(taken >= 50 && refused >= 80, "{taken} and {refused}");
}

#[test]
fn what_status_says_of_ranges_is_what_an_add_says() {
    let vpc = Vpc::new();
    let node = node(&vpc);
    for conf in corpus(&node) {
        if conf["ipam"]["type"] != "host-local" {
            continue;
        }
        let pod = Pod::new("c1");
        let call = |command: &str| {
            Call::ours("host-local", command)
                .conf(&conf)
                .pod(&pod, "net1")
        };
        let said = status(&node, &conf);
        let output = node.run(&call("ADD"));
        match said {
            None => {
                output.ok();
                node.run(&call("DEL")).ok();
            }
            Some(error) => assert_eq!(output.error().msg, error.msg, "{conf}"),
        }
    }
}
