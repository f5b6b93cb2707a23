//! The chart in `deploy/helm`, rendered by Helm 3 and 4: that it installs what kustomize installs,
//! that Kubernetes accepts it, that every value does something, and that wrong ones are refused.

mod examples;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use fixtures::deploy::{path, text};
use fixtures::documents::keys::{rows, segments};
use harness::kubernetes::{helms, kubectl, refusals};
use serde::Deserialize;
use serde_json::{Value, json};

/// What a value must have for the chart to be rendered at all.
fn needed() -> Value {
    json!({"image": {"repository": "registry.example/eni-sync"}})
}

/// Values that turn on whatever is off.
fn everything() -> Value {
    let mut values = needed();
    for name in ["podMonitor", "prometheusRule", "dashboard"] {
        values[name] = json!({"enabled": true});
    }
    values["agent"] = json!({"metrics": "0.0.0.0:9809"});
    values
}

/// The same with all that the agent can ask of Kubernetes.
fn with_kubernetes() -> Value {
    let mut values = everything();
    values["agent"]["kubernetes"] = json!({"events": true, "startupTaint": true});
    values
}

/// Runs Helm on the chart with these values.
fn helm(program: &Path, arguments: &[&str], values: &Value) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("values.json");
    std::fs::write(&file, values.to_string()).unwrap();
    let mut command = Command::new(program);
    command.args(arguments).arg(path("deploy/helm"));
    command.arg("--values").arg(&file).output().unwrap()
}

fn template(program: &Path, values: &Value) -> Output {
    let arguments = ["template", "eni-sync", "--namespace", "kube-system"];
    helm(program, &arguments, values)
}

/// The objects in a stream of YAML, by kind and name.
fn objects(stream: &[u8]) -> BTreeMap<String, Value> {
    let documents = serde_yaml_ng::Deserializer::from_slice(stream);
    let values = documents.map(|document| Value::deserialize(document).unwrap());
    let objects = values.filter(|value| !value.is_null()).map(|value| {
        let name = format!("{} {}", value["kind"], value["metadata"]["name"]);
        (name.replace('"', ""), value)
    });
    objects.collect()
}

#[track_caller]
fn rendered(program: &Path, values: &Value) -> BTreeMap<String, Value> {
    let output = template(program, values);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program:?}: {said}");
    objects(&output.stdout)
}

/// What `kubectl apply -k deploy` sends.
fn kustomized(directory: &str) -> BTreeMap<String, Value> {
    let mut command = Command::new(kubectl());
    let output = command.arg("kustomize").arg(path(directory)).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    objects(&output.stdout)
}

/// The same with a component, as its comment says.
fn with_component(name: &str) -> BTreeMap<String, Value> {
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("deploy");
    let mut command = Command::new("cp");
    command.arg("-R").arg(path("deploy")).arg(&copy);
    assert!(command.status().unwrap().success());
    let file = copy.join("kustomization.yaml");
    let before = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{before}components:\n  - {name}\n")).unwrap();
    kustomized(copy.to_str().unwrap())
}

/// Takes out of an object what differs between the two ways to install it and does nothing:
/// marks, and what starts the agents anew with another configuration.
fn reduce(object: &mut Value) {
    object["metadata"].as_object_mut().unwrap().remove("labels");
    let Some(template) = object.pointer_mut("/spec/template") else {
        return;
    };
    template["metadata"]
        .as_object_mut()
        .unwrap()
        .remove("annotations");
    let pod = &mut template["spec"];
    pod["volumes"][0]["configMap"]["name"] = json!("eni-sync");
    for containers in ["initContainers", "containers"] {
        let container = pod[containers][0].as_object_mut().unwrap();
        container.insert("image".to_owned(), json!("eni-sync"));
        // The default of Kubernetes for an image with a tag.
        let policy = container.shift_remove("imagePullPolicy");
        assert!([None, Some(json!("IfNotPresent"))].contains(&policy));
        // The agent's own defaults where it has no terminal.
        let arguments = container["args"].as_array_mut().unwrap();
        arguments
            .retain(|argument| argument != "--log-level=info" && argument != "--log-format=json");
    }
}

#[test]
fn the_chart_installs_what_kustomize_installs() {
    let mut theirs: BTreeMap<String, Value> = BTreeMap::new();
    for (name, mut object) in kustomized("deploy") {
        reduce(&mut object);
        let name = if name.starts_with("ConfigMap") {
            "ConfigMap eni-sync"
        } else {
            &name
        };
        object["metadata"]["name"] = json!("eni-sync");
        theirs.insert(name.to_owned(), object);
    }
    for helm in helms() {
        let mut ours = rendered(&helm, &needed());
        ours.values_mut().for_each(reduce);
        for objects in [&mut theirs, &mut ours] {
            let data = &mut objects.get_mut("ConfigMap eni-sync").unwrap()["data"];
            if let Some(text) = data["agent.json"].as_str() {
                data["agent.json"] = serde_json::from_str(text).unwrap();
            }
        }
        assert!(ours.keys().eq(theirs.keys()), "{:?}", ours.keys());
        for (name, object) in &ours {
            assert_eq!(object, &theirs[name], "{name}");
        }
    }
}

