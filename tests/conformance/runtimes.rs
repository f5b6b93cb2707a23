//! Assertions 61 to 63: other implementations, Multus, and what a call costs.

use std::path::Path;
use std::time::Duration;

use harness::Call;
use serde_json::{Value, json};

use crate::add::attached_index;
use crate::assertion::{About, Assertion, Verdict, ensure};
use crate::held::Held;
use crate::plugin::Plugin;
use crate::scene::{IFNAME, Scene, answer, with};

/// The most memory that a call may take, in KiB.
const MEMORY: u64 = 5 * 1024;

/// How many calls are measured.
const MEASURED: usize = 5;

pub(crate) const ASSERTIONS: &[Assertion] = &[
    Assertion {
        number: 61,
        sentence: "what one implementation adds, the other one checks and deletes, and they take turns over the range",
        about: About::Peer,
        apply: implementations_take_turns,
    },
    Assertion {
        number: 62,
        sentence: "called as by Multus, the result is enough for network-status, and the stripped DEL leaves nothing",
        about: About::Any,
        apply: multus_is_served,
    },
    Assertion {
        number: 63,
        sentence: "an ADD takes less than 5 MB of memory",
        about: About::Any,
        apply: add_is_small,
    },
];

fn implementations_take_turns(plugin: &Plugin) -> Verdict {
    let Some(peer) = &plugin.peer else {
        return Err("there is no other implementation".to_owned());
    };
    for (first, second) in [(&plugin.program, peer), (peer, &plugin.program)] {
        let scene = Scene::new(plugin);
        let before = scene.state();
        let conf = with(&scene.conf(), &json!({"cniVersion": "1.0.0"}));
        let run = |program: &Path, command: &str, id: &str, conf: &Value| {
            let call = Call::bare(program, command)
                .env("CNI_PATH", "/nowhere")
                .conf(conf);
            let call = call.pod(&scene.pod, IFNAME).env("CNI_CONTAINERID", id);
            scene
                .succeeds(&call)
                .map_err(|cause| format!("{}: {cause}", program.display()))
        };
        let results = [
            run(first, "ADD", "c1", &conf)?,
            run(second, "ADD", "c2", &conf)?,
        ];
        let given = results
            .clone()
            .map(|result| result["ips"][0]["address"].clone());
        ensure!(
            given == ["10.9.0.2/24", "10.9.0.3/24"],
            "expected the first two addresses in turn, came {given:?}"
        );
        for (id, result, other) in [("c1", &results[0], second), ("c2", &results[1], first)] {
            let conf = with(&conf, &json!({"prevResult": result}));
            run(other, "CHECK", id, &conf)?;
            run(other, "DEL", id, &conf)?;
        }
        scene.is_as(&before, "after each has deleted what the other one added")?;
    }
    Ok(())
}

/// What Multus adds to a delegate's configuration, whose keys it sorts.
fn as_multus_writes(scene: &Scene<'_>) -> String {
    let keys = json!({
        "capabilities": {"portMappings": true, "bandwidth": true, "CNIDeviceInfoFile": false},
        "runtimeConfig": {
            "bandwidth": {"ingressRate": 1000, "ingressBurst": 1000},
            "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
        },
    });
    let conf = with(&scene.conf(), &keys);
    let mut sorted: Vec<_> = conf.as_object().into_iter().flatten().collect();
    sorted.sort_by_key(|(key, _)| *key);
    let sorted: serde_json::Map<String, Value> = sorted
        .into_iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    Value::Object(sorted).to_string()
}

/// The environment of thin Multus, which repeats the arguments that it was given, and of
/// thick Multus, which is a pod itself.
fn environments(call: &Call, path: &str) -> [Call; 2] {
    let arguments = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod1;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=u-1";
    let thin = call.clone().env(
        "CNI_ARGS",
        &format!("{};{arguments}", arguments.replace('1', "true")),
    );
    let thick = call.clone().env("CNI_ARGS", arguments);
    [
        thin.env("CNI_PATH", &format!("{path}:{path}")),
        thick
            .env("KUBERNETES_SERVICE_HOST", "10.96.0.1")
            .env("KUBERNETES_SERVICE_PORT", "443"),
    ]
}

