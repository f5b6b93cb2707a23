//! A real Prometheus that scrapes a real agent, as `deploy/monitoring` tells it to.

use std::fs;
use std::process::{Child, Command, Stdio};

use fixtures::deploy::document;
use fixtures::scrape::{get, get_at};
use harness::Pod;
use harness::vpc::{Agent, Vpc, VpcNode, eventually};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::monitoring::rules;

const ADDRESS: &str = "127.0.0.1:9090";

/// A Prometheus on a node.
pub struct Prometheus<'a> {
    node: &'a VpcNode,
    process: Child,
    _directory: TempDir,
}

impl<'a> Prometheus<'a> {
    pub fn start(node: &'a VpcNode) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, document: &Value| {
            let path = directory.path().join(name);
            fs::write(&path, serde_yaml_ng::to_string(document).unwrap()).unwrap();
        };
        write("rules.yaml", &rules());
        write("prometheus.yaml", &configuration());
        let log = fs::File::create(directory.path().join("log")).unwrap();
        let mut prometheus = Command::new("prometheus");
        prometheus
            .arg("--config.file=prometheus.yaml")
            .arg("--storage.tsdb.path=data")
            .arg(format!("--web.listen-address={ADDRESS}"))
            .current_dir(directory.path())
            .stdout(Stdio::null())
            .stderr(log);
        let started = node.node.inside(|| prometheus.spawn());
        let process = started.expect("tests/prepare tests installs prometheus");
        Self {
            node,
            process,
            _directory: directory,
        }
    }

    /// The values of an expression now; none while it does not answer yet.
    pub fn values(&self, expression: &str) -> Vec<Value> {
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("query", expression)
            .finish();
        let Ok((200, body)) = get_at(self.node, ADDRESS, &format!("/api/v1/query?{query}")) else {
            return Vec::new();
        };
        let answer: Value = serde_json::from_str(&body).unwrap();
        answer["data"]["result"].as_array().unwrap().clone()
    }

    /// Whether an alert has noticed something: it fires when its time is over.
    fn is_pending(&self, alert: &str) -> bool {
        let alerts = format!("ALERTS{{alertname=\"{alert}\"}}");
        !self.values(&alerts).is_empty()
    }
}

impl Drop for Prometheus<'_> {
    fn drop(&mut self) {
        // It may have ended already.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// What Prometheus' operator makes of the monitor for the agent of one node, with what
/// Kubernetes says of its pod. It is asked every second.
fn configuration() -> Value {
    let monitor = document("deploy/monitoring/podmonitor.yaml");
    let endpoint = &monitor["spec"]["podMetricsEndpoints"][0];
    let relabelings = endpoint["relabelings"].as_array().unwrap();
    let pod = |container: &str| {
        json!({
            "targets": ["127.0.0.1"],
            "labels": {
                "__meta_kubernetes_pod_ip": "127.0.0.1",
                "__meta_kubernetes_pod_node_name": "n1",
                "__meta_kubernetes_pod_container_name": container,
            },
        })
    };
    json!({
        "global": { "scrape_interval": "1s", "evaluation_interval": "1s" },
        "rule_files": ["rules.yaml"],
        "scrape_configs": [{
            "job_name": "eni-sync",
            "metrics_path": endpoint["path"],
            "static_configs": [pod("install"), pod("agent")],
            "relabel_configs": relabelings.iter().map(relabeling).collect::<Vec<_>>(),
        }],
    })
}

/// The operator writes the keys in another case.
fn relabeling(of_operator: &Value) -> Value {
    let keys = of_operator.as_object().unwrap().iter();
    let renamed = keys.map(|(key, value)| {
        let key = match key.as_str() {
            "sourceLabels" => "source_labels",
            "targetLabel" => "target_label",
            other => other,
        };
        (key.to_owned(), value.clone())
    });
    Value::Object(renamed.collect::<Map<_, _>>())
}

/// Counters whose first event an alert needs: each has to be there before it.
const COUNTED: [&str; 5] = [
    "eni_sync_plugin_requests_total{code=\"7\"}",
    "eni_sync_requests_total{code=\"UnauthorizedOperation\",action=\"AssignIpv6Addresses\"}",
    "eni_sync_throttles_total{action=\"DescribeNetworkInterfaces\"}",
    "eni_sync_drift_total{kind=\"lost\"}",
    "eni_sync_plugins_restored_total{plugin=\"ipvlan\"}",
];

#[test]
fn prometheus_scrapes_the_agent_and_notices_what_is_wrong() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let agent = Agent::start(&node, &json!({ "metrics": "0.0.0.0:9809" }));
    assert!(eventually(|| get(&node, "/readyz").0 == 200));
    let prometheus = Prometheus::start(&node);
    let up = "up{job=\"eni-sync\",node=\"n1\",instance=\"127.0.0.1:9809\"} == 1";
    assert!(eventually(|| prometheus.values(up).len() == 1));
    for counter in COUNTED {
        let found = prometheus.values(counter);
        assert_eq!(found.len(), 1, "{counter}");
        assert_eq!(found[0]["value"][1], "0", "{counter}");
    }
    node.add(&Pod::new("c1"), &["10.0.5.70"]).error_code(7);
    assert!(eventually(|| prometheus.is_pending("EniSyncPodRefused")));
    node.add(&Pod::new("c2"), &["10.0.4.70"]).ok();
    fs::write(node.ledger_path().join("10.0.4.70"), "{").unwrap();
    assert!(eventually(|| prometheus.is_pending("EniSyncLedgerDamaged")));
    for quiet in ["EniSyncAgentDown", "EniSyncEniFull", "EniSyncAgentMissing"] {
        assert!(!prometheus.is_pending(quiet), "{quiet}");
    }
    agent.kill();
    assert!(eventually(|| prometheus.is_pending("EniSyncAgentDown")));
}
