//! The tables of keys in `docs` beside the programs: every wrong value that they show causes the
//! error that they show, and every key that the code reads is in the page of its program.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{Call, Node, Pod, log, our_plugin};
use serde_json::{Value, json};

use super::root;

/// What begins a table of keys.
const HEADER: &str = "| key | type | default | since | meaning | a wrong value |";

/// A row of a table: a key, and wrong values of it.
pub(crate) struct Row {
    /// The key with those that it is in, such as `ipam.ranges[][].subnet`.
    pub(crate) key: String,
    /// The type of its value, in words.
    pub(super) kind: String,
    /// `Go`, or the first version that has the key.
    pub(super) since: String,
    wrong: Vec<Wrong>,
}

/// A value, and the error that it causes.
#[derive(Debug)]
struct Wrong {
    command: &'static str,
    value: Value,
    code: Option<u64>,
    text: String,
}

/// The rows of the tables in a section of a page; of the whole page without a title.
pub(crate) fn rows(page: &str, section: &str) -> Vec<Row> {
    let path = root().join("docs").join(page);
    let page = fs::read_to_string(path).expect("the page can be read");
    let begin = page.find(section).expect("the page has this section");
    let rest = &page[begin..];
    let end = rest[1..].find("\n## ").map_or(rest.len(), |end| end + 1);
    let rest = if section.is_empty() {
        rest
    } else {
        &rest[..end]
    };
    let tables = rest.split(HEADER).skip(1);
    let lines = tables.flat_map(|table| table.lines().skip(2).take_while(|l| l.starts_with('|')));
    lines.map(row).collect()
}

fn row(line: &str) -> Row {
    let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
    assert_eq!(cells.len(), 6, "{line}");
    // Between backquotes are by turns a value and the text of its error.
    let parts: Vec<&str> = cells[5].split('`').collect();
    let wrong = parts.chunks_exact(4).map(|part| Wrong {
        command: match part[0] {
            by if by.ends_with("by GC ") => "GC",
            by if by.ends_with("by CHECK ") => "CHECK",
            _ => "ADD",
        },
        value: serde_json::from_str(part[1]).expect("a value is JSON"),
        code: part[2]
            .strip_prefix(": code ")
            .map(|code| code.trim_end_matches([',', ' ']).parse().expect("a code")),
        text: part[3].to_owned(),
    });
    Row {
        key: cells[0].trim_matches('`').to_owned(),
        kind: cells[1].to_owned(),
        since: cells[3].to_owned(),
        wrong: wrong.collect(),
    }
}

/// The names in a key and whether each is that of a list of so many dimensions.
pub(crate) fn segments(key: &str) -> Vec<(String, usize)> {
    let key = key.replace("cni.dev/", "cni%dev/");
    let segments = key.split('.').map(|segment| {
        let name = segment.trim_end_matches("[]");
        let dimensions = (segment.len() - name.len()) / 2;
        (name.replace('%', "."), dimensions)
    });
    segments.collect()
}

/// Sets a key in a configuration; in a list, that of its first entry.
pub(super) fn set(mut at: &mut Value, key: &str, value: &Value) {
    for (name, dimensions) in segments(key) {
        at = &mut at[name];
        for _ in 0..dimensions {
            if !at.is_array() {
                *at = json!([null]);
            }
            at = &mut at[0];
        }
    }
    *at = value.clone();
}

/// Makes sure that each wrong value in the page, put into `base`, causes its error.
fn require_errors(program: &str, page: &str, section: &str, base: &Value) {
    let (node, pod) = (Node::new(), Pod::new("c1"));
    let mut count = 0;
    for row in rows(page, section) {
        for wrong in &row.wrong {
            let mut conf = base.clone();
            if row.key.starts_with("cni.dev/valid-attachments[]") {
                conf["cni.dev/valid-attachments"] = json!([{"containerID": "c1"}]);
            }
            set(&mut conf, &row.key, &wrong.value);
            let call = Call::ours(program, wrong.command).conf(&conf);
            let output = node.run(&call.pod(&pod, "net1"));
            let error = output.error();
            let found = (Some(error.code), error.msg.starts_with(&wrong.text));
            assert_eq!(
                found,
                (wrong.code, true),
                "{}: {wrong:?}\n{output}",
                row.key
            );
            count += 1;
        }
    }
    assert!(count > 0, "{page} has no wrong values");
}

#[test]
fn every_wrong_value_of_ipvlan_causes_the_error_in_the_page() {
    let base = json!({"cniVersion": "1.1.0", "name": "net", "type": "ipvlan"});
    require_errors("ipvlan", "ipvlan.md", "", &base);
}