fn multus_is_served(plugin: &Plugin) -> Verdict {
    for nth in [0, 1] {
        let scene = Scene::new(plugin);
        let before = scene.state();
        let routes = json!([{"dst": "0.0.0.0/0"}]);
        scene
            .ipam
            .answer(&with(&answer(plugin.version()), &json!({"routes": routes})));
        let plain = scene
            .call("ADD", &Value::Null)
            .stdin(as_multus_writes(&scene));
        let path = plain.variable("CNI_PATH");
        let result = scene.succeeds(&environments(&plain, &path)[nth])?;
        if plugin.recipe.is_main() {
            gives_a_network_status(&scene, &result)?;
        } else {
            ensure!(
                result["ips"][0]["gateway"].is_string(),
                "expected a gateway, came {result}"
            );
        }
        let conf = scene.conf();
        for prev_result in [result, Value::Null] {
            let stripped = with(
                &json!({
                    "cniVersion": conf["cniVersion"], "ipam": {"type": conf["ipam"]["type"]},
                    "name": conf["name"], "type": conf["type"],
                }),
                &json!({"prevResult": prev_result}),
            );
            let del = scene.call("DEL", &stripped);
            scene.succeeds(&environments(&del, &path)[nth])?;
            scene.is_as(&before, "after the stripped DEL")?;
        }
    }
    Ok(())
}

/// What Multus makes of a result: the interface in the sandbox, its addresses without
/// their prefix, and the gateway of a default route.
fn gives_a_network_status(scene: &Scene<'_>, result: &Value) -> Verdict {
    let index = attached_index(result, &scene.pod.netns.path())?;
    let interface = &result["interfaces"][index];
    let of_interface = |ip: &&Value| ip["interface"] == index;
    let ips = result["ips"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(of_interface);
    let ips: Vec<&str> = ips
        .filter_map(|ip| ip["address"].as_str()?.split('/').next())
        .collect();
    let routes = result["routes"].as_array().into_iter().flatten();
    let gateways: Vec<&Value> = routes
        .filter(|r| r["dst"] == "0.0.0.0/0")
        .map(|r| &r["gw"])
        .collect();
    let status = json!({
        "interface": interface["name"], "mac": interface["mac"], "mtu": interface["mtu"],
        "ips": ips, "gateway": gateways,
    });
    let link = scene.pod.netns.link(IFNAME).unwrap_or_default();
    let mut expected = json!({
        "interface": IFNAME, "mac": link["address"], "mtu": link["mtu"],
        "ips": ["10.9.0.5"], "gateway": ["10.9.0.1"],
    });
    if !scene.plugin.speaks("1.1.0") {
        expected["mtu"] = Value::Null;
    }
    ensure!(
        status == expected,
        "expected the network-status {expected}, came {status}"
    );
    Ok(())
}

fn add_is_small(plugin: &Plugin) -> Verdict {
    let (mut peak, mut times) = (0, Vec::new());
    for _ in 0..MEASURED {
        let scene = Scene::new(plugin);
        let add = scene.call("ADD", &scene.conf());
        let held = Held::start(&scene, &add)?;
        peak = held.peak_kib().map_or(peak, |kib| kib.max(peak));
        times.push(held.processor_time());
        let result = held.release()?;
        ensure!(
            result.contains("cniVersion"),
            "expected a result, came {result:?}"
        );
    }
    times.sort_unstable();
    let total: Duration = times.iter().sum();
    plugin.note(format!(
        "ADD: {peak} KiB of memory at most; processor time {:.1} ms on average, {:.1} ms at most, of {MEASURED}",
        total.as_secs_f64() * 1000.0 / MEASURED as f64,
        times.last().copied().unwrap_or_default().as_secs_f64() * 1000.0,
    ));
    ensure!(
        peak > 0 && peak < MEMORY,
        "expected less than {MEMORY} KiB, came {peak}"
    );
    Ok(())
}