#[test]
fn kubernetes_accepts_every_object_from_1_29_to_the_newest() {
    let mut all: Vec<Value> = kustomized("deploy").into_values().collect();
    for component in ["device-plugin", "kubernetes"] {
        all.extend(with_component(component).into_values());
    }
    for helm in helms() {
        all.extend(rendered(&helm, &with_kubernetes()).into_values());
    }
    all.push(serde_yaml_ng::from_str(&text("deploy/uninstall.yaml")).unwrap());
    assert_eq!(refusals(&all), Vec::<String>::new());
    // The schemas do refuse.
    let wrong = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"nam": "x"}});
    assert!(
        refusals(&[wrong])
            .iter()
            .any(|refusal| refusal.contains("'nam'"))
    );
}

/// The volumes of a DaemonSet with this name, and where the agent has them.
fn mounted(set: &Value, name: &str) -> Vec<Value> {
    let pod = &set["spec"]["template"]["spec"];
    let lists = [&pod["volumes"], &pod["containers"][0]["volumeMounts"]];
    let all = lists.iter().flat_map(|list| list.as_array().unwrap());
    all.filter(|one| one["name"] == name).cloned().collect()
}

#[test]
fn the_directory_of_device_plugins_is_mounted_where_there_are_resources() {
    let set = "DaemonSet eni-sync";
    let theirs = mounted(&with_component("device-plugin")[set], "device-plugins");
    assert_eq!(theirs.len(), 2);
    let mut values = needed();
    values["agent"] = json!({"resources": [
        {"name": "eni-cni.io/ena", "kind": "devices", "eni": {"tag": {"eni-cni/network": "a"}}}
    ]});
    for helm in helms() {
        let ours = &rendered(&helm, &values)[set];
        assert_eq!(mounted(ours, "device-plugins"), theirs);
        let without = &rendered(&helm, &needed())[set];
        assert_eq!(mounted(without, "device-plugins"), Vec::<Value>::new());
    }
}

/// What the agent may ask of Kubernetes: the rules of its roles, whether it has a token, and how it
/// knows the name of its node.
fn permissions(objects: &BTreeMap<String, Value>) -> Value {
    let roles = objects
        .iter()
        .filter(|(name, _)| name.starts_with("ClusterRole"));
    let roles = roles.map(|(name, role)| {
        let parts = ["rules", "roleRef", "subjects"].map(|key| role[key].clone());
        (name.clone(), json!(parts))
    });
    let pod = &objects["DaemonSet eni-sync"]["spec"]["template"]["spec"];
    json!({
        "roles": roles.collect::<serde_json::Map<_, _>>(),
        "token": pod["automountServiceAccountToken"],
        "environment": pod["containers"][0]["env"],
    })
}

#[test]
fn the_agent_may_ask_kubernetes_what_its_configuration_says_and_nothing_else() {
    let nothing = json!({ "roles": {}, "token": false, "environment": null });
    let theirs = permissions(&with_component("kubernetes"));
    assert_eq!(theirs["roles"].as_object().unwrap().len(), 4);
    for helm in helms() {
        let with = |kubernetes: Value| {
            let mut values = needed();
            values["agent"] = json!({ "kubernetes": kubernetes });
            permissions(&rendered(&helm, &values))
        };
        assert_eq!(with(json!({})), nothing);
        let all = with(json!({ "events": true, "startupTaint": true }));
        assert_eq!(all, theirs);
        for (key, role) in [
            ("events", "eni-sync-events"),
            ("startupTaint", "eni-sync-startup-taint"),
        ] {
            let one = with(json!({ key: true }));
            let names: Vec<&String> = one["roles"].as_object().unwrap().keys().collect();
            assert_eq!(
                names,
                [
                    &format!("ClusterRole {role}"),
                    &format!("ClusterRoleBinding {role}")
                ]
            );
            assert_eq!(one["token"], true);
        }
    }
}

/// Every value of the schema that has no values in it, with one that it may have.
fn leaves(schema: &Value, at: &str) -> Vec<(String, Value)> {
    let properties = schema["properties"].as_object().into_iter().flatten();
    let leaves = properties.flat_map(|(name, schema)| {
        let at = format!("{at}/{name}");
        match schema["examples"].as_array() {
            Some(examples) => vec![(at, examples[0].clone())],
            None => leaves(schema, &at),
        }
    });
    leaves.collect()
}

