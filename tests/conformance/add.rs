//! Assertions 21 to 24, 28 and 29: what ADD makes, what it says of it, and what it
//! refuses to touch.

use std::fs;

use harness::is_up;
use serde_json::{Value, json};

use crate::assertion::{About, Assertion, Verdict, ensure};
use crate::plugin::Plugin;
use crate::scene::{IFNAME, Scene, answer, contains, matches, with};

pub(crate) const ASSERTIONS: &[Assertion] = &[
    Assertion {
        number: 21,
        sentence: "the interface has its name, kind, mode, parent and MTU, is up, and nothing else is made",
        about: About::Main,
        apply: interface_is_as_asked_for,
    },
    Assertion {
        number: 22,
        sentence: "an interface of that name makes ADD fail, and outlives it and its DEL untouched",
        about: About::Main,
        apply: taken_name_is_left_alone,
    },
    Assertion {
        number: 23,
        sentence: "CNI_NETNS that is the plugin's own is code 8, and nothing changes",
        about: About::Main,
        apply: own_namespace_is_refused,
    },
    Assertion {
        number: 24,
        sentence: "CNI_NETNS that is missing or no namespace makes ADD fail, and nothing is left",
        about: About::Main,
        apply: what_is_no_namespace_is_refused,
    },
    Assertion {
        number: 28,
        sentence: "the result has the interface with sandbox, mac and mtu, ips that point to it, routes with gw, and dns",
        about: About::Main,
        apply: result_tells_all,
    },
    Assertion {
        number: 29,
        sentence: "prevResult is passed through, with or without a version of its own",
        about: About::Main,
        apply: result_before_is_passed_through,
    },
];

fn interface_is_as_asked_for(plugin: &Plugin) -> Verdict {
    let scene = Scene::new(plugin);
    scene.add(&scene.conf())?;
    let links = scene.pod.netns.links();
    ensure!(
        links == ["lo", IFNAME],
        "expected lo and {IFNAME} in the pod, came {links:?}"
    );
    let link = scene.pod.netns.link(IFNAME).unwrap_or_default();
    ensure!(
        contains(&link, &plugin.recipe.link),
        "expected {}, came {link}",
        plugin.recipe.link
    );
    ensure!(
        is_up(&link),
        "expected an interface that is up, came {link}"
    );
    let addresses = scene.pod.netns.addresses(IFNAME);
    ensure!(
        addresses == ["10.9.0.5/24"],
        "expected 10.9.0.5/24, came {addresses:?}"
    );
    if let Some(parent) = &plugin.recipe.parent {
        let index = scene.node.netns.link(&parent.name).unwrap_or_default()["ifindex"].clone();
        ensure!(
            link["link_index"] == index,
            "expected parent {index}, came {link}"
        );
    }
    let (links, expected) = (scene.node.netns.links(), &plugin.recipe.node_links);
    ensure!(
        links.len() == expected.len()
            && links
                .iter()
                .all(|link| expected.iter().any(|pattern| matches(pattern, link))),
        "expected {expected:?} on the node, came {links:?}"
    );
    Ok(())
}

fn taken_name_is_left_alone(plugin: &Plugin) -> Verdict {
    let scene = Scene::new(plugin);
    scene.take_name(&scene.pod.netns);
    let before = scene.state();
    scene.fails(&scene.call("ADD", &scene.conf()))?;
    scene.is_as(&before, "after the failed ADD")?;
    scene.del(&scene.conf())?;
    scene.is_as(&before, "after the DEL that follows a failed ADD")
}

fn own_namespace_is_refused(plugin: &Plugin) -> Verdict {
    let scene = Scene::new(plugin);
    let before = scene.state();
    let call = scene.call("ADD", &scene.conf());
    scene.fails_with(8, &call.env("CNI_NETNS", &scene.node.netns.path()))?;
    scene.is_as(&before, "after the refusal")?;
    let calls = scene.ipam.calls();
    ensure!(
        calls.is_empty(),
        "expected nothing to be asked of IPAM, came {calls:?}"
    );
    Ok(())
}

