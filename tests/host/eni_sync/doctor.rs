//! `doctor`: every check on a node where all is well, and each on one where what it
//! looks for is wrong.

mod access;
mod addresses;
mod configuration;
mod enis;
mod host;
mod plugins;
mod prefixes;
mod ranges;
mod report;

use std::fs;

use harness::vpc::VpcNode;
use harness::{Call, Output};
use serde_json::{Value, json};

/// What the doctor has found.
pub(super) struct Diagnosis {
    output: Output,
    findings: Vec<Value>,
}

/// Runs the doctor on a node.
#[track_caller]
pub(super) fn examine(node: &VpcNode, arguments: &[&str]) -> Diagnosis {
    examine_with(node, &node.call(""), arguments)
}

/// The same with the environment of a call.
#[track_caller]
pub(super) fn examine_with(node: &VpcNode, call: &Call, arguments: &[&str]) -> Diagnosis {
    let arguments = [&["doctor", "--json"], arguments].concat();
    let output = node.command_with(call, &arguments);
    let document = output.document();
    let findings = document["findings"].as_array().unwrap().clone();
    let errors = findings.iter().filter(|f| f["level"] == "error").count();
    assert_eq!(document["errors"], errors, "{output}");
    assert_eq!(output.status, Some(i32::from(errors > 0)), "{output}");
    Diagnosis { output, findings }
}

/// Runs the doctor about one network.
#[track_caller]
pub(super) fn examine_network(node: &VpcNode, configuration: &Value) -> Diagnosis {
    fs::write(
        node.run_directory().join("net.json"),
        configuration.to_string(),
    )
    .unwrap();
    examine(node, &["--nad", "/run/net.json"])
}

/// A configuration that nothing is wrong with.
fn network() -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "mgmt", "plugins": [
            {
                "type": "ipvlan", "master": "ens6", "ipam": {
                    "type": "host-local", "subnet": "10.0.4.0/24",
                    "rangeStart": "10.0.4.72", "rangeEnd": "10.0.4.75",
                },
            },
            { "type": "eni-sync" },
        ],
    })
}

/// The same, but for the section of its address management.
fn network_with_ipam(ipam: &Value) -> Value {
    let mut network = network();
    network["plugins"][0]["ipam"] = ipam.clone();
    network
}

impl Diagnosis {
    /// The findings of a check: level, text and advice.
    pub(super) fn of(&self, check: &str) -> Vec<(&str, &str, &str)> {
        let findings = self.findings.iter().filter(|f| f["check"] == check);
        findings
            .map(|f| {
                (
                    f["level"].as_str().unwrap(),
                    f["says"].as_str().unwrap(),
                    f["advice"].as_str().unwrap(),
                )
            })
            .collect()
    }

    /// Whether every finding of a check, of which there is one, is good.
    #[track_caller]
    pub(super) fn is_well(&self, check: &str) {
        let findings = self.of(check);
        assert!(!findings.is_empty(), "{check} is missing\n{}", self.output);
        for (level, ..) in findings {
            assert_eq!(level, "ok", "{check}\n{}", self.output);
        }
    }

    /// A check must have found this, with something to do about it.
    #[track_caller]
    pub(super) fn has(&self, check: &str, level: &str, says: &str) {
        let found = self.of(check);
        let is_it = |(l, s, advice): &(&str, &str, &str)| {
            *l == level && s.contains(says) && !advice.is_empty()
        };
        assert!(
            found.iter().any(is_it),
            "{check} has no {level} {says:?}\n{}",
            self.output
        );
    }
}
