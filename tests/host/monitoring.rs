//! `deploy/monitoring` and the dashboard: that they ask for what the agent has, and that a real
//! Prometheus does with them what the documents say. `eni_sync::prometheus` has it scrape an agent.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Output};

use fixtures::deploy::{document, path, text};
use serde_json::Value;

/// The rules as Prometheus reads them.
pub(crate) fn rules() -> Value {
    document("deploy/monitoring/prometheusrule.yaml")["spec"].clone()
}

fn alerts() -> Vec<Value> {
    let rules = rules();
    let groups = rules["groups"].as_array().unwrap();
    let alerts = groups.iter().flat_map(|group| group["rules"].as_array());
    alerts.flatten().cloned().collect()
}

fn name(alert: &Value) -> &str {
    alert["alert"].as_str().unwrap()
}

/// The metrics of ours that an expression asks for.
fn metrics(expression: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = expression.split(|c: char| !is_name(c));
    let ours = words.filter(|word| word.starts_with("eni_sync_"));
    ours.map(str::to_owned).collect()
}

#[track_caller]
fn assert_documented(asked: BTreeSet<String>) {
    let documented = text("deploy/metrics.md");
    for name in asked {
        let is_known =
            |name: &str, kind: &str| documented.contains(&format!("| `{name}` | {kind}"));
        let of_histogram = ["_bucket", "_sum", "_count"].iter().any(|suffix| {
            let family = name.strip_suffix(suffix);
            family.is_some_and(|family| is_known(family, "histogram"))
        });
        assert!(
            of_histogram || (is_known(&name, "") && !is_known(&name, "histogram")),
            "{name}"
        );
    }
}

#[test]
fn the_dashboard_asks_only_for_metrics_that_exist() {
    let dashboard: Value = serde_json::from_str(&text("deploy/grafana-dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
    let asked = targets.flat_map(|target| metrics(target["expr"].as_str().unwrap()));
    let asked: BTreeSet<String> = asked.collect();
    assert!(asked.len() >= 15, "{asked:?}");
    assert_documented(asked);
}

#[test]
fn the_alerts_ask_only_for_metrics_that_exist() {
    let asked = alerts();
    let asked = asked.iter().map(|alert| alert["expr"].as_str().unwrap());
    let asked: BTreeSet<String> = asked.flat_map(metrics).collect();
    assert!(asked.len() >= 12, "{asked:?}");
    assert_documented(asked);
}

#[test]
fn each_alert_waits_and_says_how_severe_it_is_and_what_to_do() {
    for alert in alerts() {
        let severity = alert["labels"]["severity"].as_str();
        assert!(matches!(severity, Some("critical" | "warning")), "{alert}");
        assert!(alert["for"].is_string(), "{alert}");
        for key in ["summary", "description"] {
            assert!(alert["annotations"][key].is_string(), "{alert}");
        }
    }
}

#[test]
fn the_documents_have_every_alert_and_no_other() {
    let documented = text("deploy/metrics.md");
    let rows = documented
        .lines()
        .filter_map(|l| l.strip_prefix("| `EniSync"));
    let rows = rows.filter_map(|row| Some(format!("EniSync{}", row.split_once('`')?.0)));
    let alerts = alerts();
    let names: BTreeSet<String> = alerts.iter().map(|a| name(a).to_owned()).collect();
    assert_eq!(rows.collect::<BTreeSet<_>>(), names);
}

/// Runs promtool beside the rules and what they are tested with.
fn promtool(arguments: &[&str]) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let rules = serde_yaml_ng::to_string(&rules()).unwrap();
    fs::write(directory.path().join("rules.yaml"), rules).unwrap();
    let cases = directory.path().join("alerts.yaml");
    fs::copy(path("tests/data/alerts.yaml"), cases).unwrap();
    let mut promtool = Command::new("promtool");
    promtool.args(arguments).current_dir(directory.path());
    promtool
        .output()
        .expect("tests/prepare tests installs prometheus")
}

#[test]
fn prometheus_has_each_alert_fire_when_it_should_and_not_otherwise() {
    for arguments in [
        ["check", "rules", "rules.yaml"],
        ["test", "rules", "alerts.yaml"],
    ] {
        let output = promtool(&arguments);
        let said = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}{errors}");
    }
}

#[test]
fn each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() {
    let cases = document("tests/data/alerts.yaml");
    let cases = cases["tests"].as_array().unwrap().iter();
    let checks = cases.flat_map(|case| case["alert_rule_test"].as_array().unwrap());
    let checks: Vec<(&str, bool)> = checks
        .map(|check| {
            let fires = !check["exp_alerts"].as_array().unwrap().is_empty();
            (check["alertname"].as_str().unwrap(), fires)
        })
        .collect();
    for alert in alerts() {
        for fires in [true, false] {
            let is_there = checks.contains(&(name(&alert), fires));
            assert!(is_there, "{} has no case: {fires}", name(&alert));
        }
    }
}

#[test]
fn the_kustomization_has_every_file() {
    let kustomization = document("deploy/monitoring/kustomization.yaml");
    let mut listed: Vec<&str> = kustomization["resources"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    listed.push("kustomization.yaml");
    listed.sort_unstable();
    let there = fs::read_dir(path("deploy/monitoring")).unwrap();
    let mut there: Vec<String> = there
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    there.sort();
    assert_eq!(listed, there);
}

#[test]
fn the_monitor_selects_the_pods_of_the_daemon_set() {
    let monitor = document("deploy/monitoring/podmonitor.yaml");
    let pods = document("deploy/daemonset.yaml")["spec"]["template"].clone();
    let wanted = &monitor["spec"]["selector"]["matchLabels"];
    assert_eq!(*wanted, pods["metadata"]["labels"]);
    let job = monitor["spec"]["jobLabel"].as_str().unwrap();
    assert_eq!(pods["metadata"]["labels"][job], "eni-sync");
}
