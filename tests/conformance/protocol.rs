//! Assertions 1 to 14: what is asked for in which words, and how it is answered.

use serde_json::{Value, json};

use crate::assertion::{About, Assertion, Verdict, ensure};
use crate::plugin::{Plugin, VERSIONS};
use crate::scene::{Scene, unlike, with};

pub(crate) const ASSERTIONS: &[Assertion] = &[
    Assertion {
        number: 1,
        sentence: "VERSION needs no stdin and lists 0.3.0 to 1.1.0",
        about: About::Any,
        apply: version_needs_no_stdin,
    },
    Assertion {
        number: 2,
        sentence: "VERSION answers the same whatever it is given, and changes nothing",
        about: About::Any,
        apply: version_changes_nothing,
    },
    Assertion {
        number: 3,
        sentence: "without CNI_COMMAND, stdout is empty and stderr says what the plugin is",
        about: About::Any,
        apply: about_text_goes_to_stderr,
    },
    Assertion {
        number: 4,
        sentence: "an unknown CNI_COMMAND is code 4 and named",
        about: About::Any,
        apply: unknown_command_is_named,
    },
    Assertion {
        number: 5,
        sentence: "missing variables are code 4 and named, and only those; DEL needs no CNI_NETNS",
        about: About::Any,
        apply: missing_variables_are_named,
    },
    Assertion {
        number: 6,
        sentence: "an illegal CNI_CONTAINERID or CNI_IFNAME is code 4",
        about: About::Any,
        apply: illegal_names_are_refused,
    },
    Assertion {
        number: 7,
        sentence: "stdin that is no JSON is code 6",
        about: About::Any,
        apply: no_json_is_undecodable,
    },
    Assertion {
        number: 8,
        sentence: "a missing or illegal network name is code 7",
        about: About::Any,
        apply: network_name_is_needed,
    },
    Assertion {
        number: 9,
        sentence: "an unknown cniVersion is code 1, with details",
        about: About::Any,
        apply: unknown_version_is_refused,
    },
    Assertion {
        number: 10,
        sentence: "no cniVersion, or an empty one, is 0.1.0",
        about: About::Any,
        apply: no_version_is_the_first,
    },
    Assertion {
        number: 11,
        sentence: "ADD answers in the version of the configuration, and in its shape",
        about: About::Any,
        apply: result_has_the_shape_of_its_version,
    },
    Assertion {
        number: 12,
        sentence: "CHECK with 0.3.1 is code 1",
        about: About::Any,
        apply: check_needs_040,
    },
    Assertion {
        number: 13,
        sentence: "GC and STATUS with 1.0.0 are code 1",
        about: About::Speaks110,
        apply: gc_and_status_need_110,
    },
    Assertion {
        number: 14,
        sentence: "an error is one document with cniVersion, code and msg, and betrays no secret",
        about: About::Any,
        apply: errors_are_documents,
    },
];

fn version_needs_no_stdin(plugin: &Plugin) -> Verdict {
    let scene = Scene::new(plugin);
    let answer = scene.succeeds(&scene.bare_call("VERSION"))?;
    ensure!(
        answer["cniVersion"].is_string(),
        "expected a cniVersion, came {answer}"
    );
    let missing: Vec<_> = VERSIONS[2..].iter().filter(|v| !plugin.speaks(v)).collect();
    ensure!(
        missing.is_empty(),
        "expected {missing:?} in supportedVersions, came {answer}"
    );
    Ok(())
}

fn version_changes_nothing(plugin: &Plugin) -> Verdict {
    let scene = Scene::new(plugin);
    let before = scene.state();
    let plain = scene.succeeds(&scene.bare_call("VERSION"))?;
    ensure!(
        plain["supportedVersions"].is_array(),
        "expected supportedVersions, came {plain}"
    );
    for stdin in [
        "{\"cniVersion\":\"1.0.0\"}".to_owned(),
        scene.conf().to_string(),
    ] {
        let answer = scene.succeeds(&scene.call("VERSION", &Value::Null).stdin(stdin))?;
        ensure!(answer == plain, "expected {plain} again, came {answer}");
    }
    scene.is_as(&before, "after VERSION")
}