#[test]
fn every_wrong_value_of_host_device_causes_the_error_in_the_page() {
    // The key that counts last.
    let base = json!({
        "cniVersion": "1.1.0", "name": "net", "type": "host-device", "pciBusID": "0000:00:00.0"
    });
    require_errors("host-device", "host-device.md", "", &base);
}

#[test]
fn every_wrong_value_of_host_local_causes_the_error_in_the_page() {
    let base = json!({
        "cniVersion": "1.1.0", "name": "net",
        "ipam": {
            "type": "host-local", "subnet": "10.0.4.0/24", "routes": [{"dst": "0.0.0.0/0"}]
        }
    });
    require_errors("host-local", "host-local.md", "", &base);
}

#[test]
fn every_wrong_value_of_eni_sync_causes_the_error_in_the_page() {
    let base = json!({"cniVersion": "1.1.0", "name": "net", "type": "eni-sync"});
    require_errors("eni-sync", "eni-sync.md", "\n## As a plugin\n", &base);
}

#[test]
fn every_wrong_value_of_a_network_without_addresses_causes_the_error_in_the_page() {
    let base = json!({
        "cniVersion": "1.1.0", "name": "net", "type": "ipvlan", "ipam": {"type": "eni-sync"}
    });
    require_errors(
        "eni-sync",
        "eni-sync.md",
        "\n## As the IPAM plugin\n",
        &base,
    );
}

/// The configuration of an agent that is in `examples`.
fn agent_example(name: &str) -> Value {
    let path = root().join("examples/agent").join(name);
    let text = fs::read_to_string(path).expect("it can be read");
    serde_json::from_str(&text).expect("it is JSON")
}

/// What an agent with this configuration says that does not start.
fn refusal_of_agent(conf: &Value) -> String {
    let file = tempfile::NamedTempFile::new().expect("a file can be made");
    fs::write(&file, conf.to_string()).expect("it can be written");
    // One that takes it would run for ever.
    let output = Command::new("timeout")
        .arg("20")
        .arg(our_plugin("eni-sync"))
        .args(["agent", "--config"])
        .arg(file.path())
        .output()
        .expect("it can be started");
    assert_eq!(output.status.code(), Some(1), "{conf}: {output:?}");
    log::messages(&String::from_utf8(output.stderr).expect("it is text"))
}

#[test]
fn every_wrong_value_of_the_agent_causes_the_error_in_the_page() {
    let mut base = agent_example("watched.json");
    base["pools"] = agent_example("pools.json")["pools"].clone();
    base["resources"] = agent_example("resources.json")["resources"].clone();
    base["prefixes"] = agent_example("prefixes.json")["prefixes"].clone();
    let mut count = 0;
    for row in rows("eni-sync.md", "\n## Agent\n") {
        assert!(!row.wrong.is_empty(), "{}", row.key);
        for wrong in &row.wrong {
            let mut conf = base.clone();
            set(&mut conf, &row.key, &wrong.value);
            let said = refusal_of_agent(&conf);
            assert!(said.contains(&wrong.text), "{}: {wrong:?}\n{said}", row.key);
            count += 1;
        }
    }
    assert!(count > 20, "the page has {count} wrong values");
}

#[test]
fn every_wrong_value_of_enis_causes_the_error_in_the_page() {
    let base = agent_example("enis.json");
    let mut count = 0;
    for row in rows("attach.md", "") {
        assert!(!row.wrong.is_empty(), "{}", row.key);
        for wrong in &row.wrong {
            let mut conf = base.clone();
            // Ids and tags exclude each other.
            if let Some((section, _)) = row.key.split_once('.') {
                set(&mut conf, &format!("enis[].{section}"), &json!({}));
            }
            let key = format!("enis[].{}", row.key);
            set(&mut conf, &key, &wrong.value);
            let said = refusal_of_agent(&conf);
            assert!(said.contains(&wrong.text), "{key}: {wrong:?}\n{said}");
            count += 1;
        }
    }
    assert!(count > 15, "the page has {count} wrong values");
}

#[test]
fn the_agents_of_the_examples_are_taken() {
    let directory = root().join("examples/agent");
    for entry in fs::read_dir(directory).expect("it can be listed") {
        let path = entry.expect("it can be listed").path();
        let mut doctor = Command::new(our_plugin("eni-sync"));
        doctor
            .args(["doctor", "--json", "--agent-config"])
            .arg(&path);
        // Whatever is missing here besides, the configuration is looked at.
        let output =
            Node::new().inside(|| doctor.env("AWS_EC2_METADATA_DISABLED", "true").output());
        let output = output.expect("it can be started");
        let report: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
        let findings = report["findings"].as_array().expect("it has findings");
        let mut found = findings
            .iter()
            .filter(|finding| finding["check"] == "agent-configuration");
        let finding = found.next().expect("the check was made");
        assert_eq!(finding["level"], "ok", "{path:?}: {finding}");
    }
}

