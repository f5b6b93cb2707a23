//! Assertions 37 to 47: DEL in every state that a runtime, a pod or a crash can leave.

use harness::{Node, Pod};
use serde_json::{Value, json};

use crate::assertion::{About, Assertion, Verdict, ensure};
use crate::held::{PROMPTLY, until};
use crate::plugin::{Device, Plugin};
use crate::scene::{IFNAME, Scene, State, answer, unlike, with};

pub(crate) const ASSERTIONS: &[Assertion] = &[
    Assertion {
        number: 37,
        sentence: "DEL succeeds again and again",
        about: About::Any,
        apply: del_may_be_repeated,
    },
    Assertion {
        number: 38,
        sentence: "DEL before any ADD succeeds and touches nothing",
        about: About::Any,
        apply: del_may_come_first,
    },
    Assertion {
        number: 39,
        sentence: "DEL with an empty or no CNI_NETNS succeeds and releases the address",
        about: About::Any,
        apply: del_needs_no_namespace,
    },
    Assertion {
        number: 40,
        sentence: "DEL with a CNI_NETNS that is gone succeeds and releases the address",
        about: About::Any,
        apply: del_survives_a_missing_namespace,
    },
    Assertion {
        number: 41,
        sentence: "DEL with a CNI_NETNS that is a regular file does so too, and leaves the file alone",
        about: About::Any,
        apply: del_survives_a_file,
    },
    Assertion {
        number: 42,
        sentence: "DEL with a configuration of name, type and ipam.type alone releases the address, also without prevResult",
        about: About::Any,
        apply: del_needs_no_configuration,
    },
    Assertion {
        number: 43,
        sentence: "DEL succeeds when the parent or the device is gone",
        about: About::Uplink,
        apply: del_needs_no_uplink,
    },
    Assertion {
        number: 44,
        sentence: "DEL leaves the pod's other interface and other pods alone",
        about: About::Any,
        apply: del_leaves_others_alone,
    },
    Assertion {
        number: 45,
        sentence: "a device comes back as it was, also when renamed, when its name is taken or its namespace died",
        about: About::Device,
        apply: device_comes_back_as_it_was,
    },
    Assertion {
        number: 46,
        sentence: "an error of DEL never says \"not found\" or \"no such file or directory\"",
        about: About::Any,
        apply: errors_avoid_the_words_of_success,
    },
    Assertion {
        number: 47,
        sentence: "a DEL of IPAM that fails is reported, and the interface is removed nevertheless",
        about: About::Main,
        apply: failing_release_does_not_keep_the_interface,
    },
];

/// Whether an address is held for no one any more.
fn is_released(scene: &Scene<'_>, when: &str) -> Verdict {
    let (reserved, files) = (scene.ipam.reserved(), scene.files());
    ensure!(
        reserved.is_empty() && files.is_empty(),
        "{when}, expected no reservation, came {reserved:?} and the files {files:?}"
    );
    Ok(())
}

fn del_may_be_repeated(plugin: &Plugin) -> Verdict {
    let scene = Scene::new(plugin);
    let before = scene.state();
    let conf = scene.attached(&scene.conf())?;
    for conf in [&conf, &scene.conf(), &conf] {
        scene.del(conf)?;
        scene.is_as(&before, "after DEL")?;
    }
    Ok(())
}

fn del_may_come_first(plugin: &Plugin) -> Verdict {
    let scene = Scene::new(plugin);
    if plugin.recipe.is_main() {
        scene.take_name(&scene.pod.netns);
    }
    let before = scene.state();
    scene.del(&scene.conf())?;
    scene.is_as(&before, "after DEL without any ADD")
}

fn del_needs_no_namespace(plugin: &Plugin) -> Verdict {
    for is_set in [true, false] {
        let scene = Scene::new(plugin);
        let conf = scene.attached(&scene.conf())?;
        let call = scene.call("DEL", &conf);
        let call = if is_set {
            call.env("CNI_NETNS", "")
        } else {
            call.without("CNI_NETNS")
        };
        scene.succeeds(&call)?;
        is_released(&scene, "after DEL without a namespace")?;
    }
    Ok(())
}

fn del_survives_a_missing_namespace(plugin: &Plugin) -> Verdict {
    let scene = Scene::new(plugin);
    let conf = scene.attached(&scene.conf())?;
    let path = scene.ipam.path("gone");
    let netns = path.display().to_string();
    scene.succeeds(&scene.call("DEL", &conf).env("CNI_NETNS", &netns))?;
    ensure!(!path.exists(), "expected no file, came one at {netns}");
    is_released(&scene, "after DEL of a namespace that is gone")
}