fn about_text_goes_to_stderr(plugin: &Plugin) -> Verdict {
    let scene = Scene::new(plugin);
    let output = scene
        .node
        .run(&scene.bare_call("ADD").without("CNI_COMMAND"));
    ensure!(
        output.stdout.is_empty() && !output.stderr.is_empty(),
        "{}",
        unlike("a text on stderr alone", "it is not so", &output)
    );
    Ok(())
}

fn unknown_command_is_named(plugin: &Plugin) -> Verdict {
    let scene = Scene::new(plugin);
    let error = scene.fails_with(4, &scene.call("INIT", &scene.conf()))?;
    let said = error.msg + &error.details;
    ensure!(
        said.contains("INIT"),
        "expected \"INIT\" in the error, came {said:?}"
    );
    Ok(())
}

fn missing_variables_are_named(plugin: &Plugin) -> Verdict {
    const ALL: [&str; 3] = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"];
    const NO_NETNS: [&str; 2] = ["CNI_CONTAINERID", "CNI_IFNAME"];
    let scene = Scene::new(plugin);
    let conf = scene.conf();
    let without = |command: &str, missing: &[&str]| -> Verdict {
        let call = scene.call(command, &conf);
        let call = missing.iter().fold(call, |call, name| call.without(name));
        let error = scene.fails_with(4, &call)?;
        let said = error.msg + &error.details;
        for name in ALL {
            ensure!(
                said.contains(name) == missing.contains(&name),
                "expected exactly {missing:?} to be named, came {said:?}"
            );
        }
        Ok(())
    };
    for (command, needed) in [("ADD", &ALL[..]), ("CHECK", &ALL), ("DEL", &NO_NETNS)] {
        without(command, needed)?;
        for name in needed {
            without(command, &[name])?;
        }
    }
    scene
        .succeeds(&scene.call("DEL", &conf).without("CNI_NETNS"))
        .map(drop)
}

fn illegal_names_are_refused(plugin: &Plugin) -> Verdict {
    let scene = Scene::new(plugin);
    let before = scene.state();
    for id in ["../c", "a/b", "a b", ".a"] {
        scene.fails_with(
            4,
            &scene.call("ADD", &scene.conf()).env("CNI_CONTAINERID", id),
        )?;
    }
    for ifname in ["sixteen-bytes-xx", ".", "..", "a/b", "a b", "a:b"] {
        scene.fails_with(
            4,
            &scene.call("ADD", &scene.conf()).env("CNI_IFNAME", ifname),
        )?;
    }
    scene.is_as(&before, "after refusing names")
}

fn no_json_is_undecodable(plugin: &Plugin) -> Verdict {
    let scene = Scene::new(plugin);
    for stdin in ["", "nonsense", "{", "[]"] {
        for command in ["ADD", "DEL"] {
            scene.fails_with(6, &scene.call(command, &Value::Null).stdin(stdin))?;
        }
    }
    Ok(())
}

fn network_name_is_needed(plugin: &Plugin) -> Verdict {
    let scene = Scene::new(plugin);
    for name in [
        Value::Null,
        json!(""),
        json!("../net"),
        json!("a b"),
        json!("a/b"),
    ] {
        let conf = with(&scene.conf(), &json!({"name": name}));
        scene.fails_with(7, &scene.call("ADD", &conf))?;
    }
    Ok(())
}

fn unknown_version_is_refused(plugin: &Plugin) -> Verdict {
    let scene = Scene::new(plugin);
    let conf = with(&scene.conf(), &json!({"cniVersion": "9.9.9"}));
    for command in ["ADD", "DEL"] {
        let error = scene.fails_with(1, &scene.call(command, &conf))?;
        ensure!(
            !error.details.is_empty(),
            "expected details, came {error:?}"
        );
    }
    Ok(())
}

