//! `status`: what it shows, where from, and that it only looks.

use std::fs;

use harness::Pod;
use harness::vpc::{Agent, Vpc, VpcNode, eventually};
use serde_json::{Value, json};

/// A node with one address in each state that does not need a crash.
fn node_with_addresses(vpc: &Vpc, pods: &[Pod; 2]) -> VpcNode {
    let node = vpc.node();
    let args = "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0";
    let call = node.pod_call("ADD", &pods[0], &["10.0.4.70"]);
    node.run(&call.env("CNI_ARGS", args)).ok();
    node.add(&pods[1], &["10.0.4.71"]).ok();
    node.del(&pods[1]);
    node
}

fn status(node: &VpcNode, arguments: &[&str]) -> Value {
    let arguments = [&["status", "--json"], arguments].concat();
    node.command(&arguments).ok()
}

/// What is said of the ENI for pods.
fn of_eni(status: &Value, node: &VpcNode) -> Value {
    let enis = status["enis"].as_array().unwrap();
    let eni = enis.iter().find(|eni| eni["id"] == node.eni.as_str());
    eni.unwrap_or_else(|| panic!("{status:#}")).clone()
}

#[test]
fn the_table_shows_the_owner_of_each_address() {
    let vpc = Vpc::new();
    let pods = [Pod::new("c1"), Pod::new("c2")];
    let node = node_with_addresses(&vpc, &pods);
    let output = node.command(&["status"]);
    assert_eq!(output.status, Some(0), "{output}");
    let line = |word: &str| {
        let found = output.stdout.lines().find(|line| line.contains(word));
        found.unwrap_or_else(|| panic!("{output}")).to_owned()
    };
    let first = line("c5.large");
    assert!(first.starts_with(node.instance.as_str()), "{first}");
    assert!(
        first.contains(", as EC2 said ") && first.ends_with(" ago"),
        "{first}"
    );
    assert_eq!(
        line(node.eni.as_str()),
        format!(
            "{} ens6, {} 10.0.4.0/24 2001:db8:4::/64, IPv4 3/10, IPv6 0/10",
            node.eni, vpc.pods
        )
    );
    let words = |line: String| {
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let held = words(line("10.0.4.70"));
    assert_eq!(held[1], "held");
    assert_eq!(held[3..], ["default/web-0", "c1/net1", "mgmt"]);
    let releasing = words(line("10.0.4.71"));
    assert_eq!(releasing[1], "releasing");
    assert_eq!(releasing[3..8], ["-", "c2/net1", "mgmt", "leaves", "in"]);
}

#[test]
fn the_json_has_what_the_table_has() {
    let vpc = Vpc::new();
    let pods = [Pod::new("c1"), Pod::new("c2")];
    let node = node_with_addresses(&vpc, &pods);
    let status = status(&node, &[]);
    assert_eq!(status["instanceId"], node.instance.as_str());
    assert_eq!(status["live"], false);
    assert!(status["inventoryAgeSeconds"].is_u64(), "{status:#}");
    let mut eni = of_eni(&status, &node);
    assert_eq!(eni["ipv4"], json!({ "used": 3, "limit": 10 }));
    assert_eq!(
        (&eni["interface"], &eni["managed"]),
        (&json!("ens6"), &json!(true))
    );
    let held = eni["addresses"][0].as_object_mut().unwrap();
    assert!(held.remove("since").unwrap().is_u64());
    let expected = json!({
        "address": "10.0.4.70", "state": "held", "releaseAfter": null, "refusal": null, "differs": null,
        "owner": {
            "network": "mgmt", "pod": "default/web-0", "containerId": "c1", "ifname": "net1", "alive": true,
        },
    });
    assert_eq!(Value::Object(held.clone()), expected);
    assert!(eni["addresses"][1]["releaseAfter"].is_u64(), "{eni:#}");
}

#[test]
fn aws_is_not_needed_and_nothing_is_written() {
    let vpc = Vpc::new();
    let pods = [Pod::new("c1"), Pod::new("c2")];
    let node = node_with_addresses(&vpc, &pods);
    node.lab.rules(|rules| rules.imds_down = true);
    node.lab.reset_calls();
    assert_eq!(
        of_eni(&status(&node, &[]), &node)["addresses"][0]["state"],
        "held"
    );
    assert!(node.lab.calls().is_empty(), "{:?}", node.lab.calls());
    let fresh = vpc.node();
    let output = fresh.command(&["status"]);
    assert_eq!(output.status, Some(0), "{output}");
    let expected = "no inventory: EC2 has not been asked on this node yet\n";
    assert_eq!(output.stdout, expected);
    assert_eq!(fs::read_dir(fresh.node.state()).unwrap().count(), 0);
    assert_eq!(fs::read_dir(fresh.run_directory()).unwrap().count(), 0);
}

#[test]
fn a_live_status_marks_what_differs_from_ec2() {
    let vpc = Vpc::new();
    let pods = [Pod::new("c1"), Pod::new("c2")];
    let node = node_with_addresses(&vpc, &pods);
    node.lab
        .unassign(&node.eni, &["10.0.4.70".parse().unwrap()]);
    node.lab.assign(&node.eni, &["10.0.4.99".parse().unwrap()]);
    let status = status(&node, &["--live"]);
    assert_eq!(status["live"], true);
    let eni = of_eni(&status, &node);
    let differs: Vec<_> = eni["addresses"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| {
            (
                a["address"].as_str().unwrap(),
                a["state"].as_str().unwrap(),
                a["differs"].as_str(),
            )
        })
        .collect();
    assert_eq!(
        differs,
        [
            ("10.0.4.70", "held", Some("only-in-ledger")),
            ("10.0.4.71", "releasing", None),
            ("10.0.4.99", "unknown", Some("only-on-eni")),
        ]
    );
    assert_eq!(eni["ipv4"]["used"], 3);
    let output = node.command(&["status", "--live"]);
    assert!(output.stdout.contains(", as EC2 says now\n"), "{output}");
    assert!(output.stdout.contains("only on the ENI"), "{output}");
    assert_eq!(node.ledger().len(), 2, "nothing is adopted");
}

#[test]
fn an_attachment_that_ended_without_a_del_is_marked() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.add(&Pod::new("c1"), &["10.0.4.70"]).ok();
    let output = node.command(&["status"]);
    assert!(
        output.stdout.contains("its attachment has ended"),
        "{output}"
    );
}