fn del_survives_a_file(plugin: &Plugin) -> Verdict {
    let scene = Scene::new(plugin);
    let conf = scene.attached(&scene.conf())?;
    scene.ipam.write("bogus", "of somebody else");
    let netns = scene.ipam.path("bogus").display().to_string();
    scene.succeeds(&scene.call("DEL", &conf).env("CNI_NETNS", &netns))?;
    let content = scene.ipam.read("bogus");
    ensure!(
        content == "of somebody else",
        "expected the file unchanged, came {content:?}"
    );
    is_released(&scene, "after DEL of a namespace that is a file")
}

fn del_needs_no_configuration(plugin: &Plugin) -> Verdict {
    for has_result in [true, false] {
        let scene = Scene::new(plugin);
        let conf = scene.conf();
        let result = scene.add(&conf)?;
        let stripped = json!({
            "cniVersion": conf["cniVersion"],
            "name": conf["name"],
            "type": conf["type"],
            "ipam": {"type": conf["ipam"]["type"]},
            "prevResult": result,
        });
        let keys = if has_result {
            json!({})
        } else {
            json!({"prevResult": null})
        };
        scene.del(&with(&stripped, &keys))?;
        is_released(&scene, "after DEL with a stripped configuration")?;
        let links = scene.pod.netns.links();
        ensure!(
            !links.contains(&IFNAME.to_owned()),
            "expected no {IFNAME}, came {links:?}"
        );
    }
    Ok(())
}

fn del_needs_no_uplink(plugin: &Plugin) -> Verdict {
    let scene = Scene::new(plugin);
    let conf = scene.attached(&scene.conf())?;
    match &plugin.recipe.parent {
        Some(parent) => scene.node.netns.ip(&["link", "del", &parent.name]),
        None => scene.pod.netns.ip(&["link", "del", IFNAME]),
    };
    scene.del(&conf)?;
    is_released(&scene, "after DEL without the uplink")
}

fn del_leaves_others_alone(plugin: &Plugin) -> Verdict {
    let scene = Scene::new(plugin);
    let second = Pod::new("c2");
    let add = |nth: usize, pod: &Pod, ifname: &str| {
        let mut answer = answer(plugin.version());
        answer["ips"][0]["address"] = json!(format!("10.9.0.{}/24", nth + 5));
        scene.ipam.answer(&answer);
        scene.succeeds(&scene.call("ADD", &scene.nth_conf(nth)).pod(pod, ifname))
    };
    add(1, &scene.pod, "net2")?;
    add(2, &second, IFNAME)?;
    let before: (State, _) = (scene.state(), second.netns.description());
    let result = add(0, &scene.pod, IFNAME)?;
    scene.del(&with(&scene.conf(), &json!({"prevResult": result})))?;
    scene.is_as(&before.0, "after DEL of one of three")?;
    let others = second.netns.description();
    ensure!(
        others == before.1,
        "expected the other pod as before, came {others:?}"
    );
    Ok(())
}

fn device_comes_back_as_it_was(plugin: &Plugin) -> Verdict {
    let Some(device) = &plugin.recipe.device else {
        return Err("the recipe has no device".to_owned());
    };
    device_is_restored(plugin, device, "the pod has renamed it", |scene| {
        scene.pod.netns.ip(&["link", "set", IFNAME, "down"]);
        scene
            .pod
            .netns
            .ip(&["link", "set", IFNAME, "name", "renamed", "mtu", "1280"]);
    })?;
    if let Some(card) = &plugin.card {
        card_comes_back_from_the_dead(plugin, card)?;
    }

    device_whose_name_is_taken_comes_back(plugin, device)
}

/// DEL may give the device another name, or report the clash and be repeated.
fn device_whose_name_is_taken_comes_back(plugin: &Plugin, device: &Device) -> Verdict {
    let scene = Scene::new(plugin);
    let host = &scene.node.netns;
    let conf = scene.attached(&scene.conf())?;
    host.ip(&[
        "link",
        "add",
        &device.name,
        "type",
        "veth",
        "peer",
        "name",
        "other",
    ]);
    let other = host.link(&device.name).unwrap_or_default();
    let output = scene.node.run(&scene.call("DEL", &conf));
    let is_there = |mac: &Value| {
        host.description()
            .iter()
            .any(|link| link["address"] == *mac)
    };
    ensure!(
        is_there(&other["address"]),
        "expected the other {} to stay",
        device.name
    );
    if output.status != Some(0) {
        host.ip(&["link", "del", "other"]);
        scene.del(&conf)?;
    }
    ensure!(
        is_there(&json!(device.hwaddr)) && scene.ipam.reserved().is_empty(),
        "{}",
        unlike(
            "the device on the node and no reservation",
            "it is not so",
            &output
        )
    );
    Ok(())
}

