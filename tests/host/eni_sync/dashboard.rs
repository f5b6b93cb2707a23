//! The dashboard beside a real Prometheus that scrapes a real agent: Prometheus answers every
//! query of it, and its tables show what the node has and who waits for what.

use std::collections::{BTreeMap, BTreeSet};

use fixtures::deploy::document;
use fixtures::scrape::get;
use harness::Pod;
use harness::eni_lab::Hold;
use harness::vpc::{Agent, Vpc, VpcNode, eventually, while_held};
use serde_json::{Value, json};

use super::prometheus::Prometheus;

const ASSIGN: &str = "AssignPrivateIpAddresses";
const INSTANCE: &str = "127.0.0.1:9809";
const RESOURCE: &str = "eni-cni.io/user-plane";

fn panels() -> Vec<Value> {
    let dashboard = document("deploy/grafana-dashboard.json");
    dashboard["panels"].as_array().unwrap().clone()
}

/// The queries of a panel by their ids, as Grafana asks them of all nodes.
fn queries(panel: &Value) -> Vec<(String, String)> {
    let targets = panel["targets"].as_array().unwrap().iter();
    let query = |target: &Value| {
        let text = target["expr"].as_str().unwrap();
        let text = text.replace("$node", ".*");
        let text = text.replace("$__rate_interval", "10s");
        (target["refId"].as_str().unwrap().to_owned(), text)
    };
    targets.map(query).collect()
}

/// The labels of a row that are said, and its value.
fn row(found: &Value, labels: &[&str]) -> (Vec<String>, String) {
    let label = |name: &&str| found["metric"][name].as_str().unwrap_or("").to_owned();
    let value = found["value"][1].as_str().unwrap().to_owned();
    (labels.iter().map(label).collect(), value)
}

/// The rows of a table of one query.
fn rows(prometheus: &Prometheus<'_>, title: &str, labels: &[&str]) -> Vec<Vec<String>> {
    let panel = panels().into_iter().find(|panel| panel["title"] == title);
    let (_, query) = queries(&panel.unwrap()).pop().unwrap();
    let found = prometheus.values(&query);
    found.iter().map(|found| row(found, labels).0).collect()
}

/// The rows of a table: what all its queries answer, by the labels of the row.
fn values(
    prometheus: &Prometheus<'_>,
    title: &str,
    labels: &[&str],
) -> BTreeMap<Vec<String>, Vec<String>> {
    let panel = panels().into_iter().find(|panel| panel["title"] == title);
    let mut table: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for (_, query) in queries(&panel.unwrap()) {
        for found in prometheus.values(&query) {
            let (labels, value) = row(&found, labels);
            table.entry(labels).or_default().push(value);
        }
    }
    table
}

/// A column of a table that a panel names must be one that Grafana makes of the answers: a label,
/// or a value by the id of its query.
fn assert_columns(panel: &Value, answers: &[(String, Vec<Value>)]) {
    let mut columns = BTreeSet::from(["Time".to_owned()]);
    for (id, answer) in answers {
        columns.insert(match answers.len() {
            1 => "Value".to_owned(),
            _ => format!("Value #{id}"),
        });
        let metrics = answer.iter().map(|found| found["metric"].as_object());
        columns.extend(metrics.flatten().flat_map(|metric| metric.keys().cloned()));
    }
    let transformations = panel["transformations"].as_array().unwrap();
    let organize = transformations.last().unwrap();
    let renamed = organize["options"]["renameByName"].as_object().unwrap();
    for name in renamed.keys() {
        assert!(columns.contains(name), "{name} of {panel:#}: {columns:?}");
    }
    let hidden = organize["options"]["excludeByName"].as_object().unwrap();
    for column in &columns {
        let is_known = renamed.contains_key(column) || hidden.contains_key(column);
        assert!(is_known, "{column} is shown by its own name: {panel:#}");
    }
}

fn refuse_to_assign(node: &VpcNode, is_refused: bool) {
    node.lab.rules(|rules| {
        let denied = &mut rules.denied_actions;
        _ = match is_refused {
            true => denied.insert(ASSIGN.into()),
            false => denied.remove(ASSIGN),
        }
    });
}

/// A node whose three slots three parties have: an ENI of the network, and one of somebody else.
fn shared_node(vpc: &Vpc) -> VpcNode {
    let node = vpc.node();
    vpc.lab.tag_eni(&node.eni, "eni-cni/network", "user-plane");
    let other = vpc.lab.create_eni(&vpc.nodes);
    vpc.lab.attach_eni(&other, &node.instance, 2);
    node
}

