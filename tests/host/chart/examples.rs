//! The files in `examples` that Helm and Kubernetes read.

use fixtures::documents::examples;
use serde_json::Value;

use super::{helms, refusals, rendered};

fn parsed(directory: &str) -> Vec<Value> {
    let files = examples(directory, "yaml");
    let parse = |text: &String| serde_yaml_ng::from_str(text).unwrap();
    files.iter().map(|(_, text)| parse(text)).collect()
}

#[test]
fn kubernetes_accepts_every_pod() {
    let pods = parsed("pods");
    assert!(pods.len() > 3, "{pods:?}");
    assert_eq!(refusals(&pods), Vec::<String>::new());
}

#[test]
fn the_values_of_the_examples_are_taken_and_give_what_they_say() {
    let values = parsed("helm").remove(0);
    for helm in helms() {
        let objects = rendered(&helm, &values);
        for kind in ["PodMonitor", "PrometheusRule", "ClusterRole", "DaemonSet"] {
            let is_there = objects.keys().any(|name| name.starts_with(kind));
            assert!(is_there, "{kind}: {:?}", objects.keys());
        }
    }
}