fn no_version_is_the_first(plugin: &Plugin) -> Verdict {
    for keys in [json!({"cniVersion": null}), json!({"cniVersion": ""})] {
        let scene = Scene::new(plugin);
        let conf = with(&scene.conf_of_version("0.1.0"), &keys);
        if !plugin.speaks("0.1.0") {
            scene.fails_with(1, &scene.call("ADD", &conf))?;
            continue;
        }
        let result = scene.add(&conf)?;
        let version = result["cniVersion"].as_str().unwrap_or_default();
        ensure!(
            ["", "0.1.0"].contains(&version),
            "expected 0.1.0, came {result}"
        );
        ensure!(
            is_shaped(plugin, &result, "0.1.0"),
            "expected the shape of 0.1.0, came {result}"
        );
    }
    Ok(())
}

fn result_has_the_shape_of_its_version(plugin: &Plugin) -> Verdict {
    ensure!(
        !plugin.versions().is_empty(),
        "expected versions, VERSION lists none"
    );
    for version in plugin.versions() {
        let scene = Scene::new(plugin);
        let result = scene.add(&scene.conf_of_version(version))?;
        ensure!(
            result["cniVersion"] == **version && is_shaped(plugin, &result, version),
            "expected {version} in its shape, came {result}"
        );
    }
    Ok(())
}

/// Whether a result with an IPv4 address has the keys of its version and no others.
fn is_shaped(plugin: &Plugin, result: &Value, version: &str) -> bool {
    if version < "0.3.0" {
        let has_newer = ["interfaces", "ips", "routes"]
            .iter()
            .any(|key| !result[key].is_null());
        return result["ip4"]["ip"].is_string() && !has_newer;
    }
    let has_version = result["ips"][0]["version"] == "4";
    let has_interface = result["interfaces"][0]["name"].is_string();
    result["ips"][0]["address"].is_string()
        && result["ip4"].is_null()
        && has_version == (version < "1.0.0")
        && has_interface == plugin.recipe.is_main()
}

fn check_needs_040(plugin: &Plugin) -> Verdict {
    let scene = Scene::new(plugin);
    let conf = with(&scene.conf(), &json!({"cniVersion": "0.3.1"}));
    scene.fails_with(1, &scene.call("CHECK", &conf)).map(drop)
}

fn gc_and_status_need_110(plugin: &Plugin) -> Verdict {
    let scene = Scene::new(plugin);
    let conf = with(&scene.conf(), &json!({"cniVersion": "1.0.0"}));
    for command in ["GC", "STATUS"] {
        scene.fails_with(1, &scene.bare_call(command).conf(&conf))?;
    }
    Ok(())
}

fn errors_are_documents(plugin: &Plugin) -> Verdict {
    let scene = Scene::new(plugin);
    let secret = json!({"password": "hunter2"});
    let conf = with(&scene.conf(), &secret);
    let unknown = with(&conf, &json!({"cniVersion": "9.9.9"}));
    let unnamed = with(&conf, &json!({"name": ""}));
    let calls = [
        scene.call("ADD", &unknown),
        scene.call("ADD", &unnamed),
        scene.call("ADD", &conf).without("CNI_IFNAME"),
        scene.call("ADD", &conf).stdin("{\"password\":\"hunter2\","),
    ];
    for call in calls {
        let output = scene.node.run(&call);
        let error = output
            .try_error()
            .map_err(|cause| unlike("an error", &cause, &output))?;
        let document = output.document();
        ensure!(
            document["cniVersion"].is_string() && !error.msg.is_empty(),
            "expected cniVersion, code and msg, came {document}"
        );
        let said = output.stdout + &output.stderr;
        ensure!(
            !said.contains("hunter2"),
            "expected no secret, came {said:?}"
        );
    }
    Ok(())
}
