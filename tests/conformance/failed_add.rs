//! Assertions 25 to 27 and 36: an ADD that fails, or is killed, leaves nothing.

use std::time::Duration;

use serde_json::{Value, json};

use crate::assertion::{About, Assertion, Verdict, ensure};
use crate::plugin::Plugin;
use crate::scene::{Scene, State, answer, unlike, with};
use crate::strace;

pub(crate) const ASSERTIONS: &[Assertion] = &[
    Assertion {
        number: 25,
        sentence: "an IPAM plugin that is missing, fails or hangs makes ADD fail in time; its DEL is executed, the interface goes",
        about: About::Main,
        apply: failing_ipam_is_undone,
    },
    Assertion {
        number: 26,
        sentence: "an IPAM plugin that returns no address makes ADD fail, and its DEL is executed",
        about: About::Main,
        apply: no_address_is_a_failure,
    },
    Assertion {
        number: 27,
        sentence: "a failure at any step leaves everything as it was before",
        about: About::Main,
        apply: failure_of_a_step_is_undone,
    },
    Assertion {
        number: 36,
        sentence: "an ADD that is killed leaves nothing that DEL does not remove",
        about: About::Any,
        apply: killed_add_is_cleaned_by_del,
    },
];

/// What two calls have to be undone by: ADD fails, and the delegate's DEL has been
/// executed after its ADD.
fn is_undone(scene: &Scene<'_>, before: &State, when: &str) -> Verdict {
    scene.fails(&scene.call("ADD", &scene.conf()))?;
    was_released(scene)?;
    scene.is_as(before, when)
}

fn was_released(scene: &Scene<'_>) -> Verdict {
    let calls = scene.ipam.calls();
    ensure!(
        calls == ["ADD c1 net1", "DEL c1 net1"],
        "expected ADD and DEL of IPAM, came {calls:?}"
    );
    Ok(())
}

fn failing_ipam_is_undone(plugin: &Plugin) -> Verdict {
    let scene = Scene::new(plugin);
    let before = scene.state();
    let missing = scene.call("ADD", &scene.conf()).env("CNI_PATH", "/nowhere");
    scene.fails(&missing)?;
    scene.is_as(&before, "after an ADD whose IPAM plugin is missing")?;

    scene
        .ipam
        .fail("ADD", r#"{"code": 11, "msg": "no addresses"}"#);
    is_undone(&scene, &before, "after an ADD whose IPAM plugin fails")?;

    match plugin.patience {
        Duration::ZERO => Ok(()),
        patience => hanging_ipam_is_given_up(plugin, patience),
    }
}

fn hanging_ipam_is_given_up(plugin: &Plugin, patience: Duration) -> Verdict {
    let scene = Scene::new(plugin);
    let before = scene.state();
    scene.ipam.hook("[ $CNI_COMMAND != ADD ] || exec sleep 600");
    let limit = ["-s", "KILL", &patience.as_secs().to_string()];
    let call = scene.call("ADD", &scene.conf());
    let output = scene.node.inside(|| call.run_under("timeout", &limit));
    output
        .try_error()
        .map_err(|cause| unlike("an error while the IPAM plugin hangs", &cause, &output))?;
    let calls = scene.ipam.calls();
    ensure!(
        calls == ["DEL c1 net1"],
        "expected DEL of IPAM, came {calls:?}"
    );
    scene.is_as(&before, "after an ADD whose IPAM plugin hangs")
}

fn no_address_is_a_failure(plugin: &Plugin) -> Verdict {
    for ips in [json!(null), json!([])] {
        let scene = Scene::new(plugin);
        let before = scene.state();
        scene
            .ipam
            .answer(&with(&answer(plugin.version()), &json!({"ips": ips})));
        is_undone(&scene, &before, "after an ADD without an address")?;
    }
    Ok(())
}

fn failure_of_a_step_is_undone(plugin: &Plugin) -> Verdict {
    let good = answer(plugin.version());
    let twice = json!([good["ips"][0], good["ips"][0]]);
    let refused = json!([{"dst": "10.8.0.0/16", "gw": "10.9.0.255"}]);
    for (what, answer) in [
        (
            "the same address twice",
            with(&good, &json!({"ips": twice})),
        ),
        (
            "a gateway that is a broadcast address",
            with(&good, &json!({"routes": refused})),
        ),
        (
            "an address that is none",
            json!({"ips": [{"address": "x"}]}),
        ),
        ("a result that is none", Value::from("text")),
    ] {
        let scene = Scene::new(plugin);
        let before = scene.state();
        scene.ipam.answer(&answer);
        is_undone(&scene, &before, &format!("after an ADD with {what}"))?;
    }
    Ok(())
}

fn killed_add_is_cleaned_by_del(plugin: &Plugin) -> Verdict {
    let count = {
        let scene = Scene::new(plugin);
        scene
            .node
            .inside(|| strace::count(&scene.call("ADD", &scene.conf())))
    };
    for nth in strace::points(count) {
        let scene = Scene::new(plugin);
        let before = scene.state();
        let add = scene.call("ADD", &scene.conf());
        scene.node.inside(|| strace::killed_at(&add, nth));
        scene.del(&scene.conf())?;
        scene.is_as(
            &before,
            &format!("after an ADD that was killed at system call {nth}, and DEL"),
        )?;
    }
    Ok(())
}