/// Attaches a device that has everything a device can have, lets something happen to
/// it, and detaches it.
fn device_is_restored(
    plugin: &Plugin,
    device: &Device,
    what: &str,
    happens: impl FnOnce(&mut Scene<'_>),
) -> Verdict {
    let mut scene = Scene::new(plugin);
    let host = &scene.node.netns;
    host.ip(&["link", "set", &device.name, "alias", "uplink", "up"]);
    host.ip(&[
        "link",
        "property",
        "add",
        "dev",
        &device.name,
        "altname",
        "enp0s30",
    ]);
    let (before, alias) = (scene.state(), alias_of(&scene, device));
    let conf = scene.attached(&scene.conf())?;
    let netns = scene.pod.netns.path();
    happens(&mut scene);
    scene.succeeds(&scene.call("DEL", &conf).env("CNI_NETNS", &netns))?;
    ensure!(
        alias_of(&scene, device) == alias,
        "after DEL when {what}, expected the alias {alias}, came another"
    );
    scene.is_as(&before, &format!("after DEL when {what}"))
}

fn alias_of(scene: &Scene<'_>, device: &Device) -> Value {
    scene.node.netns.link(&device.name).unwrap_or_default()["ifalias"].clone()
}

/// The kernel puts a card back into the first namespace of the machine when the one that
/// it is in ends, under the name that it had there.
fn card_comes_back_from_the_dead(plugin: &Plugin, card: &str) -> Verdict {
    let mut scene = Scene::on(Node::of_machine(), plugin);
    let before = scene.state();
    let conf = scene.attached(&with(&scene.conf(), &json!({"device": card})))?;
    let is_back =
        |scene: &Scene<'_>| scene.node.netns.description().len() == before.links_of_node();
    ensure!(!is_back(&scene), "expected {card} to be moved, it was not");
    scene.pod = Pod::new("c1");
    ensure!(
        until(PROMPTLY, || is_back(&scene)),
        "the kernel did not put {card} back"
    );
    scene.succeeds(&scene.call("DEL", &conf).env("CNI_NETNS", "/run/netns/gone"))?;
    scene.is_as(&before, "after DEL when the namespace has died")
}

fn errors_avoid_the_words_of_success(plugin: &Plugin) -> Verdict {
    let scene = Scene::new(plugin);
    let document = r#"{"code": 999, "msg": "address not found: no such file or directory"}"#;
    scene.ipam.fail("DEL", document);
    let conf = scene.conf();
    let resolv = json!({"ipam": {"type": conf["ipam"]["type"], "resolvConf": "/no/such/file"}});
    let calls = [
        scene.call("DEL", &conf),
        scene.call("DEL", &conf).env("CNI_NETNS", "/no/such/netns"),
        scene.call("DEL", &with(&conf, &json!({"ipam": {"type": "none"}}))),
        scene.call("DEL", &with(&conf, &resolv)),
        scene.call("DEL", &with(&conf, &json!({"name": ""}))),
        scene.call("DEL", &conf).without("CNI_IFNAME"),
        scene.call("DEL", &conf).stdin("nonsense"),
    ];
    for call in calls {
        let output = scene.node.run(&call);
        let said = output.stdout.to_lowercase();
        for words in ["not found", "no such file or directory"] {
            ensure!(
                output.status == Some(0) || !said.contains(words),
                "expected an error without {words:?}, came {said:?}"
            );
        }
    }
    Ok(())
}

fn failing_release_does_not_keep_the_interface(plugin: &Plugin) -> Verdict {
    let scene = Scene::new(plugin);
    let before = scene.state();
    let conf = scene.attached(&scene.conf())?;
    scene
        .ipam
        .fail("DEL", r#"{"code": 11, "msg": "try again"}"#);
    scene.fails(&scene.call("DEL", &conf))?;
    let links = scene.pod.netns.links();
    ensure!(
        links == ["lo"],
        "expected only lo in the pod, came {links:?}"
    );
    scene.ipam.recover("DEL");
    scene.del(&conf)?;
    scene.is_as(&before, "after the DEL that was repeated")
}