#[test]
fn an_address_that_could_not_be_had_says_why() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let other = vpc.node();
    node.lab.assign(&other.eni, &["10.0.4.70".parse().unwrap()]);
    let pod = Pod::new("c1");
    node.run(&node.conf_call("ADD", &pod, &["10.0.4.70"], &json!({ "strict": false })))
        .ok();
    let eni = of_eni(&status(&node, &[]), &node);
    let refusal = eni["addresses"][0]["refusal"].as_str().unwrap();
    assert!(refusal.contains(other.eni.as_str()), "{refusal}");
}

#[test]
fn addresses_of_an_eni_that_has_gone_are_still_shown() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    node.add(&pod, &["10.0.4.70"]).ok();
    node.lab.detach_eni(&node.eni);
    let output = node.command(&["status", "--live"]);
    let expected = format!("{}: not an ENI of this node\n", node.eni);
    assert!(output.stdout.contains(&expected), "{output}");
    assert!(output.stdout.contains("only in the ledger"), "{output}");
}

#[test]
fn every_file_of_the_ledger_that_cannot_be_read_is_named() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.add(&Pod::new("c1"), &["10.0.4.70"]).ok();
    node.lab.assign_prefix(&node.eni, "10.0.4.32/28");
    let gone = vpc.lab.create_eni(&vpc.pods);
    let files = [
        ".asked-ipv6",
        ".prefix-10.0.4.32-28",
        ".prefix-x",
        "10.0.4.71",
    ];
    for directory in [node.ledger_path(), node.ledger_path_of(&gone)] {
        fs::create_dir_all(&directory).unwrap();
        for file in files {
            fs::write(directory.join(file), "{").unwrap();
        }
    }
    for arguments in [&["status"][..], &["status", "--live"]] {
        let output = node.command(arguments);
        assert_eq!(output.status, Some(0), "{output}");
        for eni in [&node.eni, &gone] {
            for file in files {
                let path = format!("ledger/{eni}/{file}\"");
                assert_eq!(output.stdout.matches(&path).count(), 1, "{path}: {output}");
            }
        }
    }
    let eni = of_eni(&status(&node, &["--live"]), &node);
    let prefixes = eni["prefixes"].as_array().unwrap();
    assert_eq!(prefixes.len(), 1, "{eni:#}");
    assert_eq!(prefixes[0]["prefix"], "10.0.4.32/28");
    assert_eq!(prefixes[0]["state"], "unreadable");
    assert_eq!(eni["damaged"].as_array().unwrap().len(), 2, "{eni:#}");
}

#[test]
fn names_of_others_cannot_write_to_the_terminal() {
    let vpc = Vpc::new();
    let pods = [Pod::new("c1"), Pod::new("c2")];
    let node = node_with_addresses(&vpc, &pods);
    let pod = "default/\u{1b}[2J\u{9b}31m\u{202e}a\nb";
    node.edit_ledger("10.0.4.70", |entry| entry["owner"]["pod"] = json!(pod));
    let commands: [&[&str]; 4] = [
        &["status"],
        &["status", "--json"],
        &["doctor"],
        &["release", "--network", "mgmt", "--dry-run"],
    ];
    for arguments in commands {
        let output = node.command(arguments);
        let shown = format!("{}{}", output.stdout, output.stderr);
        let is_obeyed = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
        assert!(!shown.chars().any(is_obeyed), "{shown:?}");
    }
    let output = node.command(&["status"]);
    assert!(
        output
            .stdout
            .contains(r"default/\u{1b}[2J\u{9b}31m\u{202e}a\u{a}b"),
        "{output}"
    );
    assert_eq!(
        of_eni(&status(&node, &[]), &node)["addresses"][0]["owner"]["pod"],
        pod
    );
}

/// What the kubelet is offered is shown beside the room of the ENIs, and that beside the rest.
#[test]
fn the_inventory_and_each_file_of_the_ledger_are_read_once() {
    let vpc = Vpc::new();
    let pods = [Pod::new("c1"), Pod::new("c2")];
    let node = node_with_addresses(&vpc, &pods);
    let resources = json!([{
        "name": "eni-cni.io/user-plane", "eni": { "subnet": vpc.pods.as_str() },
        "kind": "addresses",
    }]);
    let configuration = json!({
        "devicePluginPath": "/run/device-plugins", "resources": resources,
    });
    let agent = Agent::start(&node, &configuration);
    let room = || status(&node, &[])["resources"][0]["enis"][0]["room"].clone();
    assert!(eventually(|| room() == 9), "{}", agent.log());
    let call = node.call("").without("CNI_COMMAND").arguments(&["status"]);
    let options = ["-f", "-qq", "-o", "/run/trace", "-e", "trace=openat"];
    let output = node.node.inside(|| call.run_under("strace", &options));
    assert_eq!(output.status, Some(0), "{output}");
    let trace = fs::read_to_string(node.run_directory().join("trace")).unwrap();
    for file in ["eni-cni/enis.json\"", "/10.0.4.70\"", "/10.0.4.71\""] {
        assert_eq!(trace.matches(file).count(), 1, "{file}: {trace}");
    }
}