fn what_is_no_namespace_is_refused(plugin: &Plugin) -> Verdict {
    let scene = Scene::new(plugin);
    let before = scene.state();
    let file = scene.ipam.path("file");
    fs::write(&file, "").map_err(|cause| cause.to_string())?;
    for path in ["/run/netns/none", "/tmp", &file.display().to_string()] {
        scene.fails(&scene.call("ADD", &scene.conf()).env("CNI_NETNS", path))?;
        scene.is_as(&before, &format!("after the refusal of {path:?}"))?;
    }
    Ok(())
}

fn result_tells_all(plugin: &Plugin) -> Verdict {
    let scene = Scene::new(plugin);
    let routes = json!([{"dst": "0.0.0.0/0"}, {"dst": "10.8.0.0/16", "gw": "10.9.0.9"}]);
    let more = json!({"routes": routes, "dns": {"nameservers": ["192.0.2.53"]}});
    scene.ipam.answer(&with(&answer(plugin.version()), &more));
    let conf = with(&scene.conf(), &json!({"dns": {"search": ["example.org"]}}));
    let result = scene.add(&conf)?;
    let link = scene.pod.netns.link(IFNAME).unwrap_or_default();
    let index = attached_index(&result, &scene.pod.netns.path())?;
    let interface = &result["interfaces"][index];
    let mut expected = json!({"name": IFNAME, "mac": link["address"]});
    if plugin.speaks("1.1.0") {
        expected["mtu"] = link["mtu"].clone();
    }
    ensure!(
        contains(interface, &expected),
        "expected {expected}, came {interface}"
    );
    ensure!(
        result["ips"][0]["interface"] == index,
        "expected ips of interface {index}, came {result}"
    );
    let expected = json!([{"dst": "0.0.0.0/0", "gw": "10.9.0.1"}, routes[1]]);
    ensure!(
        result["routes"] == expected,
        "expected the routes {expected}, came {result}"
    );
    for route in [["default", "10.9.0.1"], ["10.8.0.0/16", "10.9.0.9"]] {
        let shown = scene.pod.netns.ip_json(&["route", "show", route[0]]);
        ensure!(
            shown[0]["gateway"] == route[1],
            "expected the route {route:?}, came {shown}"
        );
    }
    let expected = json!({"nameservers": ["192.0.2.53"], "search": ["example.org"]});
    ensure!(
        result["dns"] == expected,
        "expected the dns {expected}, came {result}"
    );
    Ok(())
}

/// The index of the one interface of a result that is in the sandbox.
pub(crate) fn attached_index(result: &Value, sandbox: &str) -> Result<usize, String> {
    let interfaces = result["interfaces"].as_array().cloned().unwrap_or_default();
    let mut inside = (0..interfaces.len()).filter(|&n| !interfaces[n]["sandbox"].is_null());
    match (inside.next(), inside.next()) {
        (Some(index), None) if interfaces[index]["sandbox"] == sandbox => Ok(index),
        _ => Err(format!(
            "expected one interface with the sandbox {sandbox:?}, came {result}"
        )),
    }
}

fn result_before_is_passed_through(plugin: &Plugin) -> Verdict {
    let mut versions = vec![(plugin.version(), json!(plugin.version()))];
    versions.push((plugin.version(), Value::Null));
    if plugin.speaks("1.1.0") {
        versions.push(("1.1.0", json!("1.0.0")));
    }
    if plugin.speaks("0.4.0") {
        versions.push(("0.4.0", json!("0.4.0")));
    }
    for (version, own_version) in versions {
        let scene = Scene::new(plugin);
        let conf = scene.conf_of_version(version);
        let before = json!({
            "cniVersion": own_version,
            "interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:77", "sandbox": scene.pod.netns.path()}],
            "ips": [with(&answer(version)["ips"][0], &json!({"address": "10.7.0.5/24", "gateway": null, "interface": 0}))],
        });
        let before = with(&before, &json!({"cniVersion": own_version}));
        let result = scene.add(&with(&conf, &json!({"prevResult": before})))?;
        let has = |key: &str, name: &str, value: &str| {
            let entries = result[key].as_array().into_iter().flatten();
            entries.filter(|entry| entry[name] == value).count() == 1
        };
        ensure!(
            has("interfaces", "name", "eth0") && has("interfaces", "name", IFNAME),
            "expected the interfaces eth0 and {IFNAME}, came {result}"
        );
        ensure!(
            has("ips", "address", "10.7.0.5/24") && has("ips", "address", "10.9.0.5/24"),
            "expected the ips of both, came {result}"
        );
    }
    Ok(())
}
