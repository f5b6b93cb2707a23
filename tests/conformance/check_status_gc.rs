//! Assertions 48 to 51: CHECK finds what is wrong and only that, STATUS tells whether an
//! ADD could succeed, and what concerns IPAM is passed on to it.

use harness::Call;
use serde_json::{Value, json};

use crate::assertion::{About, Assertion, Verdict, ensure};
use crate::plugin::Plugin;
use crate::scene::{IFNAME, Scene, answer, unlike, with};

pub(crate) const ASSERTIONS: &[Assertion] = &[
    Assertion {
        number: 48,
        sentence: "CHECK succeeds after ADD, fails when link, kind, address, route or reservation is gone, and is code 7 without prevResult",
        about: About::Main,
        apply: check_finds_what_is_wrong,
    },
    Assertion {
        number: 49,
        sentence: "CHECK accepts routes that a later plugin has moved to another table",
        about: About::Main,
        apply: check_accepts_other_tables,
    },
    Assertion {
        number: 50,
        sentence: "CHECK, DEL, STATUS and GC reach IPAM with the same environment and stdin",
        about: About::Main,
        apply: commands_reach_ipam,
    },
    Assertion {
        number: 51,
        sentence: "STATUS needs no container, prints nothing, and is code 50 when the parent is missing or no address is free",
        about: About::Speaks110,
        apply: status_tells_whether_add_could_succeed,
    },
];

fn with_route(plugin: &Plugin, route: &Value) -> Value {
    with(&answer(plugin.version()), &json!({"routes": [route]}))
}

/// What is damaged, and how.
type Damage<'a> = (&'a str, &'a dyn Fn(&Scene<'_>));

fn check_finds_what_is_wrong(plugin: &Plugin) -> Verdict {
    let ip: fn(&Scene<'_>, &[&str]) = |scene, arguments| drop(scene.pod.netns.ip(arguments));
    let damages: [Damage<'_>; 5] = [
        ("the interface", &|scene| {
            ip(scene, &["link", "del", IFNAME])
        }),
        ("the kind of interface", &|scene| {
            ip(scene, &["link", "del", IFNAME]);
            scene.take_name(&scene.pod.netns);
        }),
        ("the address", &|scene| {
            ip(scene, &["address", "flush", "dev", IFNAME])
        }),
        ("the route", &|scene| {
            ip(scene, &["route", "del", "10.8.0.0/16"])
        }),
        ("the reservation", &|scene| {
            scene
                .ipam
                .fail("CHECK", r#"{"code": 999, "msg": "reserved for nobody"}"#);
        }),
    ];
    for (what, damage) in damages {
        let scene = Scene::new(plugin);
        let route = json!({"dst": "10.8.0.0/16", "gw": "10.9.0.1"});
        scene.ipam.answer(&with_route(plugin, &route));
        let conf = scene.attached(&scene.conf())?;
        scene.succeeds(&scene.call("CHECK", &conf))?;
        damage(&scene);
        let output = scene.node.run(&scene.call("CHECK", &conf));
        let expected = format!("an error without {what}");
        output
            .try_error()
            .map_err(|cause| unlike(&expected, &cause, &output))?;
    }
    let scene = Scene::new(plugin);
    scene.add(&scene.conf())?;
    scene
        .fails_with(7, &scene.call("CHECK", &scene.conf()))
        .map(drop)
}

fn check_accepts_other_tables(plugin: &Plugin) -> Verdict {
    let scene = Scene::new(plugin);
    let route = json!({"dst": "10.8.0.0/16", "gw": "10.9.0.1"});
    scene.ipam.answer(&with_route(plugin, &route));
    let conf = scene.attached(&scene.conf())?;
    scene.pod.netns.ip(&["route", "del", "10.8.0.0/16"]);
    let moved = [
        "route",
        "add",
        "10.8.0.0/16",
        "via",
        "10.9.0.1",
        "dev",
        IFNAME,
        "table",
        "100",
    ];
    scene.pod.netns.ip(&moved);
    scene.succeeds(&scene.call("CHECK", &conf))?;
    if !plugin.speaks("1.1.0") {
        return Ok(());
    }
    let scene = Scene::new(plugin);
    scene
        .ipam
        .answer(&with_route(plugin, &with(&route, &json!({"table": 100}))));
    let conf = scene.attached(&scene.conf())?;
    scene.succeeds(&scene.call("CHECK", &conf)).map(drop)
}

fn commands_reach_ipam(plugin: &Plugin) -> Verdict {
    let scene = Scene::new(plugin);
    scene.ipam.hook(r#"env >"$dir/env.$CNI_COMMAND""#);
    let reaches = |call: Call| -> Verdict {
        let call = call
            .env("CNI_ARGS", "IgnoreUnknown=1;A=b")
            .env("TRACEPARENT", "00-1");
        scene.succeeds(&call)?;
        reached(&scene, &call)
    };
    if plugin.speaks("1.1.0") {
        reaches(scene.bare_call("STATUS").conf(&scene.conf()))?;
    }
    let conf = scene.attached(&scene.conf())?;
    reaches(scene.call("CHECK", &conf))?;
    if plugin.speaks("1.1.0") {
        let valid = json!([{"containerID": "c1", "ifname": IFNAME}]);
        let listed = with(&conf, &json!({"cni.dev/valid-attachments": valid}));
        reaches(scene.bare_call("GC").conf(&listed))?;
    }
    reaches(scene.call("DEL", &conf))
}

/// Whether the delegate was called as the plugin itself.
fn reached(scene: &Scene<'_>, call: &Call) -> Verdict {
    let command = call.variable("CNI_COMMAND");
    let stdin = scene.ipam.read(&format!("stdin.{command}"));
    let ours = String::from_utf8_lossy(call.input());
    ensure!(
        stdin == ours,
        "expected {command} of IPAM with {ours}, came {stdin:?}"
    );
    let environment = scene.ipam.read(&format!("env.{command}"));
    for name in [
        "CNI_COMMAND",
        "CNI_CONTAINERID",
        "CNI_NETNS",
        "CNI_IFNAME",
        "CNI_ARGS",
        "CNI_PATH",
        "TRACEPARENT",
    ] {
        let value = call.variable(name);
        let line = format!("{name}={value}");
        ensure!(
            value.is_empty() || environment.lines().any(|came| came == line),
            "expected {line} for {command} of IPAM, came {environment:?}"
        );
    }
    Ok(())
}

fn status_tells_whether_add_could_succeed(plugin: &Plugin) -> Verdict {
    let scene = Scene::new(plugin);
    let status = |conf: &Value| scene.bare_call("STATUS").conf(conf);
    let output = scene.node.run(&status(&scene.conf()));
    ensure!(
        output.status == Some(0) && output.stdout.is_empty(),
        "{}",
        unlike("success without a word", "it is not so", &output)
    );
    if let Some(parent) = &plugin.recipe.parent {
        scene.node.netns.ip(&["link", "del", &parent.name]);
        scene.fails_with(50, &status(&scene.conf()))?;
    }
    if let Some(store) = &plugin.recipe.store {
        let conf = with(&scene.conf(), &store.single);
        scene.add(&conf)?;
        scene.fails_with(50, &status(&conf))?;
    }
    Ok(())
}