/// An agent that is to attach one ENI more than there is room for, and offers the addresses of
/// the one that is there.
fn configuration(vpc: &Vpc) -> Value {
    let subnets = json!({ "ids": [vpc.pods.as_str()] });
    let enis = json!([{
        "name": "user-plane", "count": 2, "subnets": subnets,
        "securityGroups": { "ids": ["sg-0ab0000000000ffff"] },
    }]);
    let resources = json!([{
        "name": RESOURCE, "eni": { "subnet": vpc.pods.as_str() }, "kind": "addresses",
    }]);
    json!({
        "metrics": "0.0.0.0:9809", "devicePluginPath": "/run/device-plugins",
        "enis": enis, "resources": resources,
    })
}

#[test]
fn prometheus_answers_every_query_of_the_dashboard_and_its_tables_say_who_waits() {
    let vpc = Vpc::new();
    let node = shared_node(&vpc);
    let _agent = Agent::start(&node, &configuration(&vpc));
    assert!(eventually(|| get(&node, "/readyz").0 == 200));
    let prometheus = Prometheus::start(&node);
    let there = "eni_sync_plugin_requests_total{code=\"100\"}";
    assert!(eventually(|| !prometheus.values(there).is_empty()));
    node.add(&Pod::new("c1"), &["10.0.4.70"]).ok();
    refuse_to_assign(&node, true);
    node.add(&Pod::new("c2"), &["10.0.4.71"]).error_code(100);
    refuse_to_assign(&node, false);
    let waiting = Pod::new("c3");
    let add = || node.add(&waiting, &["10.0.4.72"]);
    while_held(&node.lab, (ASSIGN, Hold::BeforeCommit), add, || {
        assert_tables(&prometheus, &node);
        assert_tables_of_enis(&prometheus);
        for panel in panels() {
            let answers = answers(&prometheus, &panel);
            if panel["type"] == "table" {
                assert_columns(&panel, &answers);
            }
        }
    });
}

/// What is shown of a pod that waits, and of one that EC2's refusal has kept from its start.
fn assert_tables(prometheus: &Prometheus<'_>, node: &VpcNode) {
    let (instance, eni) = (INSTANCE, node.eni.as_str());
    let waits = || {
        rows(
            prometheus,
            "Who waits, and why",
            &["instance", "eni", "why"],
        )
    };
    let shown = [
        [instance, eni, "waits for EC2 to assign its address"],
        [
            instance,
            "",
            "was refused with code 100 in the last 15 minutes",
        ],
    ];
    assert!(eventually(|| waits() == shown), "{:?}", waits());
    let title = "What EC2 refused in the last 15 minutes";
    assert_eq!(
        rows(prometheus, title, &["instance", "action", "code"]),
        [[instance, ASSIGN, "UnauthorizedOperation"]]
    );
}

/// What is shown of the ENIs of the node, of who has its slots, and of what is promised of them.
fn assert_tables_of_enis(prometheus: &Prometheus<'_>) {
    let expect = |title, labels: &[&str], rows: &[(&[&str], &[&str])]| {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let rows = rows.iter().map(|(labels, values)| {
            let labels = [INSTANCE].iter().chain(*labels).copied();
            (words(&labels.collect::<Vec<_>>()), words(values))
        });
        let expected: BTreeMap<Vec<String>, Vec<String>> = rows.collect();
        let labels = [&["instance"], labels].concat();
        let shown = || values(prometheus, title, &labels);
        assert!(eventually(|| shown() == expected), "{:?}", shown());
    };
    // Wanted, missing, for pods, down, too many, not for pods, with DHCP, with a default route.
    let counts = ["2", "1", "1", "0", "0", "1", "0", "0"];
    expect("ENIs of the nodes", &[], &[(&[], &counts)]);
    let (labels, one_of_three) = (["network_card", "holder"], ["1", "3"]);
    let holders = ["primary", "network", "other"].map(|holder| ["0", holder]);
    let holders = holders.each_ref().map(|row| (&row[..], &one_of_three[..]));
    expect("Slots of the instances", &labels, &holders);
    // Healthy, unhealthy since EC2 refused a permission, room, and no kubelet.
    let devices = ["0", "9", "9", "0"];
    expect(
        "Resources of the kubelets",
        &["resource"],
        &[(&[RESOURCE], &devices)],
    );
}

/// What Prometheus answers to each query of a panel: something, for this node.
fn answers(prometheus: &Prometheus<'_>, panel: &Value) -> Vec<(String, Vec<Value>)> {
    let answer = |(id, query): (String, String)| {
        let found = prometheus.values(&query);
        assert!(!found.is_empty(), "nothing is shown for {query}");
        (id, found)
    };
    queries(panel).into_iter().map(answer).collect()
}
