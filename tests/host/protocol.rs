//! The protocol, as every plugin must speak it: tables of environment and stdin, and
//! the document that answers them. Nothing here needs a privilege.

use harness::{Call, CniError, Output};
use serde_json::{Value, json};

const PLUGINS: [&str; 4] = ["eni-sync", "host-device", "host-local", "ipvlan"];
const VERSIONS: [&str; 7] = [
    "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
];
const COMMANDS: [&str; 5] = ["ADD", "CHECK", "DEL", "GC", "STATUS"];

/// A configuration that every plugin can decode, and none of them can carry out.
fn conf() -> Value {
    json!({"cniVersion": "1.1.0", "name": "net", "type": "any"})
}

fn call(plugin: &str, command: &str) -> Call {
    Call::ours(plugin, command)
        .attachment("c1", "net1", "/no/such/netns")
        .conf(&conf())
}

/// Runs the same call for every plugin and expects the same error of each.
#[track_caller]
fn all_refuse(prepare: impl Fn(&str) -> Call, code: u64, msg: &str) -> Vec<CniError> {
    let refuse = |plugin: &&str| {
        let output = prepare(plugin).run();
        let error = output.error_code(code);
        assert!(error.msg.contains(msg), "{msg:?} was expected\n{output}");
        error
    };
    PLUGINS.iter().map(refuse).collect()
}

/// Assertions 1 and 2: VERSION needs no stdin and reads none.
#[test]
fn version_answers_byte_for_byte_as_libcni_whatever_is_on_stdin() {
    let expected = "{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"0.1.0\",\"0.2.0\",\"0.3.0\",\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]}\n";
    for plugin in PLUGINS {
        for stdin in ["", "{\"cniVersion\":\"1.0.0\"}", "nonsense"] {
            let output = Call::ours(plugin, "VERSION")
                .without("CNI_PATH")
                .stdin(stdin)
                .run();
            output.ok();
            assert_eq!(
                (output.stdout.as_str(), output.stderr.as_str()),
                (expected, "")
            );
        }
    }
}

/// Assertion 3.
#[test]
fn without_a_command_the_about_text_goes_to_stderr() {
    for plugin in PLUGINS {
        for call in [call(plugin, ""), call(plugin, "").without("CNI_COMMAND")] {
            let output = call.run();
            assert_eq!((output.status, output.stdout.as_str()), (Some(0), ""));
            let about = format!("CNI {plugin} plugin v{}\n", env!("CARGO_PKG_VERSION"));
            let versions = format!("CNI protocol versions supported: {}\n", VERSIONS.join(", "));
            let marker = format!(
                "eni-cni plugin {plugin} version {}\n",
                env!("CARGO_PKG_VERSION")
            );
            let about = about + &versions + &marker;
            let rest = output.stderr.strip_prefix(&about);
            let rest = rest.unwrap_or_else(|| panic!("{output}"));
            // This one is a command line as well.
            let is_command_line = rest.contains("Usage: eni-sync");
            assert_eq!(is_command_line, plugin == "eni-sync", "{output}");
            assert!(is_command_line || rest.is_empty(), "{output}");
        }
    }
}