/// A file whose types read a configuration: where it is looked for, its name, and the types;
/// all of them where none is named.
type Source = (&'static str, &'static str, &'static [&'static str]);

const OF_EVERY_PLUGIN: [Source; 3] = [
    ("common", "log_file.rs", &[]),
    ("common", "plugin.rs", &["Header"]),
    ("common", "config.rs", &["Entry"]),
];
const OF_INTERFACES: [Source; 5] = [
    ("common", "config.rs", &["NetConf", "Ipam"]),
    ("common", "options.rs", &[]),
    ("common", "source_routing.rs", &["SourceRouting"]),
    ("common", "requested_mac.rs", &[]),
    ("common", "result.rs", &["Dns"]),
];

/// The one file with this name below the sources of a crate, without its tests.
fn source(package: &str, name: &str) -> String {
    fn find(directory: &Path, name: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).expect("it can be listed") {
            let path = entry.expect("it can be listed").path();
            if path.is_dir() {
                find(&path, name, found);
            } else if path.file_name().is_some_and(|file| file == name) {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    find(&root().join(package).join("src"), name, &mut found);
    // A configuration is read near the root; deeper down a file of the name is another one.
    found.sort_by_key(|path| path.components().count());
    let path = found
        .first()
        .unwrap_or_else(|| panic!("{package} has no {name}"));
    let text = fs::read_to_string(path).expect("it can be read");
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    code.to_owned()
}

/// A field as serde names it.
fn camel_case(field: &str) -> String {
    let mut words = field.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| {
        let (initial, rest) = word.split_at(1);
        name + &initial.to_uppercase() + rest
    })
}

/// The fields of the types that are deserialized, by the names that serde gives them.
fn fields(code: &str, types: &[&str]) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    let (mut derives, mut attributes, mut inside) = (false, String::new(), None);
    for line in code.lines().map(str::trim) {
        if line.starts_with("#[derive(") {
            (derives, attributes) = (line.contains("Deserialize"), String::new());
        } else if line.starts_with("#[serde(") {
            attributes += line;
        } else if let Some((_, name)) = line.split_once("struct ").filter(|_| line.ends_with('{')) {
            let name = name.trim_end_matches([' ', '{']);
            let is_wanted = derives && (types.is_empty() || types.contains(&name));
            inside = is_wanted.then(|| attributes.contains("camelCase"));
            (derives, attributes) = (false, String::new());
        } else if line == "}" {
            inside = None;
        } else if let (Some(is_camel), Some((field, _))) = (inside, line.split_once(": "))
            && !line.starts_with("//")
        {
            let field = field.rsplit(' ').next().unwrap_or_default();
            let renamed = attributes.split_once("rename = \"");
            let renamed = renamed.and_then(|(_, rest)| rest.split_once('"'));
            let name = match renamed {
                Some((name, _)) => name.to_owned(),
                None if is_camel => camel_case(field),
                None => field.to_owned(),
            };
            keys.extend(Some(name).filter(|_| !attributes.contains("(skip)")));
            attributes.clear();
        }
    }
    keys
}

/// The keys that are looked up by a literal name.
fn literals(code: &str) -> BTreeSet<String> {
    const LOOK_UPS: [&str; 4] = [
        ".get(\"",
        "is_on(document, \"",
        "flag(document, \"",
        "find(keys, \"",
    ];
    let quoted = |rest: &str| rest.split('"').next().unwrap_or_default().to_owned();
    let mut keys = BTreeSet::new();
    for look_up in LOOK_UPS {
        keys.extend(code.split(look_up).skip(1).map(quoted));
    }
    let constants = code.lines().filter(|line| line.contains("const KEY"));
    for constant in constants {
        keys.extend(constant.split('"').skip(1).step_by(2).map(str::to_owned));
    }
    keys
}

/// Makes sure that the tables of a page have the keys of these sources, and no others.
#[track_caller]
fn require_all(page: &str, section: &str, sources: &[Source]) {
    let mut read = BTreeSet::new();
    for (package, name, types) in sources {
        let code = source(package, name);
        let keys = fields(&code, types);
        read.extend(keys);
        read.extend(literals(&code));
    }
    let rows = rows(page, section);
    let documented = rows.iter().flat_map(|row| segments(&row.key));
    let documented: BTreeSet<String> = documented.map(|(name, _)| name).collect();
    assert!(read.len() > 5, "{read:?}");
    assert_eq!(documented, read, "{page}{section}");
}

#[test]
fn the_page_of_ipvlan_has_every_key() {
    let own: [Source; 2] = [("ipvlan", "config.rs", &[]), ("common", "selector.rs", &[])];
    let sources = [&own[..], &OF_EVERY_PLUGIN, &OF_INTERFACES].concat();
    require_all("ipvlan.md", "", &sources);
}