fn schema() -> Value {
    serde_json::from_str(&text("deploy/helm/values.schema.json")).unwrap()
}

/// The values of the chart, each with its default.
fn defaults() -> Value {
    serde_yaml_ng::from_str(&text("deploy/helm/values.yaml")).unwrap()
}

/// Sets a value at a path such as `/agent/metrics`.
fn set(values: &mut Value, at: &str, value: &Value) {
    let mut place = values;
    for name in at.split('/').skip(1) {
        place = &mut place[name];
    }
    *place = value.clone();
}

#[test]
fn every_value_is_in_the_schema_and_changes_something() {
    let helm = helms().pop().unwrap();
    let mut base = everything();
    base["extraVolumes"] = json!([{"name": "data", "emptyDir": {}}]);
    let before = rendered(&helm, &base);
    let leaves = leaves(&schema(), "");
    assert!(leaves.len() >= 30, "{leaves:?}");
    for (at, value) in &leaves {
        let mut values = base.clone();
        set(&mut values, at, value);
        if at == "/agent/metrics" {
            // At a loopback address it would be refused.
            set(&mut values, "/podMonitor/enabled", &json!(false));
        }
        let is_changed = rendered(&helm, &values) != before;
        assert!(is_changed, "{at} changes nothing");
    }
    // What else has a default is in the schema, which refuses what it does not know.
    let mut values = defaults();
    set(
        &mut values,
        "/image/repository",
        &json!("registry.example/eni-sync"),
    );
    rendered(&helm, &values);
}

#[test]
fn a_wrong_value_is_refused_and_named() {
    let wrong = [
        (
            "/image/repository",
            json!(""),
            "image.repository is empty: name the repository",
        ),
        ("/image/repo", json!("x"), "repo"),
        ("/image/digest", json!("sha1:0"), "digest"),
        ("/image/pullPolicy", json!("Sometimes"), "Always"),
        ("/agent/reconcileSecond", json!(7), "reconcileSecond"),
        ("/agent/reconcileSeconds", json!(0), "reconcileSeconds"),
        ("/agent/networks", json!("all"), "networks"),
        ("/agent/pools", json!([{"name": "a"}]), "rangesFile"),
        (
            "/agent/prefixes",
            json!({"ipv6": 1, "masterSelector": {"securityGroups": ["sg-0"]}}),
            "securityGroups",
        ),
        ("/agent/metrics", json!(9809), "metrics"),
        ("/agent/metrics", json!("10.0.0.1:9809"), "loopback address"),
        (
            "/podMonitor/enabled",
            json!(true),
            "podMonitor.enabled: Prometheus does not reach agent.metrics",
        ),
        ("/podMonitor/interval", json!("often"), "interval"),
        ("/maxSurge", json!("0%"), "maxSurge"),
        ("/cniBinDirectory", json!("opt"), "cniBinDirectory"),
        ("/resources/agents", json!({}), "agents"),
        ("/log/level", json!("loud"), "warn"),
        ("/tolerations", json!("all"), "tolerations"),
    ];
    for helm in helms() {
        for (at, value, expected) in &wrong {
            let mut values = needed();
            set(&mut values, at, value);
            let output = template(&helm, &values);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success(), "{at} {value} is accepted");
            assert!(said.contains(expected), "{at} {value}: {said}");
        }
    }
}

#[test]
fn the_schema_has_every_key_of_the_agent_and_no_other() {
    let schema = &schema()["properties"]["agent"];
    let documented = rows("eni-sync.md", "\n## Agent\n");
    assert!(documented.len() > 20);
    let of_enis = rows("attach.md", "").into_iter();
    let of_enis = of_enis.map(|row| format!("enis[].{}", row.key));
    let mut known = Vec::new();
    for key in documented.into_iter().map(|row| row.key).chain(of_enis) {
        let mut at = schema;
        for (name, dimensions) in segments(&key) {
            at = &at["properties"][name];
            at = at["oneOf"].get(1).unwrap_or(at);
            if dimensions > 0 {
                at = &at["items"];
            }
        }
        assert!(at.is_object(), "the schema lacks agent.{key}");
        known.push(key);
    }
    let key = |at: &str| at.trim_start_matches('/').replace('/', ".");
    for (at, _) in leaves(schema, "") {
        assert!(known.contains(&key(&at)), "the agent has no {}", key(&at));
    }
}

