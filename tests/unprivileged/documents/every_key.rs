//! Every key that the code reads is in the tables of the page of its program, and no other.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use fixtures::documents::keys::{rows, segments};
use fixtures::documents::{examples, root};

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
    for (path, text) in examples("", "yaml") {
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