#[test]
fn the_page_of_host_device_has_every_key() {
    let own: [Source; 2] = [
        ("host-device", "config.rs", &[]),
        ("host-device", "options.rs", &[]),
    ];
    let sources = [&own[..], &OF_EVERY_PLUGIN, &OF_INTERFACES].concat();
    require_all("host-device.md", "", &sources);
}

#[test]
fn the_page_of_host_local_has_every_key() {
    let own: [Source; 3] = [
        ("host-local-ipam", "config.rs", &[]),
        ("host-local-ipam", "sources.rs", &["RawRange"]),
        ("common", "result.rs", &["Route"]),
    ];
    let sources = [&own[..], &OF_EVERY_PLUGIN].concat();
    require_all("host-local.md", "", &sources);
}

#[test]
fn the_page_of_eni_sync_has_every_key() {
    let own: [Source; 1] = [("eni-sync", "config.rs", &[])];
    let sources = [&own[..], &OF_EVERY_PLUGIN].concat();
    require_all("eni-sync.md", "\n## As a plugin\n", &sources);
    let of_ipam: [Source; 2] = [
        ("eni-sync", "section.rs", &[]),
        (
            "host-local-ipam",
            "config.rs",
            &["RawRequests", "RawArgs", "RawCniArgs"],
        ),
    ];
    let sources = [&of_ipam[..], &OF_EVERY_PLUGIN].concat();
    require_all("eni-sync.md", "\n## As the IPAM plugin\n", &sources);
    let agent: [Source; 6] = [
        ("eni-sync", "configuration.rs", &[]),
        ("eni-sync", "pools.rs", &[]),
        ("eni-sync", "resources.rs", &[]),
        ("eni-sync", "kept_prefixes.rs", &[]),
        ("eni-sync", "kept.rs", &["Marks"]),
        ("eni-sync", "cluster.rs", &[]),
    ];
    require_all("eni-sync.md", "\n## Agent\n", &agent);
    let enis: [Source; 2] = [("eni-sync", "wanted.rs", &[]), ("eni-sync", "kept.rs", &[])];
    require_all("attach.md", "", &enis);
}

/// What the keys begin with that Go's plugins do not have, and that nothing is lost without, or
/// that a runtime writes.
const HARMLESS: [&str; 6] = [
    "args.",
    "cni.dev/",
    "logFile",
    "logLevel",
    "prevResult",
    "runtimeConfig.",
];

/// The keys that the doctor looks for in networks that Go's plugins serve.
fn own_keys() -> BTreeSet<String> {
    let path = root().join("eni-sync/src/cli/doctor/installed.rs");
    let code = fs::read_to_string(path).expect("it can be read");
    let list = code
        .split_once("const OWN_KEYS")
        .and_then(|(_, rest)| rest.split_once("];"));
    let list = list.expect("the doctor has a list").0;
    list.split('"')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_doctor_knows_every_key_that_the_plugins_of_go_do_not_have() {
    let pages = ["ipvlan.md", "host-device.md", "host-local.md"];
    let rows = pages.iter().flat_map(|page| rows(page, ""));
    let new = rows.filter(|row| row.since != "Go").map(|row| {
        // The doctor looks into the section `ipam` by itself.
        row.key.strip_prefix("ipam.").unwrap_or(&row.key).to_owned()
    });
    let new = new.filter(|key| !HARMLESS.iter().any(|harmless| key.starts_with(harmless)));
    // A key in a section that is new is new with it.
    let sections = ["masterSelector.", "sourceRouting."];
    let is_inside = |key: &String| sections.iter().any(|section| key.starts_with(section));
    let new: BTreeSet<String> = new.filter(|key| !is_inside(key)).collect();
    assert_eq!(own_keys(), new);
}

/// Under a Go plugin's name such a network is served by Go's plugin where that was installed
/// later, which ignores the key.
#[test]
fn an_example_with_a_key_that_go_does_not_have_names_a_type_that_go_does_not_have() {
    let own = own_keys();
    let mut count = 0;
    for (path, text) in super::examples("", "yaml") {
        let network = harness::Network::from_nad(&text);
        for plugin in &network.plugins {
            for section in [plugin, &plugin["ipam"]] {
                let text = section["ranges"].to_string();
                let is_there = |key: &String| match key.strip_prefix("ranges[][].") {
                    Some(nested) => text.contains(&format!("\"{nested}\"")),
                    None => section.get(key).is_some(),
                };
                if own.iter().any(is_there) {
                    let name = section["type"].as_str().unwrap_or_default();
                    assert!(name.starts_with("eni-"), "{path:?}: {name}");
                    count += 1;
                }
            }
        }
    }
    assert!(count > 5, "{count} sections have such keys");
}
