//! The dashboard beside a real Prometheus that scrapes a real agent: Prometheus answers every
//! query of it, and its tables show what the node has and who waits for what.

use std::collections::BTreeSet;

use harness::Pod;
use harness::eni_lab::Hold;
use serde_json::{Value, json};

use super::fixture::{Agent, AwsNode, Vpc, eventually, while_held};
use super::prometheus::Prometheus;
use super::scrape::get;
use crate::monitoring::document;

const ASSIGN: &str = "AssignPrivateIpAddresses";

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

fn refuse_to_assign(node: &AwsNode, is_refused: bool) {
    node.lab.rules(|rules| {
        let denied = &mut rules.denied_actions;
        _ = match is_refused {
            true => denied.insert(ASSIGN.into()),
            false => denied.remove(ASSIGN),
        }
    });
}

#[test]
fn prometheus_answers_every_query_of_the_dashboard_and_its_tables_say_who_waits() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let _agent = Agent::start(&node, &json!({ "metrics": "0.0.0.0:9809" }));
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
        for panel in panels() {
            let answers = answers(&prometheus, &panel);
            if panel["type"] == "table" {
                assert_columns(&panel, &answers);
            }
        }
    });
}

/// What is shown of a pod that waits, and of one that EC2's refusal has kept from its start.
fn assert_tables(prometheus: &Prometheus<'_>, node: &AwsNode) {
    let (instance, eni) = ("127.0.0.1:9809", node.eni.as_str());
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

/// What Prometheus answers to each query of a panel: something, for this node.
fn answers(prometheus: &Prometheus<'_>, panel: &Value) -> Vec<(String, Vec<Value>)> {
    let answer = |(id, query): (String, String)| {
        let found = prometheus.values(&query);
        assert!(!found.is_empty(), "nothing is shown for {query}");
        (id, found)
    };
    queries(panel).into_iter().map(answer).collect()
}