#[test]
fn somebody_who_executes_a_plugin_by_hand_learns_its_version_and_what_it_is() {
    for plugin in PLUGINS {
        let ask = |argument: &str| {
            let call = call(plugin, "").without("CNI_COMMAND");
            let mut process = call.process();
            process.arg(argument);
            call.run_as(process)
        };
        let version = ask("--version");
        let expected = format!("{plugin} {}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!((version.status, version.stdout), (Some(0), expected));
        let help = ask("--help");
        assert_eq!((help.status, help.stderr.as_str()), (Some(0), ""));
        assert!(help.stdout.contains("--version"), "{help}");
    }
}

#[test]
fn arguments_mean_nothing_to_a_plugin_that_a_runtime_executes() {
    for plugin in PLUGINS {
        let call = Call::ours(plugin, "VERSION").stdin("");
        let mut process = call.process();
        process.arg("--help");
        let output = call.run_as(process);
        assert!(output.stdout.starts_with("{\"cniVersion\""), "{output}");
    }
}

/// Assertion 4; an unknown command still needs a valid configuration first.
#[test]
fn an_unknown_command_is_named() {
    all_refuse(|plugin| call(plugin, "add"), 4, "unknown CNI_COMMAND: add");
    all_refuse(
        |plugin| call(plugin, "INIT").stdin(""),
        6,
        "error unmarshall network config",
    );
}

/// Assertions 5 and 18: missing variables are listed together, in libcni's order; an
/// empty one is missing.
#[test]
fn missing_variables_are_listed() {
    let table = [
        ("ADD", vec!["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]),
        ("CHECK", vec!["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]),
        ("DEL", vec!["CNI_CONTAINERID", "CNI_IFNAME"]),
    ];
    for (command, variables) in table {
        for variable in &variables {
            let said = format!("required env variables [{variable}] missing");
            all_refuse(|plugin| call(plugin, command).without(variable), 4, &said);
            all_refuse(|plugin| call(plugin, command).env(variable, ""), 4, &said);
        }
        let none = |plugin: &str| {
            variables
                .iter()
                .fold(call(plugin, command), |call, v| call.without(v))
        };
        all_refuse(
            none,
            4,
            &format!("required env variables [{}] missing", variables.join(",")),
        );
    }
}

/// Assertion 6.
#[test]
fn container_ids_and_interface_names_that_could_lead_elsewhere_are_refused() {
    for id in ["../c", "a/b", "a b", "-a", ".a", "ä", "a:b", "a\nb"] {
        for command in ["ADD", "CHECK", "DEL"] {
            let errors = all_refuse(
                |p| call(p, command).env("CNI_CONTAINERID", id),
                4,
                "invalid characters in containerID",
            );
            assert_eq!(errors[0].details, id);
        }
    }
    let names = [
        ("sixteen-bytes-xx", "interface name is too long"),
        (".", "interface name is . or .."),
        ("..", "interface name is . or .."),
        (
            "a/b",
            "interface name contains / or : or whitespace characters",
        ),
        (
            "a:b",
            "interface name contains / or : or whitespace characters",
        ),
        (
            "a b",
            "interface name contains / or : or whitespace characters",
        ),
        (
            "a\u{a0}b",
            "interface name contains / or : or whitespace characters",
        ),
        ("a\u{7}b", "interface name contains control characters"),
    ];
    for (name, said) in names {
        all_refuse(
            |plugin| call(plugin, "ADD").env("CNI_IFNAME", name),
            4,
            said,
        );
    }
}

/// Assertion 7.
#[test]
fn what_is_not_a_json_object_is_undecodable() {
    for stdin in [
        "",
        " ",
        "{",
        "[]",
        "7",
        "\"x\"",
        "nonsense",
        "{} {}",
        "{\"name\":7}",
        "{\"name\":\"net\",\"cniVersion\":[]}",
    ] {
        for command in COMMANDS {
            all_refuse(
                |plugin| call(plugin, command).stdin(stdin),
                6,
                "error unmarshall network config",
            );
        }
    }
}

/// Go's JSON reader takes them.
#[test]
fn half_a_surrogate_pair_a_number_that_is_too_large_and_128_levels_are_undecodable() {
    let deep = format!("{}{}", "[".repeat(128), "]".repeat(128));
    for value in ["\"\\ud800\"", "1e999", &deep] {
        let stdin = format!("{{\"name\":\"net\",\"unknown\":{value}}}");
        for command in COMMANDS {
            all_refuse(
                |plugin| call(plugin, command).stdin(stdin.as_str()),
                6,
                "error unmarshall network config",
            );
        }
    }
}

/// Assertion 8.
#[test]
fn a_network_name_is_needed_and_cannot_lead_elsewhere() {
    for stdin in ["null", "{}", "{\"name\":\"\"}", "{\"name\":null}"] {
        all_refuse(
            |plugin| call(plugin, "ADD").stdin(stdin),
            7,
            "missing network name",
        );
    }
    for name in ["../net", "a/b", "a b", ".a", "ä"] {
        for command in COMMANDS {
            let conf = json!({"cniVersion": "1.1.0", "name": name});
            let errors = all_refuse(
                |p| call(p, command).conf(&conf),
                7,
                "invalid characters found in network name",
            );
            assert_eq!(errors[0].details, name);
        }
    }
}

/// Assertion 9.
#[test]
fn a_version_that_is_not_ours_is_refused_with_the_list_of_ours() {
    for version in ["9.9.9", "1.2.0", "1.0", "v1.0.0", "0.5.0"] {
        let conf = json!({"cniVersion": version, "name": "net"});
        for command in ["ADD", "DEL"] {
            let errors = all_refuse(
                |plugin| call(plugin, command).conf(&conf),
                1,
                "incompatible CNI versions",
            );
            let ours: Vec<String> = VERSIONS.iter().map(|v| format!("{v:?}")).collect();
            assert_eq!(
                errors[0].details,
                format!(
                    "config is {version:?}, plugin supports [{}]",
                    ours.join(" ")
                )
            );
        }
    }
}

/// Assertions 12 and 13.
#[test]
fn a_command_needs_the_version_that_brought_it() {
    let table = [("CHECK", "0.4.0"), ("STATUS", "1.1.0"), ("GC", "1.1.0")];
    for (command, first) in table {
        for version in ["", "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0"] {
            if !version.is_empty() && version >= first {
                continue;
            }
            let conf = json!({"cniVersion": version, "name": "net"});
            let said = format!("config version does not allow {command}");
            all_refuse(|plugin| call(plugin, command).conf(&conf), 1, &said);
        }
        let newer = json!({"cniVersion": "9.9.9", "name": "net"});
        let said = format!("plugin version does not allow {command}");
        all_refuse(|plugin| call(plugin, command).conf(&newer), 1, &said);
        let none = json!({"cniVersion": "new", "name": "net"});
        all_refuse(
            |plugin| call(plugin, command).conf(&none),
            6,
            "failed to parse config version \"new\"",
        );
    }
}

/// Assertion 14: an error is one JSON document with the keys of the specification, in
/// libcni's layout, and the exit status says so.
#[test]
fn an_error_is_one_document_with_the_keys_of_the_specification() {
    for plugin in PLUGINS {
        let output = call(plugin, "ADD")
            .conf(&json!({"cniVersion": "0.3.1", "name": "a<b"}))
            .run();
        assert_eq!(
            output.stdout,
            "{\n    \"cniVersion\": \"0.3.1\",\n    \"code\": 7,\n    \"msg\": \"invalid characters found in network name\",\n    \"details\": \"a\\u003cb\"\n}"
        );
        assert_eq!(output.status, Some(1));
        let keys = |output: &Output| {
            output
                .document()
                .as_object()
                .map(|o| o.keys().cloned().collect::<Vec<_>>())
        };
        let undecodable = call(plugin, "ADD").stdin("nonsense").run();
        assert_eq!(
            keys(&undecodable).as_deref(),
            Some(&["cniVersion", "code", "msg"].map(str::to_owned)[..])
        );
    }
}

/// The words by which containerd takes a failed DEL for a success must not occur.
#[test]
fn an_error_of_del_never_says_not_found() {
    for plugin in ["ipvlan", "host-device"] {
        let conf = json!({"cniVersion": "1.1.0", "name": "net", "ipam": {"type": "not found"}});
        let output = call(plugin, "DEL").conf(&conf).run();
        let said = output.error().msg.to_lowercase();
        assert!(
            !said.contains("not found") && !said.contains("no such file or directory"),
            "{output}"
        );
    }
}

/// Runs a call whose stdout cannot be written to.
fn unheard(call: &Call) -> Output {
    call.run_under("sh", &["-c", "exec \"$0\" >/dev/full"])
}

#[test]
fn an_answer_that_cannot_be_written_is_a_failure_and_no_crash() {
    for plugin in PLUGINS {
        for command in ["VERSION", "ADD"] {
            let output = unheard(&call(plugin, command));
            assert_eq!(output.status, Some(1), "{output}");
            assert!(output.stderr.contains("could not be reported"), "{output}");
        }
    }
}

/// The runtime does not know of an attachment whose result it did not get.
#[test]
fn an_add_whose_result_cannot_be_delivered_is_undone() {
    let directory = tempfile::tempdir().unwrap();
    let ipam = json!({"type": "host-local", "subnet": "10.0.0.0/24", "dataDir": directory.path()});
    let conf = json!({"cniVersion": "1.0.0", "name": "net", "ipam": ipam});
    let output = unheard(&call("host-local", "ADD").conf(&conf));
    assert_eq!(output.status, Some(1), "{output}");
    assert!(
        directory.path().join("net/last_reserved_ip.0").exists(),
        "an address was reserved"
    );
    assert!(
        !directory.path().join("net/10.0.0.2").exists(),
        "and given back\n{output}"
    );
}