#[test]
fn the_kubelet_asks_for_health_where_the_agent_serves_it() {
    let helm = helms().pop().unwrap();
    for (metrics, host, port) in [
        ("127.0.0.1:9809", "127.0.0.1", 9809),
        ("0.0.0.0:1234", "127.0.0.1", 1234),
        ("[::]:9809", "::1", 9809),
        ("[::1]:9809", "::1", 9809),
    ] {
        let mut values = needed();
        values["agent"] = json!({"metrics": metrics});
        let objects = rendered(&helm, &values);
        let agent = &objects["DaemonSet eni-sync"]["spec"]["template"]["spec"]["containers"][0];
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            let get = &agent[probe]["httpGet"];
            assert_eq!((&get["host"], &get["port"]), (&json!(host), &json!(port)));
        }
    }
}

/// Helm cannot reach files outside of its chart.
const COPIES: [(&str, &str); 3] = [
    ("grafana-dashboard.json", "deploy/grafana-dashboard.json"),
    ("podmonitor.yaml", "deploy/monitoring/podmonitor.yaml"),
    (
        "prometheusrule.yaml",
        "deploy/monitoring/prometheusrule.yaml",
    ),
];

#[test]
fn the_files_of_the_chart_are_those_of_deploy() {
    for (copy, original) in COPIES {
        let is_same = text(&format!("deploy/helm/files/{copy}")) == text(original);
        assert!(is_same, "cp {original} deploy/helm/files/{copy}");
    }
    let files = std::fs::read_dir(path("deploy/helm/files")).unwrap();
    assert_eq!(files.count(), COPIES.len());
}

#[test]
fn the_dashboard_of_the_chart_is_the_one_of_deploy() {
    let helm = helms().pop().unwrap();
    let objects = rendered(&helm, &everything());
    let dashboard = &objects["ConfigMap eni-sync-dashboard"];
    assert_eq!(dashboard["metadata"]["labels"]["grafana_dashboard"], "1");
    let text_of = dashboard["data"]["eni-sync.json"].as_str().unwrap();
    assert_eq!(text_of.trim(), text("deploy/grafana-dashboard.json").trim());
}

#[test]
fn prometheus_gets_what_kustomize_gives_it_at_the_port_of_the_agent() {
    let theirs = kustomized("deploy/monitoring");
    for helm in helms() {
        let mut values = everything();
        let ours = rendered(&helm, &values);
        for name in ["PodMonitor eni-sync", "PrometheusRule eni-sync"] {
            assert_eq!(ours[name]["spec"], theirs[name]["spec"], "{name}");
        }
        values["agent"]["metrics"] = json!("[::]:1234");
        values["podMonitor"]["interval"] = json!("15s");
        let ours = rendered(&helm, &values);
        let spec = &ours["PodMonitor eni-sync"]["spec"];
        assert_eq!(spec["podMetricsEndpoints"][0]["interval"], "15s");
        let text = spec.to_string();
        assert!(text.contains("$1:1234") && !text.contains("9809"), "{text}");
    }
}

#[test]
fn helm_finds_nothing_to_improve_and_packs_what_the_chart_needs() {
    for helm_program in helms() {
        let output = helm(&helm_program, &["lint", "--strict"], &needed());
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}");
        let directory = tempfile::tempdir().unwrap();
        let mut package = Command::new(&helm_program);
        package.arg("package").arg(path("deploy/helm"));
        package.arg("--destination").arg(directory.path());
        assert!(package.output().unwrap().status.success());
        let version = env!("CARGO_PKG_VERSION");
        let packed: PathBuf = directory.path().join(format!("eni-sync-{version}.tgz"));
        let mut command = Command::new(&helm_program);
        command.args(["template", "x", "--set", "image.repository=r/e"]);
        assert!(command.arg(&packed).output().unwrap().status.success());
    }
}

#[test]
fn the_chart_has_the_version_of_the_programs() {
    let chart: Value = serde_yaml_ng::from_str(&text("deploy/helm/Chart.yaml")).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(chart["version"], version);
    assert_eq!(chart["appVersion"], version);
}

#[test]
fn the_readme_of_the_chart_has_every_value_with_its_default() {
    let readme = text("deploy/helm/README.md");
    let defaults = defaults();
    let mut values = leaves(&schema(), "");
    // The agent has more keys than the chart has defaults for: docs/eni-sync.md has them.
    values.retain(|(at, _)| !at.starts_with("/agent/"));
    values.push(("/agent".to_owned(), Value::Null));
    for (at, _) in values {
        let name = at.trim_start_matches('/').replace('/', ".");
        let row = format!("| `{name}` | ");
        let line = readme.lines().find(|line| line.starts_with(&row));
        let line = line.unwrap_or_else(|| panic!("README.md lacks {name}"));
        let default = defaults
            .pointer(&at)
            .unwrap_or_else(|| panic!("{name} has no default"));
        if !default.is_object() || default.as_object().is_some_and(|map| map.is_empty()) {
            let shown = format!("| `{}` |", default);
            assert!(line.contains(&shown), "{name}: {shown}");
        }
    }
}
