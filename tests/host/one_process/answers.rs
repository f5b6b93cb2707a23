//! A delegate that is called answers as one that is executed: the same documents and exit
//! status, and the same lines in the log of the network.

use std::fs;

use serde_json::{Value, json};

use super::{Installed, Site};

/// What the delegate is asked for: the version, and what the configuration has besides.
fn questions() -> Vec<(&'static str, Value)> {
    let network = json!({"subnet": "10.9.0.0/24", "routes": [{"dst": "0.0.0.0/0"}]});
    let families = json!([[{"subnet": "10.9.0.0/24"}], [{"subnet": "2001:db8::/64"}]]);
    let taken = json!([[{"subnet": "10.9.0.0/30", "rangeStart": "10.9.0.9"}]]);
    let ipam = |ipam: Value| json!({ "ipam": ipam });
    vec![
        ("1.1.0", ipam(network.clone())),
        ("0.3.1", ipam(json!({"ranges": families}))),
        (
            "0.2.0",
            ipam(json!({"ranges": families, "routes": [{"dst": "::/0"}]})),
        ),
        ("1.1.0", ipam(json!({"ranges": taken}))),
        (
            "1.0.0",
            ipam(json!({"ranges": [[{"subnet": "10.9.0.0/31"}]]})),
        ),
        ("1.0.0", ipam(json!({"subnet": "nonsense"}))),
        ("1.0.0", ipam(json!({}))),
        (
            "1.0.0",
            ipam(json!({"subnet": "10.9.0.0/24", "resolvConf": "/no/such"})),
        ),
        (
            "1.0.0",
            ipam(json!({"subnet": "10.9.0.0/24", "rangesFile": "/no/such"})),
        ),
        (
            "1.0.0",
            ipam(json!({"subnet": "10.9.0.0/24", "dataDir": "/proc/version"})),
        ),
        (
            "1.0.0",
            json!({"ipam": network, "args": {"cni": {"ips": ["10.9.0.77/24"]}}}),
        ),
        (
            "1.0.0",
            json!({"ipam": network, "args": {"cni": {"ips": ["10.8.0.1/24"]}}}),
        ),
    ]
}

/// What the commands of an attachment answer, one after the other, and what they log.
fn answers(site: &Site, installed: &Installed, version: &str, asked: &Value) -> Vec<String> {
    let log = installed.path("log");
    let mut conf = json!({"name": "lan", "type": "host-device", "device": "hd0"});
    conf["cniVersion"] = json!(version);
    conf["logFile"] = json!(log);
    for (key, value) in asked.as_object().expect("it is an object") {
        conf[key] = value.clone();
    }
    conf["ipam"]["type"] = json!("host-local");
    let mut answers = Vec::new();
    for command in ["STATUS", "ADD", "CHECK", "ADD", "DEL", "CHECK", "GC", "DEL"] {
        conf["cni.dev/valid-attachments"] = json!([]);
        let output = site.node.run(&installed.call(site, command, &conf));
        let (status, stdout) = (output.status, &output.stdout);
        answers.push(format!("{command} {status:?} {stdout}"));
        if let ("ADD", Some(0)) = (command, status) {
            conf["prevResult"] = output.ok();
        }
    }
    let lines = fs::read_to_string(&log).expect("it was written");
    let is_same = |word: &&str| !word.starts_with("time=") && !word.starts_with("milliseconds=");
    let same = |line: &str| {
        line.split(' ')
            .filter(is_same)
            .collect::<Vec<_>>()
            .join(" ")
    };
    answers.extend(lines.lines().map(same));
    fs::remove_file(log).expect("it is there");
    // The next attachment finds nothing of this one, also where that could not be ended.
    for directory in ["networks", "eni-cni"] {
        fs::remove_dir_all(site.node.state().join(directory)).ok();
    }
    answers
}

#[test]
fn a_delegate_that_is_called_answers_as_one_that_is_executed() {
    let site = Site::new();
    let (called, executed) = (Installed::new(), Installed::new());
    executed.replace("host-local", &executed.another_build());
    let mut refused = 0;
    for (version, asked) in questions() {
        let expected = answers(&site, &executed, version, &asked);
        assert_eq!(
            answers(&site, &called, version, &asked),
            expected,
            "{asked}"
        );
        refused += usize::from(!expected[1].starts_with("ADD Some(0)"));
        assert!(
            expected
                .iter()
                .any(|line| line.contains("plugin=host-local")),
            "{expected:?}"
        );
        assert_eq!(site.pod.netns.links(), ["lo"]);
    }
    assert!((5..10).contains(&refused), "{refused} were refused");
}
