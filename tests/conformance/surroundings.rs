//! Assertions 15 to 20: what else is in the configuration and the environment.

use harness::Call;
use serde_json::{Value, json};

use crate::assertion::{About, Assertion, Verdict, ensure};
use crate::plugin::Plugin;
use crate::scene::{Scene, unlike, with};

pub(crate) const ASSERTIONS: &[Assertion] = &[
    Assertion {
        number: 15,
        sentence: "chatter on stderr, or a stderr that cannot be written, does not harm the result",
        about: About::Any,
        apply: chatter_does_no_harm,
    },
    Assertion {
        number: 16,
        sentence: "unknown keys, capabilities, args and an empty runtimeConfig are ignored",
        about: About::Any,
        apply: other_keys_are_ignored,
    },
    Assertion {
        number: 17,
        sentence: "CNI_ARGS may repeat keys and have unknown ones; a malformed pair is code 4 or ignored by all commands",
        about: About::Any,
        apply: arguments_are_tolerated,
    },
    Assertion {
        number: 18,
        sentence: "an empty variable is an unset one",
        about: About::Any,
        apply: empty_is_unset,
    },
    Assertion {
        number: 19,
        sentence: "what delegates nothing needs no CNI_PATH",
        about: About::Any,
        apply: no_path_is_needed,
    },
    Assertion {
        number: 20,
        sentence: "TRACEPARENT, TRACESTATE and BAGGAGE do no harm",
        about: About::Any,
        apply: traces_do_no_harm,
    },
];

fn chatter_does_no_harm(plugin: &Plugin) -> Verdict {
    let scene = Scene::new(plugin);
    scene.ipam.hook("echo chatter >&2");
    let conf = scene.conf();
    let result = scene.add(&conf)?;
    ensure!(
        result["ips"].is_array(),
        "expected a result with ips, came {result}"
    );
    scene.del(&conf)?;
    let call = scene.call("ADD", &conf);
    let output = scene
        .node
        .inside(|| call.run_under("sh", &["-c", "exec \"$0\" 2>/dev/full"]));
    let result = output
        .try_ok()
        .map_err(|cause| unlike("success", &cause, &output))?;
    ensure!(
        result["ips"].is_array(),
        "expected a result with ips, came {result}"
    );
    Ok(())
}

fn other_keys_are_ignored(plugin: &Plugin) -> Verdict {
    let scene = Scene::new(plugin);
    let before = scene.state();
    let keys = json!({
        "unknown": {"deep": [1, null, 2.5]},
        "capabilities": {"portMappings": true, "bandwidth": false},
        "args": {"labels": [{"key": "app", "value": "x"}], "cni": {"unknown": 1}},
        "runtimeConfig": {},
        "cniVersions": [plugin.version()],
    });
    let conf = with(&scene.conf(), &keys);
    scene.add(&conf)?;
    scene.del(&conf)?;
    scene.is_as(&before, "after ADD and DEL")
}

fn arguments_are_tolerated(plugin: &Plugin) -> Verdict {
    let scene = Scene::new(plugin);
    let conf = scene.conf();
    let with_args = |command: &str, args: &str| scene.call(command, &conf).env("CNI_ARGS", args);
    for args in [
        "IgnoreUnknown=1;K8S_POD_NAME=p;K8S_POD_NAME=p;IgnoreUnknown=1",
        "IgnoreUnknown=true;K8S_POD_NAMESPACE=default;A=b",
    ] {
        scene.succeeds(&with_args("ADD", args))?;
        scene.succeeds(&with_args("DEL", args))?;
    }
    for args in [
        "IgnoreUnknown=1;A=b=c",
        "IgnoreUnknown=1;A",
        "IgnoreUnknown=1;",
        ";",
    ] {
        let add = scene.node.run(&with_args("ADD", args));
        let is_ignored = add.status == Some(0);
        if is_ignored {
            scene.succeeds(&with_args("DEL", args))?;
        } else {
            scene.fails_with(4, &with_args("ADD", args))?;
        }
    }
    Ok(())
}

fn empty_is_unset(plugin: &Plugin) -> Verdict {
    let scene = Scene::new(plugin);
    let conf = scene.conf();
    for name in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"] {
        let unset = scene.fails_with(4, &scene.call("ADD", &conf).without(name))?;
        let empty = scene.fails_with(4, &scene.call("ADD", &conf).env(name, ""))?;
        ensure!(
            unset == empty,
            "expected {unset:?} for an empty {name} too, came {empty:?}"
        );
    }
    let optional = |command: &str| scene.call(command, &conf).env("CNI_ARGS", "");
    scene.succeeds(&optional("ADD"))?;
    scene.succeeds(&optional("DEL").env("CNI_NETNS", ""))?;
    Ok(())
}

fn no_path_is_needed(plugin: &Plugin) -> Verdict {
    let scene = Scene::new(plugin);
    let without =
        |command: &str, conf: &Value| -> Call { scene.call(command, conf).without("CNI_PATH") };
    if plugin.recipe.is_main() {
        let conf = with(&scene.conf(), &json!({"ipam": null}));
        return scene.succeeds(&without("DEL", &conf)).map(drop);
    }
    scene.succeeds(&without("ADD", &scene.conf()))?;
    scene.succeeds(&without("DEL", &scene.conf())).map(drop)
}

fn traces_do_no_harm(plugin: &Plugin) -> Verdict {
    let scene = Scene::new(plugin);
    let before = scene.state();
    let traced = |command: &str| {
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let call = scene.call(command, &scene.conf()).env("TRACEPARENT", trace);
        call.env("TRACESTATE", "a=b").env("BAGGAGE", "user=x,;=")
    };
    let result = scene.succeeds(&traced("ADD"))?;
    ensure!(
        result["ips"].is_array(),
        "expected a result with ips, came {result}"
    );
    scene.succeeds(&traced("DEL"))?;
    scene.is_as(&before, "after ADD and DEL")
}
